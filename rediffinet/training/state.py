"""What training carries from step to step, fresh or from a checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from rediffinet.errors import TrainingError
from rediffinet.training.checkpoint import part, read_checkpoint, restore_optimizer
from rediffinet.training.config import read_config
from rediffinet.training.distributed import Place, lone_place
from rediffinet.training.objective import Objective
from rediffinet.training.optimizer import make_optimizer
from rediffinet.training.run import Provenance

MEASURED = frozenset({"intensities"})
"""Provenance that is computed from the cases: older checkpoints lack it, other machines round it otherwise."""


@dataclass
class State:
    """What a checkpoint holds besides the configuration; `network` is the model as it is called in training.

    losses: those since the last row of the log. best: step and mean Dice of the best validation.
    """

    model: nn.Module
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    network: nn.Module
    place: Place
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: dict[str, float] | None = None


def new_state(objective: Objective, place: Place | None = None) -> State:
    """A model and optimizer, initialised from the seed or the objective's weights; by default for a process alone."""
    config = objective.config
    place = place or lone_place(config.device)
    torch.manual_seed(config.seed)
    model = objective.build()
    if objective.weights is not None:
        model.load_state_dict(objective.weights)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    model = model.to(place.device)
    optimizer = make_optimizer(config, model)
    network = cast(nn.Module, torch.compile(model, dynamic=False)) if config.compile else model
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return State(model, average, optimizer, network, place)


def restore_state(objective: Objective, path: Path, provenance: Provenance, place: Place | None = None) -> State:
    """The state of a checkpoint. Raises TrainingError when it belongs to another configuration or other data.

    What is about the machine alone may differ (MACHINE_FIELDS), the number of processes too. A field that did not
    exist when the checkpoint was written had its default.
    """
    state = new_state(objective, place)
    tensors, metadata = read_checkpoint(path)
    try:
        found = read_config(metadata["config"])
    except ValidationError as error:
        message = f"`resume=True`: {path} does not fit this version of rediffinet: {error}"
        raise TrainingError(message) from None
    differing = objective.config.differences(found)
    if differing:
        changes = "; ".join(
            f"{key}: checkpoint has {getattr(found, key)}, asked for {getattr(objective.config, key)}"
            for key in differing
        )
        message = f"`resume=True`: {path} has another configuration ({changes}). Use the same settings or a new `out`."
        raise TrainingError(message)
    changed = _changed_provenance(metadata["provenance"], provenance.to_dict())
    if changed:
        message = f"`resume=True`: {path} was trained on other data ({changed}). Give the same data or a new `out`."
        raise TrainingError(message)
    state.model.load_state_dict(part(tensors, "model"))
    state.ema = {name: value.to(state.place.device) for name, value in part(tensors, "ema").items()}
    restore_optimizer(tensors, state.model, state.optimizer)
    state.step = metadata["step"]
    state.losses = metadata.get("losses", [])
    state.best = metadata.get("best")
    return state


def _changed_provenance(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs, in words; empty when nothing does."""
    changes = []
    for key in sorted((found.keys() | wanted.keys()) - MEASURED):
        before, now = found.get(key), wanted.get(key)
        if before != now and isinstance(before, list) and isinstance(now, list):
            gone, new = [x for x in before if x not in now], [x for x in now if x not in before]
            changes.append(f"{key}: without {gone}, with {new} in addition")
        elif before != now:
            changes.append(f"{key}: checkpoint has {before}, got {now}")
    return "; ".join(changes)
