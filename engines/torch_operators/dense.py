"""Normalisation, matrix products and reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor

from rediffinet.engines.torch_operators.node import (
    Maker,
    Node,
    Operator,
    axes_of,
    simple,
)


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
            along = axes_of(node, axes) or []
            if not along and nothing_to_do:
                return x
            return function(x, along or list(range(x.ndim)), keep)

        return run

    return make


OPERATORS: dict[str, Maker] = {
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": simple(torch.matmul),
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: torch.amin(x, axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keep)),
}
