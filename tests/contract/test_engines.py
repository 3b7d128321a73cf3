"""What every engine must do, run on each one in `ENGINES`; a new back-end passes this file or it is not one.

The graphs are made here with random weights. The oracle is ONNX's own reference evaluator, or plain NumPy.
"""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rediffinet.engines import ENGINES, Engine, Graph, GraphSpec, TensorSpec, open_engine
from rediffinet.errors import EngineError, MissingExtraError

SIZE = 8
FLOAT = TensorProto.FLOAT


@pytest.fixture(params=sorted(name for name, backend in ENGINES.items() if not backend.gpu_only))
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    try:
        opened = open_engine(request.param, "cpu", threads=1)
    except MissingExtraError as error:
        pytest.skip(f"engine not installed here: {error}")
    with opened:
        yield opened


def weight(rng: np.random.Generator, name: str, *shape: int, half: bool = False) -> onnx.TensorProto:
    values = rng.normal(0, 0.3, shape).astype(np.float16 if half else np.float32)
    return numpy_helper.from_array(values, name)


def image(name: str, channels: int, size: int = SIZE) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, ["batch", channels, size, size, size])


def save(path: Path, nodes: list, inputs: list, outputs: list, weights: list) -> Path:
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> GraphSpec:
    """One denoising step in small: a strided-down, transposed-up net with a time embedding and the update inside."""
    rng = np.random.default_rng(5)
    node = helper.make_node
    nodes = [
        node("Cast", ["first_half"], ["first"], to=FLOAT),  # weights stored as float16
        node("Conv", ["x_t", "first", "first_bias"], ["a0"], kernel_shape=[3, 3, 3], pads=[1] * 6),
        node("InstanceNormalization", ["a0", "scale", "shift"], ["a1"], epsilon=1e-5),
        node("LeakyRelu", ["a1"], ["a2"], alpha=0.1),
        node("Conv", ["a2", "down"], ["b0"], kernel_shape=[3, 3, 3], pads=[1] * 6, strides=[2, 2, 2]),
        node("Unsqueeze", ["t", "one"], ["t0"]),
        node("Mul", ["t0", "frequencies"], ["t1"]),
        node("Sin", ["t1"], ["t_sin"]),
        node("Cos", ["t1"], ["t_cos"]),
        node("Concat", ["t_sin", "t_cos"], ["t2"], axis=1),
        node("Gemm", ["t2", "project", "project_bias"], ["t3"], transB=1),
        node("Sigmoid", ["t3"], ["t4"]),
        node("Mul", ["t3", "t4"], ["t5"]),
        node("Unsqueeze", ["t5", "spatial"], ["t6"]),
        node("Add", ["b0", "t6"], ["b1"]),
        node("Add", ["b1", "feature_0"], ["b2"]),
        node("Relu", ["b2"], ["b3"]),
        node("ConvTranspose", ["b3", "up"], ["c0"], kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        node("Concat", ["c0", "a2"], ["c1"], axis=1),
        node("Conv", ["c1", "last"], ["c2"], kernel_shape=[1, 1, 1]),
        node("Tanh", ["c2"], ["x0"]),
        node("Unsqueeze", ["c0_factor", "image"], ["k0"]),
        node("Unsqueeze", ["c1_factor", "image"], ["k1"]),
        node("Mul", ["x0", "k0"], ["u0"]),
        node("Mul", ["x_t", "k1"], ["u1"]),
        node("Add", ["u0", "u1"], ["x_prev"]),
    ]
    weights = [
        weight(rng, "first_half", 4, 3, 3, 3, 3, half=True),
        weight(rng, "first_bias", 4),
        weight(rng, "scale", 4),
        weight(rng, "shift", 4),
        weight(rng, "down", 6, 4, 3, 3, 3),
        weight(rng, "frequencies", 1, 4),
        weight(rng, "project", 6, 8),
        weight(rng, "project_bias", 6),
        weight(rng, "up", 6, 4, 2, 2, 2),
        weight(rng, "last", 3, 8, 1, 1, 1),
        numpy_helper.from_array(np.array([1]), "one"),
        numpy_helper.from_array(np.array([2, 3, 4]), "spatial"),
        numpy_helper.from_array(np.array([1, 2, 3, 4]), "image"),
    ]
    factors = [helper.make_tensor_value_info(name, FLOAT, ["batch"]) for name in ("t", "c0_factor", "c1_factor")]
    path = save(
        tmp_path_factory.mktemp("graphs") / "denoiser.onnx",
        nodes,
        [image("x_t", 3), image("feature_0", 6, SIZE // 2), *factors],
        [image("x_prev", 3), image("x0", 3)],
        weights,
    )
    volume = ("batch", 3, SIZE, SIZE, SIZE)
    half = SIZE // 2
    return GraphSpec(
        "denoiser",
        path,
        (
            TensorSpec("x_t", "float32", volume),
            TensorSpec("feature_0", "float32", ("batch", 6, half, half, half)),
            *(TensorSpec(name, "float32", ("batch",)) for name in ("t", "c0_factor", "c1_factor")),
        ),
        (TensorSpec("x_prev", "float32", volume), TensorSpec("x0", "float32", volume)),
    )


@pytest.fixture
def graph(engine: Engine, denoiser: GraphSpec) -> Graph:
    return engine.load(denoiser)


def arrays(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    half = SIZE // 2
    return {
        "x_t": rng.normal(size=(batch, 3, SIZE, SIZE, SIZE)).astype(np.float32),
        "feature_0": rng.normal(size=(batch, 6, half, half, half)).astype(np.float32),
        "t": rng.uniform(0, 50, batch).astype(np.float32),
        "c0_factor": rng.uniform(0, 1, batch).astype(np.float32),
        "c1_factor": rng.uniform(0, 1, batch).astype(np.float32),
    }


def reference(spec: GraphSpec, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [tensor.name for tensor in spec.outputs]
    return dict(zip(names, ReferenceEvaluator(str(spec.path)).run(names, given), strict=True))


def buffers(engine: Engine, given: dict[str, np.ndarray]) -> dict:
    return {name: engine.upload(array) for name, array in given.items()}


def results(engine: Engine, batch: int) -> dict:
    return {name: engine.empty((batch, 3, SIZE, SIZE, SIZE), "float32") for name in ("x_prev", "x0")}


def test_says_what_it_is(engine: Engine) -> None:
    assert engine.name in ENGINES
    assert engine.device == "cpu"
    assert "CPU" in engine.provider
    assert engine.precision == "fp32"
    assert engine.version[0].isdigit()
    assert "by name" in engine.choice


@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_reference(graph: Graph, denoiser: GraphSpec, batch: int) -> None:
    given = arrays(batch)
    expected = reference(denoiser, given)
    got = graph(**given)
    assert got.keys() == expected.keys()
    for name in expected:
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], expected[name], atol=2e-5)


def test_buffers_swapped_in_a_loop(engine: Engine, graph: Graph, denoiser: GraphSpec) -> None:
    given = arrays(2)
    x = given["x_t"]
    held = buffers(engine, given)
    out = results(engine, 2)
    x_t, x_prev = held.pop("x_t"), out["x_prev"]
    for _ in range(4):
        graph.run({"x_t": x_t, **held}, {"x_prev": x_prev, "x0": out["x0"]})
        x_t, x_prev = x_prev, x_t
        x = reference(denoiser, {**given, "x_t": x})["x_prev"]
    np.testing.assert_allclose(engine.download(x_t), x, atol=1e-4)


def test_inputs_are_not_changed(engine: Engine, graph: Graph) -> None:
    given = arrays(1)
    held = buffers(engine, given)
    graph.run(held, results(engine, 1))
    for name, array in arrays(1).items():
        np.testing.assert_array_equal(engine.download(held[name]), array)
        np.testing.assert_array_equal(given[name], array)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4, 5, 6)])
