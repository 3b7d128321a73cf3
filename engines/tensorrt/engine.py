"""TensorRT 10 and 11, and TensorRT-RTX: one engine that runs plans on a GPU.

It runs the plan that belongs to a graph's ONNX file (`plans.py`), never the ONNX file itself; only a spec that names no
folder of plans is compiled on the spot, for this GPU and for batches of 1 to `batch`.

One stream and one lock: calls of all threads are put on the stream in the order in which they come, so an upload, the
runs that read it and the download need no further care, and one execution context per graph (with its scratch memory)
is enough. A call holds the lock only while it enqueues; waiting for results happens outside.

CUDA graphs: TensorRT-RTX records by itself; what TensorRT enqueues is recorded here (`cuda.launches`), and launched
plainly when it cannot be.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rediffinet.engines.advice import what_fits
from rediffinet.engines.base import Array, Buffer, Device, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.engines.tensorrt.build import DTYPES, BuildOptions, Log, aot_targets, build, find_module
from rediffinet.engines.tensorrt.cuda import Block, Cuda, GpuMemoryError, Launches
from rediffinet.engines.tensorrt.inspect import profile_shapes
from rediffinet.engines.tensorrt.plans import PlanHost, PlanSet, find_plans, rebuild
from rediffinet.errors import EngineError, ExportError, OutputError
from rediffinet.files import cache_folder, write_atomically

# Twice a pixel, in 2-D: TensorRT-RTX convolves no float32 volumes on Turing.
PROBE_2D = bytes.fromhex(
    "08083a670a0f0a01780a01771201792204436f6e76120570726f62652a13080108010801080110014201774a04000000405a1b0a"
    "017812160a14080112100a0208010a0208010a0208010a020801621b0a017912160a14080112100a0208010a0208010a0208010a"
    "02080142040a001011"
)


@dataclass(frozen=True, slots=True)
class DeviceTensor:
    """What this engine's buffers hold."""

    block: Block
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class TensorRtEngine(Engine):
    """Plans on one CUDA device; buffers are blocks of its memory."""

    name: ClassVar[str] = "tensorrt"
    precisions = ("fp32", "fp16", "int8")

    def __init__(self, device: Device, threads: int | None, cuda_graphs: bool = True, batch: int = 1) -> None:
        super().__init__()
        self.device = str(device)
        self.cuda_graphs, self.batch = cuda_graphs, batch
        self.trt = find_module(self.name)
        self.version = str(self.trt.__version__)
        try:
            self.cuda = Cuda(device.index)
        except EngineError as error:
            message = f"engine '{self.name}' cannot run on {device}: {error}"
            raise EngineError(message) from error
        gpu = self.cuda.gpu
        known = aot_targets(self.trt)
        if known and gpu.target not in known:
            self.cuda.close()
            message = (
                f"engine '{self.name}' cannot run on {gpu}: {self.trt.__name__} {self.version} is for "
                f"{', '.join(known)}, not for {gpu.target}.\nUse the engine tensorrt, or onnxruntime on '{device}'"
            )
            raise EngineError(message)
        self.provider = f"{self.trt.__name__} on {gpu.name} ({gpu.target})"
        # TensorRT-RTX has no float32 convolution of volumes for Turing; plans in fp32 are rewritten (export/turing.py).
        if known and gpu.capability < (8, 0):
            self.probe = PROBE_2D, (1,) * 4
        self.host = PlanHost(self.trt.__name__, self.version, gpu.name, gpu.capability)
        self.log = Log(self.trt)
        try:
            with self.cuda.enqueue():
                self.runtime = self.trt.Runtime(self.log.logger)
        except TypeError:  # the factory behind the constructor returned a null pointer
            self.cuda.close()
            message = f"engine '{self.name}' cannot run on {gpu}: {self.log.said()}"
            raise EngineError(message) from None

    def _load(self, spec: GraphSpec) -> TensorRtGraph:
        if spec.precision != self.precision:
            message = (
                f"graph '{spec.name}' is in {spec.precision}, engine '{self.name}' was opened for {self.precision}"
            )
            raise EngineError(message)
        model = spec.path.read_bytes()
        if spec.compiled is None:
            return TensorRtGraph(spec, self, self._compile(spec, model), None)
        digest = hashlib.sha256(model).hexdigest()
        plans = find_plans(spec.compiled, spec.name, digest, spec.precision, self.host)
        return TensorRtGraph(spec, self, plans.read(spec.name), plans)

    def _compile(self, spec: GraphSpec, model: bytes) -> bytes:
        target = self.host.target if aot_targets(self.trt) else None
        try:
            with self.cuda.enqueue():
                self.cuda.trim()
                return build(self.trt, f"graph '{spec.name}'", spec.path, model, BuildOptions(target, self.batch)).plan
        except ExportError as error:
            raise EngineError(str(error)) from error

    def _upload(self, array: Array) -> DeviceTensor:
        try:
            return DeviceTensor(self.cuda.upload(array), array.shape, array.dtype)
        except GpuMemoryError as error:
            raise EngineError(_tensor_too_large(error, array.shape)) from error

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceTensor:
        try:
            return DeviceTensor(self.cuda.allocate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize), shape, dtype)
        except GpuMemoryError as error:
            raise EngineError(_tensor_too_large(error, shape)) from error

    def _download(self, value: DeviceTensor) -> Array:
        return self.cuda.download(value.block, value.dtype, value.shape)

    def close(self) -> None:
        """Give back the graphs and all memory on the GPU; what is being downloaded is waited for."""
        if not self.closed:
            super().close()
            if os.getpid() != self._process:
                return
            with contextlib.suppress(EngineError), self.cuda.enqueue():
                self.runtime = None
            self.runtime = None
            self.cuda.close()


