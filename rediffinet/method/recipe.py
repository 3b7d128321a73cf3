"""The recipe of a model: everything but the weights that decides what comes out of a case.

A bundle's manifest is a recipe, files and where they come from; a run's recipe is made from its configuration. What is
decided once the networks have spoken is one object, `Decision`, from `rediff calibrate` to `decode`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rediffinet.method.margin import BoundaryMargin
from rediffinet.method.models import MODELS, ModelKind
from rediffinet.method.normalise import Normalisation
from rediffinet.method.preprocessing import Preprocessing
from rediffinet.method.resample import Spacing
from rediffinet.method.uncertainty import UncertaintyCurve
from rediffinet.task import Task

Triple = tuple[int, int, int]
Range = tuple[float, float]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PerRegion = tuple[Fraction, ...]
"""A number for each region of the task, in its order."""
Millimetres = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0)]
Overlap = Annotated[float, Field(ge=0.0, lt=1.0)]
NEVER = 1.0
"""A limit that Δ̂ never exceeds."""


def whole_of(task: Task) -> slice:
    """The channels of regions whose union is the whole tumour: that region, or all where the task names none."""
    index = task.role("whole")
    return slice(None) if index is None else slice(index, index + 1)


class Part(BaseModel):
    """A part of a recipe or a manifest: rejects unknown keys and cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SmallComponents(Part):
    """Whole-tumour components that are removed: under min_voxels voxels, or under min_fraction of the largest."""

    connectivity: Literal[6, 18, 26] = 26
    min_voxels: Annotated[int, Field(ge=0)] = 50
    min_fraction: Fraction = 0.0


class Evidence(Part):
    """What a lesion apart from the largest must stand without (rediffinet.method.evidence).

    without: contrasts, each taken away alone; the mean probability of the whole tumour over the lesion must then be at
    least `least`.
    """

    without: Annotated[tuple[str, ...], Field(min_length=1)]
    least: Fraction = 0.5


class Decision(Part):
    """What is decided once Δ̂ is known: which flips are believed, and what is corrected in the label map.

    adding, removing: per region, a voxel outside (inside) the baseline's region is flipped where Δ̂ exceeds it; 1 leaves
    that region, in that direction, as the baseline has it. reach_mm: only voxels this near to the boundary of the
    baseline's region are flipped, by one number for all regions or one for each, and what small_components takes from
    the baseline stays away; None flips anywhere.
    whole_components: a component of the baseline's whole tumour
    is flipped whole where the mean of Δ̂ over it exceeds this (rediffinet.method.discrepancy.doubted_components).
    small_parts: parts of a region that lies in another, under so many voxels, are called what is around them.
    unsure_enhancement: the enhancing tumour of a case is called core when the mean probability over it, by the
    baseline, is below this; a task without that role has none. evidence: lesions of the own baseline that do not stand
    by it are flipped whole, in cases that lack no contrast; None asks nothing.
    """

    adding: PerRegion
    removing: PerRegion
    reach_mm: Millimetres | tuple[Millimetres, ...] | None = None
    whole_components: Fraction = NEVER
    small_components: SmallComponents = SmallComponents()
    small_parts: Annotated[int, Field(ge=0)] = 0
    unsure_enhancement: Fraction = 0.0
    evidence: Evidence | None = None

    @model_validator(mode="after")
    def _of_the_same_regions(self) -> Self:
        if len(self.adding) != len(self.removing):
            raise ValueError(f"adding has {len(self.adding)} thresholds, removing {len(self.removing)}")
        if isinstance(self.reach_mm, tuple) and len(self.reach_mm) != len(self.adding):
            raise ValueError(f"reach_mm has {len(self.reach_mm)} distances for {len(self.adding)} regions")
        return self

    @property
    def reaches_mm(self) -> tuple[float, ...] | None:
        """Per region, how near to its boundary a voxel must be to be flipped; None flips anywhere."""
        if self.reach_mm is None or isinstance(self.reach_mm, tuple):
            return self.reach_mm
        return (self.reach_mm,) * len(self.adding)

    @classmethod
    def at(cls, thresholds: Sequence[float], **more: Any) -> Self:
        """A decision with the same thresholds in both directions."""
        return cls(adding=tuple(thresholds), removing=tuple(thresholds), **more)

    def changed(self, **values: Any) -> Self:
        """The same decision with other values, checked; `thresholds` stands for both directions."""
        if (both := values.pop("thresholds", None)) is not None:
            values |= {"adding": tuple(both), "removing": tuple(both)}
        return self.model_validate({**self.model_dump(), **values})

    def described(self) -> str:
        """In words, for people."""
        thresholds = [f"above {', '.join(f'{value:g}' for value in self.adding)}"]
        if self.removing != self.adding:
            thresholds = [f"adding {thresholds[0]}", f"removing above {', '.join(f'{v:g}' for v in self.removing)}"]
        parts = [f"flips {'; '.join(thresholds)}"]
        if self.reach_mm is not None:
            distances = self.reach_mm if isinstance(self.reach_mm, tuple) else (self.reach_mm,)
            parts[0] += f", within {', '.join(f'{mm:g}' for mm in distances)} mm of the boundary"
        if self.whole_components < NEVER:
            parts.append(f"whole components above {self.whole_components:g}")
        if self.small_parts > 1:
            parts.append(f"parts under {self.small_parts} voxels called what is around them")
        if self.unsure_enhancement > 0.0:
            parts.append(f"enhancement below {self.unsure_enhancement:g} called core")
        if self.evidence is not None:
            parts.append(f"lesions that do not stand without each of {', '.join(self.evidence.without)} left out")
        return ", ".join(parts)


