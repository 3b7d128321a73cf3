"""The baseline: an optimized U-Net over MONAI's U-Net blocks."""

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from torch import Tensor, nn
from torch.nn import functional

from rediffinet.nets.config import UNetConfig
from rediffinet.nets.convolution import with_fast_convolutions
from rediffinet.nets.norm import with_fast_norms

NORM = ("INSTANCE", {"affine": True})
ACT = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class UNet(nn.Module):
    """Contrasts (N, C, X, Y, Z) → logits of the regions (N, R, X, Y, Z).

    In training with deep supervision the logits of the two next coarser decoder levels follow, at their own
    resolution, as a list.
    """

    def __init__(self, config: UNetConfig, in_channels: int = 4, out_channels: int = 3) -> None:
        super().__init__()
        widths = config.features
        strides = [config.stem_stride] + [2] * (len(widths) - 1)
        inputs = [in_channels, *widths[:-1]]
        self.config = config
        self.down = nn.ModuleList(
            UnetBasicBlock(3, i, o, 3, s, NORM, ACT) for i, o, s in zip(inputs, widths, strides, strict=True)
        )
        self.up = nn.ModuleList(
            UnetUpBlock(3, i, o, 3, 2, 2, NORM, ACT) for i, o in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        heads = min(3, len(widths) - 1) if config.deep_supervision else 1
        self.heads = nn.ModuleList(UnetOutBlock(3, w, out_channels) for w in widths[:heads])
        with_fast_convolutions(with_fast_norms(self))

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """See the class."""
        skips = []
        x = image
        for block in self.down:
            x = block(x)
            skips.append(x)
        decoded = []
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(x, skip)
            decoded.append(x)
        logits = [self._full(head(x), i) for i, (head, x) in enumerate(zip(self.heads, decoded[::-1], strict=False))]
        return logits if self.training and len(logits) > 1 else logits[0]

    def _full(self, logits: Tensor, level: int) -> Tensor:
        if level == 0 and self.config.stem_stride == 2:
            return functional.interpolate(logits, scale_factor=2.0, mode="trilinear", align_corners=False)
        return logits


class BaselineGraph(nn.Module):
    """The exported baseline: contrasts → probabilities in [0, 1], float32 (N, R, X, Y, Z).

    mirror: the mean with the prediction of the window mirrored along its first axis, left–right in canonical
    orientation (test-time augmentation, at twice the work).
    """

    def __init__(self, net: nn.Module, *, mirror: bool = False) -> None:
        super().__init__()
        self.net = net
        self.mirror = mirror

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        probability = torch.sigmoid(self.net(image))
        if self.mirror:
            mirrored = torch.sigmoid(self.net(image.flip(2))).flip(2)
            probability = 0.5 * (probability + mirrored)
        return torch.as_tensor(probability)


class DiscrepancyGraph(nn.Module):
    """The exported discrepancy U-Net: condition (N, C, X, Y, Z) → Δ in [0, 1], float32 (N, R, X, Y, Z)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, condition: Tensor) -> Tensor:
        """See the class."""
        return torch.sigmoid(self.net(condition))
