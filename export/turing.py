"""A graph in float32 as TensorRT-RTX takes it for Turing (sm75), which has no 3-D convolution and no matrix product.

Exact rewrites, so the plan is still a float32 plan of the same graph: a 3-D convolution is a 2-D one over slices, with
the depth of the kernel as further channels; a transposed one whose windows do not overlap, as all of ours, is a 2-D one
whose depth comes out as further channels. They move more memory than 3-D kernels: prefer fp16 on such a GPU.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from rediffinet.export.precision import gemm_as_sum, with_float32_weights

Array = np.ndarray[Any, Any]
SWAP = [0, 2, 1, 3, 4]
"""(batch, channels, depth, …) ↔ (batch, depth, channels, …)."""


def for_turing(model: bytes) -> bytes:
    """The ONNX file with its 3-D convolutions in 2-D and its matrix products as sums; inputs and outputs are the same.

    What has no such form (dilated, grouped, overlapping transposed convolutions) stays as it is, and does not build.
    """
    rewritten = with_float32_weights(onnx.load_model_from_string(model))
    gemm_as_sum(rewritten, [node.name for node in rewritten.graph.node])
    shapes = _shapes(rewritten)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in rewritten.graph.initializer}
    nodes: list[NodeProto] = []
    for node in rewritten.graph.node:
        writer = _Writer(node, stored, nodes)
        rewrite = REWRITES.get(node.op_type)
        if rewrite is None or not rewrite(node, shapes, writer):
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    del rewritten.graph.node[:]
    rewritten.graph.node.extend(nodes)
    del rewritten.graph.initializer[:]
    rewritten.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in stored.items() if name in used)
    del rewritten.graph.value_info[:]
    onnx.checker.check_model(rewritten, full_check=True)
    return bytes(rewritten.SerializeToString())


class _Writer:
    """Appends the nodes that take the place of `node`, named after it."""

    def __init__(self, node: NodeProto, stored: dict[str, Array], nodes: list[NodeProto]) -> None:
        self._name, self._output = node.output[0], node.output[0]
        self.stored = stored
        self._nodes = nodes
        self._count = 0

    def constant(self, values: Array | Sequence[int]) -> str:
        self._count += 1
        name = f"{self._name}_2d_constant_{self._count}"
        self.stored[name] = np.ascontiguousarray(values) if isinstance(values, np.ndarray) else np.array(values)
        return name

    def node(self, kind: str, inputs: Sequence[str], *, last: bool = False, **attributes: Any) -> str:
        self._count += 1
        output = self._output if last else f"{self._name}_2d_{self._count}"
        name = f"{self._name}_2d_{kind.lower()}_{self._count}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def to_slices(self, x: str, channels: int, height: int, width: int) -> str:
        """(batch, channels, depth, h, w) → (batch · depth, channels, h, w)."""
        swapped = self.node("Transpose", [x], perm=SWAP)
        return self.node("Reshape", [swapped, self.constant([-1, channels, height, width])])

    def from_slices(self, x: str, shape: Sequence[int]) -> None:
        """(batch · depth, channels, h, w) → (batch, channels, depth, h, w), the node's output; shape: (depth, …)."""
        apart = self.node("Reshape", [x, self.constant([-1, *shape])])
        self.node("Transpose", [apart], last=True, perm=SWAP)


def _convolution(node: NodeProto, shapes: dict[str, list[int]], write: _Writer) -> bool:
    weight, given = write.stored.get(node.input[1]), _attributes(node)
    size = shapes.get(node.input[0])
    if weight is None or weight.ndim != 5 or size is None or not _plain(given):
        return False
    (outputs, channels, *kernel), (depth, height, width) = weight.shape, size
    strides, pads = given.get("strides", [1, 1, 1]), given.get("pads", [0] * 6)
    x, taps = node.input[0], kernel[0]
    if pads[0] or pads[3]:
        x = write.node("Pad", [x, write.constant([0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0])])
    sizes = [(n + pads[i] + pads[i + 3] - kernel[i]) // strides[i] + 1 for i, n in enumerate((depth, height, width))]
    slices = []
    for tap in range(taps):  # the slices that this tap of the kernel sees, one per slice of the output
        bounds = [[tap], [tap + (sizes[0] - 1) * strides[0] + 1], [2], [strides[0]]]
        slices.append(write.node("Slice", [x, *map(write.constant, bounds)]))
    joined = write.node("Concat", slices, axis=1) if taps > 1 else slices[0]
    flat = write.to_slices(joined, taps * channels, height, width)
    planes = weight.transpose(0, 2, 1, 3, 4).reshape(outputs, taps * channels, *kernel[1:])
    more = {"strides": strides[1:], "pads": [*pads[1:3], *pads[4:6]]}
    done = write.node("Conv", [flat, write.constant(planes), *node.input[2:]], **more)
    write.from_slices(done, [sizes[0], outputs, *sizes[1:]])
    return True


def _transposed(node: NodeProto, shapes: dict[str, list[int]], write: _Writer) -> bool:
    weight, given = write.stored.get(node.input[1]), _attributes(node)
    size = shapes.get(node.input[0])
    bias = write.stored.get(node.input[2]) if len(node.input) > 2 else np.zeros(0, np.float32)
    if weight is None or weight.ndim != 5 or size is None or bias is None or not _plain(given):
        return False
    channels, outputs, *kernel = weight.shape
    apart = given.get("strides", [1, 1, 1]) == kernel
    if not apart or any(given.get("pads", [0])) or any(given.get("output_padding", [0])) or "output_shape" in given:
        return False
    depth, height, width = size
    flat = write.to_slices(node.input[0], channels, height, width)
    planes = weight.transpose(0, 2, 1, 3, 4).reshape(channels, kernel[0] * outputs, *kernel[1:])
    biases = [write.constant(np.tile(bias, kernel[0]))] if bias.size else []
    done = write.node("ConvTranspose", [flat, write.constant(planes), *biases], strides=kernel[1:])
    # (batch · depth, kernel depth · outputs, …) is (batch, depth · kernel depth, outputs, …) in memory
    write.from_slices(done, [depth * kernel[0], outputs, height * kernel[1], width * kernel[2]])
    return True


REWRITES: dict[str, Callable[[NodeProto, dict[str, list[int]], _Writer], bool]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
}


def _attributes(node: NodeProto) -> dict[str, Any]:
    found = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: list(value) if not isinstance(value, int | bytes) else value for name, value in found.items()}


def _plain(given: dict[str, Any]) -> bool:
    """Not grouped, not dilated, with padding in numbers."""
    dilated = any(step != 1 for step in given.get("dilations", [1]))
    return given.get("group", 1) == 1 and not dilated and given.get("auto_pad", b"NOTSET") == b"NOTSET"


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Depth, height and width of every 5-D value, where they are fixed."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) == 5 and all(size.dim_value > 0 for size in sizes[2:]):
            found[value.name] = [size.dim_value for size in sizes[2:]]
    return found
