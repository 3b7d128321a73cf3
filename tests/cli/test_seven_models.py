"""Every model the whole way with the same commands: train, export, segment, at voxels of 2 mm on cases of 1 mm."""

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

from rediffinet.cli.main import app
from rediffinet.errors import ExportError
from rediffinet.method.models import MODELS
from rediffinet.training.config import applies

WINDOW = "16,16,16"
SETTINGS = (
    "steps=2",
    "warmup=1",
    "autocast=false",
    "spacing_mm=2,2,2",
    "unet.features=4,8",
    "unet.stem_stride=1",
    f"unet.window={WINDOW}",
    "refiner.features=4,8",
    "refiner.head_features=4",
    "refiner.time_features=8",
    f"refiner.window={WINDOW}",
)


def rediff(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(model: str, data: Path, out: Path, *arguments: object) -> None:
    own = [setting for setting in SETTINGS if applies(MODELS[model], setting.partition("=")[0])]
    changes = [argument for setting in own for argument in ("--set", setting)]
    result = rediff("train", "--model", model, "--data", data, "--out", out, *changes, *arguments)
    assert result.exit_code == 0, result.exception


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, labelled_phantoms: Path) -> Path:
    """Holds data, a link, and the baseline runs fold0 and fold1."""
    folder = tmp_path_factory.mktemp("seven")
    (folder / "data").symlink_to(labelled_phantoms)
    for fold in (0, 1):
        train("unet", folder / "data", folder / f"fold{fold}", "--folds", 2, "--fold", fold)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_from_training_to_a_segmented_case(folder: Path, tmp_path: Path, model: str) -> None:
    kind = MODELS[model]
    run = folder / "fold0" if model == "unet" else tmp_path / "run"
    baselines = ("--baseline", folder / "fold0", "--baseline", folder / "fold1") if kind.refines else ()
    if model != "unet":
        train(model, folder / "data", run, *baselines)
    bundle = tmp_path / "bundle"
    result = rediff("export", run, "--out", bundle, "--steps", 2, "--samples", 2, *baselines[:2])
    assert result.exit_code == 0, result.exception
    assert [line.split(":")[0] for line in result.stdout.splitlines()[:-1]] == list(kind.graphs)
    shown = rediff("info", bundle)
    assert shown.exit_code == 0 and f"({model})" in shown.stdout

    case = sorted((folder / "data").iterdir())[0]
    result = rediff("segment", case, "--bundle", bundle, "--engine", "onnxruntime", "--json", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.exception
    report = json.loads(result.stdout)
    assert report["bundle"]["model"] == model
    assert report["sampling"]["samples"] == (2 if kind.samples else 0)
    assert (report["volumes_ml"]["baseline"] is not None) == kind.has_baseline
    image, source = (nib.load(tmp_path / "out" / f"{case.name}-seg.nii.gz"), nib.load(case / f"{case.name}-t1n.nii.gz"))
    assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
    assert set(np.unique(image.dataobj)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("swapped", [False, True])
def test_what_is_missing_or_too_much_is_named(folder: Path, tmp_path: Path, swapped: bool) -> None:
    data, run = folder / "data", tmp_path / "run"
    if swapped:
        result = rediff("export", folder / "fold0", "--baseline", folder / "fold1", "--out", tmp_path / "bundle")
        said = "refines no baseline"
    else:
        baselines = ("--baseline", folder / "fold0", "--baseline", folder / "fold1")
        train("discrepancy-unet", data, run, *baselines)
        result = rediff("export", run, "--out", tmp_path / "bundle")
        said = "Give a run of 'unet' with `baseline`"
    assert isinstance(result.exception, ExportError) and said in str(result.exception)
    assert not (tmp_path / "bundle").exists()
