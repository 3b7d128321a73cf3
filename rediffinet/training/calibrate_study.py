"""A study of cross-validation calibrated: thresholds and uncertainty, each fold by all others, written beside it."""

import json
from dataclasses import dataclass
from pathlib import Path

from rediffinet.bundle import PerRegion
from rediffinet.nifti import write_atomically
from rediffinet.training.calibrate import (
    UNFLIPPED,
    calibrate_doubt,
    choose_component_threshold,
    choose_min_enhancing,
    choose_thresholds,
    crossfit,
    crossfit_components,
    disagreement_limit,
    doubts,
    enhancing_of,
    sweep,
    sweep_components,
    with_component_threshold,
    with_min_enhancing,
)
from rediffinet.training.crossval import Study, gather
from rediffinet.training.scoring import COLUMNS, PROTOCOL, summary, write_rows
from rediffinet.uncertainty import Reliability

FOLDER = "calibrated"


@dataclass(frozen=True)
class Calibrated:
    """thresholds, component_threshold, min_enhancing: chosen on all cases, for a bundle.

    Those per fold: what its cases were scored with. before, after: reliability of the stated probability of a wrong
    label, and of the calibrated one.
    """

    thresholds: PerRegion
    per_fold: dict[int, PerRegion]
    component_threshold: float
    component_threshold_per_fold: dict[int, float]
    min_enhancing: float
    min_enhancing_per_fold: dict[int, float]
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
    folds = sorted({one.fold for one in found})
    limit, limits = manifest.postprocess.min_enhancing, dict.fromkeys(folds, manifest.postprocess.min_enhancing)
    if choose_enhancing:
        seen = [enhancing_of(manifest, one) for one in found]
        limit = choose_min_enhancing(seen)
        limits = {fold: choose_min_enhancing([one for one in seen if one.fold != fold]) for fold in folds}
    of = {value: with_min_enhancing(manifest, value) for value in {limit, *limits.values()}}
    baselines = {value: [row for one in found for row in one.baseline_rows(made)] for value, made in of.items()}
    whole = study.inference.component_threshold
    wholes = dict.fromkeys(folds, whole)
    if choose_components:
        whole_sweeps = {value: sweep_components(made, found, model) for value, made in of.items()}
        whole = choose_component_threshold(whole_sweeps[limit], baselines[limit])
        for fold, value in limits.items():
            wholes |= crossfit_components(whole_sweeps[value], baselines[value], [fold])
    chosen, chosen_of = (limit, whole), {fold: (limits[fold], wholes[fold]) for fold in folds}
    ways = {way: with_component_threshold(of[way[0]], way[1]) for way in {chosen, *chosen_of.values()}}
    unflipped = {way: [row for one in found for row in one.rows(made, UNFLIPPED, model)] for way, made in ways.items()}
    sweeps = {way: sweep(made, found, model) for way, made in ways.items()}
    per_fold = {fold: crossfit(sweeps[way], unflipped[way], [fold])[fold] for fold, way in chosen_of.items()}
    manifests = {fold: ways[way] for fold, way in chosen_of.items()}
    swept = sweeps[chosen]
    baseline = [row for fold in folds for row in baselines[limits[fold]] if row["fold"] == str(fold)]
    calibrated = [row for one in found for row in one.rows(manifests[one.fold], per_fold[one.fold], model)]
    curve, before, after = calibrate_doubt(doubts(manifests, found, per_fold))
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
        "postprocess": ways[chosen].postprocess.model_dump(),
        "baseline": summary(baseline),
        "refined": summary(calibrated),
        "component_threshold": whole,
        "thresholds_of_the_other_folds": {str(fold): list(chosen) for fold, chosen in per_fold.items()},
        "component_threshold_of_the_other_folds": {str(fold): value for fold, value in wholes.items()},
        "min_enhancing_of_the_other_folds": {str(fold): value for fold, value in limits.items()},
    }
    for name, content in (("uncertainty", report), ("metrics", metrics)):
        write_atomically(folder / f"{model}-{name}.json", f"{json.dumps(content, indent=2)}\n".encode())
    thresholds = choose_thresholds(swept, unflipped[chosen])
    return Calibrated(thresholds, per_fold, whole, wholes, limit, limits, before, after, folder)


def _described(diagram: Reliability) -> dict[str, object]:
    return {
        "expected_calibration_error": diagram.error,
        "stated": diagram.stated.tolist(),
        "observed": diagram.observed.tolist(),
        "voxels": diagram.count.tolist(),
    }
