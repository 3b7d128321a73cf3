"""A study of cross-validation calibrated: a decision and the uncertainty, each fold by all others."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rediffinet.errors import ConfigError
from rediffinet.files import write_atomically
from rediffinet.method.recipe import NEVER, Calibration, Decision, Evidence, PerRegion, Recipe, SmallComponents
from rediffinet.method.uncertainty import Reliability
from rediffinet.metrics import find_protocol
from rediffinet.scoring.scores import ORDER
from rediffinet.training.calibrate import (
    Found,
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
from rediffinet.training.calibrate_core import choose_core_confidence, cores, held_out_warnings
from rediffinet.training.calibrate_margin import boundary_errors, fit_margin, held_out_coverage
from rediffinet.training.crossval import Study, finished, gather
from rediffinet.training.otherwise import found_again, found_with_masks, found_without, weigh_evidence
from rediffinet.training.out_of_fold import Stage
from rediffinet.training.scoring import ScoreRow, summary, write_rows

FOLDER = "calibrated"


@dataclass(frozen=True)
class Calibrated:
    """chosen: on all cases, for a bundle; per_fold: on those of all other folds, what a fold's cases were scored with.

    given: chosen for masks made elsewhere, where there were some.
    margin: coverage of the margin in mm on the cases of each fold, fitted on all others (`held_out_coverage`).
    before, after: reliability of the stated probability of a wrong label, and of the calibrated one.
    """

    chosen: Decision
    per_fold: dict[int, Decision]
    given: Decision | None
    margin: dict[str, Any]
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
    small_parts: int = 0,
    whole_components: float | None = NEVER,
    unsure_enhancement: float | None = 0.0,
    thresholds: PerRegion | None = None,
    reach_mm: float | tuple[float, ...] | None = None,
    evidence: Evidence | None = None,
    beside: Sequence[Path] = (),
    masks: Path | None = None,
    missing: bool = False,
    stage: Stage | None = None,
) -> Calibrated:
    """Choose the decision and fit the uncertainty of a model that refines; see docs/crossval.md for the files.

    small_components: None is that of the study. whole_components, unsure_enhancement, thresholds: None chooses them
    too. First unsure_enhancement is chosen, then whole_components, then the thresholds, each given those before it; the
    thresholds and whole_components for masks made elsewhere are always chosen. small_parts, reach_mm, evidence: see
    Decision. With a reach every case is asked about again in the windows that a bundle would run. beside: studies of
    the same folds; then the answer is the mean of the logits of this study's networks and theirs. masks: a folder of
    label maps of another program, for which a decision of their own is chosen. missing: score the cases without each
    contrast too, with the decision of the other folds. Raises TrainingError when the study is not finished for this
    model, or the model refines nothing.
    """
    pieces = finished(study, model, seed, beside)
    anew = reach_mm is not None or bool(beside)  # else what the study kept is what a bundle would find
    recipe, found = gather(pieces, kept=not anew)
    limits = small_components or recipe.decision.small_components
    changes = {"small_components": limits, "small_parts": small_parts, "reach_mm": reach_mm}
    elsewhere = recipe = recipe.with_decision(recipe.decision.changed(**changes))
    if evidence is not None:
        recipe = recipe.with_decision(recipe.decision.changed(evidence=evidence))
        found = weigh_evidence(pieces, found, recipe, stage)
    asked = recipe.with_decision(recipe.decision.changed(whole_components=whole_components or 0.0))
    if anew:
        found = found_again(pieces, found, asked, stage)
    regions = recipe.task.region_names
    seen = [enhancing_of(recipe, one) for one in found] if unsure_enhancement is None else []

    def unsure(fold: int | None) -> float:
        if unsure_enhancement is not None:
            return unsure_enhancement
        return choose_unsure_enhancement([one for one in seen if one.fold != fold])

    choices = _Choices(recipe, found, whole_components, thresholds)
    chosen = choices.choose(None, unsure(None))
    per_fold = {fold: choices.choose(fold, unsure(fold)) for fold in sorted({one.fold for one in found})}
    before_rows, after_rows = choices.scored(per_fold)
    curve, before, after = calibrate_doubt(doubts(recipe, found, per_fold))
    errors = boundary_errors(recipe, found, per_fold)
    covered = held_out_coverage(errors, regions)
    seen_cores = cores(recipe, found, per_fold)
    folder = study.out / FOLDER
    folder.mkdir(exist_ok=True)
    if thresholds is None:
        swept = choices.swept(chosen.unsure_enhancement, chosen.whole_components)
        table = [{**row, "threshold": str(threshold)} for threshold, rows in swept.items() for row in rows]
        write_rows(folder / f"{model}-sweep.csv", table, (*ORDER, "threshold"))
    write_rows(folder / f"{model}.csv", [*before_rows, *after_rows])
    metrics: dict[str, Any] = {
        "protocol": find_protocol(task=recipe.task).name,
        "held_out_cases": len(found),
        "folds": study.folds,
        "baseline": summary(before_rows, regions),
        "refined": summary(after_rows, regions),
        "margin": covered,
        "core_unsure": held_out_warnings(seen_cores),
        "decision": chosen.model_dump(mode="json"),
        "decision_of_the_other_folds": {str(f): choice.model_dump(mode="json") for f, choice in per_fold.items()},
    }
    given = None
    if masks is not None:
        whole = elsewhere.with_decision(elsewhere.decision.changed(whole_components=0.0))  # which is chosen below
        theirs = found_with_masks(pieces, masks, whole, stage)
        given, was, now = _decide_given(_Choices(elsewhere, theirs, None), chosen, per_fold)
        write_rows(folder / f"{model}-given.csv", [*was, *now])
        metrics["given_masks"] = {
            "cases": len(theirs),
            "baseline": summary(was, regions),
            "refined": summary(now, regions),
            "decision": given.model_dump(mode="json"),
        }
        del theirs  # gigabytes, and more are to come
    if missing:
        metrics["missing_contrasts"] = {
            contrast: _scores_without(found_without(pieces, index, asked, stage), recipe, per_fold)
            for index, contrast in enumerate(recipe.task.contrasts)
        }
    calibration = Calibration(
        model=model,
        decision=chosen,
        given=given,
        uncertainty=curve,
        margin=fit_margin(errors, len(regions)),
        disagreement=disagreement_limit(found),
        core_confidence=choose_core_confidence(seen_cores),
        metrics=metrics,
    )
    diagrams = {"before": _described(before), "after": _described(after)}
    _write(decision_file(folder, model), calibration.model_dump_json(indent=2))
    _write(folder / f"{model}-uncertainty.json", json.dumps(diagrams, indent=2))
    return Calibrated(chosen, per_fold, given, covered, before, after, folder)


@dataclass(frozen=True, eq=False)
class _Choices:
    """Decisions on what was found; every sweep is made once. whole_components, thresholds: None chooses them too."""

    recipe: Recipe
    found: Sequence[Found]
    whole_components: float | None
    thresholds: PerRegion | None = None
    _swept: dict[tuple[float, float], dict[float, list[ScoreRow]]] = field(default_factory=dict)
    _components: dict[float, dict[float, list[ScoreRow]]] = field(default_factory=dict)

    def made(self, limit: float, whole: float) -> Decision:
        """The recipe's decision, with these limits."""
        return self.recipe.decision.changed(unsure_enhancement=limit, whole_components=whole)

    def swept(self, limit: float, whole: float) -> dict[float, list[ScoreRow]]:
        """Scores at every threshold."""
        if (limit, whole) not in self._swept:
            self._swept[limit, whole] = sweep(self.recipe, self.found, self.made(limit, whole))
        return self._swept[limit, whole]

    def choose(self, fold: int | None, limit: float) -> Decision:
        """What does best on the cases of all folds but this one; on all cases for None.

        Where all cases are of this fold, nothing is known of them, and nothing is flipped.
        """
        regions, whole = self.recipe.task.region_names, self.whole_components
        if all(one.fold == fold for one in self.found):
            return self.made(limit, NEVER).changed(thresholds=(NEVER,) * len(regions))
        if whole is None:
            if limit not in self._components:
                self._components[limit] = sweep_components(self.recipe, self.found, self.made(limit, NEVER))
            whole = choose_whole_components(without(self._components[limit], fold), regions)
        thresholds = self.thresholds or choose_thresholds(without(self.swept(limit, whole), fold), regions)
        return self.made(limit, whole).changed(thresholds=thresholds)

    def scored(self, per_fold: Mapping[int, Decision]) -> tuple[list[ScoreRow], list[ScoreRow]]:
        """Scores before and after, each case with the decision of its fold."""
        before = [row for one in self.found for row in one.baseline_rows(self.recipe, per_fold[one.fold])]
        return before, [row for one in self.found for row in one.rows(self.recipe, per_fold[one.fold])]


