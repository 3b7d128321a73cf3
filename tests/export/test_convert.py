"""A bundle of the first schema, made from the toy bundle by hand, and what it becomes."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rediffinet.bundle import open_bundle
from rediffinet.errors import BundleError, OutputError
from rediffinet.export.convert import convert_bundle
from rediffinet.method.recipe import Decision, SmallComponents
from rediffinet.segmenter import Segmenter
from rediffinet.task import TASKS


@pytest.fixture
def old(toy_bundle: Any, tmp_path: Path) -> Path:
    """The toy bundle as the first schema had it."""
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "old"))
    (folder / "trt").mkdir()
    (folder / "trt" / "plan.json").write_text("{}")
    now = json.loads((folder / "manifest.json").read_text())
    recipe = now.pop("recipe")
    decision = recipe.pop("decision")
    del recipe["task"]
    small = decision["small_components"]
    then = {
        **now,
        **recipe,
        "schema_version": "rediffinet-bundle/1",
        "channels": ["t1n", "t1c", "t2w", "t2f"],
        "regions": ["WT", "TC", "ET"],
        "labels": "brats2021",
        "refiner": {**recipe["refiner"], "thresholds": [0.6, 0.7, 1.0], "component_threshold": 0.2},
        "postprocess": {**small, "min_enhancing": 0.3},
        "metrics": {
            "held_out_cases": 2,
            "postprocess": {**small, "min_enhancing": 0.3},
            "component_threshold": 0.2,
            "thresholds_of_the_other_folds": {"0": [0.5, 0.5, 1.0]},
            "component_threshold_of_the_other_folds": {"0": 0.1},
            "min_enhancing_of_the_other_folds": {"0": 0.4},
        },
    }
    (folder / "manifest.json").write_text(json.dumps(then))
    return folder


def test_everything_finds_its_place(old: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="rediff convert"):
        open_bundle(old)
    manifest = convert_bundle(old, tmp_path / "new").manifest
    recipe, small = manifest.recipe, SmallComponents(min_voxels=0)
    assert recipe.task == TASKS["glioma-2021"] and recipe.given is None
    assert recipe.decision == Decision.at(
        (0.6, 0.7, 1.0), whole_components=0.2, small_components=small, unsure_enhancement=0.3
    )
    assert manifest.metrics["held_out_cases"] == 2
    assert Decision(**manifest.metrics["decision"]) == recipe.decision
    (fold,) = manifest.metrics["decision_of_the_other_folds"].values()
    assert Decision(**fold) == Decision.at(
        (0.5, 0.5, 1.0), whole_components=0.1, small_components=small, unsure_enhancement=0.4
    )
    assert (tmp_path / "new" / "trt" / "plan.json").is_file(), "plans come along"


def test_it_runs(old: Path, tmp_path: Path, toy_case: Any) -> None:
    pytest.importorskip("onnxruntime")
    with Segmenter(convert_bundle(old, tmp_path / "new"), "onnxruntime", threads=1) as segmenter:
        found = set(segmenter.segment(toy_case).labels.ravel().tolist())
    assert found <= {0, 1, 2, 4} and len(found) > 1


def test_what_cannot_be_converted_is_named(old: Path, toy_bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing to convert"):
        convert_bundle(toy_bundle.path, tmp_path / "new")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        convert_bundle(tmp_path / "absent", tmp_path / "new")
    with pytest.raises(OutputError, match="exists already"):
        convert_bundle(old, old)
    (old / "denoiser.onnx").write_bytes(b"altered")
    with pytest.raises(BundleError, match=rf"^bundle {re.escape(str(old))}: .*denoiser\.onnx"):
        convert_bundle(old, tmp_path / "new")
    values = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps({**values, "refiner": {"window": [8, 8, 8]}}))
    with pytest.raises(BundleError, match="thresholds"):
        convert_bundle(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
