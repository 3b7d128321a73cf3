"""What every engine is: load a graph, hold buffers on its device, run.

Buffers stay on the device, so a sampling loop swaps two of them instead of copying through the host::

    with open_engine("onnxruntime") as engine:
        graph = engine.load(spec)
        x_t, x_prev = engine.upload(noise), engine.empty(noise.shape, "float32")
        for ...:
            graph.run({"x_t": x_t, ...}, {"x_prev": x_prev, ...})
            x_t, x_prev = x_prev, x_t
        result = engine.download(x_t)

The public methods here check; the back-ends' underscore methods do.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from rediffinet.errors import EngineError

Array = NDArray[Any]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and shape of a graph's input or output; a `str` is a dynamic dimension ("batch")."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class GraphSpec:
    """A graph as the bundle's manifest declares it: its file, what goes in and out, the precision of the file.

    compiled: folder of what was compiled from the bundle's files, for the engines that run that instead.
    """

    name: str
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "fp32"
    compiled: Path | None = None


@dataclass(eq=False, slots=True)
class Buffer:
    """A contiguous tensor on an engine's device; only the engine that made it can use it.

    `value` is the back-end's own object (an OrtValue, a torch tensor) and no one else's business.
    """

    value: Any
    shape: tuple[int, ...]
    dtype: str
    engine: Engine


@dataclass(frozen=True)
class Device:
    """A place to compute: the host, or one CUDA device."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read "cpu", "cuda" or "cuda:N"; `EngineError` for anything else."""
        match = re.fullmatch(r"cpu|cuda(?::(\d+))?", text.strip().lower())
        if match is None:
            message = f"device '{text}' is not known; expected 'cpu' or 'cuda:N' with N the number of the GPU (0, 1, …)"
            raise EngineError(message)
        return cls(match[0].partition(":")[0], int(match[1] or 0))


