"""Constants, and operators that move, cut or join values without computing on them."""

from __future__ import annotations

import math

import numpy as np
import onnx
import torch
from torch import Tensor

from rediffinet.engines.torch_operators.node import (
    Maker,
    Node,
    Operator,
    UnsupportedError,
    integers,
    placed,
    together,
)


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
        return placed(np.full(integers(shape) or (), value.item(), value.dtype), node.device)

    return run


def _shape(node: Node) -> Operator:
    start, end = node.get("start", 0), node.get("end")
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


def _reshape(node: Node) -> Operator:
    keep_zero = node.get("allowzero", 0)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = integers(shape) or []
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
        along = integers(axes) or []
        for axis in sorted(axis % (x.ndim + len(along)) for axis in along):
            x = x.unsqueeze(axis)
        return x

    return run


def _squeeze(node: Node) -> Operator:
    return lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(integers(axes))


def _expand(_: Node) -> Operator:
    return lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(integers(shape) or ())))


def _tile(_: Node) -> Operator:
    return lambda x, repeats: x.tile(integers(repeats) or [])


def _concat(node: Node) -> Operator:
    axis = node.get("axis")
    return lambda *tensors: torch.cat(together(*tensors), axis)


def _split(node: Node) -> Operator:
    axis = node.get("axis", 0)

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        if sizes is None:
            return torch.split(x, math.ceil(x.shape[axis] / node.n_outputs), axis)
        return torch.split(x, integers(sizes) or [], axis)

    return run


def _gather(node: Node) -> Operator:
    axis = node.get("axis", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        at = axis % x.ndim
        flat = (indices.reshape(-1) % x.shape[at]).to(x.device)
        return x.index_select(at, flat).reshape([*x.shape[:at], *indices.shape, *x.shape[at + 1 :]])

    return run


def _gather_nd(node: Node) -> Operator:
    node.only(batch_dims=0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        return x[tuple(indices.to(x.device).unbind(-1))]

    return run


def _scatter_nd(node: Node) -> Operator:
    node.only(reduction="none")

    def run(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        x, updates = together(x, updates)
        changed = x.clone()
        changed[tuple(indices.to(x.device).unbind(-1))] = updates
        return changed

    return run


def _slice(_: Node) -> Operator:
    def run(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        first, last = integers(starts) or [], integers(ends) or []
        along = integers(axes) or list(range(len(first)))
        by = integers(steps) or [1] * len(first)
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
    return lambda condition, a, b: torch.where(*together(condition, a, b))


OPERATORS: dict[str, Maker] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
