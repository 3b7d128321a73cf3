"""Networks to ONNX files: dynamic batch, static window, weights optionally stored as float16.

Stored as float16 means: the initialisers are float16 and a Cast makes them float32 when the graph is loaded; all
arithmetic stays float32. It halves the file.
"""

import copy
import logging
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rediffinet.nets.graphs import NetGraph

Weights = Literal["float32", "float16"]
SMALL = 64
"""Tensors with fewer values (norm parameters, biases) stay float32."""


def round_weights(module: nn.Module, weights: Weights) -> nn.Module:
    """A copy whose large weights hold the values they will have after storage."""
    rounded = copy.deepcopy(module)
    if weights == "float16":
        with torch.no_grad():
            for parameter in _large(rounded).values():
                parameter.copy_(parameter.half().float())
    return rounded


def _large(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters stored as float16. Not the buffers: the frequencies of the timestep are needed to the last bit."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.numel() >= SMALL}


def write_graph(graph: NetGraph, path: Path, weights: Weights = "float32") -> None:
    """Export one graph to `path` (a single file)."""

    def batch_only(value: Any) -> Any:
        return [batch_only(item) for item in value] if isinstance(value, list) else {0: "batch"}

    arguments = graph.arguments(graph.examples(2))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every absent optional package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module,
            arguments,
            input_names=[tensor.name for tensor in graph.inputs],
            output_names=[tensor.name for tensor in graph.outputs],
            dynamic_shapes=tuple(batch_only(value) for value in arguments),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if weights == "float16":
        store_as_float16(model, _large(graph.module))
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:  # the exporter's stack traces name files of the machine it ran on
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def store_as_float16(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Replace the initialisers of these names by float16 ones behind a Cast."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.name not in names or tensor.data_type != TensorProto.FLOAT:
            continue
        stored = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}.half")
        cast = helper.make_node("Cast", [stored.name], [tensor.name], f"{tensor.name}.cast", to=TensorProto.FLOAT)
        casts.append(cast)
        tensor.CopyFrom(stored)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def run_torch(
    graph: NetGraph, arrays: Mapping[str, np.ndarray[Any, Any]], module: nn.Module | None = None
) -> list[Tensor]:
    """The outputs of the graph's module, or of another in its place, for arrays by input name."""
    with torch.inference_mode():
        return list(graph.run({name: torch.from_numpy(array) for name, array in arrays.items()}, module))
