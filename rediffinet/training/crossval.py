"""Cross-validation in pieces: every model on every fold, stage 2 on out-of-fold predictions of stage 1.

A piece is one model on one fold with one seed: a run folder with its checkpoint, the discrepancy it found on the cases
held out, and their scores. A finished piece is skipped, an interrupted one resumed. Any number of processes may work on
one study at the same time: each piece is done by whoever holds its lock, which the system frees when a process dies.

    OUT/folds.json                                   fold and patient of every case
    OUT/seed0/out_of_fold/CASE-KEY.npy               probabilities by the baseline that has not seen the case
    OUT/seed0/fold1/MODEL/checkpoint.safetensors …   the run
    OUT/seed0/fold1/MODEL/found/CASE.npz             Δ̂ on the cases held out, on the model's grid
    OUT/seed0/fold1/MODEL/scores.csv                 their scores
    OUT/scores.csv                                   all of them
"""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError, OutputError, TrainingError
from rediffinet.files import write_atomically
from rediffinet.method.inference import Inferred
from rediffinet.method.models import MODELS, find_model
from rediffinet.method.recipe import Recipe
from rediffinet.method.resample import Spacing
from rediffinet.task import DEFAULT_TASK, TASKS, Task
from rediffinet.training.calibrate import Found, check_model, found_by
from rediffinet.training.checkpoint import CHECKPOINT, read_checkpoint
from rediffinet.training.config import TrainConfig, applies, read_config, resolve_config
from rediffinet.training.data import TrainingCase, assign_folds, load_training_cases
from rediffinet.training.dataset import check_dataset
from rediffinet.training.loop import Progress
from rediffinet.training.out_of_fold import Stage, out_of_fold
from rediffinet.training.recipe import InferenceSettings, pair_runs, recipe_of
from rediffinet.training.run import Run, merge_runs, open_run
from rediffinet.training.scoring import SCORES, read_rows, reference_of, score_run, write_rows
from rediffinet.training.train import train

FOLDS = "folds.json"
POLL_SECONDS = 5.0
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """What is cross-validated.

    only: the folds to do, all when empty; seeds: one training of everything for each. settings: changes of the preset,
    `KEY=VALUE` for all models that have it, or `MODEL:KEY=VALUE` for one. inference: how the runs are scored.
    begin_with: a study of the same folds, with whose weights every run begins, but for one that learns in windows,
    which begins from nothing where that study has none of its kind. masks: label maps of another program, which those
    learn from too (`train`). task: the tumour, contrasts and labels of the data.
    """

    data: tuple[Path, ...]
    out: Path
    models: tuple[str, ...]
    folds: int = 5
    only: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    fold_seed: int = 0
    preset: str = "tiny-2mm"
    settings: tuple[str, ...] = ()
    patients: dict[str, str] = field(default_factory=dict)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    cache: Path | None = None
    begin_with: Path | None = None
    masks: Path | None = None
    task: Task = TASKS[DEFAULT_TASK]


@dataclass(frozen=True)
class Piece:
    """One model on one fold with one seed."""

    seed: int
    fold: int
    model: str

    def folder(self, study: Study) -> Path:
        """The run folder."""
        return self.within(study.out)

    def within(self, out: Path) -> Path:
        """The run folder of this piece in the study in that folder."""
        return out / f"seed{self.seed}" / f"fold{self.fold}" / self.model

    def __str__(self) -> str:
        return f"{self.model}, fold {self.fold}, seed {self.seed}"


