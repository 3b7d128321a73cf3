"""Runs: what `rediff train` does, from data folders to a checkpoint, and how a finished run is read back."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from rediffinet.errors import RediffError, TrainingError
from rediffinet.files import write_atomically
from rediffinet.io.cases import find_cases
from rediffinet.method.models import find_model
from rediffinet.method.windows import slide
from rediffinet.nets.ensemble import as_one
from rediffinet.nets.unet import BaselineGraph
from rediffinet.training.checkpoint import BEST, CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import (
    TrainingCase,
    assign_folds,
    load_training_case,
    load_training_cases,
    patient_of,
)
from rediffinet.training.dataset import check_dataset
from rediffinet.training.distributed import Place, lone_place, together
from rediffinet.training.loop import Progress, Validate, check_folder, run_training
from rediffinet.training.tasks import Probability, make_task
from rediffinet.trust import intensity_profile, profile_ranges, widest_ranges

CPU = torch.device("cpu")
Stage = Callable[[str, int, int], None]
"""(what, done, of): progress of the preparations."""


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: the averaged weights, the configuration, where they come from.

    members: of how many runs, trained alike, this is the ensemble (`merge_runs`).
    """

    path: Path
    config: TrainConfig
    model: nn.Module
    provenance: dict[str, Any]
    step: int
    sha256: str
    members: int = 1

    @property
    def seen_patients(self) -> frozenset[str]:
        """Patients whose labels this run, or one it began with, was trained on."""
        named = self.provenance.get("patients", {})
        own = (named.get(name, patient_of(name)) for name in self.provenance["trained_on"])
        return frozenset(own) | frozenset(self.provenance.get("begun_with", {}).get("patients", ()))

    def described(self) -> dict[str, Any]:
        """Provenance for a bundle's manifest: JSON-ready."""
        return {
            "model": self.config.model,
            "steps": self.step,
            "checkpoint_sha256": self.sha256,
            "config": json.loads(self.config.model_dump_json()),
            **self.provenance,
        }


def open_run(folder: Path, checkpoint: Literal["last", "best"] = "last") -> Run:
    """Read a run folder. Raises TrainingError when it holds no checkpoint of ours, or one of another version.

    checkpoint: the last one, or that of the best validation.
    """
    path = folder / (BEST if checkpoint == "best" else CHECKPOINT)
    if checkpoint == "best" and not path.exists() and (folder / CHECKPOINT).exists():
        message = (
            f"{folder} holds no {BEST}: it was trained without validation. Take its last checkpoint, or train "
            "with --set validate_every=N."
        )
        raise TrainingError(message)
    tensors, metadata = read_checkpoint(path)
    try:
        config = TrainConfig.model_validate(metadata["config"])
        model = make_task(config, []).build()
        model.load_state_dict(part(tensors, "ema"))
    except (ValidationError, RuntimeError) as error:
        message = f"checkpoint {path} does not fit this version of rediffinet: {error}"
        raise TrainingError(message) from None
    model.eval()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Run(folder, config, model, metadata["provenance"], metadata["step"], digest)


MAY_DIFFER = frozenset({"seed", "fold"})
"""Fields of the configuration in which the members of an ensemble may differ, besides what is about the machine."""


