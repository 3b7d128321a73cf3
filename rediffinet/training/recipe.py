"""The recipe of trained runs: how their networks are run, in memory as in a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rediffinet.errors import ConfigError, ExportError
from rediffinet.method.margin import BoundaryMargin
from rediffinet.method.models import find_model
from rediffinet.method.recipe import (
    BaselineSettings,
    Decision,
    DiffusionSettings,
    Recipe,
    RefinerSettings,
    TrustSettings,
)
from rediffinet.method.resample import same_spacing
from rediffinet.method.uncertainty import UncertaintyCurve
from rediffinet.nets.graphs import NetGraph, network_graphs
from rediffinet.task import Task
from rediffinet.training.config import TrainConfig
from rediffinet.training.run import Run
from rediffinet.trust import widest_ranges

MARGIN_MM = 6.0
SPARE = 1
"""Voxels of the brain's outermost that are not worth windows of their own: see BaselineSettings."""
UNSURE = 0.1
UNSURE_IN_WINDOWS = 0.05
"""Small windows cost little where little is in doubt, and see what they cover from several sides (overlap)."""


@dataclass(frozen=True)
class InferenceSettings:
    """Choices that training does not fix.

    overlap: of refinement windows; those of a model that learnt in windows overlap by `TrainConfig.overlap` at least.
    decision: None is that of `plain_decision`; given: that for masks made elsewhere, where it is another. disagreement:
    of the samples, above which the report warns; core_confidence: of the baseline, below which it does.
    """

    steps: int = 1
    samples: int = 4
    overlap: float = 0.25
    decision: Decision | None = None
    given: Decision | None = None
    uncertainty: UncertaintyCurve | None = None
    margin: BoundaryMargin | None = None
    disagreement: float | None = None
    core_confidence: float | None = None


@dataclass(frozen=True)
class RunPair:
    """The runs that make a model: the one that is conditioned, and the baseline; None where the model has no such."""

    refiner: Run | None
    baseline: Run | None

    @property
    def model(self) -> str:
        """Name of the model."""
        return "unet" if self.refiner is None else self.refiner.config.model

    @property
    def graphs(self) -> tuple[NetGraph, ...]:
        """Every graph of the model."""
        runs = [run for run in (self.baseline, self.refiner) if run is not None]
        return tuple(graph for run in runs for graph in graphs_of(run.config, run.model))


def graphs_of(config: TrainConfig, network: Any) -> tuple[NetGraph, ...]:
    """The graphs of a network of that configuration."""
    return network_graphs(find_model(config.model), network, config.network_window, config.task, mirror=config.mirror)


def pair_runs(run: Run | None, baseline: Run | None) -> RunPair:
    """Which of two runs is what: `run` is that of the model, `baseline` that of the baseline it refines.

    The baseline itself is a model too, given as either. Raises ExportError that names the run that is missing, that is
    of the wrong model, or that does not fit the other.
    """
    if run is None:
        run, baseline = baseline, None
    if run is None:
        raise ExportError("No run was given, neither of a model nor of a baseline.")
    kind = find_model(run.config.model)
    if kind.refines and baseline is None:
        message = (
            f"{run.path} is a run of '{kind.name}', which refines a baseline, and none was given. Give a run of 'unet' "
            "with `baseline`."
        )
        raise ExportError(message)
    if not kind.refines and baseline is not None:
        message = f"{run.path} is a run of '{kind.name}', which refines no baseline. Leave {baseline.path} out."
        raise ExportError(message)
    if baseline is None:
        return RunPair(run, None) if kind.condition else RunPair(None, run)
    if baseline.config.model != "unet":
        message = f"{baseline.path} is a run of '{baseline.config.model}', expected one of 'unet' for the baseline"
        raise ExportError(message)
    for what in run.config.misfits(baseline.config):
        message = (
            f"{run.path} and {baseline.path} were trained with different {what}: {getattr(run.config, what)} and "
            f"{getattr(baseline.config, what)}. Train both alike."
        )
        raise ExportError(message)
    return RunPair(run, baseline)


def provenance(pair: RunPair) -> dict[str, Any]:
    """Where the networks come from: JSON-ready, by role."""
    runs = {"baseline": pair.baseline, "refiner": pair.refiner}
    return {role: run.described() for role, run in runs.items() if run is not None}


def recipe_of(pair: RunPair, settings: InferenceSettings | None = None) -> Recipe:
    """How the networks of the runs are run. Raises ConfigError when more steps are asked for than were trained."""
    runs = [run for run in (pair.refiner, pair.baseline) if run is not None]
    configs = [run.config for run in runs]
    known = [run.provenance.intensities for run in runs if run.provenance.intensities is not None]
    # what images looked like to any network of the model; None for runs of before this was kept
    intensities = widest_ranges(known) if len(known) == len(runs) else None
    return make_recipe(configs[0], None if len(configs) == 1 else configs[1], settings, intensities)


def make_recipe(
    config: TrainConfig,
    baseline: TrainConfig | None = None,
    settings: InferenceSettings | None = None,
    intensities: Mapping[str, tuple[float, float]] | None = None,
) -> Recipe:
    """The recipe of a configuration, and of that of the baseline it refines where it refines one.

    Raises ConfigError when more sampling steps are asked for than were trained.
    """
    settings = settings or InferenceSettings()
    kind = find_model(config.model)
    own = config if not kind.condition else baseline
    first = config if own is None else own
    return Recipe(
        model=config.model,
        task=config.task,
        spacing_mm=first.spacing_mm,
        normalisation=config.normalisation,
        baseline=None if own is None else _baseline(own),
        refiner=_refiner(config, settings, first) if kind.condition else None,
        diffusion=_diffusion(config, settings) if kind.samples else None,
        decision=settings.decision or plain_decision(config.task),
        given=settings.given,
        uncertainty=settings.uncertainty,
        margin=settings.margin,
        trust=TrustSettings(
            intensities=None if intensities is None else dict(intensities),
            disagreement=settings.disagreement,
            core_confidence=settings.core_confidence,
        ),
    )


def plain_decision(task: Task, **more: Any) -> Decision:
    """Flips where Δ̂ exceeds 1/2, and corrects as `Decision` does by default or as `more` says."""
    return Decision.at((0.5,) * len(task.regions), **more)


def _baseline(config: TrainConfig) -> BaselineSettings:
    return BaselineSettings(
        window=config.network_window,
        overlap=config.overlap,
        thresholds=(0.5,) * len(config.task.regions),
        spare=SPARE,
    )


def _refiner(config: TrainConfig, settings: InferenceSettings, first: TrainConfig) -> RefinerSettings:
    return RefinerSettings(
        window=config.network_window,
        overlap=settings.overlap if config.windows is None else max(settings.overlap, config.overlap),
        margin=round(MARGIN_MM / min(config.spacing_mm)),
        unsure=UNSURE if config.windows is None else UNSURE_IN_WINDOWS,
        condition="probability" if config.network.soft_condition else "mask",
        spacing_mm=None if same_spacing(config.spacing_mm, first.spacing_mm) else config.spacing_mm,
    )


def _diffusion(config: TrainConfig, settings: InferenceSettings) -> DiffusionSettings:
    train_steps = config.refiner.train_steps
    if not 1 <= settings.steps <= train_steps:
        message = f"steps: got {settings.steps}, expected 1 to {train_steps} (the number of training steps)"
        raise ConfigError(message)
    return DiffusionSettings(
        train_steps=train_steps,
        signal_scale=config.refiner.signal_scale,
        steps=settings.steps,
        samples=settings.samples,
        mirror=config.mirror,
    )
