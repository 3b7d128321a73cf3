"""OpenVINO on the CPU, in fp32, bf16, fp16 or int8 where the processor has them.

A graph is compiled for the batch it is run with, because static shapes are faster; what was compiled is kept, in the
user's cache too, so that the next process starts sooner (`openvino_cache`). bf16
runs the fp32 file with bf16 arithmetic; int8 runs the quantised file, with bf16 between the quantised layers where the
processor has it. The precision that the compiled graph reports must be the one that was asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino as ov

from rediffinet.engines.base import Array, Buffer, Device, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.engines.machine import describe_processor
from rediffinet.engines.openvino_cache import CompiledGraphs
from rediffinet.errors import EngineError

CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
QUANTISED = {"i8", "u8"}

# OpenVINO makes its tables of types when they are first asked for, under a lock of C++: of two threads that ask
# together, one waits for it with Python's own lock in its hand, which the other needs. An import is one thread's.
ov.Type.f32.to_dtype()
ov.Type(np.dtype(np.float32))


class OpenVinoEngine(Engine):
    """OpenVINO's CPU plugin; buffers are OpenVINO tensors in host memory, bound without copies."""

    name = "openvino"

    def __init__(self, device: Device, threads: int | None) -> None:
        super().__init__()
        self.device = str(device)
        self.version = ov.get_version().split("-")[0]
        self._core = ov.Core()
        if device.kind != "cpu":
            message = (
                f"engine 'openvino' runs on 'cpu' only, not on {device}; "
                f"OpenVINO sees {', '.join(self._core.available_devices) or 'no device'} here. "
                "Use device 'cpu', or the engine 'onnxruntime' or 'tensorrt' on a GPU"
            )
            raise EngineError(message)
        able = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precisions = tuple(
            name for name, capability in CAPABILITIES.items() if capability in able and _is_exact(name)
        )
        self.provider = f"CPU ({self._core.get_property('CPU', 'FULL_DEVICE_NAME').strip()})"
        self._threads = threads

    def _why_not(self, precision: str) -> str:
        if precision == "int8" and not _is_exact(precision):
            return "this processor has neither VNNI nor AMX, without which OpenVINO's 8-bit convolutions are wrong"
        return f"this processor has no {precision} arithmetic"

    @property
    def hint(self) -> str:
        """Precision of the layers that are not quantised, in OpenVINO's words."""
        return HINTS.get(self.precision) or ("bf16" if "bf16" in self.precisions else "f32")

    def compile(self, model: ov.Model) -> ov.CompiledModel:
        """Compile for this engine's precision and threads; raises OpenVINO's errors."""
        return self._core.compile_model(model, "CPU", self._config())

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned threads of two processes share the same cores, however many are free.
            "ENABLE_CPU_PINNING": False,
        }
        if self._threads is not None:
            config["INFERENCE_NUM_THREADS"] = self._threads
        return config

    def revive(self, stored: bytes) -> ov.CompiledModel:
        """What `compile` made and `export_model` stored; raises OpenVINO's errors when it is of another version."""
        return self._core.import_model(stored, "CPU", self._config())

    def settings(self) -> dict[str, Any]:
        """All that a compiled graph depends on besides its file and its shapes."""
        return {"openvino": ov.get_version(), "processor": self.provider, "precision": self.precision, **self._config()}

    def read(self, spec: GraphSpec) -> ov.Model:
        """The graph's file; `EngineError` when OpenVINO cannot read it."""
        try:
            return self._core.read_model(str(spec.path))
        except Exception as error:  # OpenVINO's errors have no base of their own
            message = f"graph '{spec.name}': openvino cannot load {spec.path}: {_said(error)}"
            raise EngineError(message) from error

    def _load(self, spec: GraphSpec) -> OpenVinoGraph:
        return OpenVinoGraph(spec, self)

    def _upload(self, array: Array) -> ov.Tensor:
        tensor = self._empty(array.shape, array.dtype)
        tensor.data[...] = array
        return tensor

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ov.Tensor:
        return ov.Tensor(ov.Type(dtype), ov.Shape(list(shape)))

    def _download(self, value: ov.Tensor) -> Array:
        return np.array(value.data, copy=True)


@dataclass(eq=False)
class _Compiled:
    """A graph compiled for one set of input shapes, the requests that no thread is using, and how many are in use."""

    model: ov.CompiledModel
    inputs: dict[str, int]
    outputs: dict[str, int]
    free: list[ov.InferRequest] = field(default_factory=list)
    busy: int = 0


