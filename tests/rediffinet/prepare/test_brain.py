"""Brain extraction without torch: the bundle's hashes and parity, and masks against references."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.engines import open_engine
from rediffinet.errors import BundleError, CaseError
from rediffinet.phantom import HeadPhantom
from rediffinet.prepare.brain import _box, _filled, _largest, extract_brain, network_input
from rediffinet.prepare.brain_bundle import open_brain_bundle
from rediffinet.prepare.space import Space, resample, upright_space

GOLDEN = Path(__file__).parent / "golden_brain.npz"


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize("graph", ["box", "mask"])
def test_the_graphs_give_what_deepbets_networks_give(graph: str) -> None:
    """Probabilities of the TorchScript modules of the wheel on a made-up head, means over cubes, recorded once."""
    golden = np.load(GOLDEN)
    bundle = open_brain_bundle()
    size = bundle.manifest.graphs[graph].size
    image = network_input(golden["image"].astype(np.float32), size, 0.0, float(golden["high"]))
    with open_engine("onnxruntime", threads=2) as engine:
        found = engine.load(bundle.graph(graph))(image=image)["tissue"][0, 1]
    cubes = found.reshape(32, size // 32, 32, size // 32, 32, size // 32).mean(axis=(1, 3, 5))
    assert np.abs(cubes - golden[graph].astype(np.float32)).max() < 0.03
    assert abs(cubes.mean() - golden[graph].mean(dtype=float)) < 1e-3


def test_the_bundle_tells_where_it_comes_from() -> None:
    manifest = open_brain_bundle().manifest
    assert manifest.licence == "MIT"
    assert "deepbet" in manifest.provenance.package
    for graph in manifest.graphs.values():
        assert graph.parity.dice >= 0.999
    assert "MIT License" in (open_brain_bundle().path / "LICENSE").read_text()


@pytest.mark.skipif("REDIFF_DEEPBET" not in os.environ, reason="set REDIFF_DEEPBET to the wheel of deepbet 1.0.2")
def test_against_the_wheel_itself(head: HeadPhantom) -> None:
    torch = pytest.importorskip("torch")
    bundle = open_brain_bundle()
    with zipfile.ZipFile(os.environ["REDIFF_DEEPBET"]) as archive:
        content = archive.read(bundle.manifest.graphs["box"].source.partition(":")[2])
    image = network_input(head.images[0], 128, 0.0, float(np.quantile(head.images[0], 0.995)))
    with torch.inference_mode():
        wanted = torch.jit.load(io.BytesIO(content))(torch.from_numpy(image))[0, 1].numpy()
    with open_engine("onnxruntime") as engine:
        found = engine.load(bundle.graph("box"))(image=image)["tissue"][0, 1]
    assert dice(found > 0.5, wanted > 0.5) > 0.999


@pytest.mark.parametrize("change", ["missing", "altered", "no-manifest", "wrong-manifest"])
def test_a_bundle_that_is_not_whole_is_refused(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "brain"
    shutil.copytree(open_brain_bundle().path, folder)
    if change == "missing":
        (folder / "box.onnx").unlink()
    elif change == "altered":
        with (folder / "box.onnx").open("ab") as file:
            file.write(b"x")
    elif change == "no-manifest":
        (folder / "manifest.json").unlink()
    else:
        values: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(values | {"surplus": 1}))
    with pytest.raises(BundleError, match=r"box\.onnx|manifest\.json"):
        open_brain_bundle(folder)


def test_the_brain_of_a_phantom_head(head: HeadPhantom) -> None:
    pytest.importorskip("SimpleITK")
    field = upright_space(Space(head.brain.shape, head.affine).corners)
    image = resample(head.images[0], head.affine, field)
    brain = resample(head.brain, head.affine, field) > 0.5
    with open_engine("auto", threads=2) as engine:
        found = extract_brain(image, open_brain_bundle(), engine)
    assert found.mask.shape == image.shape
    assert dice(found.mask, brain) > 0.9


def test_an_image_without_contrast_has_no_brain() -> None:
    with open_engine("auto") as engine, pytest.raises(CaseError, match="constant"):
        extract_brain(np.ones((64, 64, 64), np.float32), open_brain_bundle(), engine)


def test_holes_and_pieces_against_scipy() -> None:
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.normal(size=(40, 42, 44)), 2.5) > 0.02
    largest, left_out = _largest(mask)
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    assert count > 1
    assert np.array_equal(largest, labels == int(np.argmax(sizes)) + 1)
    assert left_out == pytest.approx(1 - sizes.max() / sizes.sum())
    assert np.array_equal(_filled(largest), ndimage.binary_fill_holes(largest))


def test_nothing_found_is_an_error() -> None:
    with pytest.raises(CaseError, match="`brain_mask=FILE`"):
        _largest(np.zeros((8, 8, 8), bool))
    rough = np.zeros((100, 100, 100), bool)
    rough[0, 0, 0] = True
    with pytest.raises(CaseError, match="too small"):
        _box(rough, (100, 100, 100))
