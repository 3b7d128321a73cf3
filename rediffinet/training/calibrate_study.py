"""A study of cross-validation calibrated: a decision and the uncertainty, each fold by all others."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rediffinet.errors import ConfigError
from rediffinet.files import write_atomically
from rediffinet.method.recipe import NEVER, Calibration, Decision, SmallComponents
from rediffinet.method.uncertainty import Reliability
from rediffinet.metrics import find_protocol
from rediffinet.scoring.scores import ORDER
from rediffinet.training.calibrate import (
    calibrate_doubt,
    choose_thresholds,
    choose_unsure_enhancement,
    choose_whole_components,
    disagreement_limit,
    doubts,
    enhancing_of,
    sweep,
    sweep_components,
    without,
)
from rediffinet.training.crossval import Study, gather
from rediffinet.training.scoring import Row, summary, write_rows

FOLDER = "calibrated"


@dataclass(frozen=True)
class Calibrated:
    """chosen: on all cases, for a bundle; per_fold: on those of all other folds, what a fold's cases were scored with.

    before, after: reliability of the stated probability of a wrong label, and of the calibrated one.
    """

    chosen: Decision
    per_fold: dict[int, Decision]
    before: Reliability
    after: Reliability
    folder: Path


def decision_file(folder: Path, model: str) -> Path:
    """Where the decision for a model lies in the folder of a calibration."""
    return folder / f"{model}-decision.json"


def read_calibration(folder: Path, model: str) -> Calibration:
    """What `calibrate_study` chose for a model. Raises ConfigError when the folder holds nothing of the kind."""
    path = decision_file(folder, model)
    try:
        found = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: {error}. Expected the folder 'calibrated' that `rediff calibrate` writes into a study."
        raise ConfigError(message) from None
    if found.model != model:
        message = f"{path} holds the decision for '{found.model}', expected one for '{model}'"
        raise ConfigError(message)
    return found


def calibrate_study(
    study: Study,
    model: str,
    seed: int,
    *,
    small_components: SmallComponents | None = None,
    whole_components: float | None = NEVER,
    unsure_enhancement: float | None = 0.0,
) -> Calibrated:
    """Choose the decision and fit the uncertainty of a model that refines; see docs/crossval.md for the files.

    small_components: None is that of the study. whole_components, unsure_enhancement: None chooses them too. First
    unsure_enhancement is chosen, then whole_components, then the thresholds, each given those before it. Raises
    TrainingError when the study is not finished for this model, or the model refines nothing.
    """
    recipe, found = gather(study, model, seed)
    if small_components is not None:
        recipe = recipe.with_decision(recipe.decision.changed(small_components=small_components))
    regions = recipe.task.region_names
    seen = [enhancing_of(recipe, one) for one in found] if unsure_enhancement is None else []

    @cache
    def made(limit: float, whole: float) -> Decision:
        return recipe.decision.changed(unsure_enhancement=limit, whole_components=whole)

    @cache
    def components(limit: float) -> dict[float, list[Row]]:
        return sweep_components(recipe, found, made(limit, NEVER))

    @cache
    def swept(limit: float, whole: float) -> dict[float, list[Row]]:
        return sweep(recipe, found, made(limit, whole))

    def choose(fold: int | None) -> Decision:
        limit, whole = unsure_enhancement, whole_components
        if limit is None:
            limit = choose_unsure_enhancement([one for one in seen if one.fold != fold])
        if whole is None:
            whole = choose_whole_components(without(components(limit), fold), regions)
        return made(limit, whole).changed(thresholds=choose_thresholds(without(swept(limit, whole), fold), regions))

    chosen = choose(None)
    per_fold = {fold: choose(fold) for fold in sorted({one.fold for one in found})}
    before_rows = [row for one in found for row in one.baseline_rows(recipe, per_fold[one.fold])]
    after_rows = [row for one in found for row in one.rows(recipe, per_fold[one.fold])]
    curve, before, after = calibrate_doubt(doubts(recipe, found, per_fold))
    folder = study.out / FOLDER
    folder.mkdir(exist_ok=True)
    table = [
        {**row, "threshold": str(threshold)}
        for threshold, rows in swept(chosen.unsure_enhancement, chosen.whole_components).items()
        for row in rows
    ]
    write_rows(folder / f"{model}-sweep.csv", table, (*ORDER, "threshold"))
    write_rows(folder / f"{model}.csv", [*before_rows, *after_rows])
    metrics = {
        "protocol": find_protocol(task=recipe.task).name,
        "held_out_cases": len(found),
        "folds": study.folds,
        "baseline": summary(before_rows, regions),
        "refined": summary(after_rows, regions),
        "decision": chosen.model_dump(mode="json"),
        "decision_of_the_other_folds": {str(f): choice.model_dump(mode="json") for f, choice in per_fold.items()},
    }
    calibration = Calibration(
        model=model,
        decision=chosen,
        uncertainty=curve,
        disagreement=disagreement_limit(found),
        metrics=metrics,
    )
    diagrams = {"before": _described(before), "after": _described(after)}
    _write(decision_file(folder, model), calibration.model_dump_json(indent=2))
    _write(folder / f"{model}-uncertainty.json", json.dumps(diagrams, indent=2))
    return Calibrated(chosen, per_fold, before, after, folder)


def _write(path: Path, text: str) -> None:
    write_atomically(path, f"{text}\n".encode())


def _described(diagram: Reliability) -> dict[str, object]:
    return {
        "expected_calibration_error": diagram.error,
        "stated": diagram.stated.tolist(),
        "observed": diagram.observed.tolist(),
        "voxels": diagram.count.tolist(),
    }
