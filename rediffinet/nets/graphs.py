"""What graphs a network has, and with what inputs and outputs: one row per kind of network.

Training builds from it, the engine in memory and the export run what it lists, and a bundle's files are held against
it. A new kind of network is one module and one row of `BUILDERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rediffinet.engines.base import TensorSpec
from rediffinet.method.models import ModelKind, Network
from rediffinet.method.windows import Shape
from rediffinet.nets.config import RefinerConfig, UNetConfig
from rediffinet.nets.monai_nets import build_baseline
from rediffinet.nets.prior import Corrector
from rediffinet.nets.refiner import ConditionerGraph, DenoiserGraph, Refiner
from rediffinet.nets.unet import BaselineGraph, DiscrepancyGraph, UNet
from rediffinet.task import Task

FEATURE = "feature_"
"""Begins the names of the tensors that a module takes or gives as one list."""


@dataclass(frozen=True)
class NetGraph:
    """One graph: the module in evaluation mode, its tensors in the order of arguments and results.

    Every shape is ("batch", channels, x, y, z), or ("batch",) for a number per window.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, tensors: Mapping[str, Tensor], module: nn.Module | None = None) -> tuple[Tensor, ...]:
        """What the module, or another of its kind, makes of tensors by input name."""
        result = (module or self.module)(*self.arguments({spec.name: tensors[spec.name] for spec in self.inputs}))
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def arguments(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Values by input name, in order → the module's arguments; features go in as one list."""
        plain = [value for name, value in values.items() if not name.startswith(FEATURE)]
        features = [value for name, value in values.items() if name.startswith(FEATURE)]
        return (*plain, features) if features else tuple(plain)

    def examples(self, batch: int) -> dict[str, Tensor]:
        """Zeros of the shape of every input."""
        return {spec.name: torch.zeros(batch, *map(int, spec.shape[1:])) for spec in self.inputs}


@dataclass(frozen=True)
class Builder:
    """How a network is built from its configuration, and the graphs of a built one for a window.

    mirror: a baseline's answer is the mean with that of the mirrored window.
    """

    build: Callable[[ModelKind, Any, Task], nn.Module]
    graphs: Callable[["_Shapes", Any, bool], tuple[NetGraph, ...]]


def build_network(kind: ModelKind, config: UNetConfig | RefinerConfig, task: Task) -> nn.Module:
    """A freshly initialised network of a model. Raises ConfigError for a configuration that makes none."""
    return BUILDERS[kind.network].build(kind, config, task)


def network_graphs(
    kind: ModelKind, net: nn.Module, window: Shape, task: Task, *, mirror: bool = False
) -> tuple[NetGraph, ...]:
    """The graphs of a network, or of an ensemble of such, on windows of that many voxels."""
    shapes = _Shapes(window, len(task.contrasts), len(task.regions), kind.condition_channels(task))
    return BUILDERS[kind.network].graphs(shapes, net, mirror)


@dataclass(frozen=True)
class _Shapes:
    """Window and channels of a model's tensors."""

    window: Shape
    contrasts: int
    regions: int
    condition: int


def _tensor(name: str, channels: int, window: Shape) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", channels, *window))


def _baseline(shapes: _Shapes, net: nn.Module, mirror: bool) -> tuple[NetGraph, ...]:
    image = _tensor("image", shapes.contrasts, shapes.window)
    probability = _tensor("probability", shapes.regions, shapes.window)
    return (NetGraph("baseline", BaselineGraph(net, mirror=mirror).eval(), (image,), (probability,)),)


def _corrector(shapes: _Shapes, net: nn.Module, mirror: bool) -> tuple[NetGraph, ...]:
    condition = _tensor("condition", shapes.condition, shapes.window)
    delta = _tensor("delta", shapes.regions, shapes.window)
    return (NetGraph("discrepancy", DiscrepancyGraph(net).eval(), (condition,), (delta,)),)


def _refiner(shapes: _Shapes, net: Refiner, mirror: bool) -> tuple[NetGraph, ...]:
    condition = _tensor("condition", shapes.condition, shapes.window)
    features = tuple(
        _tensor(f"{FEATURE}{level}", net.members * width, _halved(shapes.window, level))
        for level, width in enumerate(net.config.features)
    )
    x_t, x_prev, x0 = (_tensor(name, shapes.regions, shapes.window) for name in ("x_t", "x_prev", "x0"))
    numbers = tuple(TensorSpec(name, "float32", ("batch",)) for name in ("t", "c0", "c1"))
    return (
        NetGraph("conditioner", ConditionerGraph(net).eval(), (condition,), features),
        NetGraph("denoiser", DenoiserGraph(net).eval(), (x_t, condition, *numbers, *features), (x_prev, x0)),
    )


def _halved(window: Shape, times: int) -> Shape:
    x, y, z = (size // 2**times for size in window)
    return x, y, z


def _build_baseline(kind: ModelKind, config: UNetConfig, task: Task) -> nn.Module:
    return build_baseline(config, len(task.contrasts), len(task.regions))


def _build_corrector(kind: ModelKind, config: UNetConfig, task: Task) -> nn.Module:
    network = UNet if config.residual is None else Corrector
    return network(config, kind.condition_channels(task), len(task.regions))


def _build_refiner(kind: ModelKind, config: RefinerConfig, task: Task) -> nn.Module:
    return Refiner(config, len(task.regions))


BUILDERS: Mapping[Network, Builder] = {
    "baseline": Builder(_build_baseline, _baseline),
    "corrector": Builder(_build_corrector, _corrector),
    "refiner": Builder(_build_refiner, _refiner),
}
