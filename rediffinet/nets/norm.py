"""Instance norm that keeps the memory layout of its input.

torch's own goes through batch norm and copies channels-last volumes back and forth; with it, training on a CPU in
channels-last order gains nothing. The parameters have the same names, so checkpoints are interchangeable.
"""

import torch
from torch import Tensor, nn

from rediffinet.nets.replace import replace_modules


class InstanceNorm(nn.InstanceNorm3d):
    """`nn.InstanceNorm3d(affine=True)`; in training the moments are taken directly, in float32, in any layout."""

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """X (N, C, X, Y, Z) → the same shape, each channel of each example with mean 0 and variance 1, then affine."""
        if not self.training:
            return super().forward(x)  # one operator, which every export format knows
        full = x.float()
        mean = full.mean((2, 3, 4), keepdim=True)
        variance = (full - mean).square().mean((2, 3, 4), keepdim=True)
        scale = self.weight[:, None, None, None] * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None, None] - mean * scale, full, scale).to(x.dtype)


def with_fast_norms(module: nn.Module) -> nn.Module:
    """Replace every instance norm inside `module`, keeping its parameters; returns `module`."""
    return replace_modules(module, _fast)


def _fast(norm: nn.Module) -> InstanceNorm | None:
    if type(norm) is not nn.InstanceNorm3d or not norm.affine:
        return None
    fast = InstanceNorm(norm.num_features)
    fast.weight, fast.bias, fast.eps = norm.weight, norm.bias, norm.eps
    return fast
