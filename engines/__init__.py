"""Run a graph anywhere: one protocol (`base`), one module per back-end, nothing substituted silently.

`open_engine("auto", device)` tries the back-ends of `AUTO` in their order and takes the first one that works on the
device in the precision asked for. `Engine.choice` says which was taken and why the ones before it were not. A back-end
asked for by name runs, or raises an error that says what to do.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rediffinet.engines.base import PRECISIONS, Array, Buffer, Device, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.engines.probe import prove
from rediffinet.errors import EngineError, MissingExtraError, RediffError

__all__ = [
    "AUTO",
    "ENGINES",
    "PRECISIONS",
    "Array",
    "Availability",
    "Buffer",
    "Engine",
    "Graph",
    "GraphSpec",
    "TensorSpec",
    "open_engine",
    "survey",
]


sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # OpenVINO tells its makers of every start


@dataclass(frozen=True)
class Backend:
    """Where a back-end lives: its module and class here, the packages it needs, the extra for each kind of device."""

    module: str
    engine: str
    packages: tuple[str, ...]
    extras: tuple[tuple[str, str], ...]
    gpu_only: bool = False
    options: tuple[str, ...] = ()
    """What can be set for this back-end alone."""
    hint: str = ""
    """What to do when the packages are there and do not load."""

    def open(
        self,
        name: str,
        device: Device,
        threads: int | None,
        precision: str = "fp32",
        options: Mapping[str, Any] | None = None,
    ) -> Engine:
        """Import the back-end and open it; `MissingExtraError` without its packages, `EngineError` if it cannot run."""
        if self.gpu_only and device.kind == "cpu":
            message = (
                f"engine '{name}' cannot run on {device}: it runs on a GPU only.\n"
                "Use device 'cuda:0', or the engine onnxruntime or openvino"
            )
            raise EngineError(message)
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                if error.name != package:
                    raise EngineError(self.broken(name, error, package)) from error
                raise MissingExtraError(f"The engine '{name}'", package, dict(self.extras)[device.kind]) from error
            except (ImportError, OSError) as error:
                raise EngineError(self.broken(name, error, package)) from error
        module = importlib.import_module(f"{__name__}.{self.module}")
        try:
            engine: Engine = getattr(module, self.engine)(device, threads, **(options or {}))
        except ImportError as error:
            raise EngineError(self.broken(name, error)) from error
        try:
            engine.use(precision)
        except EngineError:
            engine.close()
            raise
        return engine

    def broken(self, name: str, error: Exception, package: str = "") -> str:
        """The message for a package that is installed and does not load."""
        hint = f"\n{self.hint}" if self.hint else ""
        what = package or self.packages[-1]
        return f"engine '{name}': the package '{what}' is installed but does not load: {error}{hint}"


TENSORRT_LIBRARIES = (
    "PyPI has TensorRT's Python names only; its libraries come from NVIDIA's own index:\n"
    "pip install --extra-index-url https://pypi.nvidia.com 'rediffinet[tensorrt]'"
)


ENGINES: dict[str, Backend] = {
    "onnxruntime": Backend(
        "onnxruntime_engine", "OnnxRuntimeEngine", ("onnxruntime",), (("cpu", "cpu"), ("cuda", "gpu"))
    ),
    "openvino": Backend("openvino_engine", "OpenVinoEngine", ("openvino",), (("cpu", "cpu"), ("cuda", "cpu"))),
    "onnxruntime-tensorrt": Backend(
        "onnxruntime_engine", "OnnxRuntimeTensorRTEngine", ("onnxruntime",), (("cuda", "gpu"),), gpu_only=True
    ),
    "onnxruntime-rtx": Backend(
        "onnxruntime_engine",
        "OnnxRuntimeRtxEngine",
        ("onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx"),
        (("cuda", "onnxruntime-rtx"),),
        gpu_only=True,
    ),
    "torch": Backend("torch_engine", "TorchEngine", ("torch", "onnx"), (("cpu", "train"), ("cuda", "train"))),
    "tensorrt": Backend(
        "tensorrt.engine",
        "TensorRtEngine",
        ("tensorrt",),
        (("cuda", "tensorrt"),),
        gpu_only=True,
        options=("batch", "cuda_graphs"),
        hint=TENSORRT_LIBRARIES,
    ),
    "tensorrt-rtx": Backend(
        "tensorrt.engine",
        "TensorRtRtxEngine",
        ("tensorrt_rtx",),
        (("cuda", "rtx"),),
        gpu_only=True,
        options=("batch", "cuda_graphs"),
    ),
}
"""The back-ends by name."""

AUTO = ("openvino", "onnxruntime", "torch")
"""The back-ends that `auto` tries, in this order.

