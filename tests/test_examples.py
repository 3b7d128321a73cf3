"""The examples run as they stand, on the toy bundle."""

import csv
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """example(name, argument, …) → exit code, stdout, stderr: the file run as a program, in this process."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", [str(EXAMPLES / name), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        assert isinstance(end.value.code, int)
        return end.value.code, *capsys.readouterr()

    return run


def test_the_script(example: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = (toy_folder, out, toy_bundle.path)

    def is_done(code: int, errors: str) -> None:
        assert code == 0, errors
        assert "refine" in errors
        (row,) = csv.DictReader((out / "volumes.csv").open(newline=""))
        assert list(row) == ["case", "WT", "TC", "ET"]
        assert row["case"] == "toy" and float(row["WT"]) > 0

    done = subprocess.run([sys.executable, EXAMPLES / "script.py", *given], capture_output=True, text=True)
    is_done(done.returncode, done.stderr)
    code, _, errors = example("script.py", *given)  # again, it replaces the files and the row
    is_done(code, errors)
    assert (out / "toy-report.json").is_file()
    (toy_folder / "toy-t2w.nii.gz").unlink()
    assert example("script.py", *given)[0] == 2


def test_an_app_of_ones_own(toy_folder: Path, toy_bundle: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    monkeypatch.setenv("BUNDLE", str(toy_bundle.path))
    files = {contrast: (toy_folder / f"toy-{contrast}.nii.gz").read_bytes() for contrast in CONTRASTS}
    with TestClient(runpy.run_path(str(EXAMPLES / "own_app.py"))["app"]) as client:
        answer = client.post("/segment", files=files)
        refused = client.post("/segment", files=files | {"t2w": b"nothing"})
    assert answer.status_code == 200
    (tmp_path / "seg.nii.gz").write_bytes(answer.content)
    assert set(np.unique(nib.load(tmp_path / "seg.nii.gz").dataobj)) <= {0, 1, 2, 3}
    assert "WT=" in answer.headers["x-volumes-ml"]
    assert refused.status_code == 422 and "t2w" in refused.json()["detail"]


def test_a_batch_task_does_its_share_and_is_preempted_without_loss(
    toy_folder: Path, toy_bundle: Any, tmp_path: Path
) -> None:
    for name in "ABCD":
        folder = tmp_path / "cohort" / name
        folder.mkdir(parents=True)
        for contrast in CONTRASTS:
            shutil.copy(toy_folder / f"toy-{contrast}.nii.gz", folder / f"{name}-{contrast}.nii.gz")
    out = tmp_path / "out"

    def task(index: int) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index), "SLURM_ARRAY_TASK_COUNT": "2"}
        command = [sys.executable, EXAMPLES / "batch_task.py", tmp_path / "cohort", out, toy_bundle.path]
        return subprocess.Popen(command, env=environment)

    assert task(1).wait(120) == 0
    assert sorted(path.name for path in out.glob("*-report.json")) == ["A-report.json", "C-report.json"]
    preempted = task(2)
    deadline = time.monotonic() + 240
    while not (out / "cohort-2-of-2.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    preempted.send_signal(signal.SIGTERM)
    assert preempted.wait(60) in (75, 0, -signal.SIGTERM)  # before, in or after the block that cleans up
    assert not list(out.glob(".*"))
    assert task(2).wait(120) == 0
    assert len(list(out.glob("*-report.json"))) == 4


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_without_arguments_says_how_it_is_called(example: Any, name: str) -> None:
    if name == "own_app.py":
        pytest.importorskip("fastapi")
    code, out, errors = example(name)
    assert (code, out) == (2, "")
    assert errors.startswith("usage: ") and errors.count("\n") == 1


@pytest.mark.parametrize("name", ["script.py", "batch_task.py"])
@pytest.mark.parametrize("wrong", ["cases", "bundle", "out"])
def test_what_a_user_gets_wrong_is_a_sentence(
    example: Any, name: str, wrong: str, toy_folder: Path, toy_bundle: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    given = {"cases": toy_folder, "out": tmp_path / "out", "bundle": toy_bundle.path, wrong: tmp_path / "file" / "x"}
    code, _, errors = example(name, *given.values())
    assert code == 2
    assert "Traceback" not in errors and str(tmp_path / "file") in errors
