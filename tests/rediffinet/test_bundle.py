"""Opening a bundle verifies it; each way of being broken has a message of its own."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rediffinet.bundle import default_bundle, open_bundle
from rediffinet.engines.base import TensorSpec
from rediffinet.errors import BundleError
from rediffinet.method.models import MODELS
from rediffinet.task import TASKS


@pytest.fixture
def folder(tmp_path: Path, toy_bundle: Any) -> Path:
    """A copy of the toy bundle, to be broken."""
    return Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def message_of(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    return str(caught.value)


def test_a_good_bundle(folder: Path) -> None:
    bundle = open_bundle(str(folder))
    assert bundle.path == folder
    assert bundle.sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert bundle.manifest.recipe.baseline.window == (12, 14, 10)
    assert bundle.manifest.recipe.task.paint == (2, 1, 3)
    spec = bundle.graph("baseline")
    assert spec.path == folder / "baseline.onnx"
    assert spec.inputs == (TensorSpec("image", "float32", ("batch", 4, 12, 14, 10)),)
    assert spec.outputs == (TensorSpec("probability", "float32", ("batch", 3, 12, 14, 10)),)


@pytest.mark.parametrize("model", MODELS)
def test_the_model_says_which_graphs_and_settings_there_are(make_toy_bundle: Any, model: str) -> None:
    """As in the table of docs/bundle.md."""
    manifest = open_bundle(make_toy_bundle(model=model).path).manifest
    diffusion = {"conditioner", "denoiser"}
    graphs = {"unet": {"baseline"}, "discrepancy-unet": {"baseline", "discrepancy"}, "diff-unet": diffusion}
    assert set(manifest.graphs) == graphs.get(model, {"baseline"} | diffusion)
    assert (manifest.recipe.baseline is None) == (model == "diff-unet")
    assert (manifest.recipe.refiner is None) == (model == "unet")
    assert (manifest.recipe.diffusion is None) == (model in ("unet", "discrepancy-unet"))
    assert manifest.recipe.kind.name == model


def test_graphs_of_another_model_are_missed(make_toy_bundle: Any, tmp_path: Path) -> None:
    """Settings that fit, files that do not."""
    folder = Path(shutil.copytree(make_toy_bundle(model="discrepancy-unet").path, tmp_path / "bundle"))
    edit(folder, lambda values: values["graphs"].pop("discrepancy"))
    assert "names no graph discrepancy for the model 'discrepancy-unet'" in message_of(folder)


def test_labels_of_earlier_years(folder: Path) -> None:
    edit(folder, lambda values: values["recipe"].update(task=TASKS["glioma-2021"].model_dump(mode="json")))
    assert open_bundle(folder).manifest.recipe.task.paint == (2, 1, 4)


def test_a_file_that_is_missing(folder: Path) -> None:
    (folder / "denoiser.onnx").unlink()
    assert "denoiser.onnx (graph 'denoiser') is missing" in message_of(folder)


@pytest.mark.parametrize("place", [0, -1])
def test_a_file_with_one_changed_byte(folder: Path, place: int) -> None:
    path = folder / "conditioner.onnx"
    content = bytearray(path.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[place] ^= 1
    path.write_bytes(content)
    message = message_of(folder)
    assert "conditioner.onnx (graph 'conditioner') was altered" in message
    assert before in message
    assert hashlib.sha256(content).hexdigest() in message


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    assert "manifest.json is missing" in message_of(tmp_path)
    assert "manifest.json is missing" in message_of(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"not json"])
def test_a_manifest_that_is_not_json(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert "manifest.json is not JSON" in message_of(folder)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"schema_version": "rediffinet-bundle/99"}'])
def test_another_schema(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    assert "expected 'rediffinet-bundle/2'" in message_of(folder)


def test_an_older_schema_says_how_it_is_converted(folder: Path) -> None:
    edit(folder, lambda values: values.update(schema_version="rediffinet-bundle/1"))
    assert f"rediff convert {folder} --out" in message_of(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda values: values.update(surprise=1), "surprise"),
        (lambda values: values["recipe"].pop("refiner"), "no settings 'refiner' for the model 'rediffinet'"),
        (lambda values: values["recipe"].pop("baseline"), "no settings 'baseline'"),
        (
            lambda values: values["recipe"].update(model="pix2pix"),
            "got 'pix2pix', this version runs unet, discrepancy-unet",
        ),
        (lambda values: values["recipe"].update(model="unet"), "surplus settings 'refiner' for the model 'unet'"),
        (lambda values: values["recipe"].update(model="discrepancy-unet"), "surplus settings 'diffusion'"),
        (lambda values: values["graphs"].update(extra=values["graphs"]["baseline"]), "names surplus graph extra"),
        (lambda values: values["recipe"].update(spacing_mm=[1.0, 0.0, 1.0]), "recipe.spacing_mm.1"),
        (lambda values: values["recipe"]["diffusion"].update(steps=0), "diffusion.steps"),
        (lambda values: values["recipe"]["baseline"].update(overlap=1.0), "baseline.overlap"),
        (lambda values: values["recipe"]["refiner"].update(condition="both"), "refiner.condition"),
        (lambda values: values["recipe"].update(orientation="RAS"), "orientation"),
        (lambda values: values["graphs"].pop("conditioner"), "no graph conditioner"),
        (lambda values: values["graphs"]["baseline"].update(file="../baseline.onnx"), "outside the bundle"),
        (lambda values: values["graphs"]["baseline"].update(file="/etc/hostname"), "outside the bundle"),
        (
            lambda values: values["recipe"]["task"].update(contrasts=["t1c", "t1c"]),
            "the contrast t1c stands there twice",
        ),
        (lambda values: values["recipe"]["task"]["regions"].reverse(), "list parents first"),
        (lambda values: values["recipe"]["decision"].update(adding=[0.5]), "adding has 1 thresholds, removing 3"),
        (
            lambda values: values["recipe"]["decision"].update(adding=[0.5] * 4, removing=[0.5] * 4),
            "decision.adding: got 4 numbers, expected one for each of WT, TC, ET",
        ),
        (lambda values: values["recipe"]["baseline"].update(thresholds=[0.5]), "baseline.thresholds: got 1 numbers"),
    ],
)
def test_manifests_that_do_not_fit(folder: Path, change: Callable[[dict[str, Any]], None], named: str) -> None:
    edit(folder, change)
    message = message_of(folder)
    assert named in message
    assert str(folder) in message


def test_the_default_bundle_is_complete_or_its_absence_is_said() -> None:
    try:
        path = default_bundle()
    except BundleError as error:
        assert "`bundle`" in str(error)
    else:
        assert open_bundle().path == path
