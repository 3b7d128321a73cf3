"""`rediff view`: it prints an address that works, and ends quietly."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rediffinet.io.outputs import save_result
from rediffinet.segmenter import Segmenter


@pytest.fixture
def result(toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> Path:
    """The folder of a result of the toy case."""
    from rediffinet.io.cases import load_case

    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        save_result(segmenter.segment(load_case(toy_folder)), tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_the_address_that_is_printed_is_the_page(result: Path) -> None:
    program = "from rediffinet.cli.main import main; main()"
    command = [sys.executable, "-u", "-c", program, "view", str(result), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout and running.stderr
        found = re.fullmatch(r"toy: (http://127\.0\.0\.1:\d+/[\w-]{20,}/)\n", running.stdout.readline())
        assert found
        with urllib.request.urlopen(found[1], timeout=20) as answer:
            assert b"<title>rediff</title>" in answer.read()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0
        said = running.stderr.read()
    assert "not shown: uncertainty" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing/here"], "No result in"),
        (["{result}", "--reference", "{result}/toy-report.json"], "not a NIfTI image"),
        (["{result}", "--images", "{result}"], "t1n"),
        (["{result}", "--port", "99999"], "Port 99999"),
    ],
    ids=["no result", "a reference that is no image", "a folder without images", "no such port"],
)
def test_what_a_user_can_get_wrong(rediff: Callable[..., Any], result: Path, arguments: list[str], said: str) -> None:
    done = rediff("view", *(one.replace("{result}", str(result)) for one in arguments), "--no-browser")
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_the_browser_is_opened_when_the_page_answers(result: Path, tmp_path: Path) -> None:
    """A browser that ends only when it has seen the page, as one of a terminal does."""
    browser = tmp_path / "browser"
    look = "import sys, urllib.request; print(len(urllib.request.urlopen(sys.argv[1], timeout=20).read()))"
    browser.write_text(f"#!/bin/sh\n{sys.executable} -c '{look}' \"$1\" > {tmp_path}/seen\n")
    browser.chmod(0o755)
    program = "from rediffinet.cli.main import main; main()"
    command = [sys.executable, "-u", "-c", program, "view", str(result)]
    with subprocess.Popen(command, env={**os.environ, "BROWSER": f"{browser} %s"}, stderr=subprocess.PIPE) as running:
        until = time.monotonic() + 60
        while not (tmp_path / "seen").exists() or not (tmp_path / "seen").read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0
        assert running.stderr and b"Traceback" not in running.stderr.read()
    assert int((tmp_path / "seen").read_text()) > 100


@pytest.mark.parametrize("ending", ["seg.nii.gz", "baseline.nii.gz"])
def test_a_map_that_is_empty(rediff: Callable[..., Any], result: Path, ending: str) -> None:
    (result / f"toy-{ending}").write_bytes(b"")
    done = rediff("view", result, "--no-browser")
    assert (done.code, done.out) == (2, "")
    assert f"toy-{ending}" in done.err and "Segment the case again" in done.err
