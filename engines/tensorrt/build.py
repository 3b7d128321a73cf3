"""ONNX to a TensorRT plan, with `tensorrt` 10 and 11 or `tensorrt_rtx`: one builder for the three.

The network is strongly typed everywhere: a plan computes in the types that the ONNX file has, so an fp16 plan comes
from an fp16 file and nothing else. What only one module has is asked for, never assumed. A module says no by returning
None or False and writing a log line; each of them becomes an `ExportError` with those lines.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rediffinet.engines.tensorrt.inspect import Layers, inspect_plan
from rediffinet.errors import ExportError
from rediffinet.files import write_atomically

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Engine name → Python module."""

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}

Tensor = tuple[str, str, tuple[int, ...]]
Tick = Callable[[str, int, int], None]
"""(phase, steps done, of)."""


@dataclass(frozen=True)
class BuildOptions:
    """How a plan is built.

    target: a compute capability such as "sm86" (TensorRT-RTX, no GPU needed); None: the GPU of this machine. batch:
    every dynamic dimension may be 1 to this many, best at 1. workspace_mib: scratch memory that a layer may use, None
    for the module's own limit. timing_cache: file that remembers measured layers (TensorRT only; RTX measures nothing).
    inspect: open the plan afterwards, where there is a GPU for it, and list its layers.
    """

    target: str | None = None
    batch: int = 1
    workspace_mib: int | None = None
    hardware_compatible: bool = False
    timing_cache: Path | None = None
    inspect: bool = False


@dataclass(frozen=True)
class Built:
    """A plan, the network's inputs and outputs (name, dtype, shape with -1 for dynamic), and its layers.

    layers: of the network, before fusion; they have the types that the plan must compute in. inspected: of the plan,
    after fusion, where a GPU let the module open it.
    """

    plan: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: Layers
    inspected: Layers | None = None


