"""What is OpenVINO's own: precisions read back, graphs compiled per batch, requests shared by threads."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="extra 'cpu'")
pytest.importorskip("onnx", reason="makes graphs")

import onnx
from onnx import TensorProto, helper, numpy_helper

from rediffinet.engines import GraphSpec, TensorSpec, open_engine
from rediffinet.errors import EngineError

CHANNELS, SIZE = 16, 8


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> GraphSpec:
    """y = relu(conv(x)), wide enough to be worth low-precision arithmetic."""
    rng = np.random.default_rng(0)
    shape = ["batch", CHANNELS, SIZE, SIZE, SIZE]
    weights = numpy_helper.from_array(rng.normal(0, 0.05, (CHANNELS, CHANNELS, 3, 3, 3)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["z"], pads=[1] * 6), helper.make_node("Relu", ["z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    path = tmp_path_factory.mktemp("openvino") / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    tensors = [TensorSpec(name, "float32", ("batch", CHANNELS, SIZE, SIZE, SIZE)) for name in ("x", "y")]
    return GraphSpec("g", path, (tensors[0],), (tensors[1],))


def volume(batch: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(batch, CHANNELS, SIZE, SIZE, SIZE)).astype(np.float32)


def test_bf16_is_near_fp32_and_not_fp32(spec: GraphSpec) -> None:
    with open_engine("openvino", threads=1) as exact, open_engine("openvino", threads=1) as lower:
        if "bf16" not in lower.precisions:
            pytest.skip("this processor has no bf16")
        lower.use("bf16")
        expected, got = exact.load(spec)(x=volume(1))["y"], lower.load(spec)(x=volume(1))["y"]
    assert (exact.precision, lower.precision) == ("fp32", "bf16")
    assert 0 < np.abs(got - expected).max() < 2e-2 * np.abs(expected).max()


def test_every_precision_that_is_listed_opens() -> None:
    with open_engine("openvino") as engine:
        listed = engine.precisions
    for precision in listed:
        with open_engine("openvino", precision=precision) as engine:
            assert engine.precision == precision


def test_precision_that_the_processor_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.engines import openvino_engine

    monkeypatch.setattr(openvino_engine, "CAPABILITIES", {"fp32": "FP32", "bf16": "NO SUCH THING"})
    with pytest.raises(EngineError, match="'openvino' on cpu cannot run bf16: this processor has no bf16 .*runs fp32"):
        open_engine("openvino", precision="bf16")


def test_int8_needs_vnni_or_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO lists it for every x86 processor, and is wrong on those that have AVX2 alone."""
    from rediffinet.engines import openvino_engine
    from rediffinet.engines.machine import Processor

    has: dict[str, bool] = {"VNNI": False, "AMX": False}
    monkeypatch.setattr(openvino_engine, "describe_processor", lambda: Processor("some", 2, has))
    with pytest.raises(EngineError, match="cannot run int8: this processor has neither VNNI nor AMX"):
        open_engine("openvino", precision="int8")
    for feature in has:
        with monkeypatch.context() as patch:
            patch.setitem(has, feature, True)
            open_engine("openvino", precision="int8").close()