class Engine(ABC):
    """A back-end on a device. Make one with `open_engine`; it holds its graphs until `close`.

    `provider` is what really computes, read back from the back-end, never what was asked for; so is `precision`: a
    graph that would run in another one does not load. `precisions` are those that this engine can run here.
    """

    name: ClassVar[str]
    device: str
    provider: str
    precision: str = "fp32"
    precisions: tuple[str, ...] = ("fp32",)
    version: str
    probe: tuple[bytes, tuple[int, ...]] | None = None
    """Another graph to prove the engine by (`probe.prove`) than the usual one: an ONNX file, the shape of x and y."""
    choice: str = ""
    """Why `open_engine` took this engine, in one sentence."""

    watch: Callable[[str, int, float, float], None] | None = None
    """Called after every call of a graph: its name, the batch, from and to by `time.perf_counter`."""

    def __init__(self) -> None:
        self.closed = False
        self._graphs: list[Graph] = []
        self._process = os.getpid()

    def use(self, precision: str) -> None:
        """Load the next graphs in this precision; `EngineError` when the engine cannot run it here."""
        if precision not in self.precisions:
            known = precision in PRECISIONS
            message = (
                f"engine '{self.name}' on {self.device} cannot run {precision}: {self._why_not(precision)}; "
                f"it runs {', '.join(self.precisions)}"
                if known
                else f"precision '{precision}' does not exist; there is: {', '.join(PRECISIONS)}"
            )
            raise EngineError(message)
        self.precision = precision

    def _why_not(self, precision: str) -> str:
        return "the back-end has no such arithmetic"

    def load(self, spec: GraphSpec) -> Graph:
        """Read the graph's file and make it ready to run.

        Raises `EngineError` when the file is missing or unreadable, uses what this engine cannot run, or when its
        real inputs and outputs are not those of `spec`.
        """
        self._check_open()
        if not spec.path.is_file():
            message = f"graph '{spec.name}': its file {spec.path} does not exist"
            raise EngineError(message)
        graph = self._load(spec)
        try:
            inputs, outputs = graph._signature()
            _check_signature(spec.name, "input", inputs, spec.inputs)
            _check_signature(spec.name, "output", outputs, spec.outputs)
            graph._prepare()
        except BaseException:
            with contextlib.suppress(EngineError):  # what was wrong first is what is told
                graph._close()
            raise
        self._graphs.append(graph)
        return graph

    def upload(self, array: Array) -> Buffer:
        """Copy an array to the device. The dtype is kept; changing the array afterwards changes nothing here."""
        self._check_open()
        return Buffer(self._upload(np.asarray(array)), tuple(array.shape), array.dtype.name, self)

    def empty(self, shape: Sequence[int], dtype: str) -> Buffer:
        """Reserve a tensor on the device; its content is undefined."""
        self._check_open()
        shape = tuple(int(size) for size in shape)
        return Buffer(self._empty(shape, np.dtype(dtype)), shape, np.dtype(dtype).name, self)

    def download(self, buffer: Buffer) -> Array:
        """Copy a buffer to a new array on the host; waits for the calls that write it."""
        self._check_open()
        if buffer.engine is not self:
            message = f"engine '{self.name}' on {self.device}: the buffer to download was made by another engine"
            raise EngineError(message)
        return self._download(buffer.value)

    def close(self) -> None:
        """Give back the graphs' memory. Later calls raise `EngineError`; calling it twice is fine.

        It always comes to its end: what a broken device says here, the call that met it first has told already.
        """
        self.closed = True
        while self._graphs and os.getpid() == self._process:  # a back-end's memory is that of its own process
            with contextlib.suppress(EngineError):
                self._graphs.pop()._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.provider
        return f"<{self.name} {self.version} on {self.device}: {state}>"

    def check_process(self) -> None:
        """Raise `EngineError` in another process than the one that opened the engine: it would wait there for ever.

        A fork copies the memory of a back-end but not its threads, and no device context.
        """
        if os.getpid() != self._process:
            message = (
                f"engine '{self.name}' on {self.device} was opened in process {self._process} and is used in process "
                f"{os.getpid()}, where its threads do not exist. Open it in the process that uses it: in the "
                "initializer of a pool, in the server's hook that runs after a worker has started (without "
                "preloading), or in processes that are started with the method 'spawn'"
            )
            raise EngineError(message)

    def __reduce__(self) -> NoReturn:
        """Not to be sent to another process either."""
        message = f"engine '{self.name}' cannot be pickled; open it in the process that uses it"
        raise EngineError(message)

    def _check_open(self) -> None:
        self.check_process()
        if self.closed:
            message = f"engine '{self.name}' on {self.device} is closed; open it again, or the Segmenter that it was of"
            raise EngineError(message)

    @abstractmethod
    def _load(self, spec: GraphSpec) -> Graph: ...

    @abstractmethod
    def _upload(self, array: Array) -> Any: ...

    @abstractmethod
    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any: ...

    @abstractmethod
    def _download(self, value: Any) -> Array: ...


