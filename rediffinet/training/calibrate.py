"""Thresholds of the flip from out-of-fold results: chosen on other folds than those they are scored on.

A model that changes a baseline changes it where Δ̂ exceeds a threshold per region. Here the threshold for the cases of
a fold is the one that did best on the cases of all other folds, each segmented by the run that had not seen it, so that
no case takes part in choosing its own. What a bundle should hold is the choice over all cases.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt

from rediffinet.bundle import Manifest, PerRegion
from rediffinet.decode import decode
from rediffinet.errors import TrainingError
from rediffinet.inference import Inferred
from rediffinet.labels import REGIONS
from rediffinet.models import find_model
from rediffinet.resample import Spacing
from rediffinet.training.data import TrainingCase
from rediffinet.training.scoring import FOUND, Row, load_found, rows_of

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NEVER = 1.0
"""Δ̂ never exceeds it: the region stays as the baseline has it."""


@dataclass(frozen=True)
class Found:
    """What a model found on a case it had not seen: everything a decision needs, and the reference to score it by."""

    case: TrainingCase
    fold: int
    seed: int
    inferred: Inferred
    reference: npt.NDArray[np.uint8]
    spacing_mm: Spacing

    def rows(self, manifest: Manifest, thresholds: PerRegion, model: str) -> list[Row]:
        """Scores with these thresholds, in rows that name `model`."""
        assert manifest.refiner is not None, "a model that flips"
        refiner = manifest.refiner.model_copy(update={"thresholds": thresholds})
        decoded = decode(
            manifest.model_copy(update={"refiner": refiner}),
            self.inferred,
            spacing_mm=self.spacing_mm,
            shape=(self.reference.shape[0], self.reference.shape[1], self.reference.shape[2]),
            postprocess=True,
        )
        return rows_of(decoded.labels, self.reference, self.spacing_mm, model, self.seed, self.fold, self.case.name)


def found_by(folder: Path, case: TrainingCase, prior: npt.NDArray[np.floating] | None) -> Inferred:
    """What the run in `folder` kept of a held-out case. Raises TrainingError when it kept nothing."""
    path = folder / FOUND / f"{case.name}.npz"
    if not path.is_file():
        message = f"{path} is missing. Expected a finished study of `rediff crossval` with a model that refines."
        raise TrainingError(message)
    return Inferred(None if prior is None else prior.astype(np.float32), load_found(path))


def sweep(
    manifest: Manifest, cases: Iterable[Found], model: str, thresholds: Sequence[float] = THRESHOLDS
) -> dict[float, list[Row]]:
    """Scores of every case at every threshold, the same one for all regions."""
    swept: dict[float, list[Row]] = {threshold: [] for threshold in thresholds}
    for found in cases:
        for threshold, rows in swept.items():
            rows += found.rows(manifest, (threshold, threshold, threshold), model)
    return swept


def choose_thresholds(swept: Mapping[float, Sequence[Row]], baseline: Sequence[Row]) -> PerRegion:
    """Per region the threshold with the lowest mean HD95 among those whose mean Dice is not below the baseline's.

    `NEVER` where none lowers HD95 without lowering Dice. Both sets of rows are of the same cases.
    """
    chosen = []
    for region in REGIONS:
        limit, best = _means(baseline, region)
        pick = NEVER
        for threshold in sorted(swept):
            dice, hd95 = _means(swept[threshold], region)
            if dice >= limit and hd95 < best:
                pick, best = threshold, hd95
        chosen.append(pick)
    return (chosen[0], chosen[1], chosen[2])


def crossfit(
    swept: Mapping[float, Sequence[Row]], baseline: Sequence[Row], folds: Iterable[int]
) -> dict[int, PerRegion]:
    """For each fold the thresholds chosen on the cases of all others."""

    def without(rows: Sequence[Row], fold: int) -> list[Row]:
        return [row for row in rows if row["fold"] != str(fold)]

    return {
        fold: choose_thresholds({t: without(rows, fold) for t, rows in swept.items()}, without(baseline, fold))
        for fold in sorted(set(folds))
    }


def check_model(model: str) -> None:
    """Raise TrainingError for a model that has no baseline to flip."""
    if not find_model(model).refines:
        message = f"'{model}' changes no baseline, so there is no flip to calibrate. Give a model that refines."
        raise TrainingError(message)


def _means(rows: Sequence[Row], region: str) -> tuple[float, float]:
    chosen = [row for row in rows if row["region"] == region]
    return mean(float(row["dice"]) for row in chosen), mean(float(row["hd95_mm"]) for row in chosen)
