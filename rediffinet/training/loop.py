"""The training loop: one process, resumable at any checkpoint with the same result as an uninterrupted run."""

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rediffinet.errors import OutputError, TrainingError
from rediffinet.nifti import write_atomically
from rediffinet.training.checkpoint import CHECKPOINT, part, read_checkpoint, restore_optimizer, save_checkpoint
from rediffinet.training.config import TrainConfig
from rediffinet.training.tasks import Task

LOG = "log.csv"
LOG_EVERY = 10
Progress = Callable[[int, int, float], None]
"""(step, steps, loss): called after every step."""


@dataclass
class State:
    """What a checkpoint holds besides the configuration; `network` is the model as it is called (compiled perhaps)."""

    model: nn.Module
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    network: nn.Module
    step: int = 0


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def new_state(task: Task) -> State:
    """A fresh model and optimizer, initialised from the seed."""
    torch.manual_seed(task.config.seed)
    model = task.build()
    if task.config.channels_last:
        model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=task.config.learning_rate, weight_decay=task.config.weight_decay
    )
    network = torch.compile(model, dynamic=False) if task.config.compile else model
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return State(model, average, optimizer, cast(nn.Module, network))


def restore_state(task: Task, path: Path, provenance: dict[str, Any]) -> State:
    """The state of a checkpoint. Raises TrainingError when it belongs to another configuration or other data."""
    state = new_state(task)
    tensors, metadata = read_checkpoint(path)
    wanted = json.loads(task.config.model_dump_json())
    found = metadata["config"]
    differing = sorted(key for key in wanted if wanted[key] != found.get(key))
    if differing:
        changes = "; ".join(f"{key}: checkpoint has {found.get(key)}, asked for {wanted[key]}" for key in differing)
        message = f"--resume: {path} has another configuration ({changes}). Use the same settings or a new --out."
        raise TrainingError(message)
    changed = _changed_provenance(metadata["provenance"], json.loads(json.dumps(provenance)))
    if changed:
        message = f"--resume: {path} was trained on other data ({changed}). Give the same data or a new --out."
        raise TrainingError(message)
    state.model.load_state_dict(part(tensors, "model"))
    state.ema = part(tensors, "ema")
    restore_optimizer(tensors, state.model, state.optimizer)
    state.step = metadata["step"]
    return state


def _changed_provenance(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What differs, in words; empty when nothing does."""
    changes = []
    for key in sorted(found.keys() | wanted.keys()):
        before, now = found.get(key), wanted.get(key)
        if before != now and isinstance(before, list) and isinstance(now, list):
            gone, new = [x for x in before if x not in now], [x for x in now if x not in before]
            changes.append(f"{key}: without {gone}, with {new} in addition")
        elif before != now:
            changes.append(f"{key}: checkpoint has {before}, got {now}")
    return "; ".join(changes)


def advance(task: Task, state: State, batch: tuple[Tensor, ...]) -> float:
    """One optimizer step; returns the loss."""
    config = task.config
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(config, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    if config.channels_last:
        batch = tuple(
            part.contiguous(memory_format=torch.channels_last_3d) if part.ndim == 5 else part for part in batch
        )
    loss = task.loss(state.network, batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        message = f"the loss became {value} at step {state.step}: lower learning_rate, or set autocast=false"
        raise TrainingError(message)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm))
    if not math.isfinite(norm):  # the step would ruin the weights, and the next checkpoint with them
        message = f"the gradient became {norm} at step {state.step}: lower learning_rate, or set autocast=false"
        raise TrainingError(message)
    state.optimizer.step()
    # a short run must not average in its random start
    decay = min(config.ema, (1.0 + state.step) / (10.0 + state.step))
    with torch.no_grad():
        for name, value_now in state.model.state_dict().items():
            state.ema[name].lerp_(value_now, 1.0 - decay)
    state.step += 1
    return value


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise OutputError when `out` holds a run and `resume` is false, or cannot be written. Makes nothing."""
    if (out / CHECKPOINT).exists() and not resume:
        message = f"{out} holds a run already. Use --resume to go on with it, or another --out."
        raise OutputError(message)
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        message = f"run folder {out} cannot be made: {there} is not a folder that can be written. Use another --out."
        raise OutputError(message)


def run_training(
    task: Task, out: Path, provenance: dict[str, Any], *, resume: bool = False, progress: Progress | None = None
) -> Path:
    """Train to the end and return the path of the checkpoint.

    provenance: JSON-ready facts about the data (cases trained on and held out, hashes of baselines), kept in the
    checkpoint. Raises OutputError when `out` holds a run already and `resume` is false, TrainingError when the run
    to resume has another configuration or other data, or when the loss is no longer a number.
    """
    check_folder(out, resume=resume)
    out.mkdir(parents=True, exist_ok=True)
    path = out / CHECKPOINT
    state = restore_state(task, path, provenance) if path.exists() else new_state(task)
    config = task.config
    write_atomically(out / "config.json", f"{json.dumps(json.loads(config.model_dump_json()), indent=2)}\n".encode())
    rows = _read_log(out / LOG, state.step)
    losses: list[float] = []
    state.model.train()
    started = time.monotonic() - (float(rows[-1][3]) if rows else 0.0)
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(task.batch, state.step)
        while state.step < config.steps:
            batch, following = following.result(), ahead.submit(task.batch, state.step + 1)
            losses.append(advance(task, state, batch))
            if progress is not None:
                progress(state.step, config.steps, losses[-1])
            if state.step % LOG_EVERY == 0 or state.step == config.steps:
                mean = sum(losses) / len(losses)
                rows.append([state.step, mean, learning_rate(config, state.step - 1), time.monotonic() - started])
                losses.clear()
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                metadata = {
                    "config": json.loads(config.model_dump_json()),
                    "step": state.step,
                    "provenance": provenance,
                }
                _write_log(out / LOG, rows)  # first: on resume, rows past the checkpoint are dropped, never missing
                save_checkpoint(path, state.model, state.ema, state.optimizer, metadata)
    return path


def _read_log(path: Path, step: int) -> list[list[Any]]:
    """Log rows up to the checkpoint's step; later ones will be made again."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if int(row[0]) <= step]


def _write_log(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["step", "loss", "learning_rate", "seconds"])
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
