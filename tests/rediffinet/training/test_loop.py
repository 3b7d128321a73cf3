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
from safetensors.torch import save_file
from torch import Tensor, nn

from rediffinet.errors import ConfigError, OutputError, TrainingError
from rediffinet.training import loop
from rediffinet.training.checkpoint import BEST, CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.distributed import share
from rediffinet.training.loader import load_ahead, micro_batches
from rediffinet.training.loop import advance, learning_rate, run_training
from rediffinet.training.objective import Objective
from rediffinet.training.objectives import BaselineObjective, RefinerObjective
from rediffinet.training.records import RegionScore
from rediffinet.training.run import Provenance
from rediffinet.training.state import new_state

PROVENANCE = Provenance(trained_on=("one", "two"), held_out=(), folds=5, fold=None)
SMALL = {
    "unet": {"unet": {"features": (4, 8), "window": (16, 16, 16), "stem_stride": 1}},
    "rediffinet": {
        "refiner": {"features": (4, 8), "head_features": 4, "time_features": 8, "window": (16, 16, 16)},
        "batch": 2,
        "autocast": False,
    },
}


class Killed(BaseException):
    """As a signal would."""


@pytest.fixture(scope="module", params=["unet", "rediffinet"])
def make_objective(request: pytest.FixtureRequest, cases: list, predictions: list) -> Callable[..., Objective]:
    def make(**changes: object) -> Objective:
        values = {**SMALL[request.param], "steps": 6, "warmup": 2, "checkpoint_every": 2, **changes}
        config = resolve_config(request.param, changes=values)
        return (
            BaselineObjective(config, cases)
            if request.param == "unet"
            else RefinerObjective(config, cases, predictions)
        )

    return make


@pytest.fixture(scope="module")
def straight(make_objective: Callable[..., Objective], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the plain run, which nothing interrupted. A row of its log is written every two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "LOG_EVERY", 2)
        return run_training(make_objective(), tmp_path_factory.mktemp("straight"), PROVENANCE)


@pytest.fixture
def task(cases: list) -> BaselineObjective:
    return BaselineObjective(resolve_config("unet", changes={**SMALL["unet"], "steps": 4, "warmup": 0}), cases)


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


def test_the_optimizer_gets_the_scheduled_rate(task: BaselineObjective) -> None:
    state = new_state(task)
    for step in range(3):
        advance(task, state, [task.batch(step)])
        assert [group["lr"] for group in state.optimizer.param_groups] == [learning_rate(task.config, step)]
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [task.config.weight_decay]


