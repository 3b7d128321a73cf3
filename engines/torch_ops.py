"""ONNX operators (opset 13 and newer) in torch, for the graphs networks export to.

`OPERATORS[op_type](node)` reads the node's attributes once and returns a function of the node's input tensors (None for
an absent optional one) that gives one tensor, or a tuple of them. `UnsupportedError` is raised for attributes that are
not implemented; nothing is approximated.

Shapes, axes and indices are integer tensors on the host, whatever the device; floating-point tensors are on the device.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor

Operator = Callable[..., Any]
Maker = Callable[["Node"], Operator]


class UnsupportedError(Exception):
    """The graph uses an operator, or a form of one, that is not implemented here."""


@dataclass(frozen=True)
class Node:
    """What of a node is known before the run."""

    kind: str
    attributes: Mapping[str, Any]
    n_outputs: int
    device: torch.device

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute's value; strings are decoded."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def only(self, **allowed: Any) -> None:
        """Raise `UnsupportedError` when an attribute is present with another value than the one allowed."""
        for name, value in allowed.items():
            found = self.get(name, value)
            if found != value:
                raise UnsupportedError(f"{self.kind} with {name} = {found}")


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch dtype of a NumPy dtype; `UnsupportedError` if torch has none for it (bfloat16, float8, int4)."""
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise UnsupportedError(f"tensors of dtype {dtype}") from error


def placed(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """A constant: shapes, axes and indices (integers of rank 0 or 1) on the host, everything else on the device."""
    torch_dtype(array.dtype)
    value = torch.from_numpy(np.array(array, copy=True))
    return value if value.ndim <= 1 and not value.is_floating_point() else value.to(device)


def _together(*tensors: Tensor) -> list[Tensor]:
    """The tensors on one device: the first one's that is not the host."""
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), tensors[0].device)
    return [tensor.to(device) for tensor in tensors]


def _integers(tensor: Tensor | None) -> list[int] | None:
    return None if tensor is None else [int(value) for value in tensor.reshape(-1).tolist()]


def _axes(node: Node, tensor: Tensor | None) -> list[int] | None:
    """Axes from the input of newer opsets, or the attribute of older ones."""
    return _integers(tensor) if tensor is not None else node.get("axes")


# --- element by element --------------------------------------------------------------------------------------------


def _simple(function: Any) -> Maker:
    return lambda _: function


def _variadic(function: Any) -> Maker:
    def make(_: Node) -> Operator:
        def run(*tensors: Tensor) -> Tensor:
            tensors = tuple(_together(*tensors))
            result = tensors[0]
            for tensor in tensors[1:]:
                result = function(result, tensor)
            return result

        return run

    return make


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    a, b = _together(a, b)
    return torch.pow(a, b).to(a.dtype)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = torch.maximum(x, low.to(x.device))
    return x if high is None else torch.minimum(x, high.to(x.device))


