"""`rediff export`, and the whole way: train, export, segment."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("torch", reason="the whole way needs torch (extra 'train')")
pytest.importorskip("monai", reason="the whole way needs monai (extra 'train')")
pytest.importorskip("onnxscript", reason="the whole way needs onnxscript (extra 'train')")
pytest.importorskip("onnxruntime", reason="the whole way needs onnxruntime (extra 'cpu')")

from typer.testing import CliRunner, Result

from rediffinet.bundle import open_bundle
from rediffinet.cli.main import app
from rediffinet.errors import ConfigError, ExportError, OutputError, TrainingError
from rediffinet.method.recipe import Calibration, Decision, SmallComponents

pytestmark = pytest.mark.usefixtures("small_gate", "traced_once")

# as in test_crossval.py and test_models_export.py: one trace for all
UNET = ["unet.features=4,8", "unet.stem_stride=1", "unet.deep_supervision=true", "unet.window=16,16,16", "mirror=false"]
REFINER = ["refiner.features=4,8", "refiner.head_features=4", "refiner.window=16,16,16"]


def rediff(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def settings(*values: str) -> list[str]:
    return [argument for value in ("steps=2", "warmup=1", "autocast=false", *values) for argument in ("--set", value)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, labelled_phantoms: Path) -> Path:
    """Holds the baseline runs fold0 and fold1, and the refiner run, all made with the command."""
    folder = tmp_path_factory.mktemp("whole-way")
    data = labelled_phantoms
    for fold in (0, 1):
        arguments = ["--model", "unet", "--data", data, "--out", folder / f"fold{fold}", "--folds", 2, "--fold", fold]
        result = rediff("train", *arguments, *settings(*UNET))
        assert result.exit_code == 0, result.exception
    baselines = ["--baseline", folder / "fold0", "--baseline", folder / "fold1"]
    result = rediff(
        "train", "--model", "rediffinet", "--data", data, "--out", folder / "refiner", *baselines, *settings(*REFINER)
    )
    assert result.exit_code == 0, result.exception
    return folder


def export(folder: Path, out: Path, *arguments: object) -> Result:
    return rediff("export", folder / "refiner", "--baseline", folder / "fold0", "--out", out, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "float8"], "--weights: got 'float8'"),
        (["--precision", "fp32,fp8"], "`precision`: got 'fp32,fp8'"),
        (["--steps", "5000"], "steps: got 5000, expected 1 to 1000"),
    ],
)
def test_values_that_do_not_fit_are_named(folder: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = export(folder, tmp_path / "bundle", *arguments)
    assert isinstance(result.exception, ConfigError) and words in str(result.exception)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("arguments", [["--overlap", "1.0"], ["--samples", "0"], ["--steps", "0"]])
def test_numbers_out_of_range_are_refused_at_once(folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = export(folder, tmp_path / "bundle", *arguments)
    assert result.exit_code == 2 and arguments[0] in result.output
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"decision": {"adding": [0.5, 0.5, 1.5], "removing": [0.5] * 3}}, "decision.adding.2"),
        ({"decision": {"adding": [0.5] * 2, "removing": [0.5] * 3}}, "adding has 2 thresholds, removing 3"),
        ({"decision": {"adding": ["high"] * 3, "removing": [0.5] * 3}}, "decision.adding.0"),
        ({"model": "unet"}, "holds the decision for 'unet', expected one for 'rediffinet'"),
        ({"schema_version": "rediffinet-decision/0"}, "schema_version"),
    ],
)
def test_decisions_that_do_not_fit_are_named(folder: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    values = {"model": "rediffinet", "decision": {"adding": [0.5] * 3, "removing": [0.5] * 3}, **change}
    (tmp_path / "rediffinet-decision.json").write_text(json.dumps(values))
    result = export(folder, tmp_path / "bundle", "--calibrated", tmp_path)
    assert isinstance(result.exception, ConfigError), result.output
    assert said in str(result.exception) and str(tmp_path / "rediffinet-decision.json") in str(result.exception)
    missing = export(folder, tmp_path / "bundle", "--calibrated", tmp_path / "absent")
    assert isinstance(missing.exception, ConfigError) and "rediff calibrate" in str(missing.exception)


def test_runs_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    swapped = rediff("export", folder / "fold0", "--baseline", folder / "refiner", "--out", tmp_path / "bundle")
    assert isinstance(swapped.exception, ExportError) and "fold0" in str(swapped.exception)
    missing = rediff("export", folder / "nothing", "--baseline", folder / "fold0", "--out", tmp_path / "bundle")
    assert isinstance(missing.exception, TrainingError) and "nothing" in str(missing.exception)


def test_from_training_to_a_segmented_case(folder: Path, labelled_phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    small = SmallComponents(min_fraction=0.2)
    decision = Decision(
        adding=(0.7, 0.8, 0.9),
        removing=(0.6, 0.7, 1.0),
        whole_components=0.95,
        small_components=small,
        unsure_enhancement=0.75,
    )
    calibration = Calibration(model="rediffinet", decision=decision, disagreement=0.125, metrics={"folds": 2})
    (tmp_path / "rediffinet-decision.json").write_text(calibration.model_dump_json())
    result = export(
        folder, out, "--name", "smoke", "--weights", "float16", "--steps", 2, "--samples", 2,
        "--overlap", "0", "--calibrated", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    *graphs, path = result.stdout.splitlines()
    assert path == str(out)
    assert [line.split(":")[0] for line in graphs] == ["baseline", "conditioner", "denoiser"]
    assert all("tolerance" in line for line in graphs)
    manifest = open_bundle(out).manifest
    assert manifest.name == "smoke" and manifest.graphs["baseline"].weights == "float16"
    assert manifest.recipe.decision == decision and manifest.recipe.given is None
    assert manifest.recipe.trust.disagreement == 0.125 and manifest.metrics == {"folds": 2}
    assert "whole components above 0.95" in rediff("info", out).stdout
    assert (manifest.recipe.diffusion.steps, manifest.recipe.diffusion.samples, manifest.recipe.refiner.overlap) == (
        2,
        2,
        0.0,
    )
    assert len(manifest.training["baseline"]["held_out"]) == 2

    again = export(folder, out)
    assert isinstance(again.exception, OutputError) and "`overwrite=True`" in str(again.exception)

    case = sorted(path for path in labelled_phantoms.iterdir() if path.is_dir())[0]
    results = {}
    for engine in ("onnxruntime", "torch"):
        arguments = ["--bundle", out, "--engine", engine, "--json", "-o", tmp_path / engine]
        result = rediff("segment", case, *arguments, "--no-postprocess")
        assert result.exit_code == 0, result.exception
        report = json.loads(result.stdout)
        assert report["case"] == case.name and report["engine"]["used"] == engine
        assert report["sampling"]["steps"] == 2 and report["sampling"]["samples"] == 2
        assert report["sampling"]["windows"] > 0
        image = nib.load(next((tmp_path / engine).rglob(f"{case.name}-seg.nii.gz")))
        results[engine] = np.asarray(image.dataobj)
        reference = nib.load(case / f"{case.name}-t1n.nii.gz")
        assert image.shape == reference.shape and np.array_equal(image.affine, reference.affine)
        assert set(np.unique(results[engine])) <= {0, 1, 2, 3}
    # float32 rounding may tip a voxel over a threshold, no more
    assert (results["onnxruntime"] != results["torch"]).mean() < 1e-3


def test_plans_come_with_the_bundle(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="plans are built with tensorrt_rtx (extra 'rtx')")
    out = tmp_path / "bundle"
    refused = export(folder, out, "--trt", "--trt-target", "sm86,sm99")
    assert isinstance(refused.exception, ExportError)
    assert "has no target 'sm99'" in str(refused.exception)
    assert not out.exists()  # found out before the export, not after
    done = export(folder, out, "--trt", "--trt-target", "sm86")
    assert done.exit_code == 0, done.exception
    assert f"{out / 'trt' / 'sm86-fp32'}: tensorrt_rtx" in done.output
    assert sorted(path.name for path in (out / "trt" / "sm86-fp32").iterdir()) == [
        "baseline.plan",
        "conditioner.plan",
        "denoiser.plan",
        "plan.json",
    ]