def merge_runs(runs: Sequence[Run]) -> Run:
    """Runs of one configuration, such as those of all folds, as one whose answer is the mean of theirs.

    Raises TrainingError that names the fields in which they differ, or the run that is given twice.
    """
    first = runs[0]
    for index, run in enumerate(runs):
        if run.sha256 in {other.sha256 for other in runs[:index]}:
            message = f"{run.path} is given twice. Give each member of an ensemble once."
            raise TrainingError(message)
        if differing := sorted(set(first.config.differences(run.config)) - MAY_DIFFER):
            message = f"{first.path} and {run.path} cannot be one ensemble: they differ in {', '.join(differing)}."
            raise TrainingError(message)
    if len(runs) == 1:
        return first
    trained = sorted({name for run in runs for name in run.provenance["trained_on"]})
    provenance = {
        **first.provenance,
        "trained_on": trained,
        "held_out": [],
        "fold": None,
        "members": [_member(run) for run in runs],
    }
    provenance.pop("averaged", None)
    if any("begun_with" in run.provenance for run in runs):
        patients = sorted({patient for run in runs for patient in run.seen_patients})
        provenance["begun_with"] = {"patients": patients}
    ranges = [run.provenance["intensities"] for run in runs if "intensities" in run.provenance]
    if len(ranges) == len(runs):
        provenance["intensities"] = widest_ranges(ranges)
    digest = hashlib.sha256("".join(run.sha256 for run in runs).encode()).hexdigest()
    model = as_one([run.model for run in runs]).eval()
    config = first.config.model_copy(update={"fold": None})
    return Run(first.path, config, model, provenance, first.step, digest, len(runs))


def _member(run: Run) -> dict[str, Any]:
    """What tells a member of an ensemble from the others: JSON-ready."""
    held_out = run.provenance["held_out"]
    told = {"checkpoint_sha256": run.sha256, "seed": run.config.seed, "fold": run.config.fold, "held_out": held_out}
    if "averaged" in run.provenance:
        told["averaged"] = run.provenance["averaged"]
    if "begun_with" in run.provenance:
        told["begun_with"] = run.provenance["begun_with"]["sha256"]
    return told


def predict_probability(run: Run, case: TrainingCase, device: torch.device = CPU) -> Probability:
    """The baseline's blended probabilities of a case, float16 (3, X, Y, Z)."""
    graph = BaselineGraph(run.model, mirror=run.config.mirror).eval().to(device)

    def predict(window: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=run.config.autocast):
            return np.asarray(graph(torch.from_numpy(window).to(device)).float().cpu().numpy())

    image = case.image.astype(np.float32)
    config = run.config
    return slide(
        image, config.unet.window, config.overlap, predict, len(case.regions), config.normalisation.background
    ).astype(np.float16)


def out_of_fold(
    cases: Sequence[TrainingCase],
    baselines: Sequence[Run],
    cache: Path,
    stage: Stage | None = None,
    device: torch.device = CPU,
) -> list[Probability]:
    """Predictions for every case by a baseline that has not seen its patient.

    Cached in `cache`, one file a case, keyed by the baseline's hash and the image's. Raises TrainingError when a case
    was seen by all baselines: a refiner trained on such predictions would meet too few errors to learn from.
    """
    chosen = [next((b for b in baselines if case.patient not in b.seen_patients), None) for case in cases]
    seen = [case.name for case, baseline in zip(cases, chosen, strict=True) if baseline is None]
    if seen:
        message = (
            f"{len(seen)} training cases were seen by every baseline given: {', '.join(seen)}.\n"
            "The refiner learns from out-of-fold predictions: train one baseline per fold on the same data (--folds N, "
            "--fold 0 to N − 1) and give each with --baseline."
        )
        raise TrainingError(message)
    cache.mkdir(parents=True, exist_ok=True)
    predictions = []
    for index, (case, baseline) in enumerate(zip(cases, chosen, strict=True)):
        assert baseline is not None
        path = cache / f"{case.name}-{_prediction_key(baseline, case)}.npy"
        if not path.exists():
            content = io.BytesIO()
            np.save(content, predict_probability(baseline, case, device))
            write_atomically(path, content.getvalue())
        predictions.append(np.load(path))
        if stage is not None:
            stage("out-of-fold predictions", index + 1, len(cases))
    return predictions


def _prediction_key(baseline: Run, case: TrainingCase) -> str:
    digest = hashlib.sha256(baseline.sha256.encode())
    digest.update(case.image.tobytes())
    return digest.hexdigest()[:16]


