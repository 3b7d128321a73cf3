"""The denoiser and its conditioning encoder (Re-DiffiNet, eq. 5), for whatever is diffused and conditioned on.

The denoiser sees cat(x_t, condition) and the timestep; the conditioning encoder, a trainable copy of the denoiser's
encoder, sees the condition alone, and its features are added to the denoiser's at the matching scales. Because it sees
neither x_t nor t it runs once per window, whatever the number of steps and samples. For Re-DiffiNet x is the
discrepancy and the condition cat(U(I), I), C = 7 channels; the other models are in rediffinet.method.models.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from rediffinet.nets.config import RefinerConfig
from rediffinet.nets.convolution import Convolution
from rediffinet.nets.norm import InstanceNorm
from rediffinet.nets.prior import PriorLogits


class TimeEmbedding(nn.Module):
    """Timestep (N,) → features (N, width): float32 sinusoids (Vaswani et al. 2017), then a two-layer perceptron."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10000.0) * torch.arange(half) / half), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:
        """See the class."""
        angles = t.float()[:, None] * self.frequencies[None, :]
        return torch.as_tensor(self.mlp(torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)))


class Block(nn.Module):
    """Two convolutions, each with instance norm and leaky ReLU; the timestep scales and shifts after the first norm.

    A shift before an instance norm would be normalised away, hence scale and shift between norm and activation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, time_features: int | None = None) -> None:
        super().__init__()
        self.conv1 = Convolution(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = InstanceNorm(outputs)
        self.conv2 = Convolution(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = InstanceNorm(outputs)
        self.act = nn.LeakyReLU(0.01)
        self.time = nn.Linear(time_features, 2 * outputs) if time_features else None

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """X (N, inputs, …), time features (N, time_features) → (N, outputs, …)."""
        x = self.norm1(self.conv1(x))
        if self.time is not None and time is not None:
            scale, shift = self.time(time)[:, :, None, None, None].chunk(2, dim=1)
            x = x * (1.0 + scale) + shift
        x = self.act(x)
        return torch.as_tensor(self.act(self.norm2(self.conv2(x))))


class Encoder(nn.Module):
    """A pyramid of blocks, strided down; returns the features of every level, finest first."""

    def __init__(self, inputs: int, features: tuple[int, ...], time_features: int | None = None) -> None:
        super().__init__()
        widths = [inputs, *features]
        self.blocks = nn.ModuleList(
            Block(i, o, 1 if level == 0 else 2, time_features) for level, (i, o) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor, time: Tensor | None = None, add: list[Tensor] | None = None) -> list[Tensor]:
        """`add`: features of the same shapes, added level by level before the next block sees them."""
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x, time)
            if add is not None:
                x = x + add[i]
            levels.append(x)
        return levels


class UpBlock(nn.Module):
    """Transposed convolution, concatenation with the skip, block."""

    def __init__(self, inputs: int, outputs: int, time_features: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False)
        self.block = Block(2 * outputs, outputs, 1, time_features)

    def forward(self, x: Tensor, skip: Tensor, time: Tensor) -> Tensor:
        """See the class."""
        return torch.as_tensor(self.block(torch.cat([self.up(x), skip], dim=1), time))


class Denoiser(nn.Module):
    """x_t (N, R, …), condition (N, C, …), conditioning features, t (N,) → logits of x0 (N, R, …)."""

    def __init__(self, config: RefinerConfig, regions: int) -> None:
        super().__init__()
        widths, time = config.features, config.time_features
        self.time = TimeEmbedding(time)
        self.encoder = Encoder(regions + config.condition_channels, widths, time)
        self.up = nn.ModuleList(UpBlock(i, o, time) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.last = Block(widths[0], config.head_features, 1, time) if config.head_features != widths[0] else None
        self.head = nn.Conv3d(config.head_features, regions, 1)
        self.prior = None if config.residual is None else PriorLogits(config.residual, regions)
        if self.prior is not None:
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x_t: Tensor, condition: Tensor, features: list[Tensor], t: Tensor) -> Tensor:
        """See the class."""
        time = self.time(t)
        *skips, x = self.encoder(torch.cat([x_t, condition], dim=1), time, features)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(x, skip, time)
        if self.last is not None:
            x = self.last(x, time)
        logits = torch.as_tensor(self.head(x))
        return logits if self.prior is None else torch.as_tensor(self.prior(condition, logits))


class Refiner(nn.Module):
    """Denoiser and conditioning encoder, trained together, for as many regions as the task has."""

    def __init__(self, config: RefinerConfig, regions: int = 3) -> None:
        super().__init__()
        self.config = config
        self.conditioner: nn.Module = Encoder(config.condition_channels, config.features)
        self.denoiser: nn.Module = Denoiser(config, regions)

    @property
    def members(self) -> int:
        """Of how many networks this is the ensemble: their features lie side by side in one tensor."""
        return 1

    def forward(self, x_t: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """x_t (N, R, …), condition (N, C, …), t (N,) → logits of x0 (N, R, …)."""
        return torch.as_tensor(self.denoiser(x_t, condition, self.conditioner(condition), t))


class ConditionerGraph(nn.Module):
    """The exported conditioner: condition → features of every level."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.net = refiner.conditioner

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return tuple(self.net(condition))


class DenoiserGraph(nn.Module):
    """The exported denoiser with the DDIM update inside: → x_prev and x0 in [0, 1]."""

    def __init__(self, refiner: Refiner) -> None:
        super().__init__()
        self.net = refiner.denoiser
        self.scale = refiner.config.signal_scale

    def forward(
        self, x_t: Tensor, condition: Tensor, t: Tensor, c0: Tensor, c1: Tensor, features: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """T, c0, c1: float32 (N,), one value per window (rediffinet.method.sampling.ddim_coefficients)."""
        x0 = torch.sigmoid(self.net(x_t, condition, features, t))
        signal = self.scale * (2.0 * x0 - 1.0)
        c0, c1 = c0[:, None, None, None, None], c1[:, None, None, None, None]
        return c0 * signal + c1 * x_t, x0
