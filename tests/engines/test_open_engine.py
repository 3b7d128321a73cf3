"""Choosing an engine: by name, automatically, and what is said when it cannot run."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rediffinet.engines import ENGINES, GraphSpec, TensorSpec, open_engine, survey
from rediffinet.engines.base import Device
from rediffinet.errors import EngineError, MissingExtraError

needs_onnxruntime = pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")
needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")

Block = Callable[..., None]


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Block:
    """Make packages look as if they were not installed."""
    real = importlib.import_module

    def blocking(*packages: str) -> None:
        def find(name: str, package: str | None = None) -> ModuleType:
            if name in packages:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)
            return real(name, package)

        monkeypatch.setattr(importlib, "import_module", find)

    return blocking


@pytest.mark.parametrize(
    ("text", "device"),
    [("cpu", Device("cpu")), ("CPU", Device("cpu")), ("cuda", Device("cuda", 0)), ("cuda:3", Device("cuda", 3))],
)
def test_devices(text: str, device: Device) -> None:
    assert Device.parse(text) == device


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "cuda:x", "", "cpu:0"])
def test_unknown_device(text: str) -> None:
    with pytest.raises(EngineError, match=f"device '{text}' is not known; expected 'cpu' or 'cuda:N'"):
        open_engine("auto", text)


def test_unknown_engine_lists_what_exists() -> None:
    with pytest.raises(
        EngineError, match="'tensorflow' does not exist; there is: auto, onnxruntime, openvino, .*torch"
    ):
        open_engine("tensorflow")


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one(threads: int) -> None:
    with pytest.raises(EngineError, match=rf"threads = {threads}: expected a number from 1"):
        open_engine(threads=threads)


def test_unknown_precision_lists_what_exists() -> None:
    with pytest.raises(EngineError, match="precision 'fp8' does not exist; there is: fp32, fp16, bf16, int8"):
        open_engine(precision="fp8")


@pytest.mark.parametrize(("name", "precision"), [("onnxruntime", "bf16"), ("torch", "int8")])
def test_precision_that_an_engine_cannot_run(name: str, precision: str) -> None:
    pytest.importorskip(name, reason=f"needs {name}")
    with pytest.raises(EngineError, match=f"engine '{name}' on cpu cannot run {precision}: .*; it runs fp32"):
        open_engine(name, precision=precision)


@needs_torch
def test_auto_passes_over_what_cannot_run_the_precision(block: Block) -> None:
    block("openvino")
    with pytest.raises(EngineError, match=r"(?s)no engine runs bf16 on cpu here:.*onnxruntime: .*cannot run bf16"):
        open_engine(precision="bf16")


def test_auto_takes_openvino_first() -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    with open_engine() as engine:
        assert engine.name == "openvino"
        assert "the first of openvino, onnxruntime, torch that works on cpu" in engine.choice
        assert "passed over" not in engine.choice


@needs_torch
def test_auto_says_what_it_passed_over(block: Block) -> None:
    block("onnxruntime", "openvino")
    with open_engine() as engine:
        assert engine.name == "torch"
        assert "onnxruntime was passed over" in engine.choice
        assert "openvino was passed over" in engine.choice
        assert "not installed" in engine.choice


@pytest.mark.parametrize(
    ("name", "device", "extra"),
    [
        ("onnxruntime", "cpu", "cpu"),
        ("onnxruntime", "cuda:0", "gpu"),
        ("openvino", "cpu", "cpu"),
        ("torch", "cpu", "train"),
        ("torch", "cuda:0", "train"),
    ],
)
def test_absent_package_names_the_pip_command(block: Block, name: str, device: str, extra: str) -> None:
    block("onnxruntime", "openvino", "torch")
    with pytest.raises(MissingExtraError, match=rf"'{name}'.*\n.*pip install 'rediffinet\[{extra}\]'"):
        open_engine(name, device)


def test_auto_without_any_engine_gives_every_reason(block: Block) -> None:
    block("onnxruntime", "openvino", "torch")
    with pytest.raises(EngineError, match=r"(?s)no engine works on cpu.*onnxruntime: .*\[cpu\].*torch: .*\[train\]"):
        open_engine()


def test_package_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str, package: str | None = None) -> ModuleType:
        raise ImportError("libfoo.so.12: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(EngineError, match=r"'onnxruntime' is installed but does not load: libfoo\.so\.12"):
        open_engine("onnxruntime")


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_gpu_that_is_not_there_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "torch":
        torch = pytest.importorskip("torch", reason="the torch engine needs torch")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        message = r"cannot run on cuda:0: torch .* sees cpu"
    else:
        ort = pytest.importorskip("onnxruntime", reason="the onnxruntime engine needs onnxruntime")
        monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
        message = r"(?s)cannot run on cuda:0: .*CPUExecutionProvider, not CUDAExecutionProvider.*rediffinet\[gpu\]"
    with pytest.raises(EngineError, match=message):
        open_engine(name, "cuda:0")


@needs_onnxruntime
def test_listed_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu without CUDA lists the provider, then takes the CPU and only logs it."""
    import onnxruntime as ort

    real = ort.InferenceSession

    def falls_back(model: object, options: object, providers: object) -> object:
        return real(model, ort.SessionOptions(), providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(EngineError, match="asked for CUDAExecutionProvider, ONNX Runtime took CPUExecutionProvider"):
        open_engine("onnxruntime", "cuda:0")


@needs_onnxruntime
@pytest.mark.parametrize("volumes", [True, False])
def test_the_probe_is_a_valid_graph(volumes: bool) -> None:
    onnx = pytest.importorskip("onnx", reason="reads the probe")
    from rediffinet.engines.probe import PROBE, prove
    from rediffinet.engines.tensorrt.engine import PROBE_2D

    model = onnx.load_from_string(PROBE if volumes else PROBE_2D)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(weight, np.full((1,) * (5 if volumes else 4), 2, np.float32))
    with open_engine("onnxruntime", threads=1) as engine:
        engine.probe = None if volumes else (PROBE_2D, (1,) * 4)
        prove(engine)


def test_survey_covers_every_engine_and_device() -> None:
    found = survey(("cpu", "cuda:99"))
    assert [(row.engine, row.device) for row in found] == [(n, d) for n in ENGINES for d in ("cpu", "cuda:99")]
    assert not any(row.works for row in found if row.device == "cuda:99")
    assert all(row.detail for row in found)


@needs_torch
def test_operator_without_an_implementation_is_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes a graph")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    graph = helper.make_graph([helper.make_node("Acosh", ["x"], ["y"])], "g", [value], [out])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    tensors = (TensorSpec("x", "float32", ("batch",)),), (TensorSpec("y", "float32", ("batch",)),)
    with (
        open_engine("torch") as engine,
        pytest.raises(EngineError, match="'g'.*cannot run the operator Acosh; use the engine 'onnxruntime'"),
    ):
        engine.load(GraphSpec("g", path, *tensors))


@needs_torch
def test_old_opset_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="makes a graph")
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8), path)
    tensors = (TensorSpec("x", "float32", ("batch",)),), (TensorSpec("y", "float32", ("batch",)),)
    with open_engine("torch") as engine, pytest.raises(EngineError, match="opset 9, expected 13 or newer"):
        engine.load(GraphSpec("g", path, *tensors))


