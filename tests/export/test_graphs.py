"""The exported graphs: names, shapes, weights, and the same numbers as torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="export needs torch (extra 'train')")
pytest.importorskip("onnx", reason="export needs onnx (extra 'train')")
pytest.importorskip("onnxruntime", reason="the graphs are run with onnxruntime (extra 'cpu')")

import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto

from rediffinet.engines import open_engine
from rediffinet.export.graphs import SMALL, round_weights, run_torch
from rediffinet.training.recipe import pair_runs

WINDOW = (16, 16, 24)
SHAPES = {
    "baseline": ({"image": (4, 32, 40, 32)}, {"probability": (3, 32, 40, 32)}),
    "conditioner": ({"condition": (7, *WINDOW)}, {"feature_0": (4, *WINDOW), "feature_1": (8, 8, 8, 12)}),
    "denoiser": (
        {
            "x_t": (3, *WINDOW),
            "condition": (7, *WINDOW),
            "t": (),
            "c0": (),
            "c1": (),
            "feature_0": (4, *WINDOW),
            "feature_1": (8, 8, 8, 12),
        },
        {"x_prev": (3, *WINDOW), "x0": (3, *WINDOW)},
    ),
}


def arrays(name: str, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {key: rng.standard_normal((batch, *shape)).astype(np.float32) for key, shape in SHAPES[name][0].items()}
    if "t" in made:
        made |= {"t": rng.integers(0, 1000, batch).astype(np.float32)}
    return made


def session(bundle: Any, name: str) -> Any:
    return ort.InferenceSession(str(bundle.graph(name).path), providers=["CPUExecutionProvider"])


def in_torch(runs: dict[str, Any], name: str, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The networks called directly, not through the exported modules."""
    tensors = {key: torch.from_numpy(value) for key, value in given.items()}
    with torch.inference_mode():
        if name == "baseline":
            return [torch.sigmoid(runs["unet"].model(tensors["image"])).numpy()]
        refiner = runs["rediffinet"].model
        if name == "conditioner":
            return [feature.numpy() for feature in refiner.conditioner(tensors["condition"])]
        features = [tensors["feature_0"], tensors["feature_1"]]
        logits = refiner.denoiser(tensors["x_t"], tensors["condition"], features, tensors["t"]).numpy()
    delta = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    c0, c1 = (given[key].reshape(-1, 1, 1, 1, 1) for key in ("c0", "c1"))
    b = runs["rediffinet"].config.refiner.signal_scale
    return [c0 * b * (2.0 * delta - 1.0) + c1 * given["x_t"], delta]


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_shapes_are_those_of_the_file_and_of_the_manifest(bundle: Any, name: str) -> None:
    inputs, outputs = SHAPES[name]
    spec, file = bundle.graph(name), session(bundle, name)
    for expected, declared, real in (
        (inputs, spec.inputs, file.get_inputs()),
        (outputs, spec.outputs, file.get_outputs()),
    ):
        assert {t.name: t.shape for t in declared} == {key: ("batch", *shape) for key, shape in expected.items()}
        assert [t.name for t in real] == list(expected)
        assert {t.name: tuple(t.shape[1:]) for t in real} == expected
        assert all(isinstance(t.shape[0], str) and t.type == "tensor(float)" for t in real)
        assert {t.dtype for t in declared} == {"float32"}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_every_batch_gives_what_torch_gives(bundle: Any, runs: dict[str, Any], name: str, batch: int) -> None:
    given = arrays(name, batch, seed=batch)
    got = session(bundle, name).run(None, given)
    for output, (key, shape), expected in zip(got, SHAPES[name][1].items(), in_torch(runs, name, given), strict=True):
        assert output.shape == (batch, *shape) and output.dtype == np.float32, key
        np.testing.assert_allclose(output, expected, atol=2e-4 * np.abs(expected).max(), err_msg=key)


