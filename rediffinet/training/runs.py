"""Runs: what `rediff train` does, from data folders to a checkpoint, and how a finished run is read back."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from rediffinet.errors import TrainingError
from rediffinet.models import find_model
from rediffinet.nets.unet import BaselineGraph
from rediffinet.nifti import write_atomically
from rediffinet.training.checkpoint import CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import TrainingCase, assign_folds, load_training_cases, patient_of
from rediffinet.training.loop import Progress, check_folder, run_training
from rediffinet.training.tasks import Probability, make_task
from rediffinet.windows import slide

Stage = Callable[[str, int, int], None]
"""(what, done, of): progress of the preparations."""


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: the averaged weights, the configuration, where they come from."""

    path: Path
    config: TrainConfig
    model: nn.Module
    provenance: dict[str, Any]
    step: int
    sha256: str

    @property
    def seen_patients(self) -> frozenset[str]:
        """Patients whose labels this run was trained on."""
        return frozenset(patient_of(name) for name in self.provenance["trained_on"])


def open_run(folder: Path) -> Run:
    """Read a run folder. Raises TrainingError when it holds no checkpoint of ours, or one of another version."""
    path = folder / CHECKPOINT
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


def predict_probability(run: Run, case: TrainingCase) -> Probability:
    """The baseline's blended probabilities of a case, float16 (3, X, Y, Z)."""
    graph = BaselineGraph(run.model, mirror=run.config.mirror).eval()

    def predict(window: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=run.config.autocast):
            return np.asarray(graph(torch.from_numpy(window)).float().numpy())

    image = case.image.astype(np.float32)
    config = run.config
    return slide(
        image, config.unet.window, config.overlap, predict, len(case.regions), config.normalisation.background
    ).astype(np.float16)


def out_of_fold(
    cases: Sequence[TrainingCase], baselines: Sequence[Run], cache: Path, stage: Stage | None = None
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
            np.save(content, predict_probability(baseline, case))
            write_atomically(path, content.getvalue())
        predictions.append(np.load(path))
        if stage is not None:
            stage("out-of-fold predictions", index + 1, len(cases))
    return predictions


def _prediction_key(baseline: Run, case: TrainingCase) -> str:
    digest = hashlib.sha256(baseline.sha256.encode())
    digest.update(case.image.tobytes())
    return digest.hexdigest()[:16]


def _open_baselines(folders: Sequence[Path], config: TrainConfig) -> list[Run]:
    """Runs that can predict for the refiner of `config`; raises TrainingError for any other."""
    runs = [open_run(folder) for folder in folders]
    for run in runs:
        if run.config.model != "unet":
            message = f"--baseline {run.path} is a run of '{run.config.model}', expected one of 'unet'"
            raise TrainingError(message)
        if (run.config.normalisation, run.config.spacing_mm) != (config.normalisation, config.spacing_mm):
            message = f"--baseline {run.path} was trained with another normalisation or voxel size; train both alike"
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
) -> Path:
    """Train one model and return its checkpoint.

    With config.fold = K the cases of fold K (patients are never split) are held out, whatever the model. A model that
    refines needs `baselines`: runs of which at least one has not seen each training case. `cache`: a folder where the
    prepared cases are kept and mapped from. Raises TrainingError, OutputError.
    """
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
        config.normalisation,
        (lambda i, n: stage("reading cases", i, n)) if stage else None,
        spacing_mm=config.spacing_mm,
        cache=cache,
    )
    folds = assign_folds([case.name for case in cases], config.folds)
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
    predictions = None
    if kind.refines:
        provenance["baselines"] = [{"sha256": run.sha256, "fold": run.config.fold} for run in runs]
        predictions = out_of_fold(kept, runs, out / "out_of_fold", stage)
    task = make_task(config, kept, predictions)
    return run_training(task, out, provenance, resume=resume, progress=progress)


def describe(run: Run) -> dict[str, Any]:
    """Provenance for a bundle's manifest: JSON-ready."""
    return {
        "model": run.config.model,
        "steps": run.step,
        "checkpoint_sha256": run.sha256,
        "config": json.loads(run.config.model_dump_json()),
        **run.provenance,
    }
