"""Precision variants of a bundle: what is added, what the gate lets in, and that a failure changes nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="export needs torch (extra 'train')")
pytest.importorskip("onnxscript", reason="export needs onnxscript (extra 'train')")
pytest.importorskip("onnxruntime", reason="extra 'cpu'")
pytest.importorskip("openvino", reason="extra 'cpu'")

from rediffinet.bundle import Bundle, file_sha256, open_bundle
from rediffinet.engines import open_engine
from rediffinet.errors import BundleError, ConfigError, EngineError, ExportError
from rediffinet.export import variants
from rediffinet.export.variants import add_precisions, parse_precisions, record
from rediffinet.io.cases import Case
from rediffinet.phantom import make_phantom
from rediffinet.segmenter import Segmenter

NAMES = ("baseline", "conditioner", "denoiser")


def runs(engine: str, precision: str) -> bool:
    """Whether this processor has what the engine needs for a precision."""
    try:
        open_engine(engine, precision=precision).close()
    except EngineError:
        return False
    return True


needs_bf16 = pytest.mark.skipif(not runs("openvino", "bf16"), reason="this processor has no bf16")
needs_int8 = pytest.mark.skipif(not runs("openvino", "int8"), reason="this processor has neither VNNI nor AMX")


@pytest.fixture(scope="module")
def case() -> Case:
    phantom = make_phantom(4, (64, 72, 56), tumour="enhancing")
    small = np.ascontiguousarray(phantom.images[:, 20:44, 24:48, 14:42])
    return Case.from_arrays("phantom", small, phantom.affine)


def copy_of(bundle: Bundle, folder: Path) -> Bundle:
    return open_bundle(shutil.copytree(bundle.path, folder))


@pytest.fixture(scope="module")
def added(bundle: Any, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with everything added, no gate in the way: its network is not trained."""
    copied = copy_of(bundle, tmp_path_factory.mktemp("variants") / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "LIMITS", dict.fromkeys(variants.LIMITS, 0.0))
        add_precisions(copied, ("fp16", *(("bf16",) if runs("openvino", "bf16") else ()), "int8"), [case])
    return open_bundle(copied.path)


def test_lists_of_precisions() -> None:
    assert parse_precisions("fp32") == ()
    assert parse_precisions("int8, fp32,fp16") == ("fp16", "int8")
    with pytest.raises(ConfigError, match="'fp32,fp8', expected a list of fp32, fp16, bf16, int8"):
        parse_precisions("fp32,fp8")


def test_calibration_records_what_the_graphs_are_fed(bundle: Any, case: Case) -> None:
    found = record(bundle, [case])
    assert set(found.inputs) == set(NAMES)
    for name, inputs in found.inputs.items():
        wanted = {tensor.name for tensor in bundle.graph(name).inputs}
        assert 1 <= len(inputs) <= variants.KEPT and all(set(arrays) == wanted for arrays in inputs)
    assert len({float(arrays["t"][0]) for arrays in found.inputs["denoiser"]}) > 1
    with Segmenter(bundle, "onnxruntime") as segmenter:
        np.testing.assert_array_equal(found.labels[0], segmenter.segment(case).crop_labels)


def test_variants_are_in_the_bundle(added: Bundle) -> None:
    assert added.precisions == ("fp32", "fp16", "int8")
    for name in NAMES:
        entry = added.manifest.graphs[name]
        assert set(entry.variants) == {"fp16", "int8"}
        for precision in ("fp16", "int8"):
            variant = entry.variants[precision]
            assert variant.sha256 == file_sha256(added.path / f"{name}-{precision}.onnx")
            assert 0 <= variant.parity.mean <= variant.parity.largest < 0.3 and variant.parity.inputs >= 1
            spec = added.graph(name, precision)
            assert (spec.path.name, spec.precision) == (f"{name}-{precision}.onnx", precision)
            assert spec.inputs == added.graph(name).inputs
        assert entry.variants["fp16"].parity.largest < 5e-3
        assert added.graph(name, "bf16").path == added.graph(name).path


def test_the_gate_is_recorded(added: Bundle) -> None:
    gates = added.manifest.precision_gate
    measured = {"fp16": "onnxruntime", "int8": "openvino" if runs("openvino", "int8") else "onnxruntime"}
    measured |= {"bf16": "openvino"} if runs("openvino", "bf16") else {}
    assert {name: gate.engine for name, gate in gates.items()} == measured
    for gate in gates.values():
        assert gate.cases == ("phantom",) and gate.dice == gate.worst
        assert all(0 <= dice <= 1 for dice in gate.dice)
    assert min(gates["fp16"].dice) > 0.99


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("onnxruntime", "fp16"),
        ("onnxruntime", "int8"),
        pytest.param("openvino", "bf16", marks=needs_bf16),
        pytest.param("openvino", "int8", marks=needs_int8),
        pytest.param("auto", "bf16", marks=needs_bf16),
    ],
)
def test_a_case_in_each_precision(added: Bundle, case: Case, engine: str, precision: str) -> None:
    with Segmenter.open(added.path, engine, precision=precision) as segmenter:
        report = segmenter.segment(case).report
    assert report.engine.precision == precision
    assert report.engine.used == (engine if engine != "auto" else "openvino")
    assert not any(warning.code == "precision-not-checked" for warning in report.warnings)


@needs_bf16
def test_a_precision_nobody_checked_is_a_warning(bundle: Any, case: Case) -> None:
    with Segmenter.open(bundle.path, "openvino", precision="bf16") as segmenter:
        warnings = segmenter.segment(case).report.warnings
    assert "precision-not-checked" in {warning.code for warning in warnings}


def test_a_precision_the_bundle_has_not(bundle: Any) -> None:
    with pytest.raises(BundleError, match="has no int8 graphs, it has fp32.*`precision=fp32,int8`"):
        Segmenter.open(bundle.path, "onnxruntime", precision="int8")


def test_an_altered_variant_is_noticed(added: Bundle, tmp_path: Path) -> None:
    folder = shutil.copytree(added.path, tmp_path / "bundle")
    with (folder / "conditioner-int8.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=r"conditioner-int8\.onnx \(graph 'conditioner'\) was altered"):
        open_bundle(folder)


def test_a_precision_that_fails_changes_nothing(
    bundle: Any, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = copy_of(bundle, tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in copied.path.iterdir()}
    monkeypatch.setattr(variants, "LIMITS", {"fp16": 1.01})
    with pytest.raises(ExportError, match=r"precision gate, fp16 in onnxruntime: Dice .* expected at least 1\.01"):
        add_precisions(copied, ("fp16",), [case])
    assert {path.name: path.read_bytes() for path in copied.path.iterdir()} == before


def test_int8_is_tried_again_without_the_outermost_layers(
    bundle: Any, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = copy_of(bundle, tmp_path / "bundle")
    real, asked = variants._gate, []

    def second_time(made: Bundle, precision: Any, calibration: Any) -> Any:
        gate = real(made, precision, calibration)
        asked.append(precision)
        return gate.model_copy(update={"dice": (1.0, 1.0, 0.5 if len(asked) == 1 else 1.0)})

    monkeypatch.setattr(variants, "_gate", second_time)
    made = add_precisions(copied, ("int8",), [case])
    assert len(asked) == 2
    assert all(entry.variants["int8"].float32_layers for entry in made.manifest.graphs.values())
    stored = json.loads((copied.path / "manifest.json").read_text())
    assert stored["graphs"]["denoiser"]["variants"]["int8"]["float32_layers"]