def _start(config: TrainConfig, baselines: Sequence[Run]) -> nn.Module | None:
    """The network a refiner begins with: that of the baseline trained on the same cases, which it will refine."""
    if not config.warm_start:
        return None
    own = [run for run in baselines if (run.config.fold, run.config.folds) == (config.fold, config.folds)]
    if not own:
        message = f"warm_start: got no --baseline of fold {config.fold}, whose weights the refiner would begin with"
        raise TrainingError(message)
    return own[0].model


def _open_beginning(folder: Path, config: TrainConfig, held_out: Sequence[TrainingCase]) -> Run:
    """The run whose weights another begins with; raises TrainingError when it does not fit or has seen `held_out`."""
    run = open_run(folder)
    kind = find_model(config.model).network
    theirs, ours = (c.refiner if kind == "refiner" else c.unet for c in (run.config, config))
    if (run.config.model, theirs) != (config.model, ours):
        message = (
            f"--begin-with {folder}: is a run of '{run.config.model}' with {theirs}, expected one of '{config.model}' "
            f"with {ours}"
        )
        raise TrainingError(message)
    if run.config.preparation != config.preparation:
        message = f"--begin-with {folder}: is prepared otherwise (task, normalisation or voxel size); train both alike"
        raise TrainingError(message)
    if seen := [case.name for case in held_out if case.patient in run.seen_patients]:
        message = (
            f"--begin-with {folder}: has seen {', '.join(seen)}, which this run holds out. Give one that was trained "
            "without them, or hold out the same fold."
        )
        raise TrainingError(message)
    return run


def _open_baselines(folders: Sequence[Path], config: TrainConfig) -> list[Run]:
    """Runs that can predict for the refiner of `config`; raises TrainingError for any other."""
    runs = [open_run(folder) for folder in folders]
    for run in runs:
        if run.config.model != "unet":
            message = f"--baseline {run.path} is a run of '{run.config.model}', expected one of 'unet'"
            raise TrainingError(message)
        if run.config.preparation != config.preparation:
            message = (
                f"--baseline {run.path} is prepared otherwise (task, normalisation or voxel size); train both alike"
            )
            raise TrainingError(message)
    return runs


def train(
    config: TrainConfig,
    data: Sequence[Path],
    out: Path,
    *,
    baselines: Sequence[Path] = (),
    resume: bool = False,
    progress: Progress | None = None,
    stage: Stage | None = None,
    cache: Path | None = None,
    patients: Mapping[str, str] | None = None,
    predictions: Path | None = None,
    begin_with: Path | None = None,
    place: Place | None = None,
) -> Path:
    """Train one model and return its checkpoint.

    With config.fold = K the cases of fold K (patients are never split) are held out, whatever the model. A model that
    refines needs `baselines`: runs of which at least one has not seen each training case. `cache`: a folder where the
    prepared cases are kept and mapped from; `predictions`: one where those of the baselines are, by default in `out`.
    `patients`: patient of a case where its name does not tell. `begin_with`: a run of the same model, whose weights
    this one begins with; it must not have seen the cases held out. Raises TrainingError, before anything is trained,
    for a data set that cannot be used (rediffinet.training.dataset), OutputError.

    place: that of this process among those that train together (`open_place`), all of which call this alike; by
    default it trains alone. A problem of one ends all before anything is trained.
    """
    place = place or lone_place(config.device)
    if place.processes > 1 and cache is not None:
        with together(place):
            _fill_cache(config, data, cache, place)
    with together(place):
        job = _read(config, data, out, baselines, begin_with, resume, stage, cache, patients)
    folder = predictions or out / "out_of_fold"
    if job.runs and place.processes > 1:
        with together(place):
            needed = [*job.kept, *(job.held_out if config.validate_every else ())]
            out_of_fold(needed[place.rank :: place.processes], job.runs, folder, stage, place.device)
    with together(place):
        found = out_of_fold(job.kept, job.runs, folder, stage, place.device) if job.runs else None
        task = make_task(config, job.kept, found, _start(config, job.runs))
        task.weights = None if job.beginning is None else job.beginning.model.state_dict()
        validate = _validation(job, config, folder, place, stage)
    return run_training(task, out, job.provenance, resume=resume, progress=progress, place=place, validate=validate)