def test_upload_and_download_are_copies(engine: Engine, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(1).normal(size=shape) * 9).astype(dtype)
    kept = array.copy()
    buffer = engine.upload(array)
    assert (buffer.shape, buffer.dtype) == (shape, dtype)
    array[...] = 1
    first = engine.download(buffer)
    np.testing.assert_array_equal(first, kept)
    assert first.dtype == dtype
    first[...] = 0
    np.testing.assert_array_equal(engine.download(buffer), kept)


def test_upload_takes_any_memory_order(engine: Engine) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (array.transpose(2, 0, 1), array[:, ::-1], np.asfortranarray(array)):
        np.testing.assert_array_equal(engine.download(engine.upload(view)), view)


def test_a_graph_that_rested_computes_the_same(engine: Engine, graph: Graph) -> None:
    held, out = buffers(engine, arrays(1)), results(engine, 1)
    graph.rest()
    graph.run(held, out)
    before = engine.download(out["x_prev"])
    graph.rest()
    graph.run(held, out)
    np.testing.assert_array_equal(engine.download(out["x_prev"]), before)


def test_threads_run_one_graph_together(engine: Engine, graph: Graph, denoiser: GraphSpec) -> None:
    given = [arrays(1, seed) for seed in range(2)]
    expected = [reference(denoiser, each)["x_prev"] for each in given]
    worst = [np.inf, np.inf]

    def work(index: int) -> None:
        held, out = buffers(engine, given[index]), results(engine, 1)
        differences = []
        for _ in range(20):
            graph.run(held, out)
            graph.rest()  # changes nothing while the other is in a call
            differences.append(np.abs(engine.download(out["x_prev"]) - expected[index]).max())
        worst[index] = max(differences)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) < 2e-5


def test_wrong_names(graph: Graph) -> None:
    given = arrays(1)
    given["time"] = given.pop("t")
    with pytest.raises(EngineError, match=r"'denoiser'.*missing: 't'.*unknown: 'time'"):
        graph(**given)


