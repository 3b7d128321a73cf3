"""`rediff export`, and the whole way: train, export, segment."""

import json
from pathlib import Path

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
from rediffinet.phantom import write_phantoms

UNET = ["unet.features=4,8,8", "unet.window=32,40,32"]
REFINER = [
    "refiner.features=4,8",
    "refiner.head_features=4",
    "refiner.time_features=8",
    "refiner.window=16,16,16",
]


def rediff(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def settings(*values: str) -> list[str]:
    return [argument for value in ("steps=2", "warmup=1", *values) for argument in ("--set", value)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds data/, the baseline runs fold0 and fold1, and the refiner run, all made with the command."""
    folder = tmp_path_factory.mktemp("whole-way")
    data = folder / "data"
    write_phantoms(data, 4, 3, shape=(64, 72, 56))
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
        (["--thresholds", "0.5,0.6"], "--thresholds: got '0.5,0.6'"),
        (["--thresholds", "high"], "--thresholds: got 'high'"),
        (["--thresholds", "0.5,0.5,1.5"], "numbers from 0 to 1"),
        (["--thresholds", "nan"], "numbers from 0 to 1"),
        (["--weights", "float8"], "--weights: got 'float8'"),
        (["--overlap", "1.0"], "--overlap"),
        (["--min-fraction", "-0.1"], "--min-fraction"),
        (["--samples", "0"], "--samples"),
        (["--precision", "fp32,fp8"], "--precision: got 'fp32,fp8'"),
        (["--steps", "5000"], "--steps: got 5000, expected 1 to 1000"),
    ],
)
def test_values_that_do_not_fit_are_named(folder: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    result = export(folder, tmp_path / "bundle", *arguments)
    assert isinstance(result.exception, ConfigError) and words in str(result.exception)
    assert not (tmp_path / "bundle").exists()


def test_runs_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    swapped = rediff("export", folder / "fold0", "--baseline", folder / "refiner", "--out", tmp_path / "bundle")
    assert isinstance(swapped.exception, ExportError) and "fold0" in str(swapped.exception)
    missing = rediff("export", folder / "nothing", "--baseline", folder / "fold0", "--out", tmp_path / "bundle")
    assert isinstance(missing.exception, TrainingError) and "nothing" in str(missing.exception)


def test_from_training_to_a_segmented_case(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = export(
        folder, out, "--name", "smoke", "--weights", "float16", "--steps", 2, "--samples", 2,
        "--thresholds", "0.7", "--min-fraction", "0.2", "--overlap", "0",
        "--min-enhancing", "0.75", "--component-threshold", "0.95",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    *graphs, path = result.stdout.splitlines()
    assert path == str(out)
    assert [line.split(":")[0] for line in graphs] == ["baseline", "conditioner", "denoiser"]
    assert all("tolerance" in line for line in graphs)
    manifest = open_bundle(out).manifest
    assert manifest.name == "smoke" and manifest.graphs["baseline"].weights == "float16"
    assert manifest.refiner.thresholds == (0.7, 0.7, 0.7) and manifest.postprocess.min_fraction == 0.2
    assert manifest.postprocess.min_enhancing == 0.75 and manifest.refiner.component_threshold == 0.95
    assert "whole components above 0.95" in rediff("info", out).stdout
    assert (manifest.diffusion.steps, manifest.diffusion.samples, manifest.refiner.overlap) == (2, 2, 0.0)
    assert len(manifest.training["baseline"]["held_out"]) == 2

    again = export(folder, out)
    assert isinstance(again.exception, OutputError) and "--overwrite" in str(again.exception)

    case = sorted((folder / "data").iterdir())[0]
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
