"""`rediff info`."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rediffinet.method.models import MODELS


def test_it_says_what_the_bundle_is(rediff: Any, toy_bundle: Any) -> None:
    done = rediff("info", toy_bundle.path)
    assert (done.code, done.err) == (0, "")
    sha256 = hashlib.sha256((toy_bundle.path / "manifest.json").read_bytes()).hexdigest()
    for said in (
        "toy (rediffinet)",
        sha256,
        "hashes verified",
        "denoiser.onnx",
        "window 12×14×10",
        "2 of 1000 steps",
        "3 samples",
        "t1n, t1c, t2w, t2f",
        "Research use only",
    ):
        assert said in done.out


def test_json_is_the_manifest(rediff: Any, toy_bundle: Any) -> None:
    done = rediff("info", toy_bundle.path, "--json")
    assert done.code == 0
    values = json.loads(done.out)
    assert values["graphs"]["baseline"]["sha256"] == toy_bundle.manifest["graphs"]["baseline"]["sha256"]
    assert values["recipe"]["baseline"]["window"] == [12, 14, 10]
    assert values["sha256"] == hashlib.sha256((toy_bundle.path / "manifest.json").read_bytes()).hexdigest()


def test_an_altered_bundle_is_an_error_that_names_the_file(rediff: Any, toy_bundle: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))
    with (folder / "denoiser.onnx").open("ab") as file:
        file.write(b"\0")
    done = rediff("info", folder)
    assert (done.code, done.out) == (2, "")
    assert "denoiser.onnx" in done.err
    assert "altered" in done.err
    assert "Traceback" not in done.err


@pytest.fixture
def with_everything(toy_bundle: Any, tmp_path: Path) -> Path:
    """The toy bundle with an fp16 variant, a gate, a training record and a folder of plans."""
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    parity = {"engine": "onnxruntime", "inputs": 8, "largest": 1.5e-3, "mean": 2e-5}
    for name, entry in manifest["graphs"].items():
        content = (folder / f"{name}.onnx").read_bytes()
        (folder / f"{name}-fp16.onnx").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        entry["variants"] = {"fp16": {"file": f"{name}-fp16.onnx", "sha256": sha256, "parity": parity}}
    dice = {"dice": [0.9991, 0.9982, 0.9973], "worst": [0.99, 0.99, 0.99], "limit": 0.99}
    manifest["precision_gate"] = {"fp16": {"engine": "onnxruntime", "cases": ["a", "b"], **dice}}
    run = {"model": "unet", "trained_on": ["a", "b", "c"], "held_out": ["d"], "checkpoint_sha256": "ab" * 32}
    manifest["training"] = {"baseline": run}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    plans = {"module": "tensorrt_rtx", "version": "1.7.1", "target": "sm86", "precision": "fp16", "batch": 4}
    (folder / "trt" / "sm86-fp16").mkdir(parents=True)
    description = {"schema": "rediffinet-plans/1", "key": plans, "plans": {}}
    (folder / "trt" / "sm86-fp16" / "plan.json").write_text(json.dumps(description))
    return folder


def test_precisions_plans_and_training_are_shown(rediff: Any, with_everything: Path) -> None:
    done = rediff("info", with_everything)
    assert (done.code, done.err) == (0, "")
    for said in (
        "precisions: fp32, fp16",
        "fp16: denoiser-fp16.onnx",
        "largest 1.5e-03, mean 2.0e-05 (onnxruntime)",
        "fp16: Dice of WT, TC, ET against fp32 0.9991, 0.9982, 0.9973; 2 cases, onnxruntime",
        "plans sm86-fp16: tensorrt_rtx 1.7.1, sm86",
        "baseline: unet trained on 3 cases, 1 held out, checkpoint abababababab",
    ):
        assert said in done.out


def test_json_has_precisions_and_plans(rediff: Any, with_everything: Path) -> None:
    values = json.loads(rediff("info", with_everything, "--json").out)
    assert values["hashes_verified"] is True
    assert values["precisions"] == ["fp32", "fp16"]
    assert values["plans"][0]["key"]["target"] == "sm86"
    assert values["graphs"]["denoiser"]["variants"]["fp16"]["parity"]["inputs"] == 8
    assert values["precision_gate"]["fp16"]["cases"] == ["a", "b"]


def test_an_altered_variant_is_an_error(rediff: Any, with_everything: Path) -> None:
    (with_everything / "conditioner-fp16.onnx").write_bytes(b"")
    done = rediff("info", with_everything)
    assert (done.code, done.out) == (2, "")
    assert "conditioner-fp16.onnx" in done.err


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_shown(rediff: Any, make_toy_bundle: Any, model: str) -> None:
    kind = MODELS[model]
    done = rediff("info", make_toy_bundle(model=model, spacing_mm=(2.0, 2.0, 2.0)).path)
    assert (done.code, done.err) == (0, "")
    assert f"toy ({model})" in done.out
    assert f"predicts the {kind.target}" in done.out and "at voxels of 2 × 2 × 2 mm" in done.out
    assert all(f"  {name}: {name}.onnx" in done.out for name in kind.graphs)
    assert ("sampling: ddim" in done.out) == kind.samples
    assert ("flips above" in done.out) == bool(kind.condition)
