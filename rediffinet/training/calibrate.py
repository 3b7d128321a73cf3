"""Thresholds of the flip from out-of-fold results: chosen on other folds than those they are scored on.

The same goes for the doubt at which a whole component is flipped, and for how sure the networks must be of an enhancing
tumour as a whole to call it one.

A model that changes a baseline changes it where Δ̂ exceeds a threshold per region. Here the thresholds for the cases of
a fold are those that did best on the cases of all other folds, each segmented by the run that had not seen it, so that
no case takes part in choosing its own. What a bundle should hold is the choice over all cases.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rediffinet.errors import TrainingError
from rediffinet.method.decode import Decoded, decode, left_out_of
from rediffinet.method.inference import Inferred
from rediffinet.method.models import find_model
from rediffinet.method.recipe import NEVER, Decision, PerRegion, Recipe
from rediffinet.method.resample import Spacing
from rediffinet.method.uncertainty import FITTED, Reliability, UncertaintyCurve, fit_curve, reliability
from rediffinet.metrics import dice
from rediffinet.task import Task, regions_of
from rediffinet.training.data import TrainingCase
from rediffinet.training.scoring import FOUND, ScoreRow, load_found, rows_of

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)
COMPONENTS = (0.1, 0.15, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Found:
    """What a model found on a case it had not seen: everything a decision needs, and the reference to score it by.

    given: bool (R, x, y, z) at the case's own voxels, a mask made elsewhere in the baseline's place.
    scored: rows of the label maps that were scored before; most decisions come to the same few.
    """

    case: TrainingCase
    fold: int
    seed: int
    inferred: Inferred
    reference: npt.NDArray[np.uint8]
    spacing_mm: Spacing
    given: npt.NDArray[np.bool_] | None = None
    scored: dict[bytes, list[ScoreRow]] = field(default_factory=dict, compare=False, repr=False)

    def decoded(self, recipe: Recipe, decision: Decision) -> Decoded:
        """What this decision makes of it, at the case's own voxels."""
        return decode(
            recipe.with_decision(decision),
            self.inferred,
            spacing_mm=self.spacing_mm,
            shape=(self.reference.shape[0], self.reference.shape[1], self.reference.shape[2]),
            given=self.given,
            postprocess=True,
        )

    def rows(self, recipe: Recipe, decision: Decision) -> list[ScoreRow]:
        """Scores with this decision, in rows that name the recipe's model."""
        return self._rows(self.decoded(recipe, decision).labels, recipe.task, recipe.model)

    def baseline_rows(self, recipe: Recipe, decision: Decision) -> list[ScoreRow]:
        """Scores of the baseline after the same postprocessing, in rows that name 'unet'."""
        labels = self.decoded(recipe, decision).baseline
        assert labels is not None, "a model that refines a baseline"
        return self._rows(labels, recipe.task, "unet")

    def _rows(self, labels: npt.NDArray[np.uint8], task: Task, model: str) -> list[ScoreRow]:
        key = hashlib.sha256(labels.tobytes()).digest()
        if key not in self.scored:
            self.scored[key] = rows_of(
                labels, self.reference, self.spacing_mm, task, model, self.seed, self.fold, self.case.name
            )
        return [{**row, "model": model} for row in self.scored[key]]


def found_by(folder: Path, case: TrainingCase, prior: npt.NDArray[np.floating] | None) -> Inferred:
    """What the run in `folder` kept of a held-out case. Raises TrainingError when it kept nothing."""
    path = folder / FOUND / f"{case.name}.npz"
    if not path.is_file():
        message = f"{path} is missing. Expected a finished study of `rediff crossval` with a model that refines."
        raise TrainingError(message)
    return Inferred(None if prior is None else prior.astype(np.float32), load_found(path))


def sweep(recipe: Recipe, cases: Iterable[Found], decision: Decision) -> dict[float, list[ScoreRow]]:
    """Scores of every case at each of `THRESHOLDS` and `NEVER`, the same one for all regions and both directions."""
    swept: dict[float, list[ScoreRow]] = {threshold: [] for threshold in (*THRESHOLDS, NEVER)}
    for found in cases:
        for threshold, rows in swept.items():
            rows += found.rows(recipe, decision.changed(thresholds=(threshold,) * len(recipe.task.regions)))
    return swept


