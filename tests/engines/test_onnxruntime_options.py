"""Options of the GPU providers, and how an engine that needs a GPU refuses without one."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rediffinet.engines import GraphSpec, TensorSpec, open_engine
from rediffinet.engines.onnxruntime_options import cuda_options, profile, rtx_options, tensorrt_options
from rediffinet.errors import EngineError, MissingExtraError

DYNAMIC = GraphSpec(
    "denoiser",
    Path("denoiser.onnx"),
    (TensorSpec("x_t", "float32", ("batch", 3, 64, 48, 32)), TensorSpec("t", "float32", ("batch",))),
    (TensorSpec("x0", "float32", ("batch", 3, 64, 48, 32)),),
)
STATIC = GraphSpec("probe", Path("probe.onnx"), (TensorSpec("x", "float32", (1, 2)),), ())


def test_profiles_name_every_input() -> None:
    assert profile(DYNAMIC, 1) == "x_t:1x3x64x48x32,t:1"
    assert profile(DYNAMIC, 8) == "x_t:8x3x64x48x32,t:8"


def test_cuda_options() -> None:
    options = cuda_options(2)
    assert options["device_id"] == "2"
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"  # the default is the slow fallback
    assert options["use_tf32"] == "0"


@pytest.mark.parametrize(("precision", "flags"), [("fp32", "00"), ("fp16", "10"), ("int8", "01")])
def test_tensorrt_options(precision: str, flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    options = tensorrt_options(1, precision, DYNAMIC)
    assert options["device_id"] == "1"
    assert options["trt_fp16_enable"] + options["trt_int8_enable"] == flags
    assert options["trt_engine_cache_path"].startswith("/somewhere")
    assert options["trt_profile_min_shapes"] == options["trt_profile_opt_shapes"] == profile(DYNAMIC, 1)
    assert options["trt_profile_max_shapes"] == profile(DYNAMIC, 8)


def test_static_graphs_need_no_profile() -> None:
    for options in (tensorrt_options(0, "fp32", STATIC), tensorrt_options(0, "fp32"), rtx_options(STATIC)):
        assert not any("profile" in name for name in options)
    assert rtx_options(DYNAMIC)["nv_profile_max_shapes"] == profile(DYNAMIC, 8)


@pytest.mark.parametrize("name", ["onnxruntime-tensorrt", "onnxruntime-rtx"])
def test_gpu_engines_refuse_the_cpu(name: str) -> None:
    with pytest.raises(EngineError, match=f"'{name}' cannot run on cpu: it runs on a GPU only"):
        open_engine(name, "cpu")


def test_tensorrt_provider_that_this_build_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r"not TensorrtExecutionProvider(?s:.*)rediffinet\[gpu\]"):
        open_engine("onnxruntime-tensorrt", "cuda:0")


def test_providers_reach_the_session_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listed provider that falls back is an error, and what was asked for had the options above."""
    ort = pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    real, asked = ort.InferenceSession, []

    def falls_back(model: Any, options: Any, providers: Any) -> Any:
        asked.append((providers, options.get_session_config_entry("session.disable_cpu_ep_fallback")))
        return real(model, ort.SessionOptions(), providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", falls_back)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(EngineError, match="asked for TensorrtExecutionProvider, ONNX Runtime took CPUExecution"):
        open_engine("onnxruntime-tensorrt", "cuda:1")
    [(providers, fallback_off)] = asked
    assert [name for name, _ in providers] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert [options["device_id"] for _, options in providers] == ["1", "1"]
    assert fallback_off == "1"


def test_nodes_on_another_provider_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session has the provider first, yet every node went elsewhere."""
    ort = pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    part = SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: ["Conv"])
    session = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: [part],
    )
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(EngineError, match="put every node on CPUExecutionProvider"):
        open_engine("onnxruntime", "cuda:0")


def test_absent_plugin_names_its_extra() -> None:
    if "onnxruntime_ep_nv_tensorrt_rtx" in sys.modules:
        pytest.skip("the plugin is installed here")
    pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    with pytest.raises(MissingExtraError, match=r"rediffinet\[onnxruntime-rtx\]"):
        open_engine("onnxruntime-rtx", "cuda:0")


def test_plugin_that_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on a machine without a driver: ONNX Runtime's own registration refuses the library."""
    pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    plugin: Any = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.get_ep_name = lambda: "NvTensorRTRTXExecutionProvider"
    plugin.get_library_path = lambda: str(tmp_path / "absent.so")
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    with pytest.raises(EngineError, match=r"'onnxruntime-rtx' cannot run on cuda:0: its plugin does not load.*absent"):
        open_engine("onnxruntime-rtx", "cuda:0")
