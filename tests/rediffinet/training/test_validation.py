"""Validation during training against runs opened and scored by themselves."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

from dataclasses import replace

import torch

from rediffinet.errors import TrainingError
from rediffinet.method.decode import decode
from rediffinet.method.inference import infer, plan_sampling
from rediffinet.metrics import evaluate_case
from rediffinet.training.checkpoint import BEST, CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.data import TrainingCase, load_training_cases
from rediffinet.training.distributed import Place
from rediffinet.training.memory import open_in_memory
from rediffinet.training.objectives import make_objective
from rediffinet.training.out_of_fold import out_of_fold
from rediffinet.training.run import Run, open_run
from rediffinet.training.train import train
from rediffinet.training.validation import HeldOut, check_validation, make_validation

SPACING = (2.0, 2.0, 2.5)
SHORT = {"steps": 3, "warmup": 1, "folds": 2, "fold": 0, "spacing_mm": SPACING, "autocast": False}
UNET = {
    **SHORT,
    "unet": {"features": (4, 8), "window": (32, 32, 16), "stem_stride": 1},
    "overlap": 0.5,
    "mirror": True,
    "learning_rate": 2e-2,
}
REFINER = {
    **SHORT,
    "refiner": {"features": (4, 8), "head_features": 4, "time_features": 8, "window": (32, 32, 16)},
    "validate_every": 2,
}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def baselines(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One run per fold of two; the first validates."""
    folder = tmp_path_factory.mktemp("baselines")
    for fold in (0, 1):
        config = resolve_config("unet", changes={**UNET, "fold": fold, "validate_every": 2 * (1 - fold)})
        train(config, [phantoms], folder / str(fold))
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def held_out(phantoms: Path, baselines: list[Path]) -> list[TrainingCase]:
    """The cases of fold 0."""
    run = open_run(baselines[0])
    cases = load_training_cases([phantoms], run.config.preprocessing)
    return [case for case in cases if case.name in run.provenance.held_out]


def as_labels(regions: np.ndarray) -> np.ndarray:
    """Label map of BraTS 2023 of nested regions."""
    return np.select([regions[2], regions[1], regions[0]], [3, 1, 2], 0).astype(np.uint8)


def scored(run: Run, baseline: Run | None, cases: list[TrainingCase], priors: list[Any] | None) -> dict[str, Any]:
    """(Dice, HD95) by region, means over the cases, by the public route: a run in memory, and label maps compared."""
    loaded = open_in_memory(run, baseline)
    found: dict[str, list[tuple[float, float]]] = {"WT": [], "TC": [], "ET": []}
    for index, case in enumerate(cases):
        prior = None if priors is None else priors[index].astype(np.float32)
        plan = plan_sampling(loaded.recipe)
        inferred = infer(loaded, case.image.astype(np.float32), plan, case.name, probability=prior)
        labels = decode(
            loaded.recipe, inferred, spacing_mm=SPACING, shape=case.regions.shape[1:], postprocess=True
        ).labels
        for region, score in evaluate_case(labels, as_labels(case.regions), SPACING, "legacy").items():
            found[region].append((score.dice, score.hd95))
    return {region: np.mean(values, axis=0) for region, values in found.items()}


def check_rows(rows: list[dict[str, str]], step: int, expected: dict[str, Any]) -> None:
    mine = [row for row in rows if row["step"] == str(step)]
    assert [row["region"] for row in mine] == ["WT", "TC", "ET"]
    for row in mine:
        assert [float(row["dice"]), float(row["hd95_mm"])] == pytest.approx(expected[row["region"]], rel=1e-6)


def test_a_baseline_is_scored_as_the_run_it_becomes(baselines: list[Path], held_out: list[TrainingCase]) -> None:
    rows = rows_of(baselines[0])
    assert list(rows[0]) == ["step", "region", "dice", "hd95_mm"]
    assert [row["step"] for row in rows] == ["2"] * 3 + ["3"] * 3  # and at the end
    check_rows(rows, 3, scored(open_run(baselines[0]), None, held_out, None))
    best = open_run(baselines[0], "best")
    check_rows(rows, best.step, scored(best, None, held_out, None))
    means = {step: np.mean([float(row["dice"]) for row in rows if row["step"] == str(step)]) for step in (2, 3)}
    assert best.step == max(means, key=lambda step: (means[step], -step))
    assert not (baselines[1] / BEST).exists() and not (baselines[1] / "validation.csv").exists()


@pytest.mark.parametrize("model", ["rediffinet", "discrepancy-unet", "diff-unet"])
def test_another_model_is_scored_on_the_baseline_of_its_fold(
    phantoms: Path, baselines: list[Path], held_out: list[TrainingCase], tmp_path: Path, model: str
) -> None:
    own = {"unet": UNET["unet"]} if model == "discrepancy-unet" else {"refiner": REFINER["refiner"]}
    changes = {**SHORT, "validate_every": REFINER["validate_every"], **own}
    refines = model != "diff-unet"
    train(resolve_config(model, changes=changes), [phantoms], tmp_path, baselines=baselines if refines else [])
    baseline = open_run(baselines[0]) if refines else None
    priors = out_of_fold(held_out, [baseline], tmp_path / "priors") if baseline else None
    rows = rows_of(tmp_path)
    check_rows(rows, 3, scored(open_run(tmp_path), baseline, held_out, priors))
    if (best := open_run(tmp_path, "best")).step != 3:
        check_rows(rows, best.step, scored(best, baseline, held_out, priors))


def test_the_best_of_a_run_is_its_averaged_weights_then(baselines: list[Path]) -> None:
    run = open_run(baselines[0], "best")
    tensors, metadata = read_checkpoint(baselines[0] / BEST)
    assert run.step == metadata["step"] == metadata["best"]["step"] and not run.model.training
    assert all(torch.equal(run.model.state_dict()[name], value) for name, value in part(tensors, "ema").items())
    assert read_checkpoint(baselines[0] / CHECKPOINT)[1]["best"] == metadata["best"]
    with pytest.raises(TrainingError, match=r"1 holds no best\.safetensors.*validate_every"):
        open_run(baselines[1], "best")


def test_nothing_to_validate_on_is_told_before_training(phantoms: Path, baselines: list[Path], tmp_path: Path) -> None:
    config = resolve_config("unet", changes={**UNET, "fold": None, "validate_every": 1})
    with pytest.raises(TrainingError, match="no case is held out.*`fold`"):
        train(config, [phantoms], tmp_path / "run")
    with pytest.raises(TrainingError, match="2 held-out cases were seen by every baseline given.*(?s:.*)`fold=0`"):
        train(resolve_config("rediffinet", changes=REFINER), [phantoms], tmp_path / "run", baselines=baselines[1:])
    assert not (tmp_path / "run").exists()
    check_validation(config.model_copy(update={"validate_every": 0}), [], [])


def test_regions_that_are_missing_or_absent(cases: list[TrainingCase]) -> None:
    """A network that finds nothing: Dice 0 and 374 mm, but 1 and 0 where there is nothing to find."""
    config: TrainConfig = resolve_config("unet", changes={"unet": UNET["unet"]})
    model = make_objective(config, []).build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.heads[0].conv.conv.bias.fill_(-9.0)  # type: ignore[union-attr, operator, index]
    without = cases[1].regions.copy()
    without[2] = False
    held = HeldOut([cases[0], replace(cases[1], regions=without)])
    scores = make_validation(config, held, Place(torch.device("cpu")))(model)
    assert [tuple(score) for score in scores] == [("WT", 0.0, 374.0), ("TC", 0.0, 374.0), ("ET", 0.5, 187.0)]