class BaselineSettings(Part):
    """How the baseline graph is run: window in voxels, overlap of windows, threshold of U(I) = p > threshold.

    spare: voxels at either end of an axis, the outermost of the brain, that get what their neighbours get rather than
    windows of their own (`windows.slide`).
    """

    window: Triple
    overlap: Overlap
    thresholds: PerRegion
    spare: Annotated[int, Field(ge=0)] = 0


class RefinerSettings(Part):
    """How the discrepancy is predicted.

    condition: the baseline's soft probabilities (2p − 1) or its mask (2U − 1). Windows are run where a region's p
    exceeds `unsure` and, for a `sure` below 1, does not exceed that (where the decision flips within its reach of the
    boundary alone: there), with `margin` voxels around. A model without a baseline has no p: its windows tile the whole
    crop, and only window and overlap count. spacing_mm: voxel size that the discrepancy is looked for at, along L, P,
    S; None is that of the recipe, which the baseline has.
    """

    window: Triple
    overlap: Overlap
    margin: Annotated[int, Field(ge=0)]
    unsure: Fraction
    sure: Fraction = 1.0
    condition: Literal["probability", "mask"]
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] | None = None


class DiffusionSettings(Part):
    """Training schedule and default sampling; mirror: every second sample is drawn in the mirrored window."""

    scheduler: Literal["ddim"] = "ddim"
    betas: Literal["linear"] = "linear"
    beta_first: float = 1e-4
    beta_last: float = 0.02
    train_steps: Annotated[int, Field(gt=0)] = 1000
    signal_scale: float = 1.0
    steps: Annotated[int, Field(gt=0)]
    samples: Annotated[int, Field(gt=0)]
    mirror: bool = False


class TrustSettings(Part):
    """Limits of the warnings. intensities: range of every number of `intensity_profile` over the training cases.

    core_confidence: mean probability of the baseline over the core that was found, below which it is said to be unsure.
    """

    intensity_margin: NonNegative = 0.3
    intensities: dict[str, Range] | None = None
    far_ml: NonNegative = 1.0
    far_mm: NonNegative = 30.0
    edge_voxels: Annotated[int, Field(ge=1)] = 20
    disagreement: NonNegative | None = None
    core_confidence: Fraction | None = None