@dataclass(frozen=True)
class _Job:
    """What was found before training starts: cases of both sides, the baselines, the run to begin with, provenance."""

    kept: list[TrainingCase]
    held_out: list[TrainingCase]
    runs: list[Run]
    beginning: Run | None
    provenance: dict[str, Any]


def _fill_cache(config: TrainConfig, data: Sequence[Path], cache: Path, place: Place) -> None:
    """Prepare this process's share of the cases; what cannot be read is told when all are read."""
    folders = [path for folder in data for path in find_cases(folder)]
    for path in folders[place.rank :: place.processes]:
        try:
            load_training_case(path, config.preparation, cache)
        except RediffError:
            continue


def _validation(job: _Job, config: TrainConfig, folder: Path, place: Place, stage: Stage | None) -> Validate | None:
    """What scores the network during training, when that is asked for."""
    if not config.validate_every:
        return None
    from rediffinet.training.validation import HeldOut, make_validation  # it runs what is trained here

    priors = out_of_fold(job.held_out, job.runs, folder, stage, place.device) if job.runs else None
    return make_validation(config, HeldOut(job.held_out, priors, job.runs[0] if job.runs else None), place)


def _read(
    config: TrainConfig,
    data: Sequence[Path],
    out: Path,
    baselines: Sequence[Path],
    begin_with: Path | None,
    resume: bool,
    stage: Stage | None,
    cache: Path | None,
    patients: Mapping[str, str] | None,
) -> _Job:
    """Read and check everything, before anything is made."""
    kind = find_model(config.model)
    if kind.refines != bool(baselines):
        message = (
            f"--baseline: got {len(baselines)} for model '{config.model}'. A model that refines needs one or more "
            "baseline runs (trained with --fold, so that each case is out of fold for one of them); others take none."
        )
        raise TrainingError(message)
    check_folder(out, resume=resume)
    runs = _open_baselines(baselines, config)
    cases = load_training_cases(
        data,
        config.preparation,
        (lambda i, n: stage("reading cases", i, n)) if stage else None,
        cache=cache,
        patients=patients,
    )
    folds = assign_folds([case.name for case in cases], config.folds, config.fold_seed, patients)
    kept = [case for case in cases if config.fold is None or folds[case.name] != config.fold]
    held_out = [case for case in cases if folds[case.name] == config.fold]
    if not kept or (config.fold is not None and not held_out):
        message = (
            f"--fold {config.fold} of {config.folds} leaves {len(kept)} cases to train on and {len(held_out)} held "
            f"out: the {len(cases)} cases found are of {len({case.patient for case in cases})} patients, which are "
            "never split. Give more data, or fewer --folds."
        )
        raise TrainingError(message)
    provenance: dict[str, Any] = {
        "trained_on": [case.name for case in kept],
        "held_out": [case.name for case in held_out],
        "folds": config.folds,
        "fold": config.fold,
    }
    if patients:
        provenance["patients"] = {case.name: case.patient for case in cases if case.name in patients}
    check_dataset(cases, folds, config.preparation, *(() if config.fold is None else (config.fold,)))
    profiles = [intensity_profile(case.image, config.normalisation.background, config.task.contrasts) for case in kept]
    provenance["intensities"] = profile_ranges(profiles)
    if kind.refines:
        provenance["baselines"] = [{"sha256": run.sha256, "fold": run.config.fold} for run in runs]
    beginning = None if begin_with is None else _open_beginning(begin_with, config, held_out)
    if beginning is not None:
        provenance["begun_with"] = {"sha256": beginning.sha256, "patients": sorted(beginning.seen_patients)}
    if config.validate_every:
        from rediffinet.training.validation import check_validation  # it runs what is trained here

        check_validation(config, held_out, runs)
    return _Job(kept, held_out, runs, beginning, provenance)