@needs_torch
def test_torch_in_a_process_that_set_its_own_precision() -> None:
    """The process keeps what it set, and fp32 is fp32 meanwhile. Each in a process of its own: torch remembers."""
    code = """
import os, sys
import torch
from rediffinet.engines.torch_engine import _true_fp32, _fp32_switches
for host in ("fp32_precision", "allow_tf32", "untouched"):
    if child := os.fork():  # torch, imported once
        if os.waitpid(child, 0)[1]:
            sys.exit(host)
        continue
    products, conv = torch.backends.cuda.matmul, torch.backends.cudnn
    if host == "fp32_precision":
        products.fp32_precision = conv.conv.fp32_precision = "tf32"
    elif host == "allow_tf32":
        products.allow_tf32 = conv.allow_tf32 = True
    before = [getattr(place, name) for place, name, _ in _fp32_switches()]
    for _ in range(2):
        with _true_fp32(torch.device("cuda:0")):
            assert all(getattr(place, name) == value for place, name, value in _fp32_switches())
    assert before == [getattr(place, name) for place, name, _ in _fp32_switches()]
    if host == "allow_tf32":
        assert products.allow_tf32 and conv.allow_tf32
    if host == "untouched":
        assert not products.allow_tf32 and conv.allow_tf32
    sys.exit()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
