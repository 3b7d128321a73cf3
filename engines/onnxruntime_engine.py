"""ONNX Runtime: the CPU provider, or the CUDA, TensorRT and TensorRT-RTX providers, each an engine of its own.

ONNX Runtime replaces a provider that does not start by the CPU and only logs it; here that is an error: falling back is
switched off, and the provider that the session really has, and that its nodes are on, is read back. Sessions run
concurrently; each call has its own binding (some 20 µs), which is what makes `run` safe to call from many threads.

On the CPU an fp16 graph is computed in float32 with float16 weights (ONNX Runtime drops casts back and forth): it
proves the graph, and is no faster.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort

from rediffinet.engines.advice import full_device, is_out_of_memory
from rediffinet.engines.base import Array, Buffer, Device, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.engines.onnxruntime_options import cuda_options, rtx_options, tensorrt_options
from rediffinet.engines.probe import PROBE
from rediffinet.errors import EngineError

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
Provider = tuple[str, dict[str, str]]


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on the CPU or, by its CUDA provider, on one GPU; buffers are OrtValues."""

    name = "onnxruntime"
    extra: ClassVar[str] = "gpu"

    def __init__(self, device: Device, threads: int | None) -> None:
        super().__init__()
        self.device = str(device)
        self.version = ort.__version__
        self._place = device
        self._threads = threads
        self.provider = self._wanted()
        self.precisions = ("fp32", "fp16", "int8") if device.kind == "cpu" else ("fp32", "fp16")
        self._check_available()
        if device.kind == "cuda":
            self._probe()

    def _wanted(self) -> str:
        """Name of the provider this engine stands for."""
        return PROVIDERS[self._place.kind]

    def _check_available(self) -> None:
        available = ort.get_available_providers()
        if self.provider not in available:
            message = (
                f"engine '{self.name}' cannot run on {self.device}: this build has {', '.join(available)}, "
                f"not {self.provider}.\n"
                "Use device 'cpu', or replace the package: pip uninstall onnxruntime, then "
                f"pip install 'rediffinet[{self.extra}]' (the two packages exclude each other)"
            )
            raise EngineError(message)
        if self._place.kind == "cuda" and hasattr(ort, "preload_dlls"):
            with contextlib.redirect_stdout(io.StringIO()):  # `missing_library` says it, where it matters
                ort.preload_dlls()

    def _providers(self, spec: GraphSpec | None) -> list[Provider]:
        """The providers of a session with their options; `spec` is None for the probe."""
        return [(self.provider, cuda_options(self._place.index) if self._place.kind == "cuda" else {})]

    def _probe(self) -> None:
        """Run the smallest 3-D convolution on the device, so that a missing CUDA library shows now and by name."""
        try:
            self.session(PROBE).run(None, {"x": np.zeros((1, 1, 1, 1, 1), np.float32)})
        except Exception as error:
            missing, said = missing_library(self.provider), _said(error)
            message = (
                f"engine '{self.name}' cannot run on {self.device}: {f'{missing} ({said})' if missing else said}\n"
                "The NVIDIA driver, CUDA or cuDNN is missing or does not fit; use device 'cpu', or "
                f"pip install 'rediffinet[{self.extra}]' on a machine with an NVIDIA driver"
            )
            raise EngineError(message) from error

    def session(self, model: str | bytes, spec: GraphSpec | None = None) -> ort.InferenceSession:
        """Start a session on exactly this engine's provider; raises ONNX Runtime's errors and `EngineError`."""
        options = self._session_options()
        session = ort.InferenceSession(model, options, providers=self._providers(spec))
        self._check_used(session)
        return session

    def _session_options(self) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; the log would repeat it on stderr
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if self._place.kind == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _check_used(self, session: ort.InferenceSession) -> None:
        """Raise unless the session has this engine's provider first, and has nodes on it."""
        used = session.get_providers()[0]
        if used != self.provider:
            message = f"asked for {self.provider}, ONNX Runtime took {used}"
            raise EngineError(message)
        if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
            return
        assigned = {part.ep_name for part in session.get_provider_graph_assignment_info() if part.get_nodes()}
        if assigned and self.provider not in assigned:
            message = f"asked for {self.provider}, ONNX Runtime put every node on {', '.join(sorted(assigned))}"
            raise EngineError(message)

    def _load(self, spec: GraphSpec) -> OnnxRuntimeGraph:
        try:
            session = self.session(str(spec.path), spec)
        except Exception as error:  # ONNX Runtime's errors have no common base
            message = f"graph '{spec.name}': {self.name} cannot load {spec.path}: {_said(error)}"
            raise EngineError(message) from error
        return OnnxRuntimeGraph(spec, self, session)

    def _upload(self, array: Array) -> Any:
        # On the CPU an OrtValue refers to the array's own memory; a copy keeps the buffer ours.
        copied = np.array(array, order="C", copy=True)
        return ort.OrtValue.ortvalue_from_numpy(copied, self._place.kind, self._place.index)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type, self._place.kind, self._place.index)

    def _download(self, value: Any) -> Array:
        return np.array(value.numpy(), copy=True)  # numpy() is a view on the CPU