class Graph(ABC):
    """A loaded graph. Several threads may run one graph at the same time, each with output buffers of its own."""

    def __init__(self, spec: GraphSpec, engine: Engine) -> None:
        self.spec = spec
        self.engine = engine

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Compute `outputs` from `inputs`; every tensor of the spec is given, and no output buffer is also an input.

        Raises `EngineError` naming the graph, the tensor, what it got and what was expected.
        """
        self.engine._check_open()
        sizes: dict[str, int] = {}
        self._check("input", inputs, self.spec.inputs, sizes)
        self._check("output", outputs, self.spec.outputs, sizes)
        read = {id(buffer) for buffer in inputs.values()}
        written = {id(buffer) for buffer in outputs.values()}
        if len(written) < len(outputs) or not read.isdisjoint(written):
            message = (
                f"graph '{self.spec.name}': an output buffer is used twice, or is an input as well; "
                "give each output a buffer of its own"
            )
            raise EngineError(message)
        watch = self.engine.watch
        if watch is None:
            self._run(inputs, outputs)
            return
        batch = next((buffer.shape[0] for buffer in inputs.values() if buffer.shape), 1)
        begun = time.perf_counter()
        self._run(inputs, outputs)
        watch(self.spec.name, batch, begun, time.perf_counter())

    def rest(self) -> None:  # noqa: B027 (most back-ends hold nothing between calls, or share it)
        """Give back what is held for the next call, when no other thread is in one: it will not come soon."""

    def __call__(self, **arrays: Array) -> dict[str, Array]:
        """Run once on host arrays: upload, run, download. For tests and single calls, not for loops."""
        inputs = {name: self.engine.upload(array) for name, array in arrays.items()}
        sizes: dict[str, int] = {}
        self._check("input", inputs, self.spec.inputs, sizes)
        outputs = {
            tensor.name: self.engine.empty([self._size(size, sizes, tensor) for size in tensor.shape], tensor.dtype)
            for tensor in self.spec.outputs
        }
        self.run(inputs, outputs)
        return {name: self.engine.download(buffer) for name, buffer in outputs.items()}

    def _size(self, size: int | str, sizes: Mapping[str, int], tensor: TensorSpec) -> int:
        if isinstance(size, int):
            return size
        if size not in sizes:
            message = (
                f"graph '{self.spec.name}', output '{tensor.name}': no input has the dynamic dimension '{size}', "
                "so its size is not known before the run; use run() with a buffer of the right size"
            )
            raise EngineError(message)
        return sizes[size]

    def _check(
        self, kind: str, got: Mapping[str, Buffer], expected: tuple[TensorSpec, ...], sizes: dict[str, int]
    ) -> None:
        """Compare buffers with their specs; `sizes` collects the dynamic dimensions met so far."""
        if len(got) != len(expected) or any(tensor.name not in got for tensor in expected):
            raise EngineError(_names_differ(self.spec.name, kind, got, (tensor.name for tensor in expected)))
        for tensor in expected:
            buffer = got[tensor.name]
            fits = buffer.dtype == tensor.dtype and len(buffer.shape) == len(tensor.shape)
            if fits:
                for size, wanted in zip(buffer.shape, tensor.shape, strict=True):
                    fits &= size == (wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size))
            if not fits or buffer.engine is not self.engine:
                raise EngineError(self._tensor_differs(kind, tensor, buffer, sizes))

    def _tensor_differs(self, kind: str, tensor: TensorSpec, buffer: Buffer, sizes: Mapping[str, int]) -> str:
        where = f"graph '{self.spec.name}', {kind} '{tensor.name}'"
        if buffer.engine is not self.engine:
            return f"{where}: got a buffer of another engine ({buffer.engine!r}), expected one of {self.engine!r}"
        known = ", ".join(f"{name} = {sizes[name]}" for name in tensor.shape if isinstance(name, str) and name in sizes)
        got = TensorSpec(tensor.name, buffer.dtype, buffer.shape)
        return f"{where}: got {got}, expected {tensor}{f' with {known}' if known else ''}"

    @abstractmethod
    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as the file has them; a dynamic dimension is its name there, or "?"."""

    def _prepare(self) -> None:  # noqa: B027 (most back-ends have nothing left to do)
        """What is left once the file is known to fit its spec, such as compiling it; raises `EngineError`."""

    @abstractmethod
    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


def _names_differ(graph: str, kind: str, got: Iterable[str], expected: Iterable[str]) -> str:
    got, expected = set(got), set(expected)
    parts = [f"got {kind}s {_listed(got)}, expected {_listed(expected)}"]
    if expected - got:
        parts.append(f"missing: {_listed(expected - got)}")
    if got - expected:
        parts.append(f"unknown: {_listed(got - expected)}")
    return f"graph '{graph}': {'; '.join(parts)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names)) or "none"


def _check_signature(graph: str, kind: str, file: tuple[TensorSpec, ...], spec: tuple[TensorSpec, ...]) -> None:
    """Raise unless the file's tensors are the spec's; a dynamic dimension may have another name in the file."""
    in_file = {tensor.name: tensor for tensor in file}
    if in_file.keys() != {tensor.name for tensor in spec}:
        message = _names_differ(graph, kind, in_file, (tensor.name for tensor in spec))
        raise EngineError(f"{message} (got: its file, expected: the bundle's manifest)")
    for expected in spec:
        got = in_file[expected.name]
        same_sizes = [a if isinstance(a, int) else "?" for a in got.shape] == [
            a if isinstance(a, int) else "?" for a in expected.shape
        ]
        if got.dtype != expected.dtype or not same_sizes:
            message = (
                f"graph '{graph}', {kind} '{expected.name}': got {got} in its file, expected {expected}; "
                "the file is not the one the manifest describes, export the bundle again"
            )
            raise EngineError(message)
