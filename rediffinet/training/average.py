"""One run from several: the mean of their weights, where one began with those of another."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from rediffinet.errors import OutputError, TrainingError
from rediffinet.training.checkpoint import CHECKPOINT, save_best
from rediffinet.training.loop import check_folder
from rediffinet.training.run import Averaged, Run, open_run


def average_runs(folders: Sequence[Path], out: Path) -> Path:
    """Make the run `out` whose weights are the mean of those of `folders`; returns its checkpoint.

    The runs must lie on one path of training, each begun with another (`begin_with`): between networks that were
    trained apart the loss is high, between such it mostly is not, and their mean answers as their ensemble would at
    the price of one (Izmailov et al., "Averaging weights leads to wider optima", UAI 2018). Configuration, step and
    provenance are those of the last, which names all. Raises TrainingError for fewer than two, or for one that did not
    begin with the one before; OutputError when `out` cannot be made or is a run already.
    """
    path = out / CHECKPOINT
    if path.exists():
        message = f"`out={out}` holds a run already. Use another folder."
        raise OutputError(message)
    check_folder(out, resume=True)
    runs = [open_run(folder) for folder in folders]
    _check(runs)
    last = runs[-1]
    weights = [run.model.state_dict() for run in runs]
    mean = {
        name: torch.stack([other[name] for other in weights]).mean(dim=0) if value.is_floating_point() else value
        for name, value in weights[-1].items()
    }
    averaged = tuple(Averaged(checkpoint_sha256=run.sha256, steps=run.step) for run in runs)
    provenance = last.provenance.model_copy(update={"averaged": averaged})
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads(last.config.model_dump_json())
    save_best(path, mean, {"config": config, "step": last.step, "provenance": provenance.to_dict()})
    return path


def _check(runs: Sequence[Run]) -> None:
    """Raise TrainingError unless the runs are at least two on one path; what began with another is like it."""
    if len(runs) < 2:
        message = f"average: got {len(runs)} run, expected two or more, the last of which began with the one before"
        raise TrainingError(message)
    for before, run in pairwise(runs):
        begun = run.provenance.begun_with
        if begun is None or begun.sha256 != before.sha256:
            message = (
                f"{run.path} did not begin with {before.path}, so that the mean of their weights is no network that "
                "answers. Give runs in the order of training, each begun with the one before (`begin_with`)."
            )
            raise TrainingError(message)