class OnnxRuntimeTensorRTEngine(OnnxRuntimeEngine):
    """The TensorRT provider of onnxruntime-gpu; what TensorRT does not take runs on the CUDA provider."""

    name = "onnxruntime-tensorrt"

    def __init__(self, device: Device, threads: int | None) -> None:
        super().__init__(device, threads)
        self.precisions = ("fp32", "fp16", "int8")

    def _wanted(self) -> str:
        return "TensorrtExecutionProvider"

    def _providers(self, spec: GraphSpec | None) -> list[Provider]:
        index = self._place.index
        return [
            (self.provider, tensorrt_options(index, self.precision, spec)),
            ("CUDAExecutionProvider", cuda_options(index)),
        ]


class OnnxRuntimeRtxEngine(OnnxRuntimeEngine):
    """The TensorRT-RTX plugin provider, registered when the first engine is opened.

    The CPU package, which it comes with, cannot allocate GPU memory: buffers stay on the host, and each call copies.
    """

    name = "onnxruntime-rtx"
    extra = "onnxruntime-rtx"

    def _wanted(self) -> str:
        return "NvTensorRTRTXExecutionProvider"

    def _check_available(self) -> None:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin

        try:
            if not any(found.ep_name == self.provider for found in ort.get_ep_devices()):
                ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
        except Exception as error:  # ONNX Runtime's errors have no common base
            message = (
                f"engine '{self.name}' cannot run on {self.device}: its plugin does not load: {_said(error)}\n"
                "It needs an NVIDIA driver and the CUDA runtime; use device 'cpu', or the engine 'tensorrt'"
            )
            raise EngineError(message) from error
        devices = [found for found in ort.get_ep_devices() if found.ep_name == self.provider]
        if self._place.index >= len(devices):
            message = f"engine '{self.name}' cannot run on {self.device}: its plugin sees {len(devices)} GPUs"
            raise EngineError(message)
        self._plugin_device = devices[self._place.index]

    def session(self, model: str | bytes, spec: GraphSpec | None = None) -> ort.InferenceSession:
        """Start a session on the plugin's device; a name in `providers` would be ignored."""
        options = self._session_options()
        options.add_provider_for_devices([self._plugin_device], rtx_options(spec))
        session = ort.InferenceSession(model, sess_options=options)
        self._check_used(session)
        return session

    def _upload(self, array: Array) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C", copy=True))

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype.type)


class OnnxRuntimeGraph(Graph):
    """One inference session."""

    def __init__(self, spec: GraphSpec, engine: OnnxRuntimeEngine, session: ort.InferenceSession) -> None:
        super().__init__(spec, engine)
        self._session: ort.InferenceSession | None = session

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        assert self._session is not None
        return _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs())

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        session = self._session
        if session is None:
            return self.engine._check_open()
        binding = session.io_binding()
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer.value)
        for name, buffer in outputs.items():
            binding.bind_ortvalue_output(name, buffer.value)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors have no common base
            said = _said(error)
            if is_out_of_memory(said):
                shapes = [buffer.shape for buffer in inputs.values()]
                raise EngineError(full_device(self.spec.name, self.engine.device, shapes, said)) from error
            message = f"graph '{self.spec.name}': {self.engine.name} failed on {self.engine.device}: {said}"
            raise EngineError(message) from error

    def _close(self) -> None:
        self._session = None


def missing_library(provider: str) -> str:
    """What the loader says of a GPU provider's library, such as a CUDA library that is not there; "" when it loads.

    ONNX Runtime tells its log, not its caller, why a provider is not there.
    """
    kind = "tensorrt" if provider.startswith("Tensorrt") else "cuda"
    folder = Path(ort.__file__).parent / "capi"
    found = sorted(folder.glob(f"*onnxruntime_providers_{kind}.*"))
    # cuDNN is loaded when it is first used, so the provider's own library does not name it.
    for path in (*map(str, found), *(("libcudnn.so.9",) if found and sys.platform != "win32" else ())):
        try:
            ctypes.CDLL(path)
        except OSError as error:
            if "undefined symbol" not in str(error):  # those of ONNX Runtime itself, which loads it after another
                return str(error)
    return ""


def _tensors(arguments: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            argument.name,
            DTYPES.get(argument.type, argument.type),
            tuple(size if size is not None else "?" for size in argument.shape),
        )
        for argument in arguments
    )


def _said(error: Exception) -> str:
    """The error's message without ONNX Runtime's own code and address prefix."""
    return str(error).split(" : ", 3)[-1].strip() if str(error).startswith("[ONNXRuntimeError]") else str(error)
