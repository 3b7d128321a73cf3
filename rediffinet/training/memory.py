"""Runs without export: an engine whose graphs are the trained networks themselves, in memory on the CPU.

What scores a run in cross-validation is then the code that runs a bundle, windows, sampling, flip and all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rediffinet.engines.base import Array, Buffer, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.errors import EngineError
from rediffinet.method.inference import Loaded
from rediffinet.method.recipe import Recipe
from rediffinet.nets.graphs import NetGraph
from rediffinet.training.recipe import InferenceSettings, pair_runs, recipe_of
from rediffinet.training.run import Run

CPU = torch.device("cpu")


def open_in_memory(run: Run | None, baseline: Run | None = None, settings: InferenceSettings | None = None) -> Loaded:
    """A run, and the baseline it refines where it refines one, ready for rediffinet.method.inference.

    A run of 'unet' may be given as either. Closing `engine` of the result gives nothing back but its graphs. Raises
    ExportError for runs that do not make a model, ConfigError for settings that do not fit.
    """
    pair = pair_runs(run, baseline)
    return load_graphs(pair.graphs, recipe_of(pair, settings))


def load_graphs(graphs: Sequence[NetGraph], recipe: Recipe, device: torch.device = CPU) -> Loaded:
    """Networks on the device they are on, ready for rediffinet.method.inference."""
    engine = ModuleEngine(graphs, device)
    specs = (GraphSpec(graph.name, Path(graph.name), graph.inputs, graph.outputs) for graph in graphs)
    return Loaded(engine, {spec.name: engine.load(spec) for spec in specs}, recipe)


class ModuleEngine(Engine):
    """Networks in memory, in float32; buffers are tensors. A spec's file is not read: its name is that of a graph."""

    name = "modules"

    def __init__(self, graphs: Sequence[NetGraph], device: torch.device = CPU) -> None:
        super().__init__()
        self.version = str(torch.__version__)
        self.device = str(device)
        self.provider = device.type.upper()
        self._home = device
        self._networks = {graph.name: graph for graph in graphs}

    def load(self, spec: GraphSpec) -> Graph:
        """The network of that name. Raises EngineError when there is none."""
        self._check_open()
        graph = self._load(spec)
        self._graphs.append(graph)
        return graph

    def _load(self, spec: GraphSpec) -> Graph:
        if spec.name not in self._networks:
            message = f"graph '{spec.name}': got no such network, expected one of {', '.join(self._networks)}"
            raise EngineError(message)
        return _ModuleGraph(spec, self, self._networks[spec.name])

    def _upload(self, array: Array) -> Tensor:
        return torch.from_numpy(np.array(array, order="C", copy=True)).to(self._home)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tensor:
        return torch.from_numpy(np.empty(shape, dtype)).to(self._home)

    def _download(self, value: Tensor) -> Array:
        return np.array(value.cpu().numpy(), copy=True)


class _ModuleGraph(Graph):
    def __init__(self, spec: GraphSpec, engine: ModuleEngine, network: NetGraph) -> None:
        super().__init__(spec, engine)
        self._network = network

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self.spec.inputs, self.spec.outputs

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        tensors = {name: buffer.value for name, buffer in inputs.items()}
        with torch.inference_mode():
            for tensor, result in zip(self.spec.outputs, self._network.run(tensors), strict=True):
                outputs[tensor.name].value.copy_(result)

    def _close(self) -> None:
        return
