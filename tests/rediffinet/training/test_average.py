"""The mean of the weights of runs that were trained one after the other."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import numpy as np
from safetensors.numpy import load_file
from typer.testing import CliRunner

from rediffinet.cli import main as cli
from rediffinet.errors import OutputError, TrainingError
from rediffinet.training.average import average_runs
from rediffinet.training.checkpoint import CHECKPOINT
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.run import open_run
from rediffinet.training.train import train

SMALL = {
    "unet": {"features": (4, 8), "window": (32, 32, 32), "stem_stride": 2},
    "steps": 3,
    "warmup": 1,
    "folds": 2,
    "autocast": False,
}


def config(**changes: object) -> TrainConfig:
    return resolve_config("unet", "tiny", {**SMALL, "fold": 0, **changes}, ())


@pytest.fixture(scope="module")
def path(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three runs of one fold, each begun with the one before."""
    folder = tmp_path_factory.mktemp("path")
    runs = [folder / name for name in ("first", "second", "third")]
    train(config(), [phantoms], runs[0])
    train(config(learning_rate=2e-2), [phantoms], runs[1], begin_with=runs[0])
    train(config(learning_rate=1e-2), [phantoms], runs[2], begin_with=runs[1])
    return runs


@pytest.mark.parametrize("last", [2, 3])
def test_the_weights_are_the_mean(path: list[Path], tmp_path: Path, last: int) -> None:
    written = average_runs(path[:last], tmp_path / "mean")
    assert written == tmp_path / "mean" / CHECKPOINT
    before = [load_file(run / CHECKPOINT) for run in path[:last]]
    moved = 0.0
    for name, value in load_file(written).items():
        expected = np.mean([tensors[name].astype(np.float64) for tensors in before], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
        moved = max(moved, float(np.abs(value - before[0][name]).max()))
    assert moved > 1e-3


def test_it_is_the_last_run_in_all_else_and_says_what_it_is_made_of(path: list[Path], tmp_path: Path) -> None:
    average_runs(path[:2], tmp_path / "mean")
    run, first, last = open_run(tmp_path / "mean"), open_run(path[0]), open_run(path[1])
    assert run.config == last.config and run.step == last.step and run.seen_patients == last.seen_patients
    told = run.provenance.to_dict()
    assert told.pop("averaged") == [
        {"checkpoint_sha256": first.sha256, "steps": 3},
        {"checkpoint_sha256": last.sha256, "steps": 3},
    ]
    assert told == last.provenance.to_dict()


def test_training_goes_on_from_it(phantoms: Path, path: list[Path], tmp_path: Path) -> None:
    average_runs(path[:2], tmp_path / "mean")
    train(config(), [phantoms], tmp_path / "more", begin_with=tmp_path / "mean")
    began = open_run(tmp_path / "more").provenance.begun_with
    assert began is not None and began.sha256 == open_run(tmp_path / "mean").sha256
    with pytest.raises(TrainingError, match="other data"):
        train(config(learning_rate=2e-2), [phantoms], tmp_path / "mean", resume=True, begin_with=path[0])


def test_runs_that_are_not_on_one_path(phantoms: Path, path: list[Path], tmp_path: Path) -> None:
    for wrong in ((path[1], path[0]), (path[0], path[2]), (path[0], path[0])):
        with pytest.raises(TrainingError, match="did not begin with"):
            average_runs(wrong, tmp_path / "mean")
    with pytest.raises(TrainingError, match="got 1 run"):
        average_runs(path[:1], tmp_path / "mean")
    with pytest.raises(TrainingError, match=CHECKPOINT):
        average_runs([path[0], tmp_path], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_from_the_command_line(path: list[Path], tmp_path: Path) -> None:
    arguments = ["average", str(path[0]), str(path[1]), "--out", str(tmp_path / "mean")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "mean" / CHECKPOINT)
    again = CliRunner().invoke(cli.app, arguments)
    assert isinstance(again.exception, OutputError) and "Use another folder" in str(again.exception)
    (tmp_path / "file").write_text("")
    blocked = CliRunner().invoke(cli.app, [*arguments[:-1], str(tmp_path / "file" / "mean")])
    assert isinstance(blocked.exception, OutputError) and "Cannot write into" in str(blocked.exception)
