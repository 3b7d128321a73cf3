"""What is said when a GPU is full."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.engines import GraphSpec, TensorSpec, open_engine
from rediffinet.engines.advice import what_fits
from rediffinet.engines.probe import PROBE
from rediffinet.errors import EngineError


@pytest.mark.parametrize(
    ("needed", "free", "batch", "said"),
    [
        (800, 400, 8, "a batch of 4 would fit"),
        (800, 799, 8, "a batch of 7 would fit"),
        (800, 100, 8, "a batch of 1 would fit"),
        (800, 99, 8, "not even a batch of 1 would fit; a window of 120 × 152 × 120 would"),
        (800, 100, 1, "it does not fit; a window of 64 × 80 × 64 would"),
        (1 << 30, 1, 1, "it does not fit, nor would a smaller window: free the GPU"),
        (800, 0, 4, "not even a batch of 1 would fit, nor would a smaller window"),
        (800, -5, 4, "nor would a smaller window"),
    ],
)
def test_what_fits_when_a_gpu_is_full(needed: int, free: int, batch: int, said: str) -> None:
    assert said in what_fits(needed, free, batch, (128, 160, 128))


VOXEL = (1, 1, 1, 1, 1)
ENGINES = [name for name in ("onnxruntime", "torch") if importlib.util.find_spec(name)]


@pytest.fixture
def probe(tmp_path: Path) -> GraphSpec:
    (tmp_path / "probe.onnx").write_bytes(PROBE)
    tensors = (TensorSpec("x", "float32", VOXEL),), (TensorSpec("y", "float32", VOXEL),)
    return GraphSpec("probe", tmp_path / "probe.onnx", *tensors)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Failed to allocate memory for requested buffer of size 1073741824", "window of 1 × 1 × 1 in a batch of 1"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "use a bundle with a smaller window"),
        ("cuDNN failure 4000", "failed on cpu: cuDNN failure 4000"),
    ],
)
def test_back_ends_that_run_out_of_memory(
    name: str, said: str, expected: str, probe: GraphSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(said)

    with open_engine(name, threads=1) as engine:
        graph: Any = engine.load(probe)
        if name == "torch":
            monkeypatch.setattr(type(graph._steps[0]), "into", fail)
        else:
            monkeypatch.setattr(graph._session, "run_with_iobinding", fail)
        with pytest.raises(EngineError, match=f"graph 'probe'.*{expected}"):
            graph(x=np.zeros(VOXEL, np.float32))
