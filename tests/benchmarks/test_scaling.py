"""benchmarks/scaling.py: a graph for other windows, its tables and its plot."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rediffinet.bundle import open_bundle
from rediffinet.engines import open_engine

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("scaling", FOLDER / "scaling.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scaling", module)
    spec.loader.exec_module(module)
    return module


def test_the_baseline_for_another_window(scaling: ModuleType, toy_bundle: Any, tmp_path: Path) -> None:
    """For its own window it says what it says; for another, the shapes are those of the window."""
    pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    bundle = open_bundle(toy_bundle.path)
    own = bundle.graph("baseline")
    window = own.inputs[0].shape[2:]
    image = np.random.default_rng(0).standard_normal((1, *own.inputs[0].shape[1:]), np.float32)
    with open_engine("onnxruntime", "cpu") as engine:
        again = engine.load(scaling.resized(bundle, window, tmp_path))(image=image)
        np.testing.assert_array_equal(again["probability"], engine.load(own)(image=image)["probability"])
        larger = tuple(size + 8 for size in window)
        graph = engine.load(scaling.resized(bundle, larger, tmp_path))
        assert graph(image=np.zeros((1, 4, *larger), np.float32))["probability"].shape == (1, 3, *larger)


def test_tables_and_plot(scaling: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    rows = [{"x": x, "series": "a case in memory", "took": [4.0 / x, 3.5 / x, 5.0 / x]} for x in (1, 2)]
    found = {"threads": {"machine": "one", "turns": 5, "rows": rows}}
    assert "| a case in memory | 2       | 2 (1.75 to 2.5)" in scaling.as_text(found)
    scaling.plot(found, tmp_path / "scaling.svg")
    drawn = (tmp_path / "scaling.svg").read_text()
    assert "a case in memory" in drawn and len(drawn) < 60_000
