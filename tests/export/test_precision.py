"""fp16 and int8 graphs: what is converted and what is not, and how far they are from fp32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="export needs torch (extra 'train')")
pytest.importorskip("onnxscript", reason="export needs onnxscript (extra 'train')")
pytest.importorskip("onnxruntime", reason="the converters are onnxruntime's (extra 'cpu')")

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rediffinet.engines import open_engine
from rediffinet.engines.base import GraphSpec
from rediffinet.errors import EngineError
from rediffinet.export import precision
from rediffinet.export.precision import CONVOLUTIONS, gemm_as_sum, outermost_convolutions, to_fp16, to_int8

NAMES = ("baseline", "conditioner", "denoiser")
Arrays = dict[str, np.ndarray]


def given(spec: GraphSpec, seed: int) -> Arrays:
    """Random inputs of one window; t as in training, where float16 would keep 999 but not the angles made of it."""
    rng = np.random.default_rng(seed)
    arrays = {
        tensor.name: rng.normal(size=[size if isinstance(size, int) else 1 for size in tensor.shape]).astype(np.float32)
        for tensor in spec.inputs
    }
    return {**arrays, **({"t": np.float32([999 - seed])} if "t" in arrays else {})}


def run(engine: str, spec: GraphSpec, arrays: Arrays, precision: str = "fp32") -> Arrays:
    with open_engine(engine, threads=1, precision=precision) as opened:
        return opened.load(spec)(**arrays)


def relative(got: Arrays, expected: Arrays) -> float:
    return max(float(np.abs(got[name] - expected[name]).max() / np.abs(expected[name]).max()) for name in expected)


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


@pytest.fixture(scope="module")
def converted(bundle: Any, half_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """converted(graph, precision, weights) → (spec of the fp32 graph, spec of the other one); made once."""
    folder, made = tmp_path_factory.mktemp("precision"), {}

    def make(name: str, precision: str, weights: str = "float32") -> tuple[GraphSpec, GraphSpec]:
        spec = (bundle if weights == "float32" else half_bundle).graph(name)
        path = folder / f"{name}-{precision}-{weights}.onnx"
        if path not in made:
            if precision == "fp16":
                to_fp16(spec.path, path)
            else:
                to_int8(spec.path, path, [given(spec, seed) for seed in range(2)])
            made[path] = GraphSpec(name, path, spec.inputs, spec.outputs, precision)
        return spec, made[path]

    return make


@pytest.mark.parametrize("weights", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_fp16_is_near_fp32(converted: Any, name: str, weights: str) -> None:
    spec, lower = converted(name, "fp16", weights)
    arrays = given(spec, 5)
    far = relative(run("onnxruntime", lower, arrays, "fp16"), run("onnxruntime", spec, arrays))
    assert far < 5e-3
    assert far > 0 or weights == "float16"  # these have float16's values already


def test_fp16_between_the_convolutions_only(converted: Any) -> None:
    model = onnx.load(converted("denoiser", "fp16")[1].path)
    kinds = types(model)
    for node in model.graph.node:
        kind = kinds[node.output[0]]
        if node.op_type in CONVOLUTIONS:
            assert kind == TensorProto.FLOAT16
        if node.op_type in ("InstanceNormalization", "Sin", "Cos", "ReduceSum", "Sigmoid"):
            assert kind == TensorProto.FLOAT
        assert node.op_type not in ("Gemm", "MatMul")  # Turing has none in float32
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert all(
        stored[node.input[1]] == TensorProto.FLOAT16 for node in model.graph.node if node.op_type in CONVOLUTIONS
    )
    ends = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
    # no value goes to float16 and straight back
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
            assert made_by[node.input[0]].op_type != "Cast"
    # the timestep, the coefficients and the state of the loop are used as they came
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    assert {readers[name] for name in ("t", "c0", "c1")} == {"Unsqueeze"}


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("biased", [True, False])
def test_gemm_as_sum_is_the_same_product(transposed: int, biased: bool) -> None:
    """Against NumPy in float64; the largest error of a float32 sum of 300 terms is far below the tolerance."""
    rng = np.random.default_rng(3)
    weights, bias = rng.normal(size=(300, 7)).astype(np.float32), rng.normal(size=7).astype(np.float32)
    stored = np.ascontiguousarray(weights.T if transposed else weights)
    inputs = ["x", "w", *(["b"] if biased else [])]
    node = helper.make_node("Gemm", inputs, ["y"], name="product", transB=transposed)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in (("x", 300), ("y", 7))]
    constants = [numpy_helper.from_array(stored, "w"), *([numpy_helper.from_array(bias, "b")] if biased else [])]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    gemm_as_sum(model, {"product"})
    onnx.checker.check_model(model, full_check=True)
    assert "Gemm" not in {node.op_type for node in model.graph.node}
    assert {tensor.name for tensor in model.graph.initializer}.isdisjoint({"w"})
    x = rng.normal(size=(4, 300)).astype(np.float32)
    (got,) = ReferenceEvaluator(model).run(None, {"x": x})
    expected = x.astype(np.float64) @ weights.astype(np.float64) + (bias if biased else 0)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("changes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_other_gemms_are_left_alone(changes: dict[str, Any]) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", **changes)
    constants = [numpy_helper.from_array(np.ones((3, 3), np.float32), name) for name in "wb"]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], constants))
    before = model.SerializeToString()
    gemm_as_sum(model, {"product"})
    assert model.SerializeToString() == before


def test_the_whole_denoiser_is_the_same_with_sums(bundle: Any, tmp_path: Path) -> None:
    spec = bundle.graph("denoiser")
    model = onnx.load(spec.path)
    products = {node.name for node in model.graph.node if node.op_type == "Gemm"}
    gemm_as_sum(model, products)
    onnx.save(model, tmp_path / "sums.onnx")
    changed = GraphSpec("denoiser", tmp_path / "sums.onnx", spec.inputs, spec.outputs)
    assert len(products) >= 3
    assert relative(run("onnxruntime", changed, given(spec, 2)), run("onnxruntime", spec, given(spec, 2))) < 1e-4


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", NAMES)
def test_int8_runs_and_is_near_fp32(converted: Any, name: str, engine: str) -> None:
    pytest.importorskip(engine, reason="extra 'cpu'")
    try:
        open_engine(engine, precision="int8").close()
    except EngineError as error:
        pytest.skip(str(error))
    spec, lower = converted(name, "int8")
    arrays = given(spec, 0)  # one of those it was calibrated on
    assert 0 < relative(run(engine, lower, arrays, "int8"), run("onnxruntime", spec, arrays)) < 0.1


@pytest.mark.parametrize("name", ["baseline", "denoiser"])
def test_int8_quantises_before_it_joins(
    converted: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same integers, whose bytes are moved instead of four times as many; and OpenVINO gets it right."""
    spec, lower = converted(name, "int8")
    monkeypatch.setattr(precision, "_quantise_before_joining", lambda model: None)
    to_int8(spec.path, tmp_path / "after.onnx", [given(spec, seed) for seed in range(2)])
    after = GraphSpec(name, tmp_path / "after.onnx", spec.inputs, spec.outputs, "int8")

    def reads_joined(path: Path) -> int:
        model = onnx.load(path)
        made_by = {output: node.op_type for node in model.graph.node for output in node.output}
        quantised = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        return sum(made_by.get(node.input[0]) == "Concat" for node in quantised)

    assert reads_joined(lower.path) == 0 < reads_joined(after.path)
    arrays = given(spec, 3)
    assert relative(run("onnxruntime", lower, arrays, "int8"), run("onnxruntime", after, arrays, "int8")) < 1e-5