@pytest.mark.parametrize("decay", [0.995, 0.15])
def test_moving_average_follows_its_formula(cases: list, decay: float) -> None:
    config = resolve_config("unet", changes={**SMALL["unet"], "ema": decay, "warmup": 0})
    task = BaselineObjective(config, cases)
    state = new_state(task)
    name = next(iter(state.ema))
    average = state.ema[name].double()
    assert torch.equal(average, state.model.state_dict()[name].double())
    for step in range(5):
        advance(task, state, [task.batch(step)])
        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * state.model.state_dict()[name].double()
        torch.testing.assert_close(state.ema[name].double(), average, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped(cases: list, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve_config("unet", changes={**SMALL["unet"], "clip_norm": 1e-3})
    task = BaselineObjective(config, cases)
    state = new_state(task)
    advance(task, state, [task.batch(0)])
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in state.model.parameters()))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_the_same_seed_makes_the_same_model(task: BaselineObjective) -> None:
    one = new_state(task).model.state_dict()
    torch.rand(7)
    other = new_state(task).model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_loss_falls(cases: list) -> None:
    config = resolve_config(
        "unet",
        changes={
            **SMALL["unet"],
            "steps": 60,
            "warmup": 5,
            "learning_rate": 1e-2,
            "augmentation": {"affine": 0},
            "autocast": False,
        },
    )
    task = BaselineObjective(config, cases)
    state = new_state(task)
    losses = [advance(task, state, [task.batch(step)]) for step in range(30)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("killed_at", [3, 4, 5])
def test_killed_and_resumed_is_bit_for_bit_the_same(
    make_objective: Callable[..., Objective],
    straight: Path,
    tmp_path: Path,
    killed_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    out = tmp_path / "resumed"
    with pytest.raises(Killed):
        run_training(make_objective(), out, PROVENANCE, progress=kill_at(killed_at))
    assert read_checkpoint(out / CHECKPOINT)[1]["step"] == 2 * ((killed_at - 1) // 2)
    torch.rand(5)  # the global generator must not matter
    steps: list[int] = []
    resumed = run_training(
        make_objective(), out, PROVENANCE, resume=True, progress=lambda done, of, loss: steps.append(done)
    )
    assert steps == list(range(2 * ((killed_at - 1) // 2) + 1, 7))
    one, metadata = read_checkpoint(straight)
    other, other_metadata = read_checkpoint(resumed)
    assert metadata == other_metadata and metadata["step"] == 6
    assert one.keys() == other.keys()
    assert {name.split(".")[0] for name in one} == {"model", "ema", "adam"}
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    rows, expected = log_rows(out), log_rows(straight.parent)
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for row, same in zip(rows, expected, strict=True):
        assert all(row[key] == same[key] for key in ("step", "loss", "learning_rate"))
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_a_kill_before_the_first_checkpoint_starts_anew(
    make_objective: Callable[..., Objective], straight: Path, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run_training(make_objective(), tmp_path / "run", PROVENANCE, progress=kill_at(1))
    path = run_training(make_objective(), tmp_path / "run", PROVENANCE, resume=True)
    one, other = read_checkpoint(path)[0], read_checkpoint(straight)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_kill_while_the_checkpoint_is_written_leaves_the_one_before(
    make_objective: Callable[..., Objective], straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    save, calls = loop.save_checkpoint, []

    def dies_the_second_time(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise Killed
        save(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "save_checkpoint", dies_the_second_time)
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run_training(make_objective(), out, PROVENANCE)
    assert read_checkpoint(out / CHECKPOINT)[1]["step"] == 2
    resumed = run_training(make_objective(), out, PROVENANCE, resume=True)
    one, other = read_checkpoint(straight)[0], read_checkpoint(resumed)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["step"] for row in log_rows(out)] == ["2", "4", "6"]


def test_log_and_config_tell_the_run(make_objective: Callable[..., Objective], tmp_path: Path) -> None:
    told: list[tuple[int, int, float]] = []
    task = make_objective(steps=13, checkpoint_every=100)
    run_training(task, tmp_path, PROVENANCE, progress=lambda *args: told.append(args))
    assert [(done, of) for done, of, _ in told] == [(step, 13) for step in range(1, 14)]
    rows = log_rows(tmp_path)
    assert [row["step"] for row in rows] == ["10", "13"]
    assert float(rows[0]["loss"]) == pytest.approx(np.mean([loss for _, _, loss in told[:10]]))
    assert float(rows[1]["loss"]) == pytest.approx(np.mean([loss for _, _, loss in told[10:]]))
    assert float(rows[1]["learning_rate"]) == learning_rate(task.config, 12)
    assert TrainConfig.model_validate(json.loads((tmp_path / "config.json").read_text())) == task.config
    metadata = read_checkpoint(tmp_path / CHECKPOINT)[1]
    assert metadata["provenance"] == {"trained_on": ["one", "two"], "held_out": [], "folds": 5, "fold": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "config.json", "log.csv"]


def test_resuming_a_finished_run_changes_nothing(task: BaselineObjective, tmp_path: Path) -> None:
    path = run_training(task, tmp_path, PROVENANCE)
    before = path.read_bytes()
    assert run_training(task, tmp_path, PROVENANCE, resume=True) == path
    assert path.read_bytes() == before


def test_an_existing_run_needs_resume(task: BaselineObjective, tmp_path: Path) -> None:
    path = run_training(task, tmp_path, PROVENANCE)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="`resume=True`"):
        run_training(task, tmp_path, PROVENANCE)
    assert path.read_bytes() == before


def test_a_run_folder_under_a_file_is_refused(task: BaselineObjective, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        run_training(task, tmp_path / "file" / "run", PROVENANCE)


def test_resume_with_another_configuration_names_the_keys(task: BaselineObjective, cases: list, tmp_path: Path) -> None:
    run_training(task, tmp_path, PROVENANCE)
    changes = {**SMALL["unet"], "steps": 4, "warmup": 0, "batch": 3, "learning_rate": 0.5}
    with pytest.raises(TrainingError) as error:
        run_training(
            BaselineObjective(resolve_config("unet", changes=changes), cases), tmp_path, PROVENANCE, resume=True
        )
    message = str(error.value)
    assert "batch: checkpoint has 1, asked for 3" in message and "learning_rate" in message
    assert "warmup" not in message and "`resume=True`" in message
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["batch"] == 1  # the run keeps its own configuration


def test_resume_with_other_data_names_the_cases(task: BaselineObjective, tmp_path: Path) -> None:
    run_training(task, tmp_path, PROVENANCE)
    with pytest.raises(TrainingError) as error:
        run_training(task, tmp_path, PROVENANCE.model_copy(update={"trained_on": ("one", "three")}), resume=True)
    message = str(error.value)
    assert "trained_on" in message and "two" in message and "three" in message and "held_out" not in message
    with pytest.raises(TrainingError, match="fold: checkpoint has None, got 1"):
        run_training(task, tmp_path, PROVENANCE.model_copy(update={"fold": 1}), resume=True)


def test_what_is_measured_on_the_cases_does_not_keep_a_run_from_going_on(
    task: BaselineObjective, tmp_path: Path
) -> None:
    run_training(task, tmp_path, PROVENANCE)
    for value in (1.0, 1.0000001):
        run_training(task, tmp_path, PROVENANCE.model_copy(update={"intensities": {"t1n": (0.0, value)}}), resume=True)


class Exploding(BaselineObjective):
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
    task: BaselineObjective, tmp_path: Path, what: str
) -> None:
    config = task.config.model_copy(update={"checkpoint_every": 1})
    exploding = Exploding(config, task.cases)
    exploding.what = what
    with pytest.raises(TrainingError, match=rf"{what} became .* at step 3.*learning_rate"):
        run_training(exploding, tmp_path, PROVENANCE)
    tensors, metadata = read_checkpoint(tmp_path / CHECKPOINT)
    assert metadata["step"] == 3
    assert all(torch.isfinite(value).all() for value in tensors.values())


def gradients(task: Objective, accumulate: int) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the first step."""
    state = new_state(task)
    batches = micro_batches(task, share(task.config.batch, accumulate, state.place), 0, state.place.device)
    assert [len(batch[0]) for batch in batches] == [task.config.batch // accumulate] * accumulate
    loss = advance(task, state, batches)
    return loss, {name: p.grad.clone() for name, p in state.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(
    make_objective: Callable[..., Objective], accumulate: int
) -> None:
    task = make_objective(batch=4, autocast=False, clip_norm=1e6)
    (loss, whole), (same, parts) = gradients(task, 1), gradients(task, accumulate)
    assert same == pytest.approx(loss, rel=1e-6)
    assert whole.keys() == parts.keys()
    scale = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-3, atol=1e-5 * scale)


def test_micro_batches_train_the_same_network(make_objective: Callable[..., Objective], tmp_path: Path) -> None:
    given = {"batch": 4, "autocast": False, "learning_rate": 1e-3}
    starts = new_state(make_objective(**given)).model.state_dict()
    paths = [run_training(make_objective(**given, accumulate=n), tmp_path / str(n), PROVENANCE) for n in (1, 2)]
    one, two = (part(read_checkpoint(path)[0], "model") for path in paths)
    way = sum(float((one[name] - starts[name]).square().sum()) for name in one)
    between = sum(float((one[name] - two[name]).square().sum()) for name in one)
    assert between**0.5 < 2e-3 * way**0.5


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_made(
    make_objective: Callable[..., Objective], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="batch: got 3, expected a multiple of 2"):
        run_training(make_objective(batch=3, accumulate=2), tmp_path / "run", PROVENANCE)
    assert not (tmp_path / "run").exists()


def test_batches_come_in_order_whatever_the_threads() -> None:
    asked: list[int] = []

    def load(step: int) -> int:
        asked.append(step)
        if step == 7:
            raise ValueError("seven")
        return step * step

    for threads in (1, 3):
        assert list(load_ahead(load, range(2, 6), threads)) == [4, 9, 16, 25]
        asked.clear()
        made = load_ahead(load, range(20), threads)
        assert next(made) == 0 and len(asked) <= 1 + threads + 1
        made.close()
    assert list(load_ahead(load, range(3, 3))) == []
    with pytest.raises(ValueError, match="seven"):
        list(load_ahead(load, range(6, 9)))


def test_threads_of_the_loader_change_nothing(make_objective: Callable[..., Objective], tmp_path: Path) -> None:
    paths = [run_training(make_objective(loader_threads=n), tmp_path / str(n), PROVENANCE) for n in (1, 3)]
    one, other = (read_checkpoint(path)[0] for path in paths)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_about_the_machine_may_change_on_the_way(
    make_objective: Callable[..., Objective], tmp_path: Path
) -> None:
    given = {"batch": 2, "autocast": False}
    with pytest.raises(Killed):
        run_training(make_objective(**given), tmp_path / "run", PROVENANCE, progress=kill_at(3))
    changed = make_objective(**given, accumulate=2, device="cpu", loader_threads=2, timeout_s=5.0, channels_last=True)
    path = run_training(changed, tmp_path / "run", PROVENANCE, resume=True)
    straight, _ = read_checkpoint(run_training(make_objective(**given), tmp_path / "straight", PROVENANCE))
    tensors, metadata = read_checkpoint(path)
    assert metadata["step"] == 6 and metadata["config"]["accumulate"] == 2 and metadata["machine"]["device"] == "cpu"
    for name, value in part(straight, "ema").items():
        torch.testing.assert_close(tensors[f"ema.{name}"], value, rtol=1e-2, atol=1e-2)


def test_a_checkpoint_of_before_a_setting_existed_can_be_resumed(
    make_objective: Callable[..., Objective], straight: Path, tmp_path: Path
) -> None:
    """Settings that it does not name had their defaults; its log has no waiting seconds."""
    path = tmp_path / "run" / CHECKPOINT
    with pytest.raises(Killed):
        run_training(make_objective(), tmp_path / "run", PROVENANCE, progress=kill_at(3))
    tensors, metadata = read_checkpoint(path)
    old = {"config": dict(metadata["config"]), "step": 2, "provenance": PROVENANCE.to_dict()}
    for key in ("validate_every", "accumulate", "device", "loader_threads", "timeout_s", "fold_seed"):
        del old["config"][key]
    save_file(tensors, path, {"rediffinet": json.dumps(old)})
    (tmp_path / "run" / "log.csv").write_text("step,loss,learning_rate,seconds\n2,1.5,0.1,7.5\n")
    with pytest.raises(TrainingError, match="validate_every: checkpoint has 0, asked for 2"):
        run_training(make_objective(validate_every=2), tmp_path / "run", PROVENANCE, resume=True)
    resumed, _ = read_checkpoint(run_training(make_objective(), tmp_path / "run", PROVENANCE, resume=True))
    expected, _ = read_checkpoint(straight)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    rows = log_rows(tmp_path / "run")
    assert rows[0] == {"step": "2", "loss": "1.5", "learning_rate": "0.1", "seconds": "7.5", "waiting_seconds": "0"}
    assert float(rows[1]["seconds"]) > 7.5 and float(rows[1]["waiting_seconds"]) >= 0


def test_a_checkpoint_of_a_later_version_is_named(make_objective: Callable[..., Objective], tmp_path: Path) -> None:
    path = run_training(make_objective(steps=1), tmp_path, PROVENANCE)
    tensors, metadata = read_checkpoint(path)
    metadata["config"]["new_key"] = 1
    save_file(tensors, path, {"rediffinet": json.dumps(metadata)})
    with pytest.raises(TrainingError, match="new_key"):
        run_training(make_objective(steps=1), tmp_path, PROVENANCE, resume=True)


SCORES = {2: (0.2, 0.3, 0.4), 4: (0.8, 0.7, 0.6), 6: (0.5, 0.5, 0.5)}


def validator(seen: list[int] | None = None) -> Callable[[nn.Module], list[RegionScore]]:
    """Scores by how many validations there were; what it does to random numbers must not matter."""
    calls = seen if seen is not None else []

    def validate(model: nn.Module) -> list[RegionScore]:
        assert not model.training
        torch.rand(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # nothing that is trained
        calls.append(2 * len(calls) + 2)
        dice = SCORES[calls[-1]]
        return [RegionScore(region, dice[i], 10.0 - i) for i, region in enumerate(("WT", "TC", "ET"))]

    return validate


def test_validation_is_written_and_the_best_network_kept(
    make_objective: Callable[..., Objective], straight: Path, tmp_path: Path
) -> None:
    task = make_objective(validate_every=2, checkpoint_every=4)
    run_training(task, tmp_path / "run", PROVENANCE, validate=validator())
    with (tmp_path / "run" / "validation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        {"step": str(step), "region": region, "dice": str(dice), "hd95_mm": str(distance)}
        for step, scores in SCORES.items()
        for region, dice, distance in zip(("WT", "TC", "ET"), scores, (10.0, 9.0, 8.0), strict=True)
    ]
    assert rows == expected
    with pytest.raises(Killed):
        run_training(task, tmp_path / "until4", PROVENANCE, validate=validator(), progress=kill_at(5))
    best, metadata = read_checkpoint(tmp_path / "run" / BEST)
    until, _ = read_checkpoint(tmp_path / "until4" / CHECKPOINT)
    assert metadata["step"] == 4 and metadata["best"] == {"step": 4, "dice": pytest.approx(0.7)}
    assert best.keys() == {f"ema.{name}" for name in part(until, "ema")}
    assert all(torch.equal(value, until[name]) for name, value in best.items())
    expected, _ = read_checkpoint(straight)
    last, metadata = read_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert all(torch.equal(last[name], value) for name, value in expected.items())
    assert metadata["best"]["step"] == 4


@pytest.fixture(scope="module")
def validated(cases: list, tmp_path_factory: pytest.TempPathFactory) -> tuple[BaselineObjective, Path]:
    """An objective with validation, and the folder of its run, which nothing interrupted."""
    changes = {**SMALL["unet"], "steps": 6, "warmup": 2, "checkpoint_every": 2, "validate_every": 2, "autocast": False}
    task = BaselineObjective(resolve_config("unet", changes=changes), cases)
    return task, run_training(task, tmp_path_factory.mktemp("validated"), PROVENANCE, validate=validator()).parent


@pytest.mark.parametrize("what", ["write_rows", "save_checkpoint", "save_best"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_kill_between_any_two_files_loses_nothing(
    validated: tuple[BaselineObjective, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, call: int
) -> None:
    task, straight = validated
    real, calls = getattr(loop, what), []

    def dies(*args: object) -> None:
        calls.append(args)
        if len(calls) == call:
            raise Killed
        real(*args)

    out = tmp_path / "run"
    monkeypatch.setattr(loop, what, dies)
    if what == "save_best" and call == 3:  # there are two best networks
        run_training(task, out, PROVENANCE, validate=validator())
    else:
        with pytest.raises(Killed):
            run_training(task, out, PROVENANCE, validate=validator())
    monkeypatch.undo()
    step = read_checkpoint(out / CHECKPOINT)[1]["step"] if (out / CHECKPOINT).exists() else 0
    run_training(task, out, PROVENANCE, resume=True, validate=validator([2, 4, 6][: step // 2]))
    for name in (CHECKPOINT, BEST):
        (one, first), (other, second) = read_checkpoint(straight / name), read_checkpoint(out / name)
        assert first == second and one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    files = [(folder / "validation.csv").read_text() for folder in (straight, out)]
    assert files[0] == files[1]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [BEST, CHECKPOINT, "config.json", "log.csv", "validation.csv"]
    )


def test_a_resumed_log_has_the_losses_of_before(make_objective: Callable[..., Objective], tmp_path: Path) -> None:
    """The row of step 6 is a mean over steps on both sides of the interruption."""
    run_training(make_objective(), tmp_path / "straight", PROVENANCE)
    with pytest.raises(Killed):
        run_training(make_objective(), tmp_path / "run", PROVENANCE, progress=kill_at(5))
    run_training(make_objective(), tmp_path / "run", PROVENANCE, resume=True)
    assert [row["loss"] for row in log_rows(tmp_path / "run")] == [
        row["loss"] for row in log_rows(tmp_path / "straight")
    ]
