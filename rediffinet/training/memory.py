"""Runs without export: an engine whose graphs are the trained networks themselves, in memory on the CPU.

What scores a run in cross-validation is then the code that runs a bundle, windows, sampling, flip and all.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rediffinet.engines.base import Array, Buffer, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.errors import EngineError
from rediffinet.method.inference import Loaded
from rediffinet.nets.refiner import ConditionerGraph, DenoiserGraph, Refiner
from rediffinet.nets.unet import BaselineGraph, DiscrepancyGraph
from rediffinet.training.manifest import InferenceSettings, Pair, graph_tensors, make_manifest, pair_runs
from rediffinet.training.runs import Run, describe

FEATURE = "feature_"


def open_in_memory(run: Run | None, baseline: Run | None = None, settings: InferenceSettings | None = None) -> Loaded:
    """A run, and the baseline it refines where it refines one, ready for rediffinet.method.inference.

    A run of 'unet' may be given as either. Closing `engine` of the result gives nothing back but its graphs. Raises
    ExportError for runs that do not make a model, ConfigError for settings that do not fit.
    """
    pair = pair_runs(run, baseline)
    manifest = make_manifest(pair, settings or InferenceSettings(), training=provenance(pair))
    engine = ModuleEngine(graph_modules(pair))
    specs = (GraphSpec(name, Path(name), *tensors) for name, tensors in graph_tensors(pair).items())
    return Loaded(engine, {spec.name: engine.load(spec) for spec in specs}, manifest)


def provenance(pair: Pair) -> dict[str, Any]:
    """Where the networks come from: JSON-ready, by role."""
    runs = {"baseline": pair.baseline, "refiner": pair.refiner}
    return {role: describe(run) for role, run in runs.items() if run is not None}


def graph_modules(pair: Pair) -> dict[str, nn.Module]:
    """The networks as they are exported, by the graph's name, in evaluation mode."""
    modules: dict[str, nn.Module] = {}
    if pair.baseline is not None:
        modules["baseline"] = BaselineGraph(pair.baseline.model, mirror=pair.baseline.config.mirror)
    if pair.refiner is not None:
        net = pair.refiner.model
        if isinstance(net, Refiner):
            modules |= {"conditioner": ConditionerGraph(net), "denoiser": DenoiserGraph(net)}
        else:
            modules["discrepancy"] = DiscrepancyGraph(net)
    return {name: module.eval() for name, module in modules.items()}


def call_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Run a graph's module on tensors by input name, in the order of its arguments; features go in as one list."""
    arguments: list[Any] = [value for name, value in tensors.items() if not name.startswith(FEATURE)]
    features = [value for name, value in tensors.items() if name.startswith(FEATURE)]
    result = module(*arguments, *([features] if features else []))
    return (result,) if isinstance(result, Tensor) else tuple(result)


class ModuleEngine(Engine):
    """Networks on the CPU in float32; buffers are tensors. A spec's file is not read: its name is that of a module."""

    name = "modules"
    device = "cpu"
    provider = "CPU"

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.version = str(torch.__version__)
        self._modules = dict(modules)

    def load(self, spec: GraphSpec) -> Graph:
        """The module of that name. Raises EngineError when there is none."""
        self._check_open()
        graph = self._load(spec)
        self._graphs.append(graph)
        return graph

    def _load(self, spec: GraphSpec) -> Graph:
        if spec.name not in self._modules:
            message = f"graph '{spec.name}': got no such network, expected one of {', '.join(self._modules)}"
            raise EngineError(message)
        return _ModuleGraph(spec, self, self._modules[spec.name])

    def _upload(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array, order="C", copy=True))

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        return torch.from_numpy(np.empty(shape, dtype))

    def _download(self, value: Tensor) -> Array:
        return np.array(value.numpy(), copy=True)


class _ModuleGraph(Graph):
    def __init__(self, spec: GraphSpec, engine: ModuleEngine, module: nn.Module) -> None:
        super().__init__(spec, engine)
        self._module = module

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self.spec.inputs, self.spec.outputs

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        ordered = {tensor.name: inputs[tensor.name].value for tensor in self.spec.inputs}
        with torch.inference_mode():
            for tensor, result in zip(self.spec.outputs, call_module(self._module, ordered), strict=True):
                outputs[tensor.name].value.copy_(result)

    def _close(self) -> None:
        return
