"""The manifest of trained runs: what a bundle will say of them, and what scores them in memory. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rediffinet.bundle import (
    BaselineSettings,
    DiffusionSettings,
    GraphEntry,
    Manifest,
    PerRegion,
    PostprocessSettings,
    RefinerSettings,
)
from rediffinet.engines.base import TensorSpec
from rediffinet.errors import ConfigError, ExportError
from rediffinet.labels import CONTRASTS, REGIONS
from rediffinet.method.models import find_model
from rediffinet.method.uncertainty import UncertaintyCurve
from rediffinet.method.windows import Shape
from rediffinet.training.config import TrainConfig
from rediffinet.trust import TrustSettings, widest_ranges

if TYPE_CHECKING:
    from rediffinet.training.runs import Run

MARGIN_MM = 8.0
UNSURE = 0.1
HALF: PerRegion = (0.5, 0.5, 0.5)

Tensors = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class InferenceSettings:
    """Choices that training does not fix; they land in the manifest.

    thresholds, component_threshold: of the flip, of a voxel and of a whole component; overlap: of windows;
    disagreement: of the samples, above which the report warns.
    """

    name: str = "rediffinet"
    steps: int = 1
    samples: int = 4
    thresholds: PerRegion = HALF
    component_threshold: float = 1.0
    overlap: float = 0.25
    postprocess: PostprocessSettings = field(default_factory=PostprocessSettings)
    uncertainty: UncertaintyCurve | None = None
    disagreement: float | None = None


@dataclass(frozen=True)
class Pair:
    """The runs that make a model: the one that is conditioned, and the baseline; None where the model has no such."""

    refiner: "Run | None"
    baseline: "Run | None"

    @property
    def model(self) -> str:
        """Name of the model."""
        return "unet" if self.refiner is None else self.refiner.config.model


def pair_runs(run: "Run | None", baseline: "Run | None") -> Pair:
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
            "with --baseline."
        )
        raise ExportError(message)
    if not kind.refines and baseline is not None:
        message = f"{run.path} is a run of '{kind.name}', which refines no baseline. Leave {baseline.path} out."
        raise ExportError(message)
    if baseline is None:
        return Pair(run, None) if kind.condition else Pair(None, run)
    if baseline.config.model != "unet":
        message = f"{baseline.path} is a run of '{baseline.config.model}', expected one of 'unet' for the baseline"
        raise ExportError(message)
    for what in ("normalisation", "spacing_mm"):
        if getattr(run.config, what) != getattr(baseline.config, what):
            message = (
                f"{run.path} and {baseline.path} were trained with different {what}: {getattr(run.config, what)} and "
                f"{getattr(baseline.config, what)}. Train both alike."
            )
            raise ExportError(message)
    return Pair(run, baseline)


def make_manifest(
    pair: Pair,
    settings: InferenceSettings,
    *,
    graphs: Mapping[str, GraphEntry] | None = None,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """How the networks of the runs are run. Without `graphs` it is that of networks in memory.

    Raises ConfigError when more sampling steps are asked for than were trained.
    """
    refiner = None if pair.refiner is None else pair.refiner.config
    baseline = None if pair.baseline is None else pair.baseline.config
    config = refiner or baseline
    assert config is not None, "a pair has a run"
    return Manifest(
        name=settings.name,
        model=pair.model,
        rediffinet=version("rediffinet"),
        graphs=dict(graphs or {}),
        spacing_mm=config.spacing_mm,
        normalisation=config.normalisation,
        baseline=None if baseline is None else _baseline(baseline),
        refiner=None if refiner is None else _refiner(refiner, settings),
        diffusion=None if refiner is None else _diffusion(refiner, settings),
        postprocess=settings.postprocess,
        uncertainty=settings.uncertainty,
        trust=TrustSettings(intensities=_intensities(pair), disagreement=settings.disagreement),
        training=dict(training or {}),
        metrics=dict(metrics or {}),
    )


def _intensities(pair: Pair) -> dict[str, tuple[float, float]] | None:
    """What images looked like to any network of the model; None for runs of before this was kept."""
    runs = [run for run in (pair.baseline, pair.refiner) if run is not None]
    known = [run.provenance["intensities"] for run in runs if "intensities" in run.provenance]
    if len(known) < len(runs):
        return None
    return widest_ranges(known)


def _baseline(config: TrainConfig) -> BaselineSettings:
    return BaselineSettings(window=config.unet.window, overlap=config.overlap, thresholds=HALF)


def _refiner(config: TrainConfig, settings: InferenceSettings) -> RefinerSettings:
    return RefinerSettings(
        window=config.network_window,
        overlap=settings.overlap,
        margin=round(MARGIN_MM / min(config.spacing_mm)),
        unsure=UNSURE,
        condition="probability" if config.refiner.soft_condition else "mask",
        thresholds=settings.thresholds,
        component_threshold=settings.component_threshold,
    )


def _diffusion(config: TrainConfig, settings: InferenceSettings) -> DiffusionSettings | None:
    if not find_model(config.model).samples:
        return None
    train_steps = config.refiner.train_steps
    if not 1 <= settings.steps <= train_steps:
        message = f"--steps: got {settings.steps}, expected 1 to {train_steps} (the number of training steps)"
        raise ConfigError(message)
    return DiffusionSettings(
        train_steps=train_steps,
        signal_scale=config.refiner.signal_scale,
        steps=settings.steps,
        samples=settings.samples,
        mirror=config.mirror,
    )


def graph_tensors(pair: Pair) -> dict[str, tuple[Tensors, Tensors]]:
    """Inputs and outputs of every graph of the model, in the order of the network's arguments and results."""
    found: dict[str, tuple[Tensors, Tensors]] = {}
    if pair.baseline is not None:
        window = pair.baseline.config.unet.window
        found["baseline"] = (
            (_tensor("image", len(CONTRASTS), window),),
            (_tensor("probability", len(REGIONS), window),),
        )
    if pair.refiner is None:
        return found
    config = pair.refiner.config
    kind, window = find_model(config.model), config.network_window
    condition, three = _tensor("condition", kind.condition_channels, window), len(REGIONS)
    if not kind.samples:
        return {**found, "discrepancy": ((condition,), (_tensor("delta", three, window),))}
    features = tuple(
        _tensor(f"feature_{level}", pair.refiner.members * width, _halved(window, level))
        for level, width in enumerate(config.refiner.features)
    )
    numbers = tuple(TensorSpec(name, "float32", ("batch",)) for name in ("t", "c0", "c1"))
    return {
        **found,
        "conditioner": ((condition,), features),
        "denoiser": (
            (_tensor("x_t", three, window), condition, *numbers, *features),
            (_tensor("x_prev", three, window), _tensor("x0", three, window)),
        ),
    }


def _tensor(name: str, channels: int, window: Shape) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", channels, *window))


def _halved(window: Shape, times: int) -> Shape:
    x, y, z = (size // 2**times for size in window)
    return x, y, z
