"""Networks to ONNX files: dynamic batch, static window, weights optionally stored as float16.

Stored as float16 means: the initialisers are float16 and a Cast makes them float32 when the graph is loaded; all
arithmetic stays float32. It halves the file.
"""

import copy
import logging
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rediffinet.labels import CONTRASTS, REGIONS
from rediffinet.method.models import find_model
from rediffinet.method.windows import Shape
from rediffinet.nets.config import RefinerConfig
from rediffinet.nets.refiner import ConditionerGraph, DenoiserGraph, Refiner
from rediffinet.nets.unet import BaselineGraph, DiscrepancyGraph
from rediffinet.training.manifest import Pair

Weights = Literal["float32", "float16"]
SMALL = 64
"""Tensors with fewer values (norm parameters, biases) stay float32."""


@dataclass(frozen=True)
class GraphSource:
    """A network ready for export: the module, its inputs in order, names of inputs and outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Any]
    outputs: tuple[str, ...]

    def arguments(self, arrays: dict[str, np.ndarray[Any, Any]]) -> tuple[Any, ...]:
        """Arrays by graph input name → the module's arguments."""
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return tuple(
            [tensors[f"feature_{i}"] for i in range(len(value))] if isinstance(value, list) else tensors[name]
            for name, value in self.inputs.items()
        )

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, lists flattened."""
        names: list[str] = []
        for name, value in self.inputs.items():
            names += [f"feature_{i}" for i in range(len(value))] if isinstance(value, list) else [name]
        return tuple(names)


def baseline_source(net: nn.Module, window: Shape, *, mirror: bool = False) -> GraphSource:
    """image (batch, 4, X, Y, Z) → probability (batch, 3, X, Y, Z), for any network of the baseline."""
    image = torch.zeros(2, len(CONTRASTS), *window)
    return GraphSource("baseline", BaselineGraph(net, mirror=mirror).eval(), {"image": image}, ("probability",))


def discrepancy_source(net: nn.Module, window: Shape, condition_channels: int) -> GraphSource:
    """condition (batch, C, X, Y, Z) → delta (batch, 3, X, Y, Z)."""
    condition = torch.zeros(2, condition_channels, *window)
    return GraphSource("discrepancy", DiscrepancyGraph(net).eval(), {"condition": condition}, ("delta",))


def refiner_sources(refiner: Refiner) -> tuple[GraphSource, GraphSource]:
    """The conditioner (condition → feature_i) and the denoiser (…, t, c0, c1 → x_prev, x0)."""
    config: RefinerConfig = refiner.config
    condition = torch.zeros(2, config.condition_channels, *config.window)
    conditioner = ConditionerGraph(refiner).eval()
    with torch.inference_mode():
        features = [torch.zeros_like(feature) for feature in conditioner(condition)]
    names = tuple(f"feature_{i}" for i in range(len(features)))
    denoiser_inputs = {
        "x_t": torch.zeros(2, len(REGIONS), *config.window),
        "condition": condition,
        "t": torch.zeros(2),
        "c0": torch.zeros(2),
        "c1": torch.zeros(2),
        "features": [feature.clone() for feature in features],
    }
    return (
        GraphSource("conditioner", conditioner, {"condition": condition}, names),
        GraphSource("denoiser", DenoiserGraph(refiner).eval(), denoiser_inputs, ("x_prev", "x0")),
    )


def graph_sources(pair: Pair) -> tuple[GraphSource, ...]:
    """Every graph of the model that the runs make."""
    sources: list[GraphSource] = []
    if pair.baseline is not None:
        config = pair.baseline.config
        sources.append(baseline_source(pair.baseline.model, config.unet.window, mirror=config.mirror))
    if pair.refiner is not None:
        net = pair.refiner.model
        if isinstance(net, Refiner):
            sources += refiner_sources(net)
        else:
            window = pair.refiner.config.unet.window
            sources.append(discrepancy_source(net, window, find_model(pair.model).condition_channels))
    return tuple(sources)


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


def write_graph(source: GraphSource, path: Path, weights: Weights) -> None:
    """Export one graph to `path` (a single file)."""

    def batch_only(value: Any) -> Any:
        return [batch_only(item) for item in value] if isinstance(value, list) else {0: "batch"}

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every absent optional package
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            source.module,
            tuple(source.inputs.values()),
            input_names=list(source.input_names),
            output_names=list(source.outputs),
            dynamic_shapes=tuple(batch_only(value) for value in source.inputs.values()),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if weights == "float16":
        _store_as_float16(model, _large(source.module))
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:  # the exporter's stack traces name files of the machine it ran on
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def _store_as_float16(model: onnx.ModelProto, names: Collection[str]) -> None:
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


def run_torch(source: GraphSource, module: nn.Module, arrays: dict[str, np.ndarray[Any, Any]]) -> list[Tensor]:
    """The module's outputs for arrays given by graph input name."""
    with torch.inference_mode():
        result = module(*source.arguments(arrays))
    return [result] if isinstance(result, Tensor) else list(result)