def test_int8_quantises_what_tensorrt_takes(converted: Any) -> None:
    model = onnx.load(converted("denoiser", "int8")[1].path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    quantisers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    joined = {name for node in model.graph.node if node.op_type == "Concat" for name in node.input}
    for node in quantisers:
        zero = stored[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    for node in model.graph.node:
        if node.op_type in CONVOLUTIONS:
            image, weights = (made_by[name] for name in node.input[:2])
            assert image.op_type == weights.op_type == "DequantizeLinear"
            channels = stored[weights.input[0]].shape[0 if node.op_type == "Conv" else 1]
            assert stored[weights.input[1]].size == channels  # per output channel
            assert stored[image.input[1]].size == 1
            after = [q for q in quantisers if q.input[0].startswith(node.output[0])]
            assert joined.issuperset(name for q in after for name in q.output)


def test_int8_may_leave_layers_alone(bundle: Any, tmp_path: Path) -> None:
    spec = bundle.graph("denoiser")
    outermost = outermost_convolutions(spec.path)
    nodes = {node.name: node for node in onnx.load(spec.path).graph.node}
    assert len(outermost) == 2
    assert "x0" in {
        name for node in nodes.values() if node.input[0] in nodes[outermost[1]].output for name in node.output
    }
    to_int8(spec.path, tmp_path / "some.onnx", [given(spec, 0)], outermost)
    made_by = {name: node for node in onnx.load(tmp_path / "some.onnx").graph.node for name in node.output}
    full = {node.name for node in made_by.values() if node.op_type in CONVOLUTIONS and node.input[1] not in made_by}
    assert full == set(outermost)
