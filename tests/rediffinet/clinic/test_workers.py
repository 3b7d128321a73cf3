"""A cohort in several processes, and one that is killed at any moment: the files are those of an undisturbed run."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rediffinet.clinic.case import Order, Outcome
from rediffinet.clinic.cohort import list_inputs, segment_cohort
from rediffinet.clinic.workers import Opening, segment_in_processes
from rediffinet.errors import BundleError, CaseError
from rediffinet.segmenter import Segmenter

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

PROGRAM = "from rediffinet.cli.main import main; main()"


@pytest.fixture
def cohort(tmp_path: Path, toy_folder: Path) -> Path:
    for name in ("A", "B", "C", "D"):
        folder = tmp_path / "cohort" / name
        folder.mkdir(parents=True)
        for contrast in CONTRASTS:
            shutil.copy(toy_folder / f"toy-{contrast}.nii.gz", folder / f"{name}-{contrast}.nii.gz")
    return tmp_path / "cohort"


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".nii.gz", ".png"))}


@pytest.fixture
def undisturbed(cohort: Path, toy_bundle: Any, tmp_path: Path) -> dict[str, bytes]:
    """What one process writes."""
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        list(segment_cohort(segmenter, list_inputs(cohort), Order(tmp_path / "expected")))
    return images(tmp_path / "expected")


def opening(toy_bundle: Any) -> Opening:
    return Opening(toy_bundle.path, "onnxruntime", threads=1)


def test_several_processes_write_what_one_does(
    cohort: Path, toy_bundle: Any, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    (cohort / "C" / "C-t2w.nii.gz").rename(cohort / "gone")
    shutil.copytree(cohort / "D", cohort / "E")  # the name of D again
    inputs = list_inputs(cohort)
    found = {
        given.source: outcome
        for given, outcome in segment_in_processes(inputs, Order(tmp_path / "out"), opening(toy_bundle), 2)
    }
    assert sorted(Path(source).name for source, outcome in found.items() if outcome.report) == ["A", "B", "D"]
    assert "missing: t2w" in str(found[str(cohort / "C")].error)
    assert "both named D" in str(found[str(cohort / "E")].error)
    assert images(tmp_path / "out") == {
        name: content for name, content in undisturbed.items() if not name.startswith("C")
    }


def test_a_bundle_that_does_not_open_is_the_error_of_all(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises((BundleError, CaseError), match="absent"):
        list(segment_in_processes(list_inputs(cohort), Order(tmp_path / "out"), Opening(tmp_path / "absent"), 2))


@pytest.fixture
def disturbed(cohort: Path, toy_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """disturbed(code, NAME=value, …) → the outcomes by two processes that run this code first; MARK is a free path."""

    def segment(code: str, **names: object) -> list[Outcome]:
        given = {"MARK": str(tmp_path / "mark"), **names}
        lines = [f"{name} = {value!r}" for name, value in given.items()]
        (tmp_path / "sitecustomize.py").write_text("\n".join([*lines, code]))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        inputs = list_inputs(cohort)
        outcomes = segment_in_processes(inputs, Order(tmp_path / "out"), opening(toy_bundle), 2)
        return [outcome for _, outcome in outcomes]

    return segment


DEADLY = """
import os, signal
import rediffinet.clinic.workers as workers
real = workers.segment_case

def segment(segmenter, given, order):
    if given.name == "B" and (ALWAYS or not os.path.exists(MARK)):
        open(MARK, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(segmenter, given, order)

workers.segment_case = segment
"""


@pytest.mark.parametrize("always", [False, True])
def test_a_process_that_is_killed_by_its_case(
    disturbed: Any, tmp_path: Path, undisturbed: dict[str, bytes], always: bool
) -> None:
    """Once: the case is done by another. Each time: the case has failed, the others are there."""
    outcomes = disturbed(DEADLY, ALWAYS=always)
    errors = [str(outcome.error) for outcome in outcomes if outcome.report is None]
    assert len(outcomes) == 4
    assert len(errors) == int(always)
    assert not always or "died 2 times" in errors[0]
    expected = {name: content for name, content in undisturbed.items() if not (always and name.startswith("B"))}
    assert images(tmp_path / "out") == expected


DEADLY_MOVE = """
import os, pathlib, signal
real = pathlib.Path.replace

def move(self, target):
    dies = str(target).endswith("B-report.json") and not os.path.exists(MARK)
    if dies:
        open(MARK, "w").close()
    if not dies or TOLD:
        moved = real(self, target)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    return moved

pathlib.Path.replace = move
"""


@pytest.mark.parametrize("told", [False, True])
def test_a_process_that_is_killed_between_the_files_of_a_case(
    disturbed: Any, tmp_path: Path, undisturbed: dict[str, bytes], told: bool
) -> None:
    """Before its report is there: done again. After: not done again, and not called an error."""
    out = tmp_path / "out"
    outcomes = disturbed(DEADLY_MOVE, TOLD=told)
    assert (tmp_path / "mark").exists()
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert [outcome.source for outcome in outcomes if outcome.skipped] == (["B"] if told else [])
    assert images(out) == undisturbed
    assert not [path for path in out.glob(".*") if any(path.iterdir())]


def command(cohort: Path, toy_bundle: Any, out: Path, *more: str) -> list[str]:
    options = ["-o", str(out), "--bundle", str(toy_bundle.path), "--engine", "onnxruntime", "--threads", "1", *more]
    return [sys.executable, "-c", PROGRAM, "segment", str(cohort), *options]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes(cohort: Path, toy_bundle: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        command(cohort, toy_bundle, tmp_path / "out", "--processes", "2", "--samples", "400"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "out" / "cohort.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2.0)  # somewhere in the middle
    os.killpg(process.pid, number)
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait(240) in (0, 128 + number), errors
    assert not list((tmp_path / "out").glob(".*"))
    deadline = time.monotonic() + 120
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_kill_9_at_five_random_moments(cohort: Path, toy_bundle: Any, tmp_path: Path, processes: str) -> None:
    """Resumed to the end: every file as in an undisturbed run, no hidden file, and little was done twice."""
    for number in range(4):
        source = cohort / "ABCD"[number]
        target = cohort / "EFGH"[number]
        target.mkdir()
        for path in source.iterdir():
            shutil.copy(path, target / path.name.replace(source.name, target.name))
    more = ("--samples", "20", "--skip-existing", "--processes", processes)
    assert subprocess.run(command(cohort, toy_bundle, tmp_path / "expected", *more)).returncode == 0
    out = tmp_path / "out"
    moments = random.Random(5)
    for _ in range(5):
        process = subprocess.Popen(command(cohort, toy_bundle, out, *more), start_new_session=True)
        time.sleep(moments.uniform(1.5, 6.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if (out / "cohort.csv").exists():  # whole at every moment
            rows = list(csv.DictReader((out / "cohort.csv").open(newline="")))
            assert [row["case"] for row in rows] == list("ABCDEFGH")
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*-report.json")}
    assert subprocess.run(command(cohort, toy_bundle, out, *more)).returncode == 0
    assert images(out) == images(tmp_path / "expected")
    assert not list(out.glob(".*"))
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished  # none was done again
    rows = list(csv.DictReader((out / "cohort.csv").open(newline="")))
    assert [row["state"] for row in rows] == ["done"] * 8