def _decide_given(
    choices: _Choices, chosen: Decision, per_fold: Mapping[int, Decision]
) -> tuple[Decision, list[ScoreRow], list[ScoreRow]]:
    """The decision for masks made elsewhere, and the scores before and after by those of the other folds."""
    given = choices.choose(None, chosen.unsure_enhancement)
    folds = sorted({one.fold for one in choices.found})
    decisions = {fold: choices.choose(fold, per_fold[fold].unsure_enhancement) for fold in folds}
    return given, *choices.scored(decisions)


def _scores_without(found: Sequence[Found], recipe: Recipe, per_fold: Mapping[int, Decision]) -> dict[str, object]:
    rows = [row for one in found for row in one.rows(recipe, per_fold[one.fold])]
    regions = recipe.task.region_names
    means = summary(rows, regions)
    return {
        "protocol": find_protocol(task=recipe.task).name,
        "cases": len(found),
        "dice": {region: means[region]["dice"]["mean"] for region in regions},
        "hd95": {region: means[region]["hd95_mm"]["mean"] for region in regions},
    }


def _write(path: Path, text: str) -> None:
    write_atomically(path, f"{text}\n".encode())


def _described(diagram: Reliability) -> dict[str, object]:
    return {
        "expected_calibration_error": diagram.error,
        "stated": diagram.stated.tolist(),
        "observed": diagram.observed.tolist(),
        "voxels": diagram.count.tolist(),
    }