def plan_pieces(study: Study) -> list[Piece]:
    """Every piece, baselines first. Stage 2 needs the baselines of all folds, whichever folds are asked for.

    Raises ConfigError for an unknown model or fold.
    """
    wrong = [fold for fold in study.only if not 0 <= fold < study.folds]
    if wrong:
        message = f"fold: got {', '.join(map(str, wrong))}, expected 0 to {study.folds - 1} for {study.folds} folds"
        raise ConfigError(message)
    kinds = [find_model(model) for model in dict.fromkeys(study.models)]
    chosen = study.only or tuple(range(study.folds))
    refine = any(kind.refines for kind in kinds)
    pieces = []
    for seed in study.seeds:
        if refine or any(kind.name == "unet" for kind in kinds):
            pieces += [Piece(seed, fold, "unet") for fold in (range(study.folds) if refine else chosen)]
        pieces += [Piece(seed, fold, kind.name) for kind in kinds if kind.name != "unet" for fold in chosen]
    return pieces


def piece_config(study: Study, piece: Piece) -> TrainConfig:
    """The resolved configuration of a piece's training."""
    kind, settings = find_model(piece.model), []
    for setting in study.settings:
        model, separator, rest = setting.partition(":")
        if separator and "=" not in model:
            if find_model(model) == kind:
                settings.append(rest)
        elif applies(kind, setting.partition("=")[0]) or not any(
            _takes(name, setting) for name in ("unet", *study.models)
        ):
            settings.append(setting)  # what no model of the study takes is refused by name
    changes: dict[str, Any] = {"seed": piece.seed, "fold": piece.fold, "folds": study.folds}
    changes["fold_seed"] = study.fold_seed
    changes["task"] = study.task.model_dump(mode="json")
    return resolve_config(piece.model, study.preset, changes, tuple(settings))


def _takes(model: str, setting: str) -> bool:
    return applies(find_model(model), setting.partition("=")[0])


def crossvalidate(
    study: Study, *, progress: Progress | None = None, stage: Stage | None = None, tell: Tell = lambda text: None
) -> Path:
    """Do every piece that is not done yet, and return the CSV of all scores.

    Raises TrainingError before anything is trained when the data set cannot be used, OutputError when `out` holds the
    study of other data or other folds.
    """
    pieces = plan_pieces(study)
    configs = {piece: piece_config(study, piece) for piece in pieces}  # a wrong setting is found now
    config = configs[pieces[0]]
    told = (lambda done, of: stage("reading cases", done, of)) if stage else None

    @cache
    def prepared(spacing_mm: Spacing) -> list[TrainingCase]:
        how = replace(config.preprocessing, spacing_mm=spacing_mm)
        return load_training_cases(study.data, how, told, cache=study.cache, patients=study.patients)

    cases = prepared(config.spacing_mm)
    folds = assign_folds([case.name for case in cases], study.folds, study.fold_seed, study.patients)
    _check_folds(study, cases, folds)
    tell(check_dataset(cases, folds, config.preprocessing, *sorted({piece.fold for piece in pieces})))
    _write_folds(study, cases, folds)
    waiting = False
    while remaining := [piece for piece in pieces if not (piece.folder(study) / SCORES).is_file()]:
        advanced = False
        for piece in remaining:
            if not _ready(study, piece, pieces):
                continue
            with _claimed(piece.folder(study)) as mine:
                if mine and not (piece.folder(study) / SCORES).is_file():
                    tell(f"{piece}: begun")
                    own = prepared(configs[piece].spacing_mm)  # a refiner may look at smaller voxels
                    held_out = [case for case in own if folds[case.name] == piece.fold]
                    _do(study, piece, configs[piece], held_out, progress, stage)
                    tell(f"{piece}: done")
                advanced |= mine
        if not advanced:
            if not waiting:
                tell("waiting for the pieces that other processes work on")
            waiting = True
            time.sleep(POLL_SECONDS)
    return collect(study, pieces)


def collect(study: Study, pieces: Sequence[Piece]) -> Path:
    """One CSV of the scores of these pieces."""
    path = study.out / SCORES
    write_rows(path, [row for piece in pieces for row in read_rows(piece.folder(study) / SCORES)])
    return path