def test_the_update_is_ddim_on_the_graphs_own_x0(bundle: Any, runs: dict[str, Any]) -> None:
    """x_prev = √ā' · x0 + √(1 − ā') · ε with ε = (x_t − √ā · x0) / √(1 − ā), Song et al. 2021, eq. 12."""
    now, after = np.array([4e-5, 0.08, 0.6]), np.array([0.08, 0.6, 1.0])
    c1 = np.sqrt((1 - after) / (1 - now))
    c0 = np.sqrt(after) - c1 * np.sqrt(now)
    given = arrays("denoiser", 3)
    given |= {"c0": c0.astype(np.float32), "c1": c1.astype(np.float32), "t": np.float32([999, 400, 120])}
    x_prev, delta = session(bundle, "denoiser").run(None, given)
    assert delta.min() >= 0.0 and delta.max() <= 1.0
    x0 = runs["rediffinet"].config.refiner.signal_scale * (2.0 * delta.astype(np.float64) - 1.0)
    a, b = (value.reshape(3, 1, 1, 1, 1) for value in (now, after))
    noise = (given["x_t"] - np.sqrt(a) * x0) / np.sqrt(1 - a)
    np.testing.assert_allclose(x_prev, np.sqrt(b) * x0 + np.sqrt(1 - b) * noise, atol=1e-5)
    np.testing.assert_allclose(x_prev[2], x0[2], atol=1e-6)  # the last step returns x0 itself


@pytest.mark.parametrize("name", SHAPES)
def test_the_torch_engine_runs_them_alike(bundle: Any, name: str) -> None:
    given = arrays(name, 2)
    results = {}
    for kind in ("onnxruntime", "torch"):
        with open_engine(kind) as engine:
            results[kind] = engine.load(bundle.graph(name))(**given)
    for key, value in results["onnxruntime"].items():
        np.testing.assert_allclose(results["torch"][key], value, atol=2e-4 * np.abs(value).max(), err_msg=key)


@pytest.mark.parametrize("name", SHAPES)
def test_float16_storage_halves_the_weights_and_keeps_the_arithmetic(bundle: Any, half_bundle: Any, name: str) -> None:
    def sizes(path: Path) -> dict[int, int]:
        found: dict[int, int] = {}
        for tensor in onnx.load(path).graph.initializer:
            if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
                found[tensor.data_type] = found.get(tensor.data_type, 0) + len(tensor.raw_data)
        return found

    full, half = sizes(bundle.graph(name).path), sizes(half_bundle.graph(name).path)
    assert TensorProto.FLOAT16 not in full
    stored_as_half = half[TensorProto.FLOAT16]
    assert full[TensorProto.FLOAT] == half[TensorProto.FLOAT] + 2 * stored_as_half
    assert 2 * stored_as_half > 0.9 * full[TensorProto.FLOAT]
    types = {onnx_input.type for onnx_input in session(half_bundle, name).get_inputs()}
    assert types == {"tensor(float)"}
    entry = half_bundle.manifest.graphs[name]
    assert (entry.weights, entry.precision) == ("float16", "fp32")
    assert 0 < entry.parity.storage < entry.parity.storage_tolerance


@pytest.mark.parametrize("name", SHAPES)
def test_float16_storage_rounds_the_large_weights_and_nothing_else(
    half_bundle: Any, runs: dict[str, Any], name: str
) -> None:
    """Torch with the rounded parameters gives the graph's numbers, at every timestep: the frequencies stay exact."""
    source = {graph.name: graph for graph in pair_runs(runs["rediffinet"], runs["unet"]).graphs}[name]
    before = {key: value.clone() for key, value in source.module.state_dict().items()}
    rounded = round_weights(source.module, "float16")
    for key, value in rounded.named_parameters():
        expected = before[key].half().float() if value.numel() >= SMALL else before[key]
        assert torch.equal(value, expected), key
    assert all(torch.equal(value, before[key]) for key, value in source.module.state_dict().items())
    given = arrays(name, 3)
    expected = run_torch(source, given, rounded)
    for got, wanted in zip(session(half_bundle, name).run(None, given), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=2e-4 * float(wanted.abs().max()))


def test_files_hold_nothing_of_the_machine_they_were_made_on(bundle: Any) -> None:
    for name in SHAPES:
        model = onnx.load(bundle.graph(name).path)
        assert not model.metadata_props and not model.graph.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        content = bundle.graph(name).path.read_bytes()
        for word in (b".py", b"site-packages", str(Path.home()).encode() + b"/", str(Path.cwd()).encode()):
            assert word not in content


def test_only_the_finest_head_is_exported(bundle: Any) -> None:
    names = {tensor.name for tensor in onnx.load(bundle.graph("baseline").path).graph.initializer}
    assert any("heads.0" in name for name in names) and not any("heads.1" in name for name in names)
