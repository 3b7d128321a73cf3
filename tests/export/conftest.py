"""Runs with random weights and the bundles made of them, once per session: an ONNX export takes seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

TINY = {
    "unet": {"unet": {"features": (4, 8, 8), "window": (32, 40, 32), "stem_stride": 2, "deep_supervision": True}},
    "rediffinet": {
        # wide timestep features: more frequencies than the size from which weights are stored as float16
        "refiner": {"features": (4, 8), "head_features": 6, "time_features": 256, "window": (16, 16, 24)}
    },
}


@pytest.fixture(scope="session")
def runs() -> dict[str, Any]:
    """An untrained run of each model."""
    for module in ("torch", "monai", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"export needs {module} (extras 'train' and 'cpu')")
    import torch

    from rediffinet.nets.refiner import Refiner
    from rediffinet.nets.unet import UNet
    from rediffinet.training.config import resolve_config
    from rediffinet.training.run import Provenance, Run

    torch.manual_seed(11)
    made = {}
    for model, changes in TINY.items():
        config = resolve_config(model, changes=changes)
        net = UNet(config.unet) if model == "unet" else Refiner(config.refiner)
        for parameter in net.parameters():  # as after training: no two norms alike, no shift zero
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        provenance = Provenance(trained_on=("BraTS-GLI-00001-000",), held_out=(), folds=5, fold=None)
        made[model] = Run(Path(model), config, net.eval(), provenance, 3, "ab" * 32)
    return made


@pytest.fixture(scope="session", autouse=True)
def needed(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("torch", reason="export needs torch (extra 'train')")
    pytest.importorskip("onnx", reason="export needs onnx (extra 'train')")
    request.getfixturevalue("small_gate")
    request.getfixturevalue("traced_once")


@pytest.fixture(scope="session")
def bundle(runs: dict[str, Any], once: Callable[..., Path]) -> Any:
    """A bundle with float32 weights."""
    from rediffinet.bundle import open_bundle
    from rediffinet.export.bundle import ExportSettings, export_bundle
    from rediffinet.method.recipe import Decision

    decision = Decision.at((0.7, 0.6, 0.5))
    settings = ExportSettings(name="tiny", steps=3, samples=2, decision=decision, overlap=0.5)
    made = once("bundle", lambda at: export_bundle(runs["rediffinet"], runs["unet"], at / "full", settings))
    return open_bundle(made / "full")


@pytest.fixture(scope="session")
def half_bundle(runs: dict[str, Any], once: Callable[..., Path]) -> Any:
    """The same with weights stored as float16."""
    from rediffinet.bundle import open_bundle
    from rediffinet.export.bundle import ExportSettings, export_bundle

    settings = replace(ExportSettings(), weights="float16")
    made = once("half-bundle", lambda at: export_bundle(runs["rediffinet"], runs["unet"], at / "half", settings))
    return open_bundle(made / "half")
