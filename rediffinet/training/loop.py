"""The training loop: alone or with others, resumable at any checkpoint with the result of an uninterrupted run."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rediffinet.errors import OutputError, TrainingError
from rediffinet.files import write_atomically
from rediffinet.method.noise import philox
from rediffinet.training.checkpoint import BEST, CHECKPOINT, save_best, save_checkpoint
from rediffinet.training.config import TrainConfig
from rediffinet.training.distributed import (
    Place,
    average_buffers,
    check_agreement,
    gradients_kept,
    lone_place,
    mean,
    share,
    stop,
    together,
    wrap,
)
from rediffinet.training.loader import Batch, load_ahead, micro_batches
from rediffinet.training.objective import Objective
from rediffinet.training.records import (
    LOG,
    LOG_COLUMNS,
    VALIDATION,
    VALIDATION_COLUMNS,
    Record,
    RegionScore,
    read_rows,
    write_rows,
)
from rediffinet.training.run import Provenance
from rediffinet.training.state import MEASURED, State, new_state, restore_state

LOG_EVERY = 10
Progress = Callable[[int, int, float], None]
"""(step, steps, loss): called after every step."""
Validate = Callable[[nn.Module], Sequence[RegionScore]]
"""Scores of a network in evaluation mode on the held-out cases; every process calls it and gets the same."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def advance(objective: Objective, state: State, batches: Sequence[Batch]) -> float:
    """One optimizer step on this process's micro-batches; returns the loss of the whole batch, over all processes.

    Raises TrainingError, on all processes, when the loss or its gradient is no longer a number.
    """
    config, place = objective.config, state.place
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    # for networks that drop features at random: a resumed run must drop the same
    torch.manual_seed(int(philox("torch", config.seed, state.step, place.rank).integers(2**63)))
    value = 0.0
    for index, batch in enumerate(batches):
        with nullcontext() if index == len(batches) - 1 else gradients_kept(state.network):
            loss = objective.loss(state.network, _placed(batch, config, place)) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]
        value += float(loss.detach())
    value = mean(place, value)
    if not math.isfinite(value):
        message = f"the loss became {value} at step {state.step}: lower learning_rate, or set autocast=false"
        stop(place, TrainingError(message))
    norm = float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm))
    if not math.isfinite(norm):  # the step would ruin the weights, and the next checkpoint with them
        message = f"the gradient became {norm} at step {state.step}: lower learning_rate, or set autocast=false"
        stop(place, TrainingError(message))
    state.optimizer.step()
    average_buffers(place, state.model)
    # a short run must not average in its random start
    decay = min(config.ema, (1.0 + state.step) / (10.0 + state.step))
    with torch.no_grad():
        for name, value_now in state.model.state_dict().items():
            if value_now.is_floating_point():
                state.ema[name].lerp_(value_now, 1.0 - decay)
            else:  # a counter
                state.ema[name].copy_(value_now)
    state.step += 1
    return value


