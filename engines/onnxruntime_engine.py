"""ONNX Runtime: the CPU provider, or the CUDA provider of onnxruntime-gpu.

ONNX Runtime replaces a provider that does not start by the CPU and only logs it; here that is an error. Sessions run
concurrently; each call has its own binding (some 20 µs), which is what makes `run` safe to call from many threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort

from rediffinet.engines.base import Array, Buffer, Device, Engine, Graph, GraphSpec, TensorSpec
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
# Algorithm search: cuDNN's default algorithm is many times slower than its own heuristic's choice for 3-D convolutions.
# TF32 off: the engine says fp32.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on the CPU or one CUDA device; buffers are OrtValues."""

    name = "onnxruntime"

    def __init__(self, device: Device, threads: int | None) -> None:
        super().__init__()
        self.device = str(device)
        self.version = ort.__version__
        self.provider = PROVIDERS[device.kind]
        self._place = device
        self._threads = threads
        available = ort.get_available_providers()
        if self.provider not in available:
            message = (
                f"engine 'onnxruntime' cannot run on {device}: this build has {', '.join(available)}, "
                f"not {self.provider}.\n"
                "Use device 'cpu', or replace the package: pip uninstall onnxruntime, then "
                "pip install 'rediffinet[gpu]' (the two packages exclude each other)"
            )
            raise EngineError(message)
        if device.kind == "cuda":
            if hasattr(ort, "preload_dlls"):
                ort.preload_dlls()
            self._probe()

    def _probe(self) -> None:
        """Run the smallest 3-D convolution on the device, so that a missing CUDA library shows now and by name."""
        try:
            self.session(PROBE).run(None, {"x": np.zeros((1, 1, 1, 1, 1), np.float32)})
        except Exception as error:
            message = (
                f"engine 'onnxruntime' cannot run on {self.device}: {_said(error)}\n"
                "The NVIDIA driver, CUDA or cuDNN is missing or does not fit; use device 'cpu', or "
                "pip install 'rediffinet[gpu]' on a machine with an NVIDIA driver"
            )
            raise EngineError(message) from error

    def session(self, model: str | bytes) -> ort.InferenceSession:
        """Start a session on exactly this engine's provider; raises ONNX Runtime's errors and `EngineError`."""
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised; the log would repeat it on stderr
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        settings: dict[str, str] = {}
        if self._place.kind == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            settings = {"device_id": str(self._place.index), **CUDA_OPTIONS}
        session = ort.InferenceSession(model, options, providers=[(self.provider, settings)])
        used = session.get_providers()[0]
        if used != self.provider:
            message = f"asked for {self.provider}, ONNX Runtime took {used}"
            raise EngineError(message)
        return session

    def _load(self, spec: GraphSpec) -> OnnxRuntimeGraph:
        try:
            session = self.session(str(spec.path))
        except Exception as error:  # ONNX Runtime's errors have no common base
            message = f"graph '{spec.name}': onnxruntime cannot load {spec.path}: {_said(error)}"
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
            message = f"graph '{self.spec.name}': onnxruntime failed on {self.engine.device}: {_said(error)}"
            raise EngineError(message) from error

    def _close(self) -> None:
        self._session = None


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
