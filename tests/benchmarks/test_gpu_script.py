"""benchmarks/gpu.py with a processor in the place of the GPU, and without a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"
needs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "torch", "onnx")),
    reason="needs onnxruntime, torch and onnx",
)


def run(out: Path, *arguments: object, path: Path | None = None) -> tuple[dict[str, Any], str]:
    """gpu.json and gpu.md of one run of the script; path: a folder of modules before all others."""
    command = [sys.executable, str(SCRIPT), "--out", str(out), *map(str, arguments)]
    places = [str(path), os.environ.get("PYTHONPATH", "")] if path else [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


@needs
@pytest.mark.slow
def test_a_processor_in_the_place_of_a_gpu(toy_bundle: Any, tmp_path: Path) -> None:
    found, told = run(
        tmp_path,
        *("--device", "cpu", "--bundle", toy_bundle.path, "--phantom", "40,44,36"),
        *("--batches", "1,2", "--seconds", "0.01", "--minutes", "60", "--no-compile", "--parts", "doctor,labels,steps"),
    )
    assert [part["state"] for part in found.values()] == ["done"] * 3
    assert found["doctor"]["content"]["absent, without which parts fail"] == "nothing"
    labels = [row for row in found["labels"]["content"]["rows"][1:] if row["precision"] == "fp32"]
    assert {row["engine"] for row in labels} >= {"onnxruntime", "torch"}
    assert all(row["Dice_WT"] == row["Dice_ET"] == 1.0 for row in labels)
    rows = found["steps"]["content"]["rows"]
    timed = {(row["graph"], row["batch"], row["contestant"]) for row in rows if "ms" in row}
    for graph in ("denoiser", "baseline", "conditioner"):
        assert {(graph, 1, "torch eager fp32"), (graph, 1, "onnxruntime fp32")} <= timed
    assert ("denoiser", 2, "torch eager fp32") in timed
    assert all(row["apart"] < 1e-4 for row in rows if "apart" in row and "fp32" in row["contestant"])
    [why] = {row["why_not"] for row in rows if "CUDA graph" in row["contestant"]}
    assert "CUDA graphs need a GPU" in why
    assert "| onnxruntime | cpu | fp32 |" in told and "## steps" in told


@needs
def test_without_a_gpu_every_part_says_why(toy_bundle: Any, tmp_path: Path) -> None:
    found, told = run(
        tmp_path, "--bundle", toy_bundle.path, "--phantom", "40,44,36", "--parts", "labels", "--minutes", "60"
    )
    first, *others = found["labels"]["content"]["rows"]
    assert first["device"] == "cpu" and first["first_s"] > 0
    assert all("cuda:0" in row["why_not"] or "driver" in row["why_not"] for row in others)
    assert "no NVIDIA driver" in told or "cannot run on cuda:0" in told


@needs
@pytest.mark.slow
def test_without_a_converter_to_fp16_the_rest_is_measured(toy_bundle: Any, tmp_path: Path) -> None:
    """As on a machine with a part of ONNX Runtime alone."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['onnxruntime.transformers'] = None\n")
    given = (
        "--device",
        "cpu",
        "--bundle",
        toy_bundle.path,
        "--phantom",
        "40,44,36",
        "--batches",
        "1",
        "--minutes",
        "60",
    )
    found, _ = run(
        tmp_path / "out", *given, "--seconds", "0.01", "--no-compile", "--parts", "labels,steps", path=tmp_path
    )
    for part in found.values():
        assert part["state"] == "done"
        assert [row["contestant"] for row in part["content"]["rows"] if "onnxruntime" in row.get("why_not", "")] == [
            "fp16 of every engine"
        ]
    assert {row["engine"] for row in found["labels"]["content"]["rows"] if "Dice_WT" in row} >= {"onnxruntime", "torch"}
    assert any("ms" in row for row in found["steps"]["content"]["rows"])


@needs
def test_parts_that_fail_or_outrun_their_time(tmp_path: Path) -> None:
    """What was found before, by this run or the last, stays."""
    found, _ = run(tmp_path, "--parts", "paper", "--device", "cpu", "--preset", "nonsense", "--minutes", "60")
    assert found["paper"]["state"].startswith("failed (1): ") and "got 'nonsense'" in found["paper"]["state"]
    found, told = run(tmp_path, "--parts", "doctor,tests", "--device", "cpu", "--minutes", "0.02")
    assert found["doctor"]["state"].startswith(("stopped after its 1 s", "done"))
    assert found["tests"]["state"].startswith(("not begun: the 0.02 minutes are over", "stopped"))
    assert "got 'nonsense'" in told


@needs
@pytest.mark.slow
def test_paper_size_and_training_in_small(tmp_path: Path) -> None:
    found, _ = run(
        tmp_path,
        *("--device", "cpu", "--preset", "tiny", "--window", "32,32,32", "--seconds", "0.01", "--no-compile"),
        *("--parts", "paper,training", "--minutes", "60", "--phantom", "40,44,36"),
    )
    assert [part["state"] for part in found.values()] == ["done"] * 2
    timed = {(row["batch"], row["contestant"]) for row in found["paper"]["content"]["rows"] if "ms" in row}
    assert {(1, "torch eager fp32"), (2, "torch eager fp32"), (1, "onnxruntime fp32"), (1, "onnxruntime fp16")} <= timed
    steps = {row["contestant"]: row for row in found["training"]["content"]["rows"]}
    assert steps["fp32"]["steps_per_second"] > 0 and "left out" in steps["autocast bf16, compiled"]["why_not"]
    loaded = [row["waiting"] for name, row in steps.items() if name.startswith("rediff train, batches made")]
    assert len(loaded) == 3 and all(0 <= share <= 1 for share in loaded)