def test_int8_of_a_graph_without_quantised_layers(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.engines import openvino_engine

    monkeypatch.setattr(openvino_engine, "_is_exact", lambda precision: True)
    claimed = GraphSpec("g", spec.path, spec.inputs, spec.outputs, "int8")
    with (
        open_engine("openvino", precision="int8") as engine,
        pytest.raises(EngineError, match="'g': asked openvino for int8, none of its layers runs in it"),
    ):
        engine.load(claimed)


def test_a_compiled_graph_in_another_precision_is_an_error(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine("openvino") as engine:
        real: Any = engine.compile  # type: ignore[attr-defined]

        def other(model: Any) -> Any:
            engine.precision = "fp32"
            compiled = real(model)
            engine.precision = "bf16"
            return compiled

        monkeypatch.setattr(engine, "compile", other)
        with pytest.raises(EngineError, match="'g': asked openvino for bf16, it runs f32"):
            engine.load(spec)


def test_compiled_once_per_batch(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # another test may have compiled it
    with open_engine("openvino", threads=1) as engine:
        compiled = []
        real: Any = engine.compile  # type: ignore[attr-defined]
        monkeypatch.setattr(engine, "compile", lambda model: compiled.append(model) or real(model))
        graph = engine.load(spec)
        assert len(compiled) == 1  # errors show at load, not in the middle of a case
        whole = graph(x=volume(3))["y"]
        for batch in (3, 1, 1, 3):
            assert graph(x=volume(batch))["y"].shape[0] == batch
        assert len(compiled) == 2
        np.testing.assert_allclose(graph(x=volume(3)[1:2])["y"], whole[1:2], atol=1e-5)
        assert all(model.is_dynamic() is False for model in compiled)


def test_a_gpu_is_refused_with_what_there_is() -> None:
    with pytest.raises(EngineError, match="'openvino' runs on 'cpu' only, not on cuda:0; OpenVINO sees .*CPU"):
        open_engine("openvino", "cuda:0")


def test_what_was_compiled_is_used_again(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To the bit, without reading or compiling the file; another file, precision or batch is another entry."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    with open_engine("openvino", threads=1) as engine:
        expected = engine.load(spec)(x=volume(1))["y"]
    [kept] = tmp_path.rglob("*.compiled")
    with open_engine("openvino", threads=1) as engine:
        monkeypatch.setattr(type(engine), "compile", None)
        monkeypatch.setattr(type(engine), "read", None)
        np.testing.assert_array_equal(engine.load(spec)(x=volume(1))["y"], expected)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    with open_engine("openvino", threads=1) as engine:
        graph = engine.load(spec)
        np.testing.assert_allclose(graph(x=volume(2))["y"][:1], graph(x=volume(2)[:1])["y"], atol=1e-5)
    assert len(list(tmp_path.rglob("*.compiled"))) == 2 and kept.is_file()


@pytest.mark.parametrize("damage", ["cut", "altered", "of another build"])
def test_kept_graphs_that_are_of_no_use(
    spec: GraphSpec, damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    with open_engine("openvino", threads=1) as engine:
        expected = engine.load(spec)(x=volume(1))["y"]
    [kept] = tmp_path.rglob("*.compiled")
    content = kept.read_bytes()
    other = b"not what this build wrote"
    kept.write_bytes(
        {
            "cut": content[:-100],
            "altered": content[:-1] + bytes([content[-1] ^ 1]),
            "of another build": hashlib.sha256(other).digest() + other,
        }[damage]
    )
    with open_engine("openvino", threads=1) as engine:
        np.testing.assert_array_equal(engine.load(spec)(x=volume(1))["y"], expected)
    assert len(kept.read_bytes()) == len(content)


def test_a_cache_that_cannot_be_written_is_no_error(
    spec: GraphSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "file"))
    with open_engine("openvino", threads=1) as engine:
        assert engine.load(spec)(x=volume(1))["y"].shape == (1, CHANNELS, SIZE, SIZE, SIZE)


def test_the_cache_keeps_to_its_size(spec: GraphSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rediffinet.engines import openvino_cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setattr(openvino_cache, "KEPT", 2)
    with open_engine("openvino", threads=1) as engine:
        graph = engine.load(spec)
        for batch in (2, 3, 4):
            graph(x=volume(batch))
    assert len(list(tmp_path.rglob("*.compiled"))) == 2


TOGETHER = """
import sys, threading
from rediffinet.engines import openvino_engine
import openvino as ov

assert sys.modules["openvino_telemetry"] is None
sys.setswitchinterval(1e-6)
begin = threading.Barrier(4)

def ask():
    begin.wait()
    ov.Type.f32.to_dtype()
    ov.Type(openvino_engine.np.dtype("float32"))

threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


def test_types_that_threads_ask_for_together_and_nothing_that_is_sent() -> None:
    """Without the tables of the engine's module, four of ten such processes never ended."""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", TOGETHER], capture_output=True, text=True, timeout=300)
        assert done.stdout == "done\n", done.stderr


def test_opening_the_engine_loads_no_telemetry() -> None:
    code = """
import sys
from rediffinet.engines import open_engine

open_engine("openvino", threads=1).close()
assert not [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
