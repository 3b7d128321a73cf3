"""Every model exports into a bundle that gives what its runs give in memory, mirrored baseline and other voxels too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="export needs torch (extra 'train')")
pytest.importorskip("monai", reason="the baseline needs monai (extra 'train')")
pytest.importorskip("onnxscript", reason="export needs onnxscript (extra 'train')")
pytest.importorskip("onnxruntime", reason="the gate runs onnxruntime (extra 'cpu')")

import torch

from rediffinet.engines import open_engine
from rediffinet.export.bundle import ExportSettings, export_bundle, gate_inputs, gate_phantom
from rediffinet.export.graphs import run_torch
from rediffinet.method.inference import Loaded, infer, plan_sampling
from rediffinet.method.models import MODELS
from rediffinet.training.config import applies, resolve_config
from rediffinet.training.memory import open_in_memory
from rediffinet.training.objectives import make_objective
from rediffinet.training.recipe import pair_runs, recipe_of
from rediffinet.training.run import Provenance, Run

WINDOW = (16, 16, 16)
SIZES = {
    "unet": {"features": (4, 8), "window": WINDOW, "stem_stride": 1, "deep_supervision": True},
    "refiner": {"features": (4, 8), "head_features": 4, "time_features": 16, "window": WINDOW, "signal_scale": 0.4},
}


def make_run(model: str, **changes: Any) -> Run:
    """An untrained run whose norms are as after training: no two alike, no shift zero."""
    torch.manual_seed(len(model))
    given = {**SIZES, "mirror": True, "spacing_mm": (2.0, 2.0, 2.0), **changes}
    config = resolve_config(model, changes={key: given[key] for key in given if applies(MODELS[model], key)})
    net = make_objective(config, []).build().eval()
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    provenance = Provenance(trained_on=("BraTS-GLI-00001-000",), held_out=(), folds=5, fold=None)
    return Run(Path(model), config, net, provenance, 3, "ab" * 32)


SLOW = pytest.mark.slow
QUICK = ("discrepancy-unet", "ua-diffusion-masked")  # between them every new graph and the new condition


@pytest.fixture(params=MODELS)
def runs_of_model(request: pytest.FixtureRequest) -> tuple[Run, Run | None]:
    return make_run(request.param), make_run("unet") if MODELS[request.param].refines else None


@pytest.mark.parametrize("model", [name if name in QUICK else pytest.param(name, marks=SLOW) for name in MODELS])
def test_a_bundle_gives_what_its_runs_give(model: str, tmp_path: Path) -> None:
    run, baseline = make_run(model), make_run("unet") if MODELS[model].refines else None
    settings = ExportSettings(steps=2, samples=2)
    bundle = export_bundle(run, baseline, tmp_path / "bundle", settings)
    manifest = bundle.manifest
    kind = MODELS[run.config.model]
    assert (manifest.recipe.model, tuple(manifest.graphs)) == (kind.name, kind.graphs)
    assert manifest.recipe.spacing_mm == (2.0, 2.0, 2.0)
    assert {path.name for path in bundle.path.iterdir()} == {*(f"{name}.onnx" for name in kind.graphs), "manifest.json"}
    for entry in manifest.graphs.values():
        assert 0 < entry.parity.graph < 1e-4
    in_memory = open_in_memory(run, baseline, settings)
    assert in_memory.recipe == manifest.recipe
    image = np.random.default_rng(3).uniform(-1, 1, (4, 20, 16, 18)).astype(np.float32)
    plan = plan_sampling(manifest.recipe, seed=2)
    expected = infer(in_memory, image, plan, "X", everywhere=True)
    with open_engine("onnxruntime", threads=1) as engine:
        loaded = Loaded(engine, {name: engine.load(bundle.graph(name)) for name in kind.graphs}, manifest.recipe)
        found = infer(loaded, image, plan, "X", everywhere=True)
    if kind.has_baseline:
        assert np.allclose(found.probability, expected.probability, atol=1e-4)
    else:
        assert found.probability is None
    if kind.condition:
        assert np.allclose(found.found.delta, expected.found.delta, atol=1e-3)
        assert np.allclose(found.found.disagreement, expected.found.disagreement, atol=1e-3)
    else:
        assert found.found is None


def test_graphs_have_the_tensors_that_runs_in_memory_have(runs_of_model: tuple[Run, Run | None]) -> None:
    pair = pair_runs(*runs_of_model)
    assert tuple(graph.name for graph in pair.graphs) == MODELS[pair.model].graphs
    for graph in pair.graphs:
        results = run_torch(graph, {name: zeros.numpy() for name, zeros in graph.examples(2).items()})
        assert [(2, *tensor.shape[1:]) for tensor in graph.outputs] == [tuple(result.shape) for result in results]


def test_the_gate_feeds_each_model_its_own_condition(runs_of_model: tuple[Run, Run | None]) -> None:
    run, baseline = runs_of_model
    kind, pair = MODELS[run.config.model], pair_runs(run, baseline)
    phantom = gate_phantom(run.config.task)
    for graph in pair.graphs:
        given = gate_inputs(graph, recipe_of(pair), phantom)["phantom"]
        if "condition" not in given:
            continue
        condition = given["condition"][0]
        assert condition.shape == (kind.condition_channels(run.config.task), *WINDOW)
        parts = np.split(condition, np.cumsum([3 if part == "prior" else 4 for part in kind.condition])[:-1])
        for part, values in zip(kind.condition, parts, strict=True):
            if part == "prior":
                assert set(np.unique(values)) == {-1.0, 1.0}
            else:
                assert values.min() >= -1.0 and values.max() <= 1.0 and len(np.unique(values)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("network", ["SwinUNETR", "AttentionUnet", "VNet", "BasicUNetPlusPlus", "SegResNet"])
def test_other_networks_take_the_baselines_place(network: str, tmp_path: Path) -> None:
    if network == "SwinUNETR":
        pytest.importorskip("einops", reason="MONAI's SwinUNETR needs einops")
    options = {"feature_size": 12} if network == "SwinUNETR" else {}
    unet = {"network": network, "options": options, "window": (64, 32, 32)}
    run = make_run("unet", unet=unet)
    bundle = export_bundle(run, None, tmp_path / "bundle")
    image = np.random.default_rng(3).uniform(-1, 1, (4, 64, 32, 32)).astype(np.float32)
    plan = plan_sampling(bundle.manifest.recipe)
    expected = infer(open_in_memory(run), image, plan, "X").probability
    with open_engine("onnxruntime", threads=1) as engine:
        loaded = Loaded(engine, {"baseline": engine.load(bundle.graph("baseline"))}, bundle.manifest.recipe)
        assert np.allclose(infer(loaded, image, plan, "X").probability, expected, atol=1e-3)
