"""Refiners that learn in small windows (rediffinet.training.windows): the one-call corrector and the diffusion refiner.

Both see the same windows, so that what the diffusion is worth can be told apart.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rediffinet.method.models import find_model
from rediffinet.method.noise import philox
from rediffinet.method.schedule import cumulative_alphas, linear_betas
from rediffinet.method.windows import Shape
from rediffinet.nets.graphs import build_network
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import TrainingCase
from rediffinet.training.distributed import choose_device
from rediffinet.training.losses import compound_loss
from rediffinet.training.objective import Objective
from rediffinet.training.out_of_fold import Prior
from rediffinet.training.precision import autocast
from rediffinet.training.windows import WindowBatches


class WindowCorrectorObjective(Objective):
    """Condition → discrepancy, in one call. `priors[i]`: what programs that had not seen cases[i] said of it."""

    def __init__(
        self, config: TrainConfig, cases: Sequence[TrainingCase], priors: Sequence[Sequence[Prior]] = ()
    ) -> None:
        super().__init__(config, cases)
        self.kind = find_model(config.model)
        self.batches = WindowBatches(config, cases, priors, choose_device(config.device)) if cases else None

    def build(self) -> nn.Module:
        """See Objective."""
        return build_network(self.kind, self.config.network, self.config.task)

    def sample(self, rng: np.random.Generator, window: Shape) -> tuple[Tensor, ...]:
        """Not used: examples are made a batch at a time, see `batch`."""
        raise AssertionError("windows are drawn a batch at a time")

    def batch(self, step: int, slots: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Condition (B, C, window), discrepancy (B, R, window), on the device."""
        assert self.batches is not None, "an objective without cases builds networks only"
        chosen = list(range(self.config.batch) if slots is None else slots)
        image, regions, prior = self.batches.draw(step, chosen)
        return torch.cat([2.0 * prior - 1.0, image], 1), ((prior > 0.5).float() - regions).abs()

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """See Objective."""
        condition, target = batch
        with autocast(self.config.autocast, condition.device):
            logits = model(condition)
        return self._compound(logits, condition, target)

    def _compound(self, logits: Tensor, condition: Tensor, target: Tensor) -> Tensor:
        mask = (condition[:, : self.regions] > 0.0).float() if self.config.result_dice else None
        return compound_loss(logits.float(), target, squared_error=self.config.squared_error, mask=mask)


class WindowRefinerObjective(WindowCorrectorObjective):
    """Re-DiffiNet: the discrepancy is noised to a random timestep and predicted from condition, x_t and t."""

    def __init__(
        self, config: TrainConfig, cases: Sequence[TrainingCase], priors: Sequence[Sequence[Prior]] = ()
    ) -> None:
        super().__init__(config, cases, priors)
        self.alpha_bar = cumulative_alphas(linear_betas(config.refiner.train_steps))

    def batch(self, step: int, slots: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Condition, x0, x_t (B, R, window), t (B,), on the device."""
        chosen = list(range(self.config.batch) if slots is None else slots)
        condition, x0 = super().batch(step, chosen)
        last = self.config.refiner.train_steps - 1
        times, noises = [], []
        for slot in chosen:
            rng = philox("noise", self.config.seed, step, slot)
            noisiest = rng.random() < self.config.noisiest_fraction
            times.append(last if noisiest else int(rng.integers(last + 1)))
            generator = torch.Generator(x0.device).manual_seed(int(rng.integers(2**62)))
            noises.append(torch.randn(x0.shape[1:], generator=generator, device=x0.device))
        kept = torch.tensor([float(self.alpha_bar[t]) for t in times], device=x0.device)[:, None, None, None, None]
        signal = self.config.refiner.signal_scale * (2.0 * x0 - 1.0)
        x_t = kept.sqrt() * signal + (1.0 - kept).sqrt() * torch.stack(noises)
        return condition, x0, x_t, torch.tensor(times, device=x0.device).float()

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """See Objective."""
        condition, x0, x_t, t = batch
        with autocast(self.config.autocast, condition.device):
            logits = model(x_t, condition, t)
        return self._compound(logits, condition, x0)