def _tensor_too_large(error: GpuMemoryError, shape: tuple[int, ...]) -> str:
    """What would fit instead of a tensor (batch, channels, x, y, z)."""
    if len(shape) != 5:
        return f"{error}. Free the GPU, run fewer cases at the same time, or use a bundle with a smaller window"
    return f"{error}; {what_fits(error.needed, error.free, shape[0], shape[2:])}"


class TensorRtRtxEngine(TensorRtEngine):
    """The same on TensorRT-RTX, whose plans are compiled for the GPU when they are loaded."""

    name: ClassVar[str] = "tensorrt-rtx"


class TensorRtGraph(Graph):
    """A plan with its execution context."""

    def __init__(self, spec: GraphSpec, engine: TensorRtEngine, plan: bytes, plans: PlanSet | None) -> None:
        super().__init__(spec, engine)
        self._owner, self._plans = engine, plans
        self._trt, self._cuda, self._log = engine.trt, engine.cuda, engine.log
        self._digest = hashlib.sha256(plan).hexdigest()
        self._cache: Any = None
        self._context: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        records_itself = hasattr(self._trt, "IRuntimeCache")
        self.launches = Launches(self._cuda, enabled=engine.cuda_graphs and not records_itself)
        with self._cuda.enqueue():
            self._cuda.trim()  # the module allocates by itself
            self._check_validity(plan)
            self._engine = engine.runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            said = self._log.said()
            if "memory" in said.lower():
                message = f"graph '{spec.name}': GPU out of memory on {self._cuda.gpu}, {self._cuda.memory()}: {said}"
                raise EngineError(
                    f"{message}\nThe plan has {len(plan) / 2**20:.0f} MiB: free the GPU, or use a smaller bundle"
                )
            raise EngineError(self._refused(f"does not take the plan: {said}"))

    def _refused(self, why: str) -> str:
        again = "" if self._plans is None else f"\n{rebuild(self._plans.path.parent, self._plans.key)}"
        return f"graph '{self.spec.name}': {self._trt.__name__} {self._owner.version} {why}{again}"

    def _check_validity(self, plan: bytes) -> None:
        """Ask TensorRT-RTX before it loads a plan; TensorRT has no such question."""
        ask = getattr(self._owner.runtime, "get_engine_validity", None)
        if ask is None:
            return
        validity, diagnostics = ask(plan)
        if validity != self._trt.EngineValidity.INVALID:
            return
        reasons = self._trt.EngineInvalidityDiagnostics.__members__
        named = [name.lower().replace("_", " ") for name, bit in reasons.items() if int(diagnostics) & int(bit)]
        hint = f" (GPU memory: {self._cuda.memory()})" if "insufficient gpu memory" in named else ""
        if "old cuda driver" in named:
            hint = f" (driver for CUDA {self._cuda.gpu.driver}; install a newer NVIDIA driver)"
        why = ", ".join(named) or self._log.said()
        raise EngineError(self._refused(f"cannot run the plan on {self._cuda.gpu}: {why}{hint}"))

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        kinds: dict[Any, list[TensorSpec]] = {self._trt.TensorIOMode.INPUT: [], self._trt.TensorIOMode.OUTPUT: []}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = self._engine.get_tensor_dtype(name).name
            shape = tuple(size if size >= 0 else "?" for size in self._engine.get_tensor_shape(name))
            kinds[self._engine.get_tensor_mode(name)].append(TensorSpec(name, DTYPES.get(dtype, dtype), shape))
        return tuple(kinds[self._trt.TensorIOMode.INPUT]), tuple(kinds[self._trt.TensorIOMode.OUTPUT])

    def _prepare(self) -> None:
        """Make the execution context; TensorRT-RTX compiles for the GPU here."""
        self._names = [tensor.name for tensor in (*self.spec.inputs, *self.spec.outputs)]
        self._largest = {tensor.name: profile_shapes(self._engine, tensor.name)[2] for tensor in self.spec.inputs}
        with self._cuda.enqueue():
            self._cuda.trim()
            self._context = self._make_context()
        if self._context is None:
            raise EngineError(
                self._too_large() or self._refused(f"makes no execution context: {self._log.said()}"),
            )
        self._save_cache()

    def _too_large(self) -> str | None:
        """What fits instead, when the graph's scratch memory is more than the GPU has free."""
        needed = int(self._engine.get_device_memory_size_for_profile_v2(0))
        free, _ = self._cuda.memory_bytes()
        if needed <= free:
            return None
        batch = max((shape[0] for shape in self._largest.values() if shape), default=1)
        window = next((shape[2:] for shape in self._largest.values() if len(shape) == 5), ())
        return (
            f"graph '{self.spec.name}': GPU out of memory on {self._cuda.gpu}: {free / 2**20:.0f} MiB are free, and a "
            f"window of {' × '.join(map(str, window))} in a batch of {batch} needs {needed / 2**20:.0f} MiB of scratch "
            f"memory; {what_fits(needed, free, batch, window)} (for the batch: rediff plan … --batch N --rebuild)"
        )

    def _make_context(self) -> Any:
        if not hasattr(self._trt, "IRuntimeCache"):
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        strategies = self._trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if self._owner.cuda_graphs else strategies.DISABLED
        # Compile for a shape when it is first seen, not in the background: results then do not change between calls.
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = config.create_runtime_cache()
        path = self._cache_path()
        if path.is_file():
            self._cache.deserialize(path.read_bytes())  # refused when it is of another driver or GPU: then made anew
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _cache_path(self) -> Path:
        gpu = "".join(letter if letter.isalnum() else "-" for letter in self._cuda.gpu.name.lower())
        return cache_folder("tensorrt-rtx", f"{self._digest[:24]}-{gpu}-{self._owner.version}.cache")

    def _save_cache(self) -> None:
        """Keep what was compiled for this GPU. It only saves time: a folder that cannot be written is no error."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize())
        path = self._cache_path()
        try:
            if path.is_file() and path.read_bytes() == content:
                return
            write_atomically(path, content, parents=True)
        except (OSError, OutputError):
            return

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        for name, buffer in inputs.items():
            if any(size > limit for size, limit in zip(buffer.shape, self._largest[name], strict=True)):
                batch, most = buffer.shape[0], self._largest[name][0]
                message = (
                    f"graph '{self.spec.name}', input '{name}': got a batch of {batch}, the plan was built for 1 to "
                    f"{most}; build it with:  rediff plan … --batch {batch} --rebuild"
                )
                raise EngineError(message)
        with self._cuda.enqueue():
            context = self._context
            if context is None:
                return self.engine._check_open()
            self._set_shapes(context, {name: buffer.shape for name, buffer in inputs.items()})
            places = {name: buffer.value.block.pointer for name, buffer in (*inputs.items(), *outputs.items())}

            def enqueue() -> None:
                for name, place in places.items():
                    self._accepted(context.set_tensor_address(name, place), f"the address of '{name}'")
                self._accepted(context.execute_async_v3(self._cuda.stream), "the run")

            self.launches.run(tuple(places[name] for name in self._names), enqueue)

    def _set_shapes(self, context: Any, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self.launches.clear()  # a recording is of the shapes that it was made with
        self._shapes = {}  # unknown, should one of them be refused
        for name, shape in shapes.items():
            self._accepted(context.set_input_shape(name, shape), f"the shape of '{name}'")
        self._shapes = shapes

    def _accepted(self, said_yes: bool, what: str) -> None:
        if not said_yes:
            message = f"graph '{self.spec.name}': {self._trt.__name__} refused {what}: {self._log.said()}"
            if "memory" in message.lower():
                message += f"\n{self._too_large() or f'GPU memory on {self._cuda.gpu}: {self._cuda.memory()}'}"
            raise EngineError(message)

    def _close(self) -> None:
        try:
            with self._cuda.enqueue():
                try:
                    self.launches.clear()
                    if self._context is not None:
                        self._cuda.synchronize()
                        self._save_cache()
                finally:  # the module frees its memory in here, where the GPU is the thread's
                    self._context = self._cache = self._engine = None
        finally:
            self._context = self._cache = self._engine = None