class OpenVinoGraph(Graph):
    """A model, compiled once per batch size; each run takes a request of its own from the pool."""

    def __init__(self, spec: GraphSpec, engine: OpenVinoEngine) -> None:
        super().__init__(spec, engine)
        self._openvino = engine
        self._compiled: dict[tuple[tuple[int, ...], ...], _Compiled] = {}
        self._lock = threading.Lock()
        self._cache = CompiledGraphs(spec.path, engine.settings())
        self._ends = self._cache.signature()
        self._model = engine.read(spec) if self._ends is None else None
        if self._model is not None:
            inputs = tuple(_tensor(port, spec.inputs) for port in self._model.inputs)
            self._ends = inputs, tuple(_tensor(port, spec.outputs) for port in self._model.outputs)

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        assert self._ends is not None
        return self._ends

    def _prepare(self) -> None:
        one = [tuple(size if isinstance(size, int) else 1 for size in tensor.shape) for tensor in self.spec.inputs]
        self._for_shapes(tuple(one))

    def _for_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> _Compiled:
        """The graph compiled for these shapes of the spec's inputs."""
        with self._lock:
            if shapes not in self._compiled:
                self._compiled[shapes] = self._compile(shapes)
            return self._compiled[shapes]

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> _Compiled:
        self.engine._check_open()
        compiled = self._revived(shapes)
        if compiled is None:
            if self._model is None:
                self._model = self._openvino.read(self.spec)
            try:
                model = self._model.clone()
                model.reshape(
                    {tensor.name: list(shape) for tensor, shape in zip(self.spec.inputs, shapes, strict=True)}
                )
                compiled = self._openvino.compile(model)
            except Exception as error:  # OpenVINO's errors have no base of their own
                message = f"graph '{self.spec.name}': openvino cannot compile {self.spec.path}: {_said(error)}"
                raise EngineError(message) from error
            self._cache.write(shapes, compiled.export_model(), self._signature())
        self._check_precision(compiled)
        return _Compiled(
            compiled,
            {_name(port, self.spec.inputs): index for index, port in enumerate(compiled.inputs)},
            {_name(port, self.spec.outputs): index for index, port in enumerate(compiled.outputs)},
        )

    def _revived(self, shapes: tuple[tuple[int, ...], ...]) -> ov.CompiledModel | None:
        stored = self._cache.read(shapes)
        if stored is None:
            return None
        try:
            return self._openvino.revive(stored)
        except Exception:  # made by another build of OpenVINO, say: it is compiled again, and replaced
            return None

    def _check_precision(self, compiled: ov.CompiledModel) -> None:
        """Read back what was compiled; raise when it is not what the engine says it runs."""
        engine = self._openvino
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != engine.hint:
            message = f"graph '{self.spec.name}': asked openvino for {engine.hint}, it runs {used}"
            raise EngineError(message)
        if engine.precision != "int8" or self.spec.precision != "int8":
            return
        layers = compiled.get_runtime_model().get_ops()
        kinds = {layer.get_rt_info()["runtimePrecision"].astype(str) for layer in layers}
        if not kinds & QUANTISED:
            message = f"graph '{self.spec.name}': asked openvino for int8, none of its layers runs in it"
            raise EngineError(message)

    @contextmanager
    def _request(self, compiled: _Compiled) -> Iterator[ov.InferRequest]:
        with self._lock:
            compiled.busy += 1
            request = compiled.free.pop() if compiled.free else None
        try:
            request = request or compiled.model.create_infer_request()
            yield request
        finally:
            with self._lock:
                compiled.busy -= 1
                if request is not None:
                    compiled.free.append(request)

    def rest(self) -> None:
        """See `Graph`: the layers' results, some 100 MB for a graph of the default bundle."""
        with self._lock:
            for compiled in self._compiled.values():
                if not compiled.busy:
                    compiled.free.clear()
                    compiled.model.release_memory()

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        compiled = self._for_shapes(tuple(inputs[tensor.name].shape for tensor in self.spec.inputs))
        try:
            with self._request(compiled) as request:
                for name, index in compiled.inputs.items():
                    request.set_input_tensor(index, inputs[name].value)
                for name, index in compiled.outputs.items():
                    request.set_output_tensor(index, outputs[name].value)
                request.start_async()  # infer() would copy every output to a new array
                request.wait()
        except Exception as error:  # OpenVINO's errors have no base of their own
            message = f"graph '{self.spec.name}': openvino failed on {self.engine.device}: {_said(error)}"
            raise EngineError(message) from error

    def _close(self) -> None:
        with self._lock:
            self._compiled.clear()
            self._model = None


def _is_exact(precision: str) -> bool:
    """Whether results are those of the graph. OpenVINO lists int8 for every x86 processor.

    With AVX2 alone its int8 convolutions behind a concatenation are far off what the graph says (OpenVINO 2026.4;
    x0 of the denoiser by 0.9 where ONNX Runtime, on the same file, differs from fp32 by 0.1).
    """
    features = describe_processor().features
    return precision != "int8" or features is None or features["VNNI"] or features["AMX"]


def _name(port: Any, wanted: tuple[TensorSpec, ...]) -> str:
    """The port's name in the spec; a tensor may have several names, and only one of them is the ONNX file's."""
    names = port.get_names()
    return next((tensor.name for tensor in wanted if tensor.name in names), min(names, default="?"))


def _tensor(port: Any, wanted: tuple[TensorSpec, ...]) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else "?" for size in port.get_partial_shape())
    return TensorSpec(_name(port, wanted), np.dtype(port.get_element_type().to_dtype()).name, shape)


def _said(error: Exception) -> str:
    """The lines of OpenVINO's message that say something, without the places in its source code."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "While validating"))]
    return "; ".join(kept[:4]) or str(error)