class Log:
    """What a module said that is a warning or worse. `logger` is the object that the module wants."""

    def __init__(self, trt: Any) -> None:
        self.lines: list[tuple[str, str]] = []
        base = trt.ILogger
        bad = {trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR}
        kept = bad | {trt.ILogger.WARNING}
        lines = self.lines

        class Logger(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                if severity in kept:
                    lines.append(("error" if severity in bad else "warning", text))

        self.logger = Logger()

    def said(self) -> str:
        """The errors, each once, or the last warnings when there is no error; then they are forgotten."""
        errors = [text for kind, text in self.lines if kind == "error"]
        shown = list(dict.fromkeys(errors or [text for _, text in self.lines]))[-4:]
        self.lines.clear()
        text = "\n".join(shown) or "it gave no reason"
        if "driver version is insufficient" in text:
            text += "\n(there is no NVIDIA driver here, or it is too old for this version)"
        return text


def find_module(name: str) -> Any:
    """The module of an engine name ("tensorrt", "tensorrt-rtx").

    Raises ImportError when it is absent, does not load, or is a package that only stands for the library.
    """
    module = importlib.import_module(MODULES[name])
    if not hasattr(module, "Runtime"):
        message = f"it has no Runtime: it stands for the library, and is not the library ({_where(module)})"
        raise ImportError(message)
    return module


def _where(module: Any) -> str:
    return str(getattr(module, "__file__", None) or "a folder without code")


def aot_targets(trt: Any) -> tuple[str, ...]:
    """Compute capabilities that the module builds for without a GPU, as "sm86"; none for TensorRT."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return tuple(sorted((name.lower() for name in names if name.startswith("SM")), key=lambda name: int(name[2:])))


def build(trt: Any, what: str, path: Path, model: bytes, options: BuildOptions, tick: Tick | None = None) -> Built:
    """Build a plan from the bytes of an ONNX file (`path` is where its external weights are, if any).

    `what` names the graph in messages. Raises `ExportError`.
    """
    log = Log(trt)
    try:
        builder = trt.Builder(log.logger)
    except TypeError:  # the factory behind the constructor returned a null pointer
        message = f"{what}: {_version(trt)} cannot build here: {log.said()}"
        raise ExportError(message) from None
    strongly = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly is None else 1 << int(strongly))
    _parse(trt, what, path, model, network, log)
    config = builder.create_builder_config()
    _set_target(trt, what, config, options)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32, as in the other engines
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then names layers and types
    _set_profile(what, builder, network, config, options.batch)
    inputs = tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs))
    outputs = tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs))
    layers = _layers(network)
    with _progress(trt, config, tick) as cancelled, _timing_cache(trt, what, config, options.timing_cache, log):
        plan = builder.build_serialized_network(network, config)
    if cancelled:
        raise cancelled[0]
    if plan is None:
        message = f"{what}: {_version(trt)} cannot build a plan for {options.target or 'this GPU'}: {log.said()}"
        raise ExportError(message)
    content = bytes(plan)
    return Built(content, inputs, outputs, layers, inspect_plan(trt, log.logger, content) if options.inspect else None)


def _version(trt: Any) -> str:
    return f"{trt.__name__} {trt.__version__}"


def _parse(trt: Any, what: str, path: Path, model: bytes, network: Any, log: Log) -> None:
    parser = trt.OnnxParser(network, log.logger)
    if parser.parse(model, str(path)):
        if network.num_outputs:
            return
        message = f"{what}: {_version(trt)} cannot read {path}: there is no graph in it"
        raise ExportError(message)
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_operator() else ""
        found.append(f"{node}{error.desc()}")
    reasons = "\n".join(dict.fromkeys(found)) or log.said()
    message = f"{what}: {_version(trt)} cannot read {path}: {reasons}"
    raise ExportError(message)


def _set_target(trt: Any, what: str, config: Any, options: BuildOptions) -> None:
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.target is None:
        return
    known = aot_targets(trt)
    if options.target not in known:
        raise ExportError(unknown_target(trt, what, options.target))
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(getattr(trt.ComputeCapability, options.target.upper()), 0):
        message = f"{what}: {_version(trt)} does not take the target {options.target}"
        raise ExportError(message)


def unknown_target(trt: Any, what: str, target: str) -> str:
    """The message for a target that the module does not have."""
    known = aot_targets(trt)
    if not known:
        return f"{what}: {_version(trt)} builds for the GPU of the machine only: target 'current', not '{target}'"
    return f"{what}: {_version(trt)} has no target '{target}'; there is {', '.join(known)}"


def _set_profile(what: str, builder: Any, network: Any, config: Any, batch: int) -> None:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if any(size < 0 for size in shape[1:]):
            message = f"{what}, input '{tensor.name}': shape {shape}; only the first dimension (batch) may be dynamic"
            raise ExportError(message)
        if shape and shape[0] < 0:
            smallest, largest = (1, *shape[1:]), (batch, *shape[1:])
            profile.set_shape(tensor.name, smallest, smallest, largest)
    if config.add_optimization_profile(profile) < 0:
        message = f"{what}: the optimization profile (batch 1 to {batch}) was refused"
        raise ExportError(message)


def _tensor(tensor: Any) -> Tensor:
    return tensor.name, DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()), tuple(tensor.shape)


def _layers(network: Any) -> Layers:
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = layer.type.name
        if kind != "CONSTANT" and layer.num_outputs:
            dtype = layer.get_output(0).dtype.name
            found.append((layer.name, kind, DTYPES.get(dtype, dtype.lower())))
    return tuple(found)


@contextmanager
def _progress(trt: Any, config: Any, tick: Tick | None) -> Iterator[list[BaseException]]:
    """Report the build's phases to `tick`; an exception in there stops the build and is in the list afterwards."""
    cancelled: list[BaseException] = []
    if tick is None:
        yield cancelled
        return
    base, report, lock, of = trt.IProgressMonitor, tick, threading.Lock(), {}

    class Monitor(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            of[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            # Called by the module's threads, which no exception may enter.
            try:
                with lock:
                    report(name, step + 1, of.get(name, step + 1))
            except BaseException as error:
                cancelled.append(error)
            return not cancelled

        def phase_finish(self, name: str) -> None:
            of.pop(name, None)

    monitor = Monitor()  # lives until the build is over
    config.progress_monitor = monitor
    yield cancelled
    config.progress_monitor = None


@contextmanager
def _timing_cache(trt: Any, what: str, config: Any, path: Path | None, log: Log) -> Iterator[None]:
    """Use and update a timing cache; one of another GPU or version is replaced."""
    if path is None or aot_targets(trt):
        yield
        return
    stored = path.read_bytes() if path.is_file() else b""
    timings = config.create_timing_cache(stored)
    if not timings or not config.set_timing_cache(timings, False):
        timings = config.create_timing_cache(b"")
        if not timings or not config.set_timing_cache(timings, False):
            message = f"{what}: {_version(trt)} does not take a timing cache: {log.said()}"
            raise ExportError(message)
    yield
    write_atomically(path, config.get_timing_cache().serialize(), parents=True)