def _leaky_relu(node: Node) -> Operator:
    slope = node.get("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


def _elu(node: Node) -> Operator:
    alpha = node.get("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


def _gelu(node: Node) -> Operator:
    approximate = node.get("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


def _hard_sigmoid(node: Node) -> Operator:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: (x * alpha + beta).clamp(0, 1)


def _swish(node: Node) -> Operator:
    alpha = node.get("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


def _prelu(_: Node) -> Operator:
    return lambda x, slope: torch.where(x < 0, x * slope, x)


def _softmax(node: Node) -> Operator:
    axis = node.get("axis", -1)
    return lambda x: torch.softmax(x, axis)


def _cast(node: Node) -> Operator:
    dtype = torch_dtype(onnx.helper.tensor_dtype_to_np_dtype(node.get("to")))
    device = node.device
    return lambda x: x.to(device, dtype) if dtype.is_floating_point else x.to(dtype)


# --- convolutions, pooling, resizing -------------------------------------------------------------------------------


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
        return F.pad(x, _last_axis_first(self.pads), value=value), [0] * rank


def _last_axis_first(pads: Sequence[int]) -> list[int]:
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
            x = F.pad(x, _last_axis_first(window.pads), value=lowest)
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
        around = _last_axis_first(window.pads)
        mean: Tensor = functions[rank](F.pad(x, around), kernel, window.stride(rank))
        if count_pads or not any(around):
            return mean
        share: Tensor = functions[rank](F.pad(torch.ones_like(x[:1, :1]), around), kernel, window.stride(rank))
        return mean / share

    return run


def _global_pool(function: Operator) -> Maker:
    return _simple(lambda x: function(x, tuple(range(2, x.ndim)), keepdim=True))


def _pad(node: Node) -> Operator:
    mode = node.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise UnsupportedError(f"Pad with mode = {mode}")

    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        given, along = _integers(pads) or [], _integers(axes)
        along = list(range(x.ndim)) if along is None else along
        full = [0] * (2 * x.ndim)
        for place, axis in enumerate(along):
            full[axis % x.ndim] = given[place]
            full[x.ndim + axis % x.ndim] = given[len(along) + place]
        if mode == "constant":
            return F.pad(x, _last_axis_first(full), value=0 if value is None else value.item())
        # torch reflects and repeats only the spatial axes; it raises when others are asked for
        spatial = _last_axis_first(full)
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
            target = _integers(sizes) or []
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


# --- normalisation and products ------------------------------------------------------------------------------------


def _instance_norm(node: Node) -> Operator:
    epsilon = node.get("epsilon", 1e-5)
    # One group per channel; torch's instance_norm would refuse a single voxel.
    return lambda x, scale, bias: torch.group_norm(x, x.shape[1], scale, bias, epsilon)


def _group_norm(node: Node) -> Operator:
    groups, epsilon = node.get("num_groups"), node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        repeats = x.shape[1] // scale.numel()  # opset 18 had one scale per group, 21 has one per channel
        if repeats > 1:
            scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
        return torch.group_norm(x, groups, scale, bias, epsilon)

    return run


def _layer_norm(node: Node) -> Operator:
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        shape = list(x.shape[axis % x.ndim :])
        shift = None if bias is None else bias.expand(shape)
        # y, mean and inverse deviation: the node may ask for one, two or all three
        return torch.native_layer_norm(x, shape, scale.expand(shape), shift, epsilon)[: node.n_outputs]

    return run


def _batch_norm(node: Node) -> Operator:
    node.only(training_mode=0)
    epsilon = node.get("epsilon", 1e-5)
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _gemm(node: Node) -> Operator:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    turn_a, turn_b = node.get("transA", 0), node.get("transB", 0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = a.t() if turn_a else a, b.t() if turn_b else b
        return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Maker:
    def make(node: Node) -> Operator:
        keep, nothing_to_do = bool(node.get("keepdims", 1)), bool(node.get("noop_with_empty_axes", 0))

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            along = _axes(node, axes) or []
            if not along and nothing_to_do:
                return x
            return function(x, along or list(range(x.ndim)), keep)

        return run

    return make


# --- shapes and indices --------------------------------------------------------------------------------------------


def _constant(node: Node) -> Operator:
    for name, make in (
        ("value", onnx.numpy_helper.to_array),
        ("value_float", np.float32),
        ("value_floats", lambda values: np.array(values, np.float32)),
        ("value_int", np.int64),
        ("value_ints", lambda values: np.array(values, np.int64)),
    ):
        if name in node.attributes:
            value = placed(np.asarray(make(node.attributes[name])), node.device)
            return lambda: value
    raise UnsupportedError(f"Constant with {', '.join(node.attributes)}")


def _constant_of_shape(node: Node) -> Operator:
    given = node.get("value")
    value = np.zeros(1, np.float32) if given is None else onnx.numpy_helper.to_array(given)

    def run(shape: Tensor) -> Tensor:
        return placed(np.full(_integers(shape) or (), value.item(), value.dtype), node.device)

    return run


def _shape(node: Node) -> Operator:
    start, end = node.get("start", 0), node.get("end")
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _reshape(node: Node) -> Operator:
    keep_zero = node.get("allowzero", 0)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = _integers(shape) or []
        return x.reshape([x.shape[i] if size == 0 and not keep_zero else size for i, size in enumerate(sizes)])

    return run


def _flatten(node: Node) -> Operator:
    axis = node.get("axis", 1)
    return lambda x: x.reshape(math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim]), -1)


def _transpose(node: Node) -> Operator:
    order = node.get("perm")
    return lambda x: x.permute(order or list(reversed(range(x.ndim))))


def _unsqueeze(node: Node) -> Operator:
    def run(x: Tensor, axes: Tensor) -> Tensor:
        along = _integers(axes) or []
        for axis in sorted(axis % (x.ndim + len(along)) for axis in along):
            x = x.unsqueeze(axis)
        return x

    return run


def _squeeze(node: Node) -> Operator:
    return lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(_integers(axes))


def _expand(_: Node) -> Operator:
    return lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(_integers(shape) or ())))


def _tile(_: Node) -> Operator:
    return lambda x, repeats: x.tile(_integers(repeats) or [])


def _concat(node: Node) -> Operator:
    axis = node.get("axis")
    return lambda *tensors: torch.cat(_together(*tensors), axis)


def _split(node: Node) -> Operator:
    axis = node.get("axis", 0)

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        if sizes is None:
            return torch.split(x, math.ceil(x.shape[axis] / node.n_outputs), axis)
        return torch.split(x, _integers(sizes) or [], axis)

    return run


def _gather(node: Node) -> Operator:
    axis = node.get("axis", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        at = axis % x.ndim
        flat = (indices.reshape(-1) % x.shape[at]).to(x.device)
        return x.index_select(at, flat).reshape([*x.shape[:at], *indices.shape, *x.shape[at + 1 :]])

    return run


def _slice(_: Node) -> Operator:
    def run(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        first, last = _integers(starts) or [], _integers(ends) or []
        along = _integers(axes) or list(range(len(first)))
        by = _integers(steps) or [1] * len(first)
        for start, end, axis, step in zip(first, last, along, by, strict=True):
            taken = slice(start, end, step)
            if step > 0:
                x = x[(slice(None),) * (axis % x.ndim) + (taken,)]
            else:  # torch has no negative steps
                places = list(range(*taken.indices(x.shape[axis])))
                x = x.index_select(axis, torch.tensor(places, dtype=torch.int64, device=x.device))
        return x

    return run


def _range(_: Node) -> Operator:
    return lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _where(_: Node) -> Operator:
    return lambda condition, a, b: torch.where(*_together(condition, a, b))


OPERATORS: dict[str, Maker] = {
    # element by element, one input
    **{
        name: _simple(function)
        for name, function in {
            "Abs": torch.abs,
            "Ceil": torch.ceil,
            "Cos": torch.cos,
            "Erf": torch.erf,
            "Exp": torch.exp,
            "Floor": torch.floor,
            "HardSwish": F.hardswish,
            "Identity": lambda x: x,
            "Log": torch.log,
            "Mish": F.mish,
            "Neg": torch.neg,
            "Not": torch.logical_not,
            "Reciprocal": torch.reciprocal,
            "Relu": torch.relu,
            "Sigmoid": torch.sigmoid,
            "Sign": torch.sign,
            "Sin": torch.sin,
            "Softplus": lambda x: F.softplus(x, threshold=100.0),
            "Sqrt": torch.sqrt,
            "Tanh": torch.tanh,
            "Clip": _clip,
            "Pow": _power,
        }.items()
    },
    # two or more inputs, broadcast
    **{
        name: _variadic(function)
        for name, function in {
            "Add": torch.add,
            "And": torch.logical_and,
            "Div": _divide,
            "Equal": torch.eq,
            "Greater": torch.gt,
            "GreaterOrEqual": torch.ge,
            "Less": torch.lt,
            "LessOrEqual": torch.le,
            "MatMul": torch.matmul,
            "Max": torch.maximum,
            "Min": torch.minimum,
            "Mul": torch.mul,
            "Or": torch.logical_or,
            "Sub": torch.sub,
            "Sum": torch.add,
        }.items()
    },
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Elu": _elu,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool(torch.mean),
    "GlobalMaxPool": _global_pool(torch.amax),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "PRelu": _prelu,
    "Pad": _pad,
    "Range": _range,
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: torch.amin(x, axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Swish": _swish,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""Makers by ONNX operator; a `Node` goes in, the function of its input tensors comes out."""
