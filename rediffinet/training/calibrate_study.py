"""A study of cross-validation calibrated: thresholds and uncertainty, each fold by all others, written beside it."""

import json
from dataclasses import dataclass
from pathlib import Path

from rediffinet.bundle import PerRegion
from rediffinet.nifti import write_atomically
from rediffinet.training.calibrate import (
    calibrate_doubt,
    choose_thresholds,
    crossfit,
    disagreement_limit,
    doubts,
    sweep,
)
from rediffinet.training.crossval import Study, gather
from rediffinet.training.scoring import COLUMNS, PROTOCOL, summary, write_rows
from rediffinet.uncertainty import Reliability

FOLDER = "calibrated"


@dataclass(frozen=True)
class Calibrated:
    """thresholds: chosen on all cases, for a bundle; per_fold: those that the cases of a fold were scored with.

    before, after: reliability of the stated probability of a wrong label, and of the calibrated one.
    """

    thresholds: PerRegion
    per_fold: dict[int, PerRegion]
    before: Reliability
    after: Reliability
    folder: Path


def calibrate_study(study: Study, model: str, seed: int) -> Calibrated:
    """Choose thresholds and fit the uncertainty of a model that refines; see docs/crossval.md for the files.

    Raises TrainingError when the study is not finished for this model, or the model refines nothing.
    """
    manifest, found = gather(study, model, seed)
    folds = sorted({one.fold for one in found})
    baseline = [row for one in found for row in one.baseline_rows(manifest)]
    swept = sweep(manifest, found, model)
    per_fold = crossfit(swept, baseline, folds)
    calibrated = [row for one in found for row in one.rows(manifest, per_fold[one.fold], model)]
    curve, before, after = calibrate_doubt(doubts(manifest, found, per_fold))
    folder = study.out / FOLDER
    folder.mkdir(exist_ok=True)
    table = [{**row, "threshold": str(threshold)} for threshold, rows in swept.items() for row in rows]
    write_rows(folder / f"{model}-sweep.csv", table, (*COLUMNS, "threshold"))
    write_rows(folder / f"{model}.csv", [*baseline, *calibrated])
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
        "postprocess": manifest.postprocess.model_dump(),
        "baseline": summary(baseline),
        "refined": summary(calibrated),
        "thresholds_of_the_other_folds": {str(fold): list(chosen) for fold, chosen in per_fold.items()},
    }
    for name, content in (("uncertainty", report), ("metrics", metrics)):
        write_atomically(folder / f"{model}-{name}.json", f"{json.dumps(content, indent=2)}\n".encode())
    return Calibrated(choose_thresholds(swept, baseline), per_fold, before, after, folder)


def _described(diagram: Reliability) -> dict[str, object]:
    return {
        "expected_calibration_error": diagram.error,
        "stated": diagram.stated.tolist(),
        "observed": diagram.observed.tolist(),
        "voxels": diagram.count.tolist(),
    }
