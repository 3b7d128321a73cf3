"""The training loop: learning rate, moving average, resuming, and what stops it."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch
from torch import Tensor, nn

from rediffinet.errors import OutputError, TrainingError
from rediffinet.training import loop
from rediffinet.training.checkpoint import CHECKPOINT, read_checkpoint
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.loop import advance, learning_rate, new_state, run_training
from rediffinet.training.tasks import BaselineTask, DiffusionTask, Task

PROVENANCE = {"trained_on": ["one", "two"], "held_out": [], "folds": 5, "fold": None}
SMALL = {
    "unet": {"unet": {"features": (4, 8), "window": (16, 16, 16), "stem_stride": 1}},
    "rediffinet": {
        "refiner": {"features": (4, 8), "head_features": 4, "time_features": 8, "window": (16, 16, 16)},
        "batch": 2,
    },
}


class Killed(BaseException):
    """As a signal would."""


@pytest.fixture(params=["unet", "rediffinet"])
def make_task(request: pytest.FixtureRequest, cases: list, predictions: list) -> Callable[..., Task]:
    def make(**changes: object) -> Task:
        values = {**SMALL[request.param], "steps": 6, "warmup": 2, "checkpoint_every": 2, **changes}
        config = resolve_config(request.param, changes=values)
        return BaselineTask(config, cases) if request.param == "unet" else DiffusionTask(config, cases, predictions)

    return make


@pytest.fixture
def task(cases: list) -> BaselineTask:
    return BaselineTask(resolve_config("unet", changes={**SMALL["unet"], "steps": 4, "warmup": 0}), cases)


def log_rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def kill_at(step: int) -> Callable[[int, int, float], None]:
    def progress(done: int, of: int, loss: float) -> None:
        if done == step:
            raise Killed

    return progress


def schedule(**changes: object) -> TrainConfig:
    return resolve_config("unet", changes={"learning_rate": 0.8, **changes})


def test_learning_rate_warms_up_linearly_then_falls_as_a_cosine() -> None:
    config = schedule(steps=12, warmup=4)
    assert [learning_rate(config, step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert learning_rate(config, 4) == pytest.approx(0.8)
    assert learning_rate(config, 6) == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert learning_rate(config, 8) == pytest.approx(0.4)
    assert learning_rate(config, 12) == pytest.approx(0.0)


def test_learning_rate_without_warmup_and_with_nothing_else() -> None:
    assert learning_rate(schedule(steps=10, warmup=0), 0) == pytest.approx(0.8)
    assert learning_rate(schedule(steps=10, warmup=20), 9) == pytest.approx(0.4)


def test_the_optimizer_gets_the_scheduled_rate(task: BaselineTask) -> None:
    state = new_state(task)
    for step in range(3):
        advance(task, state, task.batch(step))
        assert [group["lr"] for group in state.optimizer.param_groups] == [learning_rate(task.config, step)]
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [task.config.weight_decay]


@pytest.mark.parametrize("decay", [0.995, 0.15])
def test_moving_average_follows_its_formula(cases: list, decay: float) -> None:
    config = resolve_config("unet", changes={**SMALL["unet"], "ema": decay, "warmup": 0})
    task = BaselineTask(config, cases)
    state = new_state(task)
    name = next(iter(state.ema))
    average = state.ema[name].double()
    assert torch.equal(average, state.model.state_dict()[name].double())
    for step in range(5):
        advance(task, state, task.batch(step))
        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * state.model.state_dict()[name].double()
        torch.testing.assert_close(state.ema[name].double(), average, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped(cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve_config("unet", changes={**SMALL["unet"], "clip_norm": 1e-3})
    task = BaselineTask(config, cases)
    state = new_state(task)
    advance(task, state, task.batch(0))
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in state.model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_the_same_seed_makes_the_same_model(task: BaselineTask) -> None:
    one = new_state(task).model.state_dict()
    torch.rand(7)
    other = new_state(task).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_loss_falls(cases: list) -> None:
    config = resolve_config(
        "unet",
        changes={**SMALL["unet"], "steps": 60, "warmup": 5, "learning_rate": 1e-2, "augmentation": {"affine": 0}},
    )
    task = BaselineTask(config, cases)
    state = new_state(task)
    losses = [advance(task, state, task.batch(step)) for step in range(30)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_killed_and_resumed_is_bit_for_bit_the_same(
    make_task: Callable[..., Task], tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    straight = run_training(make_task(), tmp_path / "straight", PROVENANCE)
    out = tmp_path / "resumed"
    with pytest.raises(Killed):
        run_training(make_task(), out, PROVENANCE, progress=kill_at(killed_at))
    assert read_checkpoint(out / CHECKPOINT)[1]["step"] == 2 * ((killed_at - 1) // 2)
    torch.rand(5)  # the global generator must not matter
    steps: list[int] = []
    resumed = run_training(
        make_task(), out, PROVENANCE, resume=True, progress=lambda done, of, loss: steps.append(done)
    )
    assert steps == list(range(2 * ((killed_at - 1) // 2) + 1, 7))
    one, metadata = read_checkpoint(straight)
    other, other_metadata = read_checkpoint(resumed)
    assert metadata == other_metadata and metadata["step"] == 6
    assert one.keys() == other.keys()
    assert {name.split(".")[0] for name in one} == {"model", "ema", "adam"}
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    rows, expected = log_rows(out), log_rows(tmp_path / "straight")
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for row, same in zip(rows, expected, strict=True):
        assert all(row[key] == same[key] for key in ("step", "loss", "learning_rate"))
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_kill_before_the_first_checkpoint_starts_anew(make_task: Callable[..., Task], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_training(make_task(), tmp_path / "run", PROVENANCE, progress=kill_at(1))
    path = run_training(make_task(), tmp_path / "run", PROVENANCE, resume=True)
    straight = run_training(make_task(), tmp_path / "straight", PROVENANCE)
    one, other = read_checkpoint(path)[0], read_checkpoint(straight)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_kill_while_the_checkpoint_is_written_leaves_the_one_before(
    make_task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    straight = run_training(make_task(), tmp_path / "straight", PROVENANCE)
    save, calls = loop.save_checkpoint, []

    def dies_the_second_time(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        save(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "save_checkpoint", dies_the_second_time)
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run_training(make_task(), out, PROVENANCE)
    assert read_checkpoint(out / CHECKPOINT)[1]["step"] == 2
    resumed = run_training(make_task(), out, PROVENANCE, resume=True)
    one, other = read_checkpoint(straight)[0], read_checkpoint(resumed)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["step"] for row in log_rows(out)] == ["2", "4", "6"]


def test_log_and_config_tell_the_run(make_task: Callable[..., Task], tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []
    task = make_task(steps=13, checkpoint_every=100)
    run_training(task, tmp_path, PROVENANCE, progress=lambda *args: told.append(args))
    assert [(done, of) for done, of, _ in told] == [(step, 13) for step in range(1, 14)]
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == ["10", "13"]
    assert float(rows[0]["loss"]) == pytest.approx(np.mean([loss for _, _, loss in told[:10]]))
    assert float(rows[1]["loss"]) == pytest.approx(np.mean([loss for _, _, loss in told[10:]]))
    assert float(rows[1]["learning_rate"]) == learning_rate(task.config, 12)
    assert TrainConfig.model_validate(json.loads((tmp_path / "config.json").read_text())) == task.config
    metadata = read_checkpoint(tmp_path / CHECKPOINT)[1]
    assert metadata["provenance"] == PROVENANCE
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "config.json", "log.csv"]


def test_resuming_a_finished_run_changes_nothing(task: BaselineTask, tmp_path: Path) -> None:
    path = run_training(task, tmp_path, PROVENANCE)
    before = path.read_bytes()
    assert run_training(task, tmp_path, PROVENANCE, resume=True) == path
    assert path.read_bytes() == before


def test_an_existing_run_needs_resume(task: BaselineTask, tmp_path: Path) -> None:
    path = run_training(task, tmp_path, PROVENANCE)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--resume"):
        run_training(task, tmp_path, PROVENANCE)
    assert path.read_bytes() == before


def test_a_run_folder_under_a_file_is_refused(task: BaselineTask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        run_training(task, tmp_path / "file" / "run", PROVENANCE)


def test_resume_with_another_configuration_names_the_keys(task: BaselineTask, cases: list, tmp_path: Path) -> None:
    run_training(task, tmp_path, PROVENANCE)
    changes = {**SMALL["unet"], "steps": 4, "warmup": 0, "batch": 3, "learning_rate": 0.5}
    with pytest.raises(TrainingError) as error:
        run_training(BaselineTask(resolve_config("unet", changes=changes), cases), tmp_path, PROVENANCE, resume=True)
    message = str(error.value)
    assert "batch: checkpoint has 1, asked for 3" in message and "learning_rate" in message
    assert "warmup" not in message and "--resume" in message
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["batch"] == 1  # the run keeps its own configuration


def test_resume_with_other_data_names_the_cases(task: BaselineTask, tmp_path: Path) -> None:
    run_training(task, tmp_path, PROVENANCE)
    with pytest.raises(TrainingError) as error:
        run_training(task, tmp_path, {**PROVENANCE, "trained_on": ["one", "three"]}, resume=True)
    message = str(error.value)
    assert "trained_on" in message and "two" in message and "three" in message and "held_out" not in message
    with pytest.raises(TrainingError, match="fold: checkpoint has None, got 1"):
        run_training(task, tmp_path, {**PROVENANCE, "fold": 1}, resume=True)


class Exploding(BaselineTask):
    """A task whose loss, or its gradient, is not a number from step 3 on."""

    what = "loss"
    calls = 0

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        self.calls += 1
        loss = super().loss(model, batch)
        if self.calls < 4:
            return loss
        # sqrt has an infinite slope at 0
        return loss * float("nan") if self.what == "loss" else loss + torch.sqrt(loss - loss.detach())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_not_a_number_stops_before_it_reaches_a_checkpoint(
    task: BaselineTask, tmp_path: Path, what: str
) -> None:
    config = task.config.model_copy(update={"checkpoint_every": 1})
    exploding = Exploding(config, task.cases)
    exploding.what = what
    with pytest.raises(TrainingError, match=rf"{what} became .* at step 3.*learning_rate"):
        run_training(exploding, tmp_path, PROVENANCE)
    tensors, metadata = read_checkpoint(tmp_path / CHECKPOINT)
    assert metadata["step"] == 3
    assert all(torch.isfinite(value).all() for value in tensors.values())
