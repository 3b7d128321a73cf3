"""ONNX operators (opset 13 and newer) in torch, for the graphs networks export to.

`OPERATORS[op_type](node)` reads the node's attributes once and returns a function of the node's input tensors (None for
an absent optional one) that gives one tensor, or a tuple of them. `UnsupportedError` is raised for attributes that are
not implemented; nothing is approximated.

Shapes, axes and indices are integer tensors on the host, whatever the device; floating-point tensors are on the device.
"""

from rediffinet.engines.torch_operators import dense, pointwise, shapes, spatial
from rediffinet.engines.torch_operators.node import Maker, Node, UnsupportedError, placed, torch_dtype

__all__ = ["OPERATORS", "Node", "UnsupportedError", "placed", "torch_dtype"]

OPERATORS: dict[str, Maker] = {**pointwise.OPERATORS, **spatial.OPERATORS, **dense.OPERATORS, **shapes.OPERATORS}
"""Makers by ONNX operator; a `Node` goes in, the function of its input tensors comes out."""
