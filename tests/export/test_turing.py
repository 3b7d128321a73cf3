"""The float32 rewrites for Turing, against ONNX's reference evaluator, torch and ONNX Runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="export needs onnx (extra 'train')")
pytest.importorskip("onnxruntime", reason="extra 'cpu'")

import onnx
from onnx import TensorProto, helper, numpy_helper

from rediffinet.engines import open_engine
from rediffinet.engines.base import GraphSpec
from rediffinet.export.turing import for_turing

SIZE = (6, 7, 8)


def graph_of(kind: str, weight: np.ndarray, bias: np.ndarray | None, **attributes: Any) -> bytes:
    channels = weight.shape[1 if kind == "Conv" else 0]
    inputs = ["x", "w", *(["b"] if bias is not None else [])]
    constants = [numpy_helper.from_array(weight, "w")]
    constants += [numpy_helper.from_array(bias, "b")] if bias is not None else []
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, *SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None, None, None, None])
    node = helper.make_node(kind, inputs, ["y"], name="conv", **attributes)
    graph = helper.make_graph([node], "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    return np.asarray(ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0])


def kinds(model: bytes) -> Iterator[tuple[str, int]]:
    """Convolutions and the rank of their weights."""
    opened = onnx.load_model_from_string(model)
    ranks = {tensor.name: len(tensor.dims) for tensor in opened.graph.initializer}
    return ((node.op_type, ranks[node.input[1]]) for node in opened.graph.node if "Conv" in node.op_type)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("kernel", "strides", "pads"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1, 1, 1, 1)),
        ((3, 3, 3), (2, 2, 2), (1, 1, 1, 1, 1, 1)),
        ((1, 1, 1), (1, 1, 1), (0, 0, 0, 0, 0, 0)),
        ((2, 2, 2), (2, 2, 2), (0, 0, 0, 0, 0, 0)),
        ((5, 3, 1), (2, 1, 3), (2, 0, 1, 1, 2, 0)),
        ((1, 3, 3), (2, 1, 1), (0, 1, 1, 0, 1, 1)),
    ],
)
def test_a_convolution_in_slices(kernel: Any, strides: Any, pads: Any, biased: bool) -> None:
    torch = pytest.importorskip("torch", reason="the oracle is torch's convolution in float64")
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(5, 3, *kernel)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32) if biased else None
    model = for_turing(graph_of("Conv", weight, bias, strides=strides, pads=pads, kernel_shape=kernel))
    assert list(kinds(model)) == [("Conv", 4)]
    x = rng.normal(size=(2, 3, *SIZE)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:3], pads[3:], strict=True)])
    offset = None if bias is None else torch.from_numpy(bias).double()
    expected = torch.nn.functional.conv3d(
        torch.from_numpy(padded).double(), torch.from_numpy(weight).double(), offset, stride=strides
    )
    np.testing.assert_allclose(run(model, x), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("kernel", [(2, 2, 2), (1, 2, 3), (3, 1, 1)])
def test_a_transposed_convolution_in_slices(kernel: Any, biased: bool) -> None:
    torch = pytest.importorskip("torch", reason="the oracle is torch's convolution in float64")
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(3, 4, *kernel)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32) if biased else None
    model = for_turing(graph_of("ConvTranspose", weight, bias, strides=kernel))
    assert list(kinds(model)) == [("ConvTranspose", 4)]
    x = rng.normal(size=(2, 3, *SIZE)).astype(np.float32)
    offset = None if bias is None else torch.from_numpy(bias).double()
    expected = torch.nn.functional.conv_transpose3d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), offset, stride=kernel
    )
    np.testing.assert_allclose(run(model, x), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Conv", {"dilations": [2, 1, 1]}),
        ("Conv", {"auto_pad": "SAME_UPPER"}),
        ("ConvTranspose", {"strides": [1, 1, 1]}),
        ("ConvTranspose", {"strides": [2, 2, 2], "pads": [1] * 6}),
        ("ConvTranspose", {"strides": [2, 2, 2], "output_padding": [1, 0, 0]}),
    ],
)
def test_what_has_no_such_form_is_left_alone(kind: str, changes: dict[str, Any]) -> None:
    weight = np.ones((2, 2, 2, 2, 2), np.float32)
    model = graph_of(kind, weight, None, **changes)
    x = np.random.default_rng(0).normal(size=(1, 2, *SIZE)).astype(np.float32)
    assert list(kinds(for_turing(model))) == [(kind, 5)]
    np.testing.assert_array_equal(run(for_turing(model), x), run(model, x))


@pytest.mark.parametrize("name", ["baseline", "conditioner", "denoiser"])
def test_exported_graphs_are_the_same(half_bundle: Any, name: str, tmp_path: Path) -> None:
    """Weights stored as float16, batch 2; the same inputs and outputs by name, and the same values."""
    spec = half_bundle.graph(name)
    path = tmp_path / "turing.onnx"
    path.write_bytes(for_turing(spec.path.read_bytes()))
    assert {rank for _, rank in kinds(path.read_bytes())} == {4}
    rng = np.random.default_rng(6)
    given = {
        tensor.name: rng.normal(size=[2, *(int(size) for size in tensor.shape[1:])]).astype(np.float32)
        for tensor in spec.inputs
    }
    with open_engine("onnxruntime", threads=1) as engine:
        expected = engine.load(spec)(**given)
        got = engine.load(GraphSpec(name, path, spec.inputs, spec.outputs))(**given)
    for output, array in expected.items():
        np.testing.assert_allclose(got[output], array, atol=1e-4 * np.abs(array).max())
