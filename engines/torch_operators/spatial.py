"""Convolutions, pooling, padding and resizing, of any number of spatial axes up to three."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor

from rediffinet.engines.torch_operators.node import (
    Maker,
    Node,
    Operator,
    UnsupportedError,
    integers,
    simple,
)


@dataclass(frozen=True)
class _Window:
    """Attributes shared by convolutions and pooling, spread over the spatial axes."""

    strides: list[int] | None
    dilations: list[int] | None
    pads: list[int]

    @classmethod
    def of(cls, node: Node) -> _Window:
        if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            raise UnsupportedError(f"{node.kind} with auto_pad = {node.get('auto_pad')}")
        return cls(node.get("strides"), node.get("dilations"), node.get("pads") or [])

    def stride(self, rank: int) -> list[int]:
        return self.strides or [1] * rank

    def dilation(self, rank: int) -> list[int]:
        return self.dilations or [1] * rank

    @property
    def symmetric(self) -> bool:
        half = len(self.pads) // 2
        return self.pads[:half] == self.pads[half:]

    def padding(self, rank: int) -> list[int]:
        return self.pads[:rank] or [0] * rank

    def padded(self, x: Tensor, value: float) -> tuple[Tensor, list[int]]:
        """The tensor and the padding left to do: uneven pads are added here, even ones are the operator's own."""
        rank = x.ndim - 2
        if self.symmetric:
            return x, self.padding(rank)
        return F.pad(x, last_axis_first(self.pads), value=value), [0] * rank


def last_axis_first(pads: Sequence[int]) -> list[int]:
    """ONNX pads (all begins, all ends) in torch's order: begin, end of the last axis, then of the one before."""
    half = len(pads) // 2
    return list(itertools.chain.from_iterable((pads[axis], pads[half + axis]) for axis in reversed(range(half))))


def _conv(node: Node) -> Operator:
    window, groups = _Window.of(node), node.get("group", 1)
    functions = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        x, padding = window.padded(x, 0.0)
        return functions[rank](x, weight, bias, window.stride(rank), padding, window.dilation(rank), groups)

    return run


def _conv_transpose(node: Node) -> Operator:
    node.only(output_shape=None)
    window, groups, extra = _Window.of(node), node.get("group", 1), node.get("output_padding")
    if not window.symmetric:
        raise UnsupportedError(f"ConvTranspose with pads = {list(window.pads)} that differ between begin and end")
    functions = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rank = x.ndim - 2
        return functions[rank](
            x,
            weight,
            bias,
            window.stride(rank),
            window.padding(rank),
            extra or [0] * rank,
            groups,
            window.dilation(rank),
        )

    return run


def _max_pool(node: Node) -> Operator:
    node.only(ceil_mode=0, storage_order=0)
    if node.n_outputs > 1:
        raise UnsupportedError("MaxPool with the output Indices")
    window, kernel = _Window.of(node), node.get("kernel_shape")
    functions = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}

    def run(x: Tensor) -> Tensor:
        rank = x.ndim - 2
        if any(window.pads):
            lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
            x = F.pad(x, last_axis_first(window.pads), value=lowest)
        result: Tensor = functions[rank](x, kernel, window.stride(rank), 0, window.dilation(rank))
        return result

    return run


def _average_pool(node: Node) -> Operator:
    node.only(ceil_mode=0)
    window, kernel, count_pads = _Window.of(node), node.get("kernel_shape"), bool(node.get("count_include_pad", 0))
    if any(size != 1 for size in window.dilations or ()):
        raise UnsupportedError("AveragePool with dilations")
    functions: dict[int, Operator] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}

    def run(x: Tensor) -> Tensor:
        rank = x.ndim - 2
        around = last_axis_first(window.pads)
        mean: Tensor = functions[rank](F.pad(x, around), kernel, window.stride(rank))
        if count_pads or not any(around):
            return mean
        share: Tensor = functions[rank](F.pad(torch.ones_like(x[:1, :1]), around), kernel, window.stride(rank))
        return mean / share

    return run


def _global_pool(function: Operator) -> Maker:
    return simple(lambda x: function(x, tuple(range(2, x.ndim)), keepdim=True))


def _pad(node: Node) -> Operator:
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise UnsupportedError(f"Pad with mode = {mode}")

    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        given, along = integers(pads) or [], integers(axes)
        along = list(range(x.ndim)) if along is None else along
        full = [0] * (2 * x.ndim)
        for place, axis in enumerate(along):
            full[axis % x.ndim] = given[place]
            full[x.ndim + axis % x.ndim] = given[len(along) + place]
        if mode == "constant":
            return F.pad(x, last_axis_first(full), value=0 if value is None else value.item())
        # torch reflects and repeats only the spatial axes; it raises when others are asked for
        spatial = last_axis_first(full)
        while len(spatial) > 2 * (x.ndim - 2) and spatial[-2:] == [0, 0]:
            spatial = spatial[:-2]
        return F.pad(x, spatial, mode="reflect" if mode == "reflect" else "replicate")

    return run


def _resize(node: Node) -> Operator:
    mode = node.get("mode", "nearest")
    coordinates = node.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.get("nearest_mode", "round_prefer_floor")
    node.only(antialias=0, axes=None, exclude_outside=0, keep_aspect_ratio_policy="stretch")
    if mode not in ("nearest", "linear") or coordinates not in _COORDINATES:
        raise UnsupportedError(f"Resize with mode = {mode}, coordinate_transformation_mode = {coordinates}")

    def run(x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        if sizes is not None and sizes.numel():
            target = integers(sizes) or []
            factors = [new / old for new, old in zip(target, x.shape, strict=True)]
        else:
            assert scales is not None, "ONNX demands scales or sizes"
            factors = [float(factor) for factor in scales.tolist()]
            target = [math.floor(old * factor) for old, factor in zip(x.shape, factors, strict=True)]
        for axis, (old, new, factor) in enumerate(zip(x.shape, target, factors, strict=True)):
            if new == old and factor == 1:
                continue
            at = _COORDINATES[coordinates](torch.arange(new, dtype=torch.float64), old, new, factor)
            x = _pick(x, axis, _ROUNDING[rounding](at)) if mode == "nearest" else _interpolate(x, axis, at)
        return x

    return run


# Where an output voxel lies on the input, per coordinate_transformation_mode.
_COORDINATES: dict[str, Callable[[Tensor, int, int, float], Tensor]] = {
    "half_pixel": lambda i, old, new, factor: (i + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda i, old, new, factor: (i + 0.5) / factor - 0.5 if new > 1 else i * 0,
    "align_corners": lambda i, old, new, factor: i * ((old - 1) / (old * factor - 1) if new > 1 else 0),
    "asymmetric": lambda i, old, new, factor: i / factor,
}
_ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _pick(x: Tensor, axis: int, at: Tensor) -> Tensor:
    return x.index_select(axis, at.clamp(0, x.shape[axis] - 1).long().to(x.device))


def _interpolate(x: Tensor, axis: int, at: Tensor) -> Tensor:
    """Linear interpolation along one axis; applied to each axis in turn it is bi- and trilinear interpolation."""
    at = at.clamp(0, x.shape[axis] - 1)
    below = torch.floor(at)
    share = (at - below).to(x.device, x.dtype).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return torch.lerp(_pick(x, axis, below), _pick(x, axis, below + 1), share)


OPERATORS: dict[str, Maker] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
}
