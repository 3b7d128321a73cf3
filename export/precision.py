"""The same graph in a lower precision: fp16 by conversion, int8 by quantising the convolutions after calibration.

Both keep float32 inputs and outputs, so a bundle's variants are exchangeable.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from rediffinet.errors import ExportError

Arrays = dict[str, np.ndarray[Any, Any]]
CONVOLUTIONS = ("Conv", "ConvTranspose")


def to_fp16(source: Path, target: Path) -> None:
    """Write `source` with float16 between its convolutions.

    Everything before the first and after the last convolution stays float32 (the timestep, whose angles need more than
    11 bits, and the DDIM update), and so do the instance norms, whose sums over a window leave float16's range. Matrix
    products that stay float32 are written as sums of products: Turing has no other float32 product in TensorRT-RTX.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = with_float32_weights(onnx.load(source))
    gemm_as_sum(model, _outside_of_convolutions(model))
    islands = sorted(_outside_of_convolutions(model))
    with _quiet():
        converted = convert_float_to_float16(
            model, keep_io_types=True, op_block_list=["InstanceNormalization", "Resize"], node_block_list=islands
        )
    _join_casts(converted)
    _save(converted, target)


def gemm_as_sum(model: ModelProto, names: Collection[str]) -> None:
    """Replace the Gemm nodes called `names` by multiplication and sum: y[n, m] = Σ_k x[n, k] · w[m, k] + b[m].

    The same to float32 rounding, and cheap where x has one row per window, as the timestep has. A Gemm that is more
    than x · w + b with a constant w (scaled, or x transposed) is left as it is.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    axes = {axis: numpy_helper.from_array(np.array([axis], np.int64), f"gemm_as_sum_axis_{axis}") for axis in (1, 2)}
    replaced = False
    nodes: list[NodeProto] = []
    for node in graph.node:
        given = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        plain = given.get("transA", 0) == 0 and given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0
        if node.op_type != "Gemm" or node.name not in names or not plain or node.input[1] not in stored:
            nodes.append(node)
            continue
        replaced = True
        x, weight, *bias = (name for name in node.input if name)
        values = numpy_helper.to_array(stored[weight])
        rows = np.ascontiguousarray(values if given.get("transB", 0) else values.T)
        graph.initializer.append(numpy_helper.from_array(rows, f"{node.name}_rows"))
        steps = [
            ("Unsqueeze", [x, axes[1].name], "column"),
            ("Mul", [f"{node.name}_column", f"{node.name}_rows"], "terms"),
            ("ReduceSum", [f"{node.name}_terms", axes[2].name], "sum"),
            *([("Add", [f"{node.name}_sum", *bias], "biased")] if bias else []),
        ]
        for index, (kind, inputs, step) in enumerate(steps):
            output = node.output[0] if index == len(steps) - 1 else f"{node.name}_{step}"
            more: dict[str, Any] = {"keepdims": 0} if kind == "ReduceSum" else {}
            nodes.append(onnx.helper.make_node(kind, inputs, [output], name=f"{node.name}_{step}", **more))
    if not replaced:
        return
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(axes.values())
    used = {name for node in nodes for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def to_int8(source: Path, target: Path, inputs: Iterable[Arrays], full: Sequence[str] = ()) -> None:
    """Write `source` with quantised convolutions (QuantizeLinear/DequantizeLinear), calibrated on `inputs`.

    Weights are symmetric per output channel, activations symmetric per tensor: what TensorRT takes and OpenVINO runs.
    Only what goes into a convolution is quantised; norms and activations stay as they are, and so do the convolutions
    named in `full`. What is joined (Concat) is quantised before it is joined.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Recorded(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> Arrays | None:
            return next(self.left, None)

    with _quiet():
        quantize_static(
            with_float32_weights(onnx.load(source)),
            str(target),
            Recorded(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(CONVOLUTIONS),
            nodes_to_exclude=list(full),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(CONVOLUTIONS),
            },
        )
    quantised = onnx.load(target)
    _quantise_before_joining(quantised)
    _save(quantised, target)


def _quantise_before_joining(model: ModelProto) -> None:
    """Concat, then QuantizeLinear: the other way round, with the same scale, which is the same and moves fewer bytes.

    OpenVINO 2026.4 moves the quantisation there itself, and on processors with VNNI loses the zero point on the way.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        join = made_by.get(node.input[0])
        if join is None or join.op_type != "Concat":
            continue
        parts = [f"{node.output[0]}_part_{index}" for index in range(len(join.input))]
        for source, part in zip(join.input, parts, strict=True):
            quantiser = onnx.helper.make_node("QuantizeLinear", [source, *node.input[1:]], [part], name=part)
            quantiser.attribute.extend(node.attribute)
            model.graph.node.append(quantiser)
        joined = onnx.helper.make_node("Concat", parts, list(node.output), name=f"{node.name}_joined")
        joined.attribute.extend(join.attribute)
        model.graph.node.append(joined)
        model.graph.node.remove(node)
    _drop_unused(model, "Concat")
    _sort(model)


def outermost_convolutions(source: Path) -> tuple[str, ...]:
    """Names of the convolutions that read the graph's inputs or that no other convolution follows."""
    model = onnx.load(source, load_external_data=False)
    nodes = list(model.graph.node)
    inside = _descendants(nodes, {node.name for node in nodes if node.op_type in CONVOLUTIONS})
    before = _ancestors(nodes, {node.name for node in nodes if node.op_type in CONVOLUTIONS})
    convolutions = [node.name for node in nodes if node.op_type in CONVOLUTIONS]
    return tuple(name for name in convolutions if name not in inside or name not in before)


def _outside_of_convolutions(model: ModelProto) -> set[str]:
    """Names of the nodes that do not lie between two convolutions."""
    nodes = list(model.graph.node)
    convolutions = {node.name for node in nodes if node.op_type in CONVOLUTIONS}
    between = _descendants(nodes, convolutions) & _ancestors(nodes, convolutions)
    return {node.name for node in nodes} - between - convolutions


def _descendants(nodes: Sequence[NodeProto], roots: set[str]) -> set[str]:
    """Names of the nodes that take, however indirectly, what the roots compute."""
    reached: set[str] = set()
    values: set[str] = set()
    for node in nodes:  # in topological order, as ONNX demands
        taken = not values.isdisjoint(node.input)
        if taken:
            reached.add(node.name)
        if taken or node.name in roots:
            values.update(node.output)
    return reached


def _ancestors(nodes: Sequence[NodeProto], roots: set[str]) -> set[str]:
    """Names of the nodes whose results go, however indirectly, into the roots."""
    reached: set[str] = set()
    values: set[str] = set()
    for node in reversed(nodes):
        taken = not values.isdisjoint(node.output)
        if taken:
            reached.add(node.name)
        if taken or node.name in roots:
            values.update(node.input)
    return reached


def with_float32_weights(model: ModelProto) -> ModelProto:
    """Weights stored as float16 behind a Cast become float32 weights of the same values."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in stored]:
        tensor = stored[node.input[0]]
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    del model.graph.value_info[:]  # the exporter lists weights there, which the converter takes for computed values
    return model


def _join_casts(model: ModelProto) -> None:
    """Where a float32 value is cast to float16 and back, use the value; then drop casts that nothing uses."""
    graph = model.graph
    produced = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}

    def is_cast(node: NodeProto | None, to: int) -> bool:
        return node is not None and node.op_type == "Cast" and node.attribute[0].i == to

    original: dict[str, str] = {}
    for node in graph.node:
        first = produced.get(node.input[0]) if node.input else None
        if is_cast(node, TensorProto.FLOAT) and first is not None and is_cast(first, TensorProto.FLOAT16):
            original[node.output[0]] = first.input[0]
    for output in outputs & original.keys():
        # the graph's output keeps its name: its producer takes it over
        value = original.pop(output)
        graph.node.remove(produced[output])
        original |= {name: output for name, source in original.items() if source == value}
        original[value] = output
        produced[value].output[list(produced[value].output).index(value)] = output
    for node in graph.node:
        for index, name in enumerate(node.input):
            while name in original:
                name = original[name]
            node.input[index] = name
    _drop_unused(model, "Cast")
    _sort(model)


def _drop_unused(model: ModelProto, kind: str) -> None:
    """Remove the nodes of a kind whose output nothing uses, and then those that only they used."""
    nodes, outputs = model.graph.node, {value.name for value in model.graph.output}
    while True:
        used = {name for node in nodes for name in node.input} | outputs
        dead = [node for node in nodes if node.op_type == kind and node.output[0] not in used]
        if not dead:
            return
        for node in dead:
            nodes.remove(node)


def _sort(model: ModelProto) -> None:
    """Put the nodes in topological order: what is converted is appended at the end."""
    waiting = list(model.graph.node)
    known = {"", *(v.name for v in model.graph.input), *(t.name for t in model.graph.initializer)}
    ordered: list[NodeProto] = []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise ExportError("the converted graph has a cycle or a value that nothing computes")
        ordered += ready
        known.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(ordered)


def _save(model: ModelProto, target: Path) -> None:
    del model.graph.value_info[:]  # shapes are inferred again; the converters leave stale ones
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(target))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converters' advice on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
