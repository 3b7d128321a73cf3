"""Runs: a trained network with its configuration and where it comes from, read back, and several as one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError
from torch import nn

from rediffinet.errors import TrainingError
from rediffinet.files import file_sha256
from rediffinet.method.models import find_model
from rediffinet.nets.config import Frozen
from rediffinet.nets.ensemble import as_one
from rediffinet.nets.graphs import build_network
from rediffinet.training.checkpoint import BEST, CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig, read_config
from rediffinet.training.data import patient_of
from rediffinet.trust import widest_ranges


class Begun(Frozen):
    """The run whose weights another began with, None for an ensemble of such, and the patients that it had seen."""

    sha256: str | None = None
    patients: tuple[str, ...] = ()


class Averaged(Frozen):
    """A run whose weights are part of a mean."""

    checkpoint_sha256: str
    steps: int


class Taught(Frozen):
    """A baseline whose answers a refiner learnt from."""

    sha256: str
    fold: int | None


class Member(Frozen):
    """What tells a member of an ensemble from the others. begun_with: the checkpoint it began with."""

    checkpoint_sha256: str
    seed: int
    fold: int | None
    held_out: tuple[str, ...]
    averaged: tuple[Averaged, ...] = ()
    begun_with: str | None = None


class Provenance(Frozen):
    """Where the weights of a run come from, as it stands in its checkpoint and in a bundle's manifest.

    trained_on, held_out: names of cases. patients: of cases whose name does not tell. intensities: what the images
    trained on looked like (rediffinet.trust); None for runs of before this was kept. What else a checkpoint says of its
    origin stays with it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    trained_on: tuple[str, ...]
    held_out: tuple[str, ...]
    folds: int
    fold: int | None
    patients: dict[str, str] | None = None
    intensities: dict[str, tuple[float, float]] | None = None
    baselines: tuple[Taught, ...] = ()
    begun_with: Begun | None = None
    averaged: tuple[Averaged, ...] = ()
    members: tuple[Member, ...] = ()

    @property
    def seen_patients(self) -> frozenset[str]:
        """Patients whose labels the run, or one it began with, was trained on."""
        own = ((self.patients or {}).get(name, patient_of(name)) for name in self.trained_on)
        return frozenset(own) | frozenset(self.begun_with.patients if self.begun_with else ())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, without what there is not."""
        return self.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class Run:
    """A finished (or interrupted) run: the averaged weights, the configuration, where they come from.

    members: of how many runs, trained alike, this is the ensemble (`merge_runs`).
    """

    path: Path
    config: TrainConfig
    model: nn.Module
    provenance: Provenance
    step: int
    sha256: str
    members: int = 1

    @property
    def seen_patients(self) -> frozenset[str]:
        """Patients whose labels this run, or one it began with, was trained on."""
        return self.provenance.seen_patients

    def described(self) -> dict[str, Any]:
        """Provenance for a bundle's manifest: JSON-ready."""
        return {
            "model": self.config.model,
            "steps": self.step,
            "checkpoint_sha256": self.sha256,
            "config": json.loads(self.config.model_dump_json()),
            **self.provenance.to_dict(),
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
        provenance = Provenance.model_validate(metadata["provenance"])
    except (ValidationError, RuntimeError) as error:
        message = f"checkpoint {path} does not fit this version of rediffinet: {error}"
        raise TrainingError(message) from None
    model.eval()
    digest = file_sha256(path)
    return Run(folder, config, model, provenance, metadata["step"], digest)


MAY_DIFFER = frozenset({"seed", "fold", "autocast", "checkpoint_every", "validate_every"})
"""Fields of the configuration in which the members of an ensemble may differ, besides what is about the machine: what
they were taught is the same."""


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
    sources = [run.provenance for run in runs]
    patients = sorted({patient for run in runs for patient in run.seen_patients})
    ranges = [source.intensities for source in sources if source.intensities is not None]
    changes = {
        "trained_on": tuple(sorted({name for source in sources for name in source.trained_on})),
        "held_out": (),
        "fold": None,
        "members": tuple(_member(run) for run in runs),
        "averaged": (),
        "begun_with": Begun(patients=tuple(patients)) if any(source.begun_with for source in sources) else None,
        "intensities": widest_ranges(ranges) if len(ranges) == len(runs) else None,
    }
    provenance = first.provenance.model_copy(update=changes)
    digest = hashlib.sha256("".join(run.sha256 for run in runs).encode()).hexdigest()
    model = as_one([run.model for run in runs]).eval()
    config = first.config.model_copy(update={"fold": None})
    return Run(first.path, config, model, provenance, first.step, digest, len(runs))


def _member(run: Run) -> Member:
    source = run.provenance
    return Member(
        checkpoint_sha256=run.sha256,
        seed=run.config.seed,
        fold=run.config.fold,
        held_out=source.held_out,
        averaged=source.averaged,
        begun_with=source.begun_with.sha256 if source.begun_with else None,
    )
