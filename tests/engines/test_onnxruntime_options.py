"""Options of the GPU providers, and how an engine that needs a GPU refuses without one."""

import ctypes
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


@pytest.mark.parametrize("missing", ["libcublasLt.so.13", "libcudnn.so.9"])
def test_cuda_library_that_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ONNX Runtime itself says only that the nodes are on the CPU."""
    ort = pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()

    def load(path: str) -> None:
        if missing == "libcublasLt.so.13" or path == missing:
            raise OSError(f"{missing}: cannot open shared object file: No such file or directory")
        raise OSError(f"{path}: undefined symbol: Provider_GetHost")  # that is ONNX Runtime's own

    def on_the_cpu(*_: Any, **__: Any) -> None:
        raise RuntimeError("nodes are assigned to the default CPU EP, but fallback has been disabled by the user")

    monkeypatch.setattr(ort, "InferenceSession", on_the_cpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(EngineError, match=rf"cannot run on cuda:0: {missing}: cannot open.*\(nodes are assigned"):
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


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A plugin that registers, with two GPUs; its sessions run on the CPU and say that they are the plugin's."""
    ort = pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    name, asked = "NvTensorRTRTXExecutionProvider", {"registered": [], "sessions": []}
    module: Any = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    module.get_ep_name, module.get_library_path = lambda: name, lambda: "/somewhere/plugin.so"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    gpus = [SimpleNamespace(ep_name=name, number=number) for number in range(2)]
    others = [SimpleNamespace(ep_name="CPUExecutionProvider")]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: others + (gpus if asked["registered"] else []))
    monkeypatch.setattr(
        ort, "register_execution_provider_library", lambda *given: asked["registered"].append(given), raising=False
    )
    real_options, real_session = ort.SessionOptions, ort.InferenceSession

    class Options(real_options):  # type: ignore[misc, valid-type]
        def add_provider_for_devices(self, devices: Any, options: dict[str, str]) -> None:
            self.asked = devices, options

    class Session:
        def __init__(self, model: Any, sess_options: Any) -> None:
            asked["sessions"].append((sess_options.asked, sess_options.get_session_config_entry(FALLBACK)))
            self.inner = real_session(model, real_options(), providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [asked.get("took", name), "CPUExecutionProvider"]

        def __getattr__(self, called: str) -> Any:
            if called == "get_provider_graph_assignment_info":
                raise AttributeError(called)
            return getattr(self.inner, called)

    monkeypatch.setattr(ort, "SessionOptions", Options)
    monkeypatch.setattr(ort, "InferenceSession", Session)
    return asked


FALLBACK = "session.disable_cpu_ep_fallback"


def test_the_plugin_is_registered_once_and_given_its_device(plugin: dict[str, Any]) -> None:
    """By device: a name in `providers` would be ignored, and the CPU taken."""
    for _ in range(2):
        with open_engine("onnxruntime-rtx", "cuda:1") as engine:
            assert engine.provider == "NvTensorRTRTXExecutionProvider"
            assert engine.precisions == ("fp32", "fp16")
    assert plugin["registered"] == [("NvTensorRTRTXExecutionProvider", "/somewhere/plugin.so")]
    for (devices, options), fallback_off in plugin["sessions"]:
        assert [device.number for device in devices] == [1]
        assert options["enable_cuda_graph"] == "0" and "nv_runtime_cache_path" in options
        assert fallback_off == "1"


def test_the_plugin_runs_a_graph(plugin: dict[str, Any]) -> None:
    from rediffinet.engines.probe import prove

    with open_engine("onnxruntime-rtx", "cuda:0") as engine:
        prove(engine)


def test_a_gpu_that_the_plugin_does_not_see(plugin: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="cannot run on cuda:2: its plugin sees 2 GPUs"):
        open_engine("onnxruntime-rtx", "cuda:2")


def test_the_plugin_that_falls_back_is_an_error(plugin: dict[str, Any]) -> None:
    plugin["took"] = "CPUExecutionProvider"
    with pytest.raises(EngineError, match="asked for NvTensorRTRTXExecutionProvider, ONNX Runtime took CPUExecution"):
        open_engine("onnxruntime-rtx", "cuda:0")


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        ("CUDAExecutionProvider", cuda_options(0)),
        ("TensorrtExecutionProvider", tensorrt_options(0, "fp16", DYNAMIC)),
    ],
)
def test_options_are_those_of_the_installed_provider(provider: str, options: dict[str, str]) -> None:
    """Their names are in the provider's library, where it is installed, so that a typo does not wait for a GPU."""
    ort = pytest.importorskip("onnxruntime", reason="extra 'cpu'")
    kind = "tensorrt" if provider.startswith("Tensorrt") else "cuda"
    found = list((Path(ort.__file__).parent / "capi").glob(f"*onnxruntime_providers_{kind}.*"))
    if not found:
        pytest.skip(f"this onnxruntime has no {provider} (extra 'gpu')")
    content = found[0].read_bytes()
    assert not [name for name in options if name.encode() not in content]
