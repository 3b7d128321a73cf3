"""Validation during training: Dice and HD95 on held-out cases, in sliding windows, by the code that runs bundles."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from rediffinet.errors import TrainingError
from rediffinet.method.decode import decode
from rediffinet.method.inference import Loaded, infer, plan_sampling
from rediffinet.method.models import find_model
from rediffinet.metrics import dice, find_protocol, hd95
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import TrainingCase
from rediffinet.training.distributed import Place, gather
from rediffinet.training.loop import Validate
from rediffinet.training.memory import load_graphs
from rediffinet.training.out_of_fold import Probability
from rediffinet.training.recipe import graphs_of, make_recipe
from rediffinet.training.records import RegionScore
from rediffinet.training.run import Run

PROTOCOL = find_protocol("legacy")


@dataclass(frozen=True)
class HeldOut:
    """Cases that were not trained on; priors[i] of cases[i] from `baseline`, for a model that refines."""

    cases: Sequence[TrainingCase]
    priors: Sequence[Probability] | None = None
    baseline: Run | None = None


def check_validation(config: TrainConfig, held_out: Sequence[TrainingCase], baselines: Sequence[Run]) -> None:
    """Raise TrainingError unless there is something to validate on; does nothing when no validation is asked for."""
    if not config.validate_every:
        return
    if not held_out:
        message = (
            f"validate_every: got {config.validate_every}, and no case is held out. Hold a fold out with `fold`, or "
            "leave validate_every at 0."
        )
        raise TrainingError(message)
    if not find_model(config.model).refines:
        return
    seen = [case.name for case in held_out if all(case.patient in run.seen_patients for run in baselines)]
    if seen:
        message = (
            f"validate_every: got {config.validate_every}, and {len(seen)} held-out cases were seen by every baseline "
            f"given: {', '.join(seen)}.\nGive the baseline of this fold too (`baseline`, trained with "
            f"`fold={config.fold}`), or leave validate_every at 0."
        )
        raise TrainingError(message)


def make_validation(config: TrainConfig, held: HeldOut, place: Place) -> Validate:
    """Scores of a network on the held-out cases; the processes share the cases, and all get the means."""
    return partial(_validate, config, held, place)


def _validate(config: TrainConfig, held: HeldOut, place: Place, model: nn.Module) -> list[RegionScore]:
    mine = range(place.rank, len(held.cases), place.processes)
    shares = gather(place, score_cases(config, held, mine, model, place.device))
    # in the order of the cases, however many processes there are: the same sum
    by_case = dict(pair for scores in shares for pair in scores.items())
    table = np.array([by_case[index] for index in range(len(held.cases))])
    return [
        RegionScore(region, float(table[:, k, 0].mean()), float(table[:, k, 1].mean()))
        for k, region in enumerate(config.task.region_names)
    ]


def score_cases(
    config: TrainConfig, held: HeldOut, chosen: Sequence[int], model: nn.Module, device: torch.device
) -> dict[int, list[tuple[float, float]]]:
    """(Dice, HD95 in mm) of the regions by case, on the model's own grid.

    HD95 is that of surface elements (BraTS 2023); a region in one of the two maps only has Dice 0 and 374 mm, one in
    neither 1 and 0.
    """
    loaded = _load(config, model, held.baseline, device)
    plan = plan_sampling(loaded.recipe)
    found = {}
    with loaded.engine:
        for index in chosen:
            case = held.cases[index]
            prior = None if held.priors is None else held.priors[index].astype(np.float32)
            inferred = infer(loaded, case.image.astype(np.float32), plan, case.name, probability=prior)
            shape = (case.image.shape[1], case.image.shape[2], case.image.shape[3])
            predicted = decode(
                loaded.recipe, inferred, spacing_mm=config.spacing_mm, shape=shape, postprocess=True
            ).regions
            found[index] = [_score(mask, truth, config) for mask, truth in zip(predicted, case.regions, strict=True)]
    return found


def _score(mask: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], config: TrainConfig) -> tuple[float, float]:
    distance = hd95(mask, truth, config.spacing_mm, PROTOCOL.definition)
    return dice(mask, truth), distance if np.isfinite(distance) else PROTOCOL.penalty_mm


def _load(config: TrainConfig, model: nn.Module, baseline: Run | None, device: torch.device) -> Loaded:
    """The network being trained, ready for rediffinet.method.inference; of a baseline only what it said is used."""
    recipe = make_recipe(config, None if baseline is None else baseline.config)
    return load_graphs(graphs_of(config, model), recipe, device)
