"""Proof that an engine works: the smallest 3-D convolution, run, and its result compared.

A back-end that imports may still lack a driver, CUDA or cuDNN; only running something shows it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from rediffinet.engines.base import Engine, GraphSpec, TensorSpec
from rediffinet.errors import EngineError

# y = 2 x on one voxel, as an ONNX file: one Conv with a 1 × 1 × 1 kernel.
PROBE = bytes.fromhex(
    "08083a710a0f0a01780a01771201792204436f6e76120570726f62652a150801080108010801080110014201774a04000000405a"
    "1f0a0178121a0a18080112140a0208010a0208010a0208010a0208010a020801621f0a0179121a0a18080112140a0208010a0208"
    "010a0208010a0208010a02080142040a001011"
)


def prove(engine: Engine) -> None:
    """Run the probe on an open engine; `EngineError` when it fails or computes something else."""
    model, shape = engine.probe or (PROBE, (1,) * 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        path.write_bytes(model)
        tensors = (TensorSpec("x", "float32", shape),), (TensorSpec("y", "float32", shape),)
        result = engine.load(GraphSpec("probe", path, *tensors))(x=np.full(shape, 3.5, np.float32))["y"]
    if not np.allclose(result, 7.0, rtol=1e-2):
        message = f"engine '{engine.name}' on {engine.device}: 2 × 3.5 came out as {result.item():.6g}"
        raise EngineError(message)