def _placed(batch: Batch, config: TrainConfig, place: Place) -> Batch:
    """A batch on the device, in the order of the network's weights."""
    placed = tuple(part.to(place.device, non_blocking=True) for part in batch)
    if not config.channels_last:
        return placed
    return tuple(part.contiguous(memory_format=torch.channels_last_3d) if part.ndim == 5 else part for part in placed)


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise OutputError when `out` holds a run and `resume` is false, or cannot be written. Makes nothing."""
    if (out / CHECKPOINT).exists() and not resume:
        message = f"{out} holds a run already. Use `resume=True` to go on with it, or another `out`."
        raise OutputError(message)
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        message = f"run folder {out} cannot be made: {there} is not a folder that can be written. Use another `out`."
        raise OutputError(message)


def run_training(
    objective: Objective,
    out: Path,
    provenance: Provenance,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    place: Place | None = None,
    validate: Validate | None = None,
) -> Path:
    """Train to the end and return the path of the checkpoint.

    provenance: kept in the checkpoint. place: by default that of a process alone; of several the main one writes, and
    `out` is a folder that all see. validate: scores every `validate_every` steps and at the end; the best network is
    kept.

    Raises OutputError when `out` holds a run already and `resume` is false, TrainingError when the run to resume has
    another configuration or other data, or when the loss is no longer a number, ConfigError when the processes cannot
    share a batch.
    """
    place = place or lone_place(objective.config.device)
    config, path = objective.config, out / CHECKPOINT
    shares = share(config.batch, config.accumulate, place)
    with together(place):
        check_folder(out, resume=resume)
        out.mkdir(parents=True, exist_ok=True)
        state = restore_state(objective, path, provenance, place) if path.exists() else new_state(objective, place)
        files = _Files(out, config, provenance, *_read_tables(out, state.step))
    settings = json.loads(config.model_dump_json(exclude={"device"}))
    named = {key: value for key, value in provenance.to_dict().items() if key not in MEASURED}
    check_agreement(place, {"configuration": settings, "data set": named, "checkpoint step": state.step})
    if place.main:
        text = json.dumps(json.loads(config.model_dump_json()), indent=2)
        write_atomically(out / "config.json", f"{text}\n".encode())
        _keep_best(files, state)  # a kill between a checkpoint and its best.safetensors
    # MONAI's networks may hold heads that are not used
    state.network = wrap(state.network, place, all_used=config.unet.network == "unet")
    state.model.train()
    started = time.monotonic() - (float(files.log[-1][3]) if files.log else 0.0)
    waiting = float(files.log[-1][4]) if files.log else 0.0
    load = partial(micro_batches, objective, shares, device=place.device)
    with closing(load_ahead(load, range(state.step, config.steps), config.loader_threads)) as batches:
        while state.step < config.steps:
            asked = time.monotonic()
            batch = next(batches)
            waiting += time.monotonic() - asked
            state.losses.append(advance(objective, state, batch))
            if progress is not None:
                progress(state.step, config.steps, state.losses[-1])
            last = state.step == config.steps
            if state.step % LOG_EVERY == 0 or last:
                rate = learning_rate(config, state.step - 1)
                loss = sum(state.losses) / len(state.losses)
                files.log.append([state.step, loss, rate, time.monotonic() - started, waiting])
                state.losses.clear()
            due = last or (config.validate_every > 0 and state.step % config.validate_every == 0)
            if validate is not None and due:
                _validate(state, validate, files.validation)
            if (due or state.step % config.checkpoint_every == 0) and place.main:
                _write(files, state)
    return path


@dataclass(frozen=True)
class _Files:
    """The run folder: what its files say besides the state. log, validation: rows of the tables."""

    out: Path
    config: TrainConfig
    provenance: Provenance
    log: list[Record]
    validation: list[Record]


def _read_tables(out: Path, step: int) -> tuple[list[Record], list[Record]]:
    return read_rows(out / LOG, LOG_COLUMNS, step), read_rows(out / VALIDATION, VALIDATION_COLUMNS, step)


def _validate(state: State, validate: Validate, rows: list[Record]) -> None:
    """Score the averaged weights; note the rows, and whether they are the best yet."""
    model = copy.deepcopy(state.model)
    model.load_state_dict(state.ema)
    scores = validate(model.eval())
    rows += [[state.step, *score] for score in scores]
    dice = sum(score.dice for score in scores) / len(scores)
    if state.best is None or dice > state.best["dice"]:
        state.best = {"step": state.step, "dice": dice}


def _write(files: _Files, state: State) -> None:
    """Write the tables, the checkpoint, the best network, in that order.

    Rows past a checkpoint are dropped when it is resumed, and a best network that is missing is written then: a kill
    between two files loses nothing.
    """
    write_rows(files.out / LOG, LOG_COLUMNS, files.log)
    if files.validation:
        write_rows(files.out / VALIDATION, VALIDATION_COLUMNS, files.validation)
    save_checkpoint(files.out / CHECKPOINT, state.model, state.ema, state.optimizer, _metadata(files, state))
    _keep_best(files, state)


def _keep_best(files: _Files, state: State) -> None:
    if state.best is not None and state.best["step"] == state.step:
        save_best(files.out / BEST, state.ema, _metadata(files, state))


def _metadata(files: _Files, state: State) -> dict[str, Any]:
    return {
        "config": json.loads(files.config.model_dump_json()),
        "step": state.step,
        "provenance": files.provenance.to_dict(),
        "machine": {"device": str(state.place.device), "name": str(state.place), "torch": torch.__version__},
        "losses": state.losses,
        "best": state.best,
    }