On a CPU OpenVINO takes half of ONNX Runtime's time for 3-D convolutions, for the same result within rounding
(benchmarks/engines.py); it refuses a GPU, where ONNX Runtime is next. TensorRT is asked for by name: it needs a plan.
"""


@dataclass(frozen=True)
class Availability:
    """Whether one engine works on one device here.

    detail: its provider, or why it does not work; install: the pip command where a package is all that is missing.
    """

    engine: str
    device: str
    works: bool
    detail: str
    version: str = ""
    precisions: tuple[str, ...] = ()
    install: str = ""


def open_engine(
    name: str = "auto",
    device: str = "cpu",
    *,
    threads: int | None = None,
    precision: str = "fp32",
    **options: Any,
) -> Engine:
    """Open the engine called `name` on `device` ("cpu", "cuda:N"), with at most `threads` CPU threads if given.

    `precision` is one of `PRECISIONS`; the graphs to load are those of that precision (`Bundle.graph`). "auto" takes
    the first of `AUTO` that works. options: of one engine alone, such as TensorRT's `cuda_graphs` (False launches every
    layer by itself; the results are the same) and `batch` (the largest, for a graph that is compiled without a plan).

    Raises `MissingExtraError` with the pip command when the engine's package is absent, and `EngineError` when it
    cannot run there or in that precision, or has no such option; nothing else is run instead.
    """
    place = Device.parse(device)
    if threads is not None and threads < 1:
        message = f"threads = {threads}: expected a number from 1, or none for the engine's own default"
        raise EngineError(message)
    if precision not in PRECISIONS:
        message = f"precision '{precision}' does not exist; there is: {', '.join(PRECISIONS)}"
        raise EngineError(message)
    if name != "auto" and name not in ENGINES:
        message = f"engine '{name}' does not exist; there is: auto, {', '.join(ENGINES)}"
        raise EngineError(message)
    has = ENGINES[name].options if name != "auto" else ()
    if unknown := sorted(options.keys() - set(has)):
        message = f"engine '{name}' has no option {', '.join(unknown)}; it has {', '.join(has) or 'none'}"
        raise EngineError(message)
    if name == "auto":
        return _open_first(place, threads, precision)
    engine = ENGINES[name].open(name, place, threads, precision, options)
    engine.choice = f"{name}: asked for by name"
    return engine


def _open_first(device: Device, threads: int | None, precision: str) -> Engine:
    refused: list[tuple[str, str]] = []
    what = f"works on {device}" if precision == "fp32" else f"runs {precision} on {device}"
    for name in AUTO:
        try:
            engine = ENGINES[name].open(name, device, threads, precision)
        except RediffError as error:
            refused.append((name, str(error)))
            continue
        why = "".join(f"; {other} was passed over ({_first_line(reason)})" for other, reason in refused)
        engine.choice = f"{name}: the first of {', '.join(AUTO)} that {what}{why}"
        return engine
    reasons = "\n".join(f"- {name}: {reason}" for name, reason in refused)
    message = f"no engine {what} here:\n{reasons}"
    raise EngineError(message)


def survey(devices: Sequence[str] = ("cpu", "cuda:0")) -> list[Availability]:
    """Run the probe with every engine on every device and say which work, and why the others do not."""
    found = []
    for name in ENGINES:
        for device in devices:
            try:
                with open_engine(name, device) as engine:
                    prove(engine)
                    found.append(Availability(name, device, True, engine.provider, engine.version, engine.precisions))
            except RediffError as error:
                install = error.install if isinstance(error, MissingExtraError) else ""
                found.append(Availability(name, device, False, str(error), install=install))
    return found


def _first_line(text: str) -> str:
    return text.splitlines()[0].rstrip(".:")
