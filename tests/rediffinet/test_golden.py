"""The house may be rebuilt; what it makes of these cases stays the same to the bit.

Label maps as sha256 over their bytes, and the numbers of the report, recorded by
`python tests/rediffinet/test_golden.py FOLDER ODD_CASES`. Those of the toy bundle and of glioma-2mm-v4, recorded before
the house was rebuilt, came out the same to the bit afterwards; tests/golden.json was recorded anew when glioma-v5 took
its place, when the refinement's windows came to follow the outline of what they have to hold, when the curve of the
uncertainty was fitted anew and unsure cores were told, when the uncertainty became the baseline's where no flip
reaches (label maps, volumes and flips the same), and when glioma-v6 took the place of v5.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet import Case, Segmenter, load_case
from rediffinet.bundle import open_bundle
from rediffinet.phantom import write_phantoms

TESTS = Path(__file__).resolve().parents[1]
RECORDED = TESTS / "golden.json"
GOLDEN: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
PHANTOMS: dict[str, dict[str, Any]] = {
    "random": {"cases": 1, "seed": 11, "shape": (80, 96, 72)},
    "tiny-enhancing": {"cases": 1, "seed": 12, "shape": (80, 96, 72)},
    "non-enhancing": {"cases": 1, "seed": 13, "shape": (80, 96, 72)},
}
"""Kind of tumour → arguments of `write_phantoms`."""
ODD_CASES = ("BraTS-MET-00110-000", "BraTS2021_01485")
NUMBERS = ("volumes_ml", "flipped_voxels", "uncertainty", "sampling")


def measure(segmenter: Any, case: Any) -> dict[str, Any]:
    """The golden values of one case."""
    result = segmenter.segment(case)
    report = result.report.to_dict()
    return {
        "labels": fingerprint(result.labels),
        "baseline": fingerprint(result.baseline_labels),
        **{name: report[name] for name in NUMBERS},
        "warnings": [warning["code"] for warning in report["warnings"]],
    }


def assert_same(found: dict[str, Any], golden: dict[str, Any]) -> None:
    """All to the bit, but for means of float32 values, which another processor sums in another order."""
    assert found["uncertainty"] == pytest.approx(golden["uncertainty"], rel=1e-6, abs=1e-8)
    assert {**found, "uncertainty": None} == {**golden, "uncertainty": None}


def fingerprint(labels: Any) -> str:
    """sha256 over shape and bytes of a label map (X, Y, Z)."""
    return hashlib.sha256(
        f"{labels.shape} {labels.dtype}".encode() + np.ascontiguousarray(labels).tobytes()
    ).hexdigest()


def phantoms(folder: Path) -> Iterator[tuple[str, Any]]:
    """(kind, case) of every phantom, written into folder."""
    for kind, arguments in PHANTOMS.items():
        (written,) = write_phantoms(folder / kind, tumour=kind, **arguments)
        yield kind, load_case(written)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dict(phantoms(tmp_path_factory.mktemp("phantoms")))


@pytest.fixture(scope="module")
def default_bundle() -> Any:
    bundle = open_bundle()
    manifest, recorded = bundle.manifest, GOLDEN["bundle"]
    if (manifest.name, manifest.graphs["baseline"].sha256) != (recorded["name"], recorded["baseline"]):
        pytest.skip(f"the values are those of {recorded['name']}, the package holds {manifest.name}")
    with Segmenter(bundle, "onnxruntime", threads=1) as segmenter:
        yield segmenter


def test_the_toy_bundle_on_its_own_case(toy_bundle, toy_case):
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        assert_same(measure(segmenter, toy_case), GOLDEN["toy"]["toy"])


def test_the_toy_bundle_on_phantoms(toy_bundle, cases):
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        for kind, case in cases.items():
            assert_same(measure(segmenter, case), GOLDEN["toy"][kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", PHANTOMS)
def test_the_default_bundle_on_phantoms(default_bundle, cases, kind):
    assert_same(measure(default_bundle, cases[kind]), GOLDEN["default"][kind])


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_CASES)
def test_the_default_bundle_on_odd_cases(default_bundle, name):
    folder = Path(os.environ.get("REDIFF_ODD_CASES", TESTS.parents[1] / "shared" / "odd_cases")) / name
    if not folder.is_dir():
        pytest.skip(f"no odd case: {folder} is not a folder (set REDIFF_ODD_CASES)")
    assert_same(measure(default_bundle, load_case(folder)), GOLDEN["odd"][name])


def _record(folder: Path) -> None:
    sys.path.insert(0, str(TESTS))
    from conftest import TOY_AFFINE, toy_images, write_toy_bundle

    golden: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        toy = write_toy_bundle(Path(scratch) / "bundle" / "toy")
        with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
            golden["toy"] = {"toy": measure(segmenter, Case.from_arrays("toy", toy_images(), TOY_AFFINE))}
            golden["toy"] |= {kind: measure(segmenter, case) for kind, case in phantoms(Path(scratch) / "toy")}
        with Segmenter.open(None, "onnxruntime", threads=1) as segmenter:
            manifest = segmenter.bundle.manifest
            golden["bundle"] = {"name": manifest.name, "baseline": manifest.graphs["baseline"].sha256}
            golden["default"] = {kind: measure(segmenter, case) for kind, case in phantoms(Path(scratch))}
            odd = Path(sys.argv[2])
            golden["odd"] = {name: measure(segmenter, load_case(odd / name)) for name in ODD_CASES}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden.json").write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    _record(Path(sys.argv[1]))
