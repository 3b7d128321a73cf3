"""`rediff segment --profile`: a trace of the case, its stages and the calls of graphs."""

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

needs = pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")


@needs
def test_a_case(rediff: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> None:
    file = tmp_path / "traces" / "trace.json"
    arguments = ("--bundle", toy_bundle.path, "--engine", "onnxruntime", "--out", tmp_path / "out", "--json")
    done = rediff("segment", toy_folder, *arguments, "--profile", file)
    assert done.code == 0, done.err
    report = json.loads(done.out)
    events = json.loads(file.read_text())["traceEvents"]
    assert {(event["ph"], event["pid"] > 0) for event in events} == {("X", True)}
    [case] = [event for event in events if event["cat"] == "case"]
    stages = [event for event in events if event["cat"] == "stage"]
    assert [event["name"] for event in stages] == ["load", "normalise", "baseline", "refine", "decode", "write"]
    for before, after in pairwise(stages):
        assert before["ts"] + before["dur"] == pytest.approx(after["ts"], abs=1)
    assert [event["dur"] for event in stages] == pytest.approx(
        [1e6 * report["seconds"][e["name"]] for e in stages], rel=1e-3
    )
    assert case["ts"] == stages[0]["ts"] and stages[-1]["ts"] < case["ts"] + case["dur"]
    calls = [event["name"] for event in events if event["cat"] == "graph"]
    sampling = report["sampling"]
    assert calls.count("denoiser") == sampling["denoiser_calls"] and calls.count("conditioner") == sampling["windows"]
    assert {event["args"]["batch"] for event in events if event["cat"] == "graph"} == {1}


@needs
def test_several_processes_have_no_one_trace(rediff: Any, toy_folder: Path, tmp_path: Path) -> None:
    done = rediff("segment", toy_folder, "--processes", 2, "--profile", tmp_path / "trace.json")
    assert done.code == 2 and "--profile is of one process" in done.err
