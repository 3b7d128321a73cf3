"""Checkpoints: one safetensors file per state, its metadata in the same file, written whole or not at all."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rediffinet.errors import OutputError, TrainingError
from rediffinet.files import new_file

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"


def save_checkpoint(
    path: Path, model: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer, metadata: dict[str, Any]
) -> None:
    """Write weights, their moving average, the AdamW moments and `metadata` (JSON) to `path` atomically.

    Raises OutputError when it cannot be written; a checkpoint that was there before stays as it was.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.items()}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"adam.{key}.{name}": value for key, value in state.items()}
    _write(path, tensors, metadata)


def save_best(path: Path, ema: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write the averaged weights alone with `metadata`, as `save_checkpoint` does."""
    _write(path, {f"ema.{name}": value for name, value in ema.items()}, metadata)


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        with new_file(path) as temporary:
            save_file(flat, temporary, {"rediffinet": json.dumps(metadata)})
    except (OutputError, SafetensorError) as error:
        message = (
            f"checkpoint {path} cannot be written: {error}. Make room or choose another `out`, then `resume=True`."
        )
        raise OutputError(message) from None


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, metadata) of a checkpoint. Raises TrainingError when it is missing or not one of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("rediffinet", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError) as error:
        message = f"checkpoint {path}: {error}. Expected the run folder that `rediff train` made."
        raise TrainingError(message) from None
    if not isinstance(metadata, dict) or not {"config", "step", "provenance"} <= metadata.keys():
        message = f"checkpoint {path} is not one of rediffinet. Expected the run folder that `rediff train` made."
        raise TrainingError(message)
    return tensors, metadata


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def restore_optimizer(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the AdamW moments of a checkpoint back, beside their parameters; the counts of steps stay on the CPU."""
    for key in ("step", "exp_avg", "exp_avg_sq"):
        moments = part(tensors, f"adam.{key}")
        for name, parameter in model.named_parameters():
            if name in moments:
                home = "cpu" if key == "step" else parameter.device
                optimizer.state[parameter][key] = moments[name].to(home, copy=True)