class Recipe(Part):
    """Everything but the weights that decides what a model makes of a case.

    model: a name of rediffinet.method.models; it decides which of `baseline`, `refiner` and `diffusion` there are.
    task: what is looked at and looked for: the channels of images and of probabilities, and the labels. spacing_mm:
    voxel size that the networks work at, along L, P, S, but for a refiner that has one of its own. given: the decision
    for a mask that was made elsewhere and takes the baseline's place, because other programs err otherwise; None is the
    same as for the own baseline. uncertainty: what a stated probability of a wrong label is worth; None where that was
    not measured. margin: the band in mm in which the boundaries lie, of an own baseline with all contrasts; None where
    that was not measured.
    """

    model: str
    task: Task
    orientation: Literal["LPS"] = "LPS"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] = (1.0, 1.0, 1.0)
    normalisation: Normalisation
    baseline: BaselineSettings | None = None
    refiner: RefinerSettings | None = None
    diffusion: DiffusionSettings | None = None
    decision: Decision
    given: Decision | None = None
    trust: TrustSettings = TrustSettings()
    uncertainty: UncertaintyCurve | None = None
    margin: BoundaryMargin | None = None

    @model_validator(mode="after")
    def _of_the_model(self) -> Self:
        if self.model not in MODELS:
            raise ValueError(f"model: got '{self.model}', this version runs {', '.join(MODELS)}")
        wanted = {
            "baseline": self.kind.has_baseline,
            "refiner": bool(self.kind.condition),
            "diffusion": self.kind.samples,
        }
        for part, needed in wanted.items():
            if needed != (getattr(self, part) is not None):
                said = "no" if needed else "surplus"
                raise ValueError(f"{said} settings '{part}' for the model '{self.model}'")
        return self

    @model_validator(mode="after")
    def _of_one_voxel_size(self) -> Self:
        if self.refiner is not None and self.refiner.spacing_mm is not None and not self.kind.refines:
            raise ValueError(f"refiner.spacing_mm: '{self.model}' refines no baseline, give spacing_mm alone")
        return self

    @model_validator(mode="after")
    def _of_the_task(self) -> Self:
        numbers = {
            "baseline.thresholds": None if self.baseline is None else self.baseline.thresholds,
            "decision.adding": self.decision.adding,
            "given.adding": None if self.given is None else self.given.adding,
            "margin.scale_mm": None if self.margin is None else self.margin.scale_mm,
        }
        for name, values in numbers.items():
            if values is not None and len(values) != len(self.task.regions):
                raise ValueError(
                    f"{name}: got {len(values)} numbers, expected one for each of {', '.join(self.task.region_names)}"
                )
        asked = () if self.decision.evidence is None else self.decision.evidence.without
        if unknown := [contrast for contrast in asked if contrast not in self.task.contrasts]:
            raise ValueError(
                f"decision.evidence: got {', '.join(unknown)}, expected contrasts of {', '.join(self.task.contrasts)}"
            )
        if asked and self.baseline is None:
            raise ValueError(f"decision.evidence: '{self.model}' has no baseline to ask")
        return self

    @property
    def kind(self) -> ModelKind:
        """What the model predicts, and from what."""
        return MODELS[self.model]

    @property
    def preprocessing(self) -> Preprocessing:
        """How a case becomes the model's arrays."""
        return Preprocessing(self.task, self.normalisation, self.spacing_mm)

    @property
    def decided_mm(self) -> Spacing:
        """Voxel size of the last stage, on whose grid flips are decided: the refiner's, where it has one of its own."""
        own = None if self.refiner is None else self.refiner.spacing_mm
        return self.spacing_mm if own is None else own

    @property
    def background(self) -> float:
        """Value of a normalised image outside the brain."""
        return self.normalisation.background

    def mask(self, probability: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """U(I): probability (R, X, Y, Z) over the baseline's thresholds; empty for a model without a baseline."""
        if self.baseline is None:
            return np.zeros(probability.shape, bool)
        return np.asarray(probability > np.array(self.baseline.thresholds, np.float32)[:, None, None, None])

    @property
    def within_whole(self) -> tuple[bool, ...]:
        """Whether each region is the whole tumour or lies in it; all are where the task names none."""
        whole, parents = self.task.role("whole"), self.task.parents
        if whole is None:
            return (True,) * len(parents)
        within: list[bool] = []
        for index, parent in enumerate(parents):  # a parent stands before its children
            within.append(index == whole or (parent >= 0 and within[parent]))
        return tuple(within)

    def whole(self, regions: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """The whole tumour of regions (R, X, Y, Z), bool (X, Y, Z): that region, or all where the task names none."""
        return np.asarray(regions[whole_of(self.task)].any(axis=0))

    def decision_for(self, *, given: bool) -> Decision:
        """The decision for a mask made elsewhere, or for the own baseline."""
        return self.given if given and self.given is not None else self.decision

    def with_decision(self, decision: Decision) -> Self:
        """The same model, deciding otherwise."""
        return self.model_copy(update={"decision": decision})


class Calibration(Part):
    """What was chosen on cases that no network had seen, for one model: the file that calibration hands to export.

    margin: of the boundaries, in mm. disagreement: of the samples, above which the report warns. core_confidence: of
    the baseline over the core, below which it warns. metrics: scores, each case decided on other folds.
    """

    schema_version: Literal["rediffinet-decision/1"] = "rediffinet-decision/1"
    model: str
    decision: Decision
    given: Decision | None = None
    uncertainty: UncertaintyCurve | None = None
    margin: BoundaryMargin | None = None
    disagreement: NonNegative | None = None
    core_confidence: Fraction | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
