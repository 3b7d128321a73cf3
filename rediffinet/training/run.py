"""Runs: a trained network with its configuration and where it comes from, read back, and several as one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from torch import nn

from rediffinet.errors import TrainingError
from rediffinet.method.models import find_model
from rediffinet.nets.ensemble import as_one
from rediffinet.nets.graphs import build_network
from rediffinet.training.checkpoint import BEST, CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig, read_config
from rediffinet.training.data import patient_of
from rediffinet.trust import widest_ranges


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
            "with `validate_every=N`."
        )
        raise TrainingError(message)
    tensors, metadata = read_checkpoint(path)
    try:
        config = read_config(metadata["config"])
        model = build_network(find_model(config.model), config.network, config.task)
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
