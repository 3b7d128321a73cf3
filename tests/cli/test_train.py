"""`rediff train` from the command line."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch
from typer.testing import CliRunner, Result

from rediffinet.cli import main as cli
from rediffinet.errors import ConfigError, MissingExtraError, OutputError, TrainingError
from rediffinet.phantom import write_phantoms
from rediffinet.training.checkpoint import read_checkpoint
from rediffinet.training.run import open_run

SMALL = {"unet": {"features": [4, 8], "window": [32, 32, 32]}, "steps": 2, "warmup": 1, "autocast": False}
SMALL_SET = [
    argument
    for setting in (
        "steps=2",
        "warmup=1",
        "autocast=false",
        "unet.features=4,8",
        "unet.window=32,32,32",
        "unet.stem_stride=2",
    )
    for argument in ("--set", setting)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_phantoms(folder, 2, 5, shape=(40, 44, 36))
    return folder


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


def test_trains_and_prints_the_checkpoint(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = invoke(
        "--model", "unet", "--data", data, "--out", out, "--folds", 2, "--fold", 1, "--set", "seed=4", *SMALL_SET
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out / "checkpoint.safetensors")
    assert "step 2 of 2" in result.stderr and "training on " in result.stderr
    run = open_run(out)
    config = run.config
    assert (config.model, config.fold, config.folds, config.seed, config.steps) == ("unet", 1, 2, 4, 2)
    assert config.unet.features == (4, 8)
    assert len(run.provenance.held_out) == 1 and run.step == 2
    again = invoke("--model", "unet", "--data", data, "--out", out, *SMALL_SET)
    assert isinstance(again.exception, OutputError) and "`resume=True`" in str(again.exception)
    other = invoke("--model", "unet", "--data", data, "--out", out, "--resume", *SMALL_SET)
    assert isinstance(other.exception, TrainingError) and "folds" in str(other.exception)
    resumed = invoke(
        "--model", "unet", "--data", data, "--out", out, "--resume", "--folds", 2, "--fold", 1, "--set", "seed=4",
        *SMALL_SET,
    )  # fmt: skip
    assert resumed.exit_code == 0


def test_the_device_is_asked_for_and_recorded(data: Path, tmp_path: Path) -> None:
    given = ("--model", "unet", "--data", data, "--out", tmp_path / "run", *SMALL_SET)
    result = invoke(*given, "--device", "cpu")
    assert result.exit_code == 0 and "training on CPU" in result.stderr
    _, metadata = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert metadata["config"]["device"] == "cpu" and metadata["machine"]["device"] == "cpu"
    wrong = invoke(*given, "--device", "gpu")
    assert isinstance(wrong.exception, ConfigError) and "device" in str(wrong.exception)
    if not torch.cuda.is_available():
        absent = invoke(*given, "--device", "cuda")
        assert isinstance(absent.exception, ConfigError) and "`device=cpu`" in str(absent.exception)


def test_export_takes_the_last_or_the_best(data: Path, tmp_path: Path) -> None:
    assert invoke("--model", "unet", "--data", data, "--out", tmp_path / "run", *SMALL_SET).exit_code == 0
    export = ["export", str(tmp_path / "run"), "--out", str(tmp_path / "bundle"), "--checkpoint"]
    absent = CliRunner().invoke(cli.app, [*export, "best"])
    assert isinstance(absent.exception, TrainingError) and "best.safetensors" in str(absent.exception)
    wrong = CliRunner().invoke(cli.app, [*export, "first"])
    assert isinstance(wrong.exception, ConfigError) and "expected last or best" in str(wrong.exception)
    assert not (tmp_path / "bundle").exists()


def test_a_config_file_lies_between_preset_and_set(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**SMALL, "folds": 2, "fold": 0, "seed": 3}))
    out = tmp_path / "run"
    result = invoke("--model", "unet", "--data", data, "--out", out, "--config", file, "--set", "seed=9")
    assert result.exit_code == 0, result.output
    config = open_run(out).config
    assert (config.folds, config.fold, config.seed, config.steps) == (2, 0, 9, 2)
    assert config.unet.stem_stride == 2  # the preset's
    # a run's own config.json makes the same run, and options win over the file
    out2 = tmp_path / "again"
    result = invoke("--model", "unet", "--data", data, "--out", out2, "--config", out / "config.json", "--fold", 1)
    assert result.exit_code == 0, result.output
    assert open_run(out2).config == config.model_copy(update={"fold": 1})


@pytest.mark.parametrize("content", ["{", "[1, 2]", "null", '{"stepz": 3}', '{"model": "rediffinet"}'])
def test_a_config_file_that_does_not_fit_is_named(data: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(content)
    result = invoke("--model", "unet", "--data", data, "--out", tmp_path / "run", "--config", file)
    assert isinstance(result.exception, ConfigError)
    assert str(file) in str(result.exception) or "stepz" in content or "model" in content
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_is_named(data: Path, tmp_path: Path) -> None:
    result = invoke("--model", "unet", "--data", data, "--out", tmp_path / "run", "--config", tmp_path / "no.json")
    assert isinstance(result.exception, ConfigError) and "no.json" in str(result.exception)


def test_errors_are_one_message_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["rediff", "train", "--model", "vnet", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.out == ""
    assert told.err.startswith("error: model: got 'vnet'") and "Traceback" not in told.err


def test_without_the_extra_the_pip_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rediffinet.training.train", None)
    result = invoke("--model", "unet", "--data", tmp_path, "--out", tmp_path / "run")
    assert isinstance(result.exception, MissingExtraError)
    assert "pip install 'rediffinet[train]'" in str(result.exception)
