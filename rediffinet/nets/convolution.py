"""A convolution that stays on oneDNN when torch would leave it.

On a CPU torch hands a float32 convolution of one example to oneDNN only when channels × the first two spatial sizes
exceed 20,480 (`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp); below that a slower kernel of its own runs,
forward and backward. A batch of two always goes to oneDNN, so here one example is cut in two along its first axis, with
the voxels that both halves need. The parameters have the same names, so checkpoints are interchangeable.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from rediffinet.nets.replace import replace_modules

ENOUGH = 20_480
"""Channels × first two spatial sizes above which torch takes oneDNN for a batch of one."""


class Convolution(nn.Conv3d):
    """`nn.Conv3d` of kernel 3, padding 1 and stride 1 or 2; in training on a CPU one example is worked on as two."""

    def forward(self, x: Tensor) -> Tensor:
        """X (N, C, X, Y, Z) → what nn.Conv3d gives, to rounding."""
        if not (self.training and _falls_short(x) and x.shape[2] % (2 * self.stride[0]) == 0):
            return super().forward(x)  # one operator, which every export format knows
        middle, stride = x.shape[2] // 2, self.stride[0]
        padded = functional.pad(x, (1, 1, 1, 1, 1, 1))
        length = middle + (2 if stride == 1 else 1)
        halves = torch.cat([padded[:, :, :length], padded[:, :, middle : middle + length]])
        first, second = functional.conv3d(halves, self.weight, self.bias, self.stride).split(1)
        return torch.cat([first, second], dim=2)


def _falls_short(x: Tensor) -> bool:
    one_on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[0] == 1
    return one_on_cpu and x.shape[1] * x.shape[2] * x.shape[3] <= ENOUGH


def with_fast_convolutions(module: nn.Module) -> nn.Module:
    """Replace every convolution inside `module` that this can stand for, keeping its parameters; returns `module`."""
    return replace_modules(module, _fast)


def _fast(conv: nn.Module) -> Convolution | None:
    if type(conv) is not nn.Conv3d or not _replaceable(conv):
        return None
    fast = Convolution(conv.in_channels, conv.out_channels, 3, conv.stride[0], 1, bias=conv.bias is not None)
    fast.weight, fast.bias = conv.weight, conv.bias
    return fast


def _replaceable(conv: nn.Conv3d) -> bool:
    plain = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding_mode == "zeros"
    return plain and conv.kernel_size == (3, 3, 3) and conv.padding == (1, 1, 1) and conv.stride in {(1,) * 3, (2,) * 3}