def reopen(
    out: Path,
    data: Sequence[Path],
    *,
    cache: Path | None = None,
    patients: dict[str, str] | None = None,
    inference: InferenceSettings | None = None,
) -> Study:
    """The study in a folder, to look at: its folds and seeds as they were drawn, all models.

    inference: how label maps are made and scored anew; by default as `rediff crossval` does. Raises TrainingError when
    there is none.
    """
    path = out / FOLDS
    if not path.is_file():
        message = f"{out} holds no study: {FOLDS} is missing. Expected the OUT of `rediff crossval`."
        raise TrainingError(message)
    layout = json.loads(path.read_text())
    return Study(
        tuple(data),
        out,
        tuple(MODELS),
        folds=layout["folds"],
        fold_seed=layout["fold_seed"],
        patients=patients or {},
        inference=inference or InferenceSettings(),
        cache=cache or out / "cache",
    )


@dataclass(frozen=True)
class Finished:
    """A finished piece of a model that refines: its runs, how they are run, and the cases that they have not seen.

    run: that of the folder, or the mean of it and those of other studies.
    """

    folder: Path
    fold: int
    run: Run
    baseline: Run
    recipe: Recipe
    held_out: list[TrainingCase]
    predictions: Path

    def found(self, case: TrainingCase, inferred: Inferred, given: npt.NDArray[np.bool_] | None = None) -> Found:
        """What the run found on a case, with the reference to score it by; given: see Found."""
        config = self.run.config
        reference, spacing_mm = reference_of(case, config.task)
        return Found(case, self.fold, config.seed, inferred, reference, spacing_mm, given)


def finished(study: Study, model: str, seed: int, beside: Sequence[Path] = ()) -> list[Finished]:
    """Every fold of a model that refines.

    beside: folders of studies of the same folds, whose networks of the model answer too, on this study's baselines.
    Raises TrainingError for a model that changes no baseline, or when a piece is not finished.
    """
    check_model(model)
    pieces = [Piece(seed, fold, model) for fold in study.only or range(study.folds)]
    stage_1 = [Piece(seed, fold, "unet").folder(study) for fold in range(study.folds)]
    unfinished = [piece for piece in pieces if not (piece.folder(study) / SCORES).is_file()]
    if unfinished:
        message = f"{study.out}: not finished: {'; '.join(map(str, unfinished))}. Run `rediff crossval` first."
        raise TrainingError(message)
    config = open_run(pieces[0].folder(study)).config
    cases = load_training_cases(
        study.data,
        config.preprocessing,
        cache=study.cache,
        patients=study.patients,
    )
    folds = assign_folds([case.name for case in cases], study.folds, study.fold_seed, study.patients)
    done = []
    for piece in pieces:
        held_out = [case for case in cases if folds[case.name] == piece.fold]
        others = [_open_beside(folder, piece, held_out) for folder in beside]
        run, baseline = merge_runs([open_run(piece.folder(study)), *others]), open_run(stage_1[piece.fold])
        recipe = recipe_of(pair_runs(run, baseline), study.inference)
        predictions = _predictions(study, seed)
        done.append(Finished(piece.folder(study), piece.fold, run, baseline, recipe, held_out, predictions))
    return done


def _open_beside(out: Path, piece: Piece, held_out: Sequence[TrainingCase]) -> Run:
    """The run of a piece in another study; raises TrainingError when it has seen a case that is held out."""
    run = open_run(piece.within(out))
    if seen := [case.name for case in held_out if case.patient in run.seen_patients]:
        message = (
            f"`beside={out}`: networks of fold {piece.fold} have seen {', '.join(seen)}, which this study holds out "
            "there. Give studies of the same folds."
        )
        raise TrainingError(message)
    return run


def gather(pieces: Sequence[Finished], *, kept: bool = True) -> tuple[Recipe, list[Found]]:
    """How a model is decoded, and what it found on every case, each by the run that had not seen it.

    kept: with the discrepancy that the study kept of the case, else with what the baseline says of it alone.
    """
    gathered = []
    for piece in pieces:
        priors = out_of_fold(piece.held_out, [piece.baseline], piece.predictions)
        for case, prior in zip(piece.held_out, priors, strict=True):
            known = found_by(piece.folder, case, prior) if kept else Inferred(prior.astype(np.float32), None)
            gathered.append(piece.found(case, known))
    return pieces[0].recipe, gathered


