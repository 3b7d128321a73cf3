"""A study of cross-validation calibrated: thresholds and uncertainty, each fold by all others, written beside it."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rediffinet.bundle import Manifest, PerRegion
from rediffinet.files import write_atomically
from rediffinet.method.uncertainty import Reliability
from rediffinet.training.calibrate import (
    NEVER,
    calibrate_doubt,
    choose_component_threshold,
    choose_min_enhancing,
    choose_thresholds,
    disagreement_limit,
    doubts,
    enhancing_of,
    sweep,
    sweep_components,
    with_component_threshold,
    with_min_enhancing,
    without,
)
from rediffinet.training.crossval import Study, gather
from rediffinet.training.scoring import COLUMNS, PROTOCOL, Row, summary, write_rows

FOLDER = "calibrated"


@dataclass(frozen=True)
class Choice:
    """What is chosen out of fold: thresholds of the flip of a voxel, of a whole component, and `min_enhancing`."""

    thresholds: PerRegion
    component_threshold: float
    min_enhancing: float


@dataclass(frozen=True)
class Calibrated:
    """chosen: on all cases, for a bundle; per_fold: on those of all other folds, what a fold's cases were scored with.

    before, after: reliability of the stated probability of a wrong label, and of the calibrated one.
    """

    chosen: Choice
    per_fold: dict[int, Choice]
    before: Reliability
    after: Reliability
    folder: Path


def calibrate_study(
    study: Study, model: str, seed: int, *, choose_components: bool = False, choose_enhancing: bool = False
) -> Calibrated:
    """Choose thresholds and fit the uncertainty of a model that refines; see docs/crossval.md for the files.

    choose_components, choose_enhancing: choose `component_threshold` and `min_enhancing` too, instead of taking the
    study's. First min_enhancing, then component_threshold, then the thresholds, each given those before it. Raises
    TrainingError when the study is not finished for this model, or the model refines nothing.
    """
    manifest, found = gather(study, model, seed)
    seen = [enhancing_of(manifest, one) for one in found] if choose_enhancing else []

    @cache
    def made(limit: float, whole: float) -> Manifest:
        return with_component_threshold(with_min_enhancing(manifest, limit), whole)

    @cache
    def components(limit: float) -> dict[float, list[Row]]:
        return sweep_components(made(limit, NEVER), found, model)

    @cache
    def swept(limit: float, whole: float) -> dict[float, list[Row]]:
        return sweep(made(limit, whole), found, model)

    def choose(fold: int | None) -> Choice:
        limit, whole = manifest.postprocess.min_enhancing, study.inference.component_threshold
        if choose_enhancing:
            limit = choose_min_enhancing([one for one in seen if one.fold != fold])
        if choose_components:
            whole = choose_component_threshold(without(components(limit), fold))
        return Choice(choose_thresholds(without(swept(limit, whole), fold)), whole, limit)

    chosen = choose(None)
    per_fold = {fold: choose(fold) for fold in sorted({one.fold for one in found})}
    thresholds = {fold: choice.thresholds for fold, choice in per_fold.items()}
    manifests = {fold: made(choice.min_enhancing, choice.component_threshold) for fold, choice in per_fold.items()}
    before_rows = [row for one in found for row in one.baseline_rows(manifests[one.fold])]
    after_rows = [row for one in found for row in one.rows(manifests[one.fold], thresholds[one.fold], model)]
    curve, before, after = calibrate_doubt(doubts(manifests, found, thresholds))
    folder = study.out / FOLDER
    folder.mkdir(exist_ok=True)
    table = [
        {**row, "threshold": str(threshold)}
        for threshold, rows in swept(chosen.min_enhancing, chosen.component_threshold).items()
        for row in rows
    ]
    write_rows(folder / f"{model}-sweep.csv", table, (*COLUMNS, "threshold"))
    write_rows(folder / f"{model}.csv", [*before_rows, *after_rows])
    report = {
        "curve": None if curve is None else curve.model_dump(),
        "before": _described(before),
        "after": _described(after),
        "disagreement_limit": disagreement_limit(found),
    }
    metrics = {
        "protocol": PROTOCOL,
        "held_out_cases": len(found),
        "folds": study.folds,
        "postprocess": made(chosen.min_enhancing, chosen.component_threshold).postprocess.model_dump(),
        "baseline": summary(before_rows),
        "refined": summary(after_rows),
        "component_threshold": chosen.component_threshold,
        "thresholds_of_the_other_folds": {str(fold): list(choice.thresholds) for fold, choice in per_fold.items()},
        "component_threshold_of_the_other_folds": {
            str(f): choice.component_threshold for f, choice in per_fold.items()
        },
        "min_enhancing_of_the_other_folds": {str(f): choice.min_enhancing for f, choice in per_fold.items()},
    }
    for name, content in (("uncertainty", report), ("metrics", metrics)):
        write_atomically(folder / f"{model}-{name}.json", f"{json.dumps(content, indent=2)}\n".encode())
    return Calibrated(chosen, per_fold, before, after, folder)


def _described(diagram: Reliability) -> dict[str, object]:
    return {
        "expected_calibration_error": diagram.error,
        "stated": diagram.stated.tolist(),
        "observed": diagram.observed.tolist(),
        "voxels": diagram.count.tolist(),
    }