def sweep_components(recipe: Recipe, cases: Iterable[Found], decision: Decision) -> dict[float, list[ScoreRow]]:
    """Scores of every case with whole components flipped, and nothing else, at each of `COMPONENTS` and `NEVER`."""
    unflipped = (NEVER,) * len(recipe.task.regions)
    decisions = {
        limit: decision.changed(thresholds=unflipped, whole_components=limit) for limit in (*COMPONENTS, NEVER)
    }
    swept: dict[float, list[ScoreRow]] = {limit: [] for limit in decisions}
    for found in cases:
        assert found.inferred.probability is not None and found.inferred.found is not None, "a model that flips"
        mask = recipe.mask(found.inferred.probability)
        done: dict[bytes, list[ScoreRow]] = {}  # most cases are one component, whatever the limit
        for limit, rows in swept.items():
            left_out = left_out_of(recipe, decisions[limit], mask, found.inferred.found).tobytes()
            if left_out not in done:
                done[left_out] = found.rows(recipe, decisions[limit])
            rows += done[left_out]
    return swept


def choose_whole_components(swept: Mapping[float, Sequence[ScoreRow]], regions: Sequence[str]) -> float:
    """The doubt at which flipping whole components gains most over all regions; `NEVER` if it gains nowhere.

    Cases with more than one large component are few, and most limits do the same to them. Of those that do equally
    well it is the middle one, which is the farthest from both mistakes. swept: scores of the same cases at every limit,
    without any such flip under `NEVER`.
    """
    before = {region: _means(swept[NEVER], region) for region in regions}
    gains = {
        limit: sum(before[region].gain(_means(rows, region)) for region in regions)
        for limit, rows in sorted(swept.items())
        if limit < NEVER
    }
    best = max(gains.values())
    if best < 0.0:
        return NEVER
    equal = [limit for limit, gain in gains.items() if gain == best]
    return equal[len(equal) // 2]


def choose_thresholds(swept: Mapping[float, Sequence[ScoreRow]], regions: Sequence[str]) -> PerRegion:
    """The threshold that gains most over the regions that it helps; `NEVER` for a region that it does not.

    swept: scores of the same cases at every threshold, the baseline's under `NEVER`. A threshold helps a region when
    the mean surface Dice at 1 mm rises above the baseline's and the mean Dice does not fall. Its gain there is that of
    Dice, of surface Dice and of HD95 together, each as a share of the baseline's. HD95 has no veto: the one case whose
    farthest piece moves decides its mean. One threshold for all regions that are flipped: with a threshold of their own
    the few cases there are decide by chance, and flips of nested regions fall apart.
    """
    before = {region: _means(swept[NEVER], region) for region in regions}
    pick: PerRegion = (NEVER,) * len(regions)
    best = 0.0
    for threshold in sorted(swept):
        now = {region: _means(swept[threshold], region) for region in regions}
        helped = [now[r].dice >= before[r].dice and now[r].surface > before[r].surface for r in regions]
        gains = [before[r].gain(now[r]) if good else 0.0 for r, good in zip(regions, helped, strict=True)]
        if sum(gains) > best:
            best = sum(gains)
            pick = tuple(threshold if good else NEVER for good in helped)
    return pick


class _Means(NamedTuple):
    """Of a region over cases: Dice, surface Dice at 1 mm, HD95 in mm."""

    dice: float
    surface: float
    hd95: float

    def gain(self, now: "_Means") -> float:
        """What was gained, each as a share of what it was; a mean of 0 has no share."""
        better = (now.dice - self.dice, now.surface - self.surface, self.hd95 - now.hd95)
        return sum(gained / was for gained, was in zip(better, self, strict=True) if was)


@dataclass(frozen=True)
class Enhancing:
    """What a baseline called enhancing tumour in a case, before anything is called core.

    confidence: mean probability over it; dice: of it; absent: whether the reference has none.
    """

    fold: int
    confidence: float
    dice: float
    absent: bool


def enhancing_of(recipe: Recipe, found: Found) -> Enhancing:
    """The baseline's enhancing tumour in a case it had not seen."""
    index = recipe.task.role("enhancing")
    if index is None:
        message = f"the task '{recipe.task.name}' has no enhancing tumour, of which one could be unsure"
        raise TrainingError(message)
    decoded = found.decoded(recipe, recipe.decision.changed(unsure_enhancement=0.0))
    assert decoded.baseline_regions is not None, "a model that refines a baseline"
    called, truth = decoded.baseline_regions[index], regions_of(found.reference, recipe.task)[index]
    return Enhancing(found.fold, decoded.enhancing_confidence, dice(called, truth), not truth.any())


def choose_unsure_enhancement(cases: Sequence[Enhancing]) -> float:
    """The confidence below which calling enhancing tumour core does most for the mean Dice of ET; 0, never, if none.

    A tumour that is called core scores 1 where the reference has no enhancement, else 0, as the protocols have it. The
    limit lies midway between the two cases that it parts; of limits that do equally well it is the lowest.
    """

    def score(limit: float) -> float:
        return mean(float(case.absent) if case.confidence < limit else case.dice for case in cases)

    return max((0.0, *midway({*(float(case.confidence) for case in cases), 1.0})), key=score)


def midway(values: Iterable[float]) -> list[float]:
    """The limits that part some of the values from others: midway between each two that follow one another."""
    return [(below + above) / 2.0 for below, above in pairwise(sorted(set(values)))]


def without(swept: Mapping[float, Sequence[ScoreRow]], fold: int | None) -> dict[float, list[ScoreRow]]:
    """The rows of all other folds at every threshold; all rows for None."""
    return {threshold: [row for row in rows if row["fold"] != str(fold)] for threshold, rows in swept.items()}


@dataclass(frozen=True)
class Doubt:
    """How sure a model was, voxel by voxel, and whether it was wrong: of the voxels of a fold that are not all sure."""

    stated: npt.NDArray[np.float32]
    wrong: npt.NDArray[np.bool_]


def doubts(recipe: Recipe, cases: Iterable[Found], decisions: Mapping[int, Decision]) -> dict[int, Doubt]:
    """Stated probability of a wrong label and whether it was, per fold, with each fold's decision."""
    plain = recipe.model_copy(update={"uncertainty": None})
    parts: dict[int, list[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]] = {}
    for found in cases:
        decoded = found.decoded(plain, decisions[found.fold])
        some = decoded.uncertainty >= FITTED
        parts.setdefault(found.fold, []).append(
            (decoded.uncertainty[some], decoded.labels[some] != found.reference[some])
        )
    return {
        fold: Doubt(np.concatenate([stated for stated, _ in both]), np.concatenate([wrong for _, wrong in both]))
        for fold, both in parts.items()
    }


def calibrate_doubt(by_fold: Mapping[int, Doubt]) -> tuple[UncertaintyCurve | None, Reliability, Reliability]:
    """(the curve over all folds, the diagram of what was stated, the diagram after calibration).

    For the second diagram the voxels of a fold are calibrated by the curve of all other folds.
    """
    stated = np.concatenate([doubt.stated for doubt in by_fold.values()])
    wrong = np.concatenate([doubt.wrong for doubt in by_fold.values()])
    after = []
    for fold, doubt in by_fold.items():
        others = [other for key, other in by_fold.items() if key != fold]
        curve = (
            fit_curve(np.concatenate([o.stated for o in others]), np.concatenate([o.wrong for o in others]))
            if others
            else None
        )
        after.append(doubt.stated if curve is None else curve(doubt.stated))
    return fit_curve(stated, wrong), reliability(stated, wrong), reliability(np.concatenate(after), wrong)


def disagreement_limit(cases: Iterable[Found], quantile: float = 0.95) -> float | None:
    """The disagreement of the samples, mean over what was sampled, that few cases exceed; None without samples."""
    sampled = [found.inferred.found for found in cases if found.inferred.found is not None]
    values = [float(found.disagreement[found.sampled].mean()) for found in sampled if found.sampled.any()]
    return float(np.quantile(values, quantile)) if any(values) else None


def check_model(model: str) -> None:
    """Raise TrainingError for a model that has no baseline to flip."""
    if not find_model(model).refines:
        message = f"'{model}' changes no baseline, so there is no flip to calibrate. Give a model that refines."
        raise TrainingError(message)


def _means(rows: Sequence[ScoreRow], region: str) -> _Means:
    chosen = [row for row in rows if row["region"] == region]
    columns = ("dice", "surface_dice_1mm", "hd95_mm")
    return _Means(*(mean(float(row[column]) for row in chosen) for column in columns))