def _predictions(study: Study, seed: int) -> Path:
    return study.out / f"seed{seed}" / "out_of_fold"


def _described(study: Study, cases: Sequence[TrainingCase], folds: dict[str, int]) -> dict[str, object]:
    return {
        "folds": study.folds,
        "fold_seed": study.fold_seed,
        "cases": {case.name: {"patient": case.patient, "fold": folds[case.name]} for case in cases},
    }


def _check_folds(study: Study, cases: Sequence[TrainingCase], folds: dict[str, int]) -> None:
    path = study.out / FOLDS
    if path.is_file() and json.loads(path.read_text()) != _described(study, cases, folds):
        message = f"{study.out} holds a study of other cases or folds (see {path}). Use another `out`."
        raise OutputError(message)


def _write_folds(study: Study, cases: Sequence[TrainingCase], folds: dict[str, int]) -> None:
    try:
        study.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{study.out} cannot be made: {error}. Use another `out`."
        raise OutputError(message) from None
    write_atomically(study.out / FOLDS, f"{json.dumps(_described(study, cases, folds), indent=2)}\n".encode())


def _ready(study: Study, piece: Piece, pieces: Sequence[Piece]) -> bool:
    """Whether what a piece stands on is there: every baseline of its seed, for a model that refines."""
    if not find_model(piece.model).refines:
        return True
    stage_1 = [other for other in pieces if other.model == "unet" and other.seed == piece.seed]
    return all((other.folder(study) / SCORES).is_file() for other in stage_1)


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Whether this process now holds the lock of a piece; another one's dies with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _do(
    study: Study,
    piece: Piece,
    config: TrainConfig,
    held_out: Sequence[TrainingCase],
    progress: Progress | None,
    stage: Stage | None,
) -> None:
    """Train a piece where it is not trained yet, and score it on the cases of its fold."""
    folder = piece.folder(study)
    refines = find_model(piece.model).refines
    stage_1 = [Piece(piece.seed, fold, "unet").folder(study) for fold in range(study.folds)]
    predictions = _predictions(study, piece.seed)
    if not _trained(folder, config):
        train(
            config,
            study.data,
            folder,
            baselines=stage_1 if refines else (),
            resume=(folder / CHECKPOINT).exists(),
            progress=progress,
            stage=stage,
            cache=study.cache,
            patients=study.patients,
            predictions=predictions,
            begin_with=_beginning(study, piece, config),
            masks=None if config.windows is None else study.masks,
        )
    run = open_run(folder)
    baseline = run if piece.model == "unet" else open_run(stage_1[piece.fold]) if refines else None
    priors = out_of_fold(held_out, [baseline], predictions, stage) if baseline is not None else None
    score_run(run, None if baseline is run else baseline, held_out, priors, study.inference, folder, stage)


def _beginning(study: Study, piece: Piece, config: TrainConfig) -> Path | None:
    """The run that a piece begins with; what learns in windows begins from nothing where that study has none of it."""
    if study.begin_with is None:
        return None
    folder = piece.within(study.begin_with)
    return None if config.windows is not None and not (folder / CHECKPOINT).exists() else folder


def _trained(folder: Path, config: TrainConfig) -> bool:
    """Whether the run is there and finished. Raises TrainingError when it is that of another configuration."""
    if not (folder / CHECKPOINT).exists():
        return False
    _, metadata = read_checkpoint(folder / CHECKPOINT)
    if metadata["step"] < config.steps:
        return False
    if differing := config.differences(read_config(metadata["config"])):
        message = (
            f"{folder} holds a run of another configuration: {', '.join(differing)} differ. Use the same settings, or "
            "another `out`."
        )
        raise TrainingError(message)
    return True