def test_wrong_dtype(graph: Graph) -> None:
    given = arrays(1)
    given["x_t"] = given["x_t"].astype(np.float64)
    with pytest.raises(EngineError, match=r"'denoiser', input 'x_t': got float64 .*expected float32 \(batch, 3, 8"):
        graph(**given)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8, 7), (1, 4, 8, 8, 8), (3, 8, 8, 8)])
def test_wrong_shape(graph: Graph, shape: tuple[int, ...]) -> None:
    given = arrays(1)
    given["x_t"] = np.zeros(shape, np.float32)
    got = ", ".join(map(str, shape))
    with pytest.raises(EngineError, match=rf"'denoiser', input 'x_t': got float32 \({got}\), expected float32"):
        graph(**given)


def test_batches_that_differ(engine: Engine, graph: Graph) -> None:
    given = arrays(2)
    given["t"] = given["t"][:1]
    with pytest.raises(EngineError, match=r"input 't': got float32 \(1\), expected float32 \(batch\) with batch = 2"):
        graph(**given)
    with pytest.raises(EngineError, match=r"output 'x_prev': got float32 \(1, 3.*with batch = 2"):
        graph.run(buffers(engine, arrays(2)), results(engine, 1))


def test_output_buffer_that_is_an_input_or_used_twice(engine: Engine, graph: Graph) -> None:
    held, out = buffers(engine, arrays(1)), results(engine, 1)
    with pytest.raises(EngineError, match="'denoiser'.*buffer"):
        graph.run(held, {**out, "x_prev": held["x_t"]})
    with pytest.raises(EngineError, match="'denoiser'.*buffer"):
        graph.run(held, {**out, "x0": out["x_prev"]})


def test_buffer_of_another_engine(engine: Engine, graph: Graph) -> None:
    with open_engine(engine.name, "cpu") as other:
        foreign = other.upload(arrays(1)["x_t"])
        with pytest.raises(EngineError, match="'x_t': got a buffer of another engine"):
            graph.run({**buffers(engine, arrays(1)), "x_t": foreign}, results(engine, 1))
        with pytest.raises(EngineError, match="another engine"):
            engine.download(foreign)


def test_file_that_does_not_fit_the_spec(engine: Engine, denoiser: GraphSpec) -> None:
    x_t, *others = denoiser.inputs
    with pytest.raises(EngineError, match=r"'denoiser', input 'x_t': got float32 .*3, 8.*expected float32 .*4, 8"):
        engine.load(replace(denoiser, inputs=(replace(x_t, shape=("batch", 4, 8, 8, 8)), *others)))
    with pytest.raises(EngineError, match=r"'x_t': got float32 \((batch|\?).*expected float32 \(1, 3"):
        engine.load(replace(denoiser, inputs=(replace(x_t, shape=(1, 3, 8, 8, 8)), *others)))
    with pytest.raises(EngineError, match=r"'denoiser', input 'x_t': got float32.*expected float16"):
        engine.load(replace(denoiser, inputs=(replace(x_t, dtype="float16"), *others)))
    with pytest.raises(EngineError, match=r"'denoiser': got inputs.*unknown: 'x_t'"):
        engine.load(replace(denoiser, inputs=tuple(others)))
    with pytest.raises(EngineError, match=r"'denoiser': got outputs.*missing: 'noise'"):
        engine.load(replace(denoiser, outputs=(*denoiser.outputs, TensorSpec("noise", "float32", ("batch",)))))


def test_file_that_is_missing_or_corrupt(engine: Engine, denoiser: GraphSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"'denoiser'.*nowhere\.onnx does not exist"):
        engine.load(replace(denoiser, path=tmp_path / "nowhere.onnx"))
    whole = denoiser.path.read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "text": b"not an ONNX file", "empty": b""}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(EngineError, match=rf"'denoiser'.*{name}\.onnx"):
            engine.load(replace(denoiser, path=path))


def test_operator_that_nobody_knows(engine: Engine, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", FLOAT, ["batch"])
    out = helper.make_tensor_value_info("y", FLOAT, ["batch"])
    graph = helper.make_graph([helper.make_node("Frobnicate", ["x"], ["y"], domain="else.where")], "g", [value], [out])
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("else.where", 1)]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), tmp_path / "g.onnx")
    tensors = (TensorSpec("x", "float32", ("batch",)),), (TensorSpec("y", "float32", ("batch",)),)
    with pytest.raises(EngineError, match=r"'odd'.*Frobnicate"):
        engine.load(GraphSpec("odd", tmp_path / "g.onnx", *tensors))


def test_closed_engine(engine: Engine, graph: Graph, denoiser: GraphSpec) -> None:
    held, out = buffers(engine, arrays(1)), results(engine, 1)
    engine.close()
    engine.close()
    for call in (
        lambda: graph.run(held, out),
        lambda: graph(**arrays(1)),
        lambda: engine.load(denoiser),
        lambda: engine.upload(np.zeros(1)),
        lambda: engine.empty((1,), "float32"),
        lambda: engine.download(held["x_t"]),
    ):
        with pytest.raises(EngineError, match="closed"):
            call()
