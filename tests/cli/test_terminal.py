"""Terminals, pipes, locales, signals: whatever becomes of what is printed, files and exit code are right."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = "from rediffinet.cli.main import main; main()"


@pytest.fixture
def cohort(tmp_path: Path, toy_folder: Path) -> Path:
    for name in ("A", "B"):
        folder = tmp_path / "cohort" / name
        folder.mkdir(parents=True)
        for path in toy_folder.iterdir():
            shutil.copy(path, folder / path.name.replace("toy", name))
    return tmp_path / "cohort"


@pytest.fixture
def command(cohort: Path, toy_bundle: Any, tmp_path: Path) -> list[str]:
    """A cohort of two whose result lines hold characters outside ASCII."""
    out = ("-o", str(tmp_path / "out"), "--bundle", str(toy_bundle.path), "--threads", "1", "--no-preview")
    return [sys.executable, "-c", PROGRAM, "segment", str(cohort), "--engine", "onnxruntime", *out]


def reports(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").glob("*-report.json"))


BOTH = ["A-report.json", "B-report.json"]


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "cp437"])
def test_an_encoding_without_the_characters_escapes_them(command: list[str], tmp_path: Path, encoding: str) -> None:
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, reports(tmp_path)) == (0, BOTH), done.stderr
    text = done.stdout.decode(encoding)
    assert len(text.splitlines()) == 2
    assert "\\u2192" in text  # the arrow before the folder is in none of them


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_locale_that_is_not_utf8(command: list[str], cohort: Path, tmp_path: Path, locale: str) -> None:
    (cohort / "A").rename(cohort / "Ä")
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, capture_output=True, env=environment)
    assert (done.returncode, reports(tmp_path)) == (0, BOTH), done.stderr
    assert done.stdout.isascii()


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "<&-", "<&- 1>&- 2>&-", "1>&- 2>&-"])
def test_closed_streams(command: list[str], tmp_path: Path, closed: str) -> None:
    """The next file that is opened must not become the stream: the images would be written over."""
    shell = " ".join(f"'{part}'" for part in command)
    done = subprocess.run(f"{shell} {closed}", shell=True)
    assert (done.returncode, reports(tmp_path)) == (0, BOTH)


def test_a_session_without_a_terminal(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True)
    assert (done.returncode, reports(tmp_path)) == (0, BOTH), done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_pipe_whose_reader_has_gone(command: list[str], cohort: Path, tmp_path: Path, stream: str) -> None:
    (cohort / "A" / "A-t2w.nii.gz").unlink()  # something is printed on both streams
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, **{stream: writer})  # type: ignore[call-overload]
    os.close(writer)
    assert (done.returncode, reports(tmp_path)) == (3, BOTH[1:])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_a_redirection_is_told(command: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, reports(tmp_path)) == (2, BOTH)
    assert "could not be written: No space left on device" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["phantom", "--help"], ["info", "--json"], ["doctor", "--json"]])
def test_other_commands_into_a_narrow_pipe_that_closes(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=writer, stderr=subprocess.PIPE, env=environment
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# --- signals ---

SLOW = """
import sys, time
import rediffinet.clinic.cohort as cohort, rediffinet.clinic.case as case, rediffinet.io.outputs as outputs
from rediffinet.cli.main import main
real, name = outputs._images, sys.argv.pop(1)

def images(result, names):
    yield from real(result, names)
    if result.report.case == name:
        print("writing", flush=True)
        for _ in range(600):
            time.sleep(0.05)

outputs._images = images
main()
"""


@pytest.fixture
def interrupted(command: list[str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """interrupted(signal) → exit code and stderr of a case that got it while its files were being written."""

    def run(number: int, *arguments: str) -> tuple[int, str]:
        program = [command[0], "-c", SLOW, "A", "segment", *arguments]
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        errors = process.stderr.read()
        return process.wait(240), errors

    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_end_a_command_leave_nothing_and_say_so(
    interrupted: Any, command: list[str], cohort: Path, tmp_path: Path, number: signal.Signals
) -> None:
    code, errors = interrupted(number, str(cohort / "A"), *command[5:])
    assert code == 128 + number
    assert f"interrupted ({number.name})" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_signal_that_is_ignored_stays_ignored(command: list[str], cohort: Path, tmp_path: Path) -> None:
    """nohup."""
    program = SLOW.replace("range(600)", "range(20)")
    process = subprocess.Popen(
        [command[0], "-c", program, "A", "segment", str(cohort / "A"), *command[5:]],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGHUP)
    process.stdout.read()
    assert process.wait(240) == 0
    assert reports(tmp_path) == BOTH[:1]


def test_an_interrupted_cohort_says_which_cases_are_finished(command: list[str], cohort: Path, tmp_path: Path) -> None:
    """B is computed without end; A is there by then."""
    endless = """
import sys, time
import rediffinet.clinic.cohort as cohort
from rediffinet.cli.main import main
real = cohort.compute_case

def compute(segmenter, read, order, progress=None):
    while read.name == "B":
        print("computing", flush=True)
        time.sleep(0.2)
    return real(segmenter, read, order, progress)

cohort.compute_case = compute
main()
"""
    process = subprocess.Popen(
        [command[0], "-c", endless, *command[3:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    deadline = time.monotonic() + 240
    while not reports(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    process.stdout.read()
    assert process.wait(240) == 130
    assert "1 of 2 cases are finished: A." in errors
    assert "--skip-existing" in errors
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith((".", "B"))]
    assert "waiting" in (tmp_path / "out" / "cohort.csv").read_text()
    done = subprocess.run([*command, "--skip-existing"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "A: finished before, skipped" in done.stderr
    assert reports(tmp_path) == BOTH
