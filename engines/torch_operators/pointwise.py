"""Operators that act element by element, and Cast and Softmax."""

from __future__ import annotations

from typing import Any

import onnx
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own name for it)
from torch import Tensor

from rediffinet.engines.torch_operators.node import (
    Maker,
    Node,
    Operator,
    simple,
    together,
    torch_dtype,
)


def _variadic(function: Any) -> Maker:
    def make(_: Node) -> Operator:
        def run(*tensors: Tensor) -> Tensor:
            tensors = tuple(together(*tensors))
            result = tensors[0]
            for tensor in tensors[1:]:
                result = function(result, tensor)
            return result

        return run

    return make


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _power(a: Tensor, b: Tensor) -> Tensor:
    a, b = together(a, b)
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


OPERATORS: dict[str, Maker] = {
    # element by element, one input
    **{
        name: simple(function)
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
            "Max": torch.maximum,
            "Min": torch.minimum,
            "Mul": torch.mul,
            "Or": torch.logical_or,
            "Sub": torch.sub,
            "Sum": torch.add,
        }.items()
    },
    "Cast": _cast,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Softmax": _softmax,
    "Swish": _swish,
}
