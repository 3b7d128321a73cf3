"""The CUDA driver through ctypes: one GPU's memory, and one stream on which everything happens in order.

`libcuda` comes with the NVIDIA driver, so this needs no Python package, and works beside any CUDA version. Work of all
threads goes to one stream: its order is the order of the calls, so a buffer that is given back can be used again by the
next call without waiting. Nothing here waits for the GPU but `download` and `close`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.engines.base import Array
from rediffinet.errors import EngineError

_INT, _UINT, _SIZE, _POINTER = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
_DEVICE_POINTER = ctypes.c_uint64
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuGetErrorName": (_INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (_INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuDriverGetVersion": (ctypes.POINTER(_INT),),
    "cuDeviceGetCount": (ctypes.POINTER(_INT),),
    "cuDeviceGet": (ctypes.POINTER(_INT), _INT),
    "cuDeviceGetName": (ctypes.c_char_p, _INT, _INT),
    "cuDeviceGetAttribute": (ctypes.POINTER(_INT), _INT, _INT),
    "cuDeviceTotalMem_v2": (ctypes.POINTER(_SIZE), _INT),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_POINTER), _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuMemGetInfo_v2": (ctypes.POINTER(_SIZE), ctypes.POINTER(_SIZE)),
    "cuMemAlloc_v2": (ctypes.POINTER(_DEVICE_POINTER), _SIZE),
    "cuMemFree_v2": (_DEVICE_POINTER,),
    "cuMemHostAlloc": (ctypes.POINTER(_POINTER), _SIZE, _UINT),
    "cuMemFreeHost": (_POINTER,),
    "cuMemcpyHtoDAsync_v2": (_DEVICE_POINTER, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _DEVICE_POINTER, _SIZE, _POINTER),
    "cuStreamCreate": (ctypes.POINTER(_POINTER), _UINT),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuEventCreate": (ctypes.POINTER(_POINTER), _UINT),
    "cuEventRecord": (_POINTER, _POINTER),
    "cuEventQuery": (_POINTER,),
    "cuEventSynchronize": (_POINTER,),
    "cuEventDestroy_v2": (_POINTER,),
}
"""What is called, with the arguments' types; every function returns a CUresult (int)."""

SUCCESS, OUT_OF_MEMORY, NOT_READY = 0, 2, 600
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
NON_BLOCKING_STREAM, NO_TIMING = 1, 2
SMALLEST_BLOCK = 4096


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it; `driver` is the newest CUDA version that the driver supports."""

    index: int
    name: str
    capability: tuple[int, int]
    memory_bytes: int
    driver: str

    @property
    def target(self) -> str:
        """Compute capability as TensorRT-RTX names it: "sm86"."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    def __str__(self) -> str:
        return f"{self.name} ({self.target}, {self.memory_bytes / 2**30:.0f} GiB, driver for CUDA {self.driver})"


@cache
def library() -> Any:
    """The driver's library, initialised. Raises `EngineError` naming what is missing."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        found = ctypes.CDLL(name)
    except OSError as error:
        message = (
            f"there is no NVIDIA driver here: {name} cannot be loaded ({error}).\n"
            "Use device 'cpu' with the engine onnxruntime or openvino, or a machine with an NVIDIA GPU and its driver"
        )
        raise EngineError(message) from None
    for function, arguments in FUNCTIONS.items():
        try:
            getattr(found, function).argtypes = arguments
        except AttributeError:
            message = f"the NVIDIA driver is too old: {name} has no {function}; install release 535 or newer"
            raise EngineError(message) from None
        getattr(found, function).restype = _INT
    _check(found, "cuInit", found.cuInit(0))
    return found


def gpus() -> list[Gpu]:
    """The GPUs here. Raises `EngineError` without a driver."""
    count = _INT()
    found = library()
    _check(found, "cuDeviceGetCount", found.cuDeviceGetCount(ctypes.byref(count)))
    return [_describe(found, index) for index in range(count.value)]


def cache_folder() -> Path:
    """Where what was measured or compiled for this machine is kept: safe to remove at any time."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rediffinet"


def _describe(found: Any, index: int) -> Gpu:
    device, version, major, minor = _INT(), _INT(), _INT(), _INT()
    memory, name = _SIZE(), ctypes.create_string_buffer(256)
    for function, arguments in (
        ("cuDeviceGet", (ctypes.byref(device), index)),
        ("cuDriverGetVersion", (ctypes.byref(version),)),
        ("cuDeviceGetName", (name, len(name), device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), CAPABILITY_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), CAPABILITY_MINOR, device)),
        ("cuDeviceTotalMem_v2", (ctypes.byref(memory), device)),
    ):
        _check(found, function, getattr(found, function)(*arguments))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(index, name.value.decode(), (major.value, minor.value), memory.value, driver)


def _check(found: Any, function: str, result: int) -> None:
    if result == SUCCESS:
        return
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    found.cuGetErrorName(result, ctypes.byref(name))
    found.cuGetErrorString(result, ctypes.byref(text))
    said = " ".join(part.decode() for part in (name.value, text.value) if part) or "unknown error"
    message = f"CUDA: {function} failed with {result} ({said})"
    raise EngineError(message)


class Block:
    """Memory on the GPU, which goes back to its pool when the last reference to it is gone."""

    __slots__ = ("_pool", "pointer", "size")

    def __init__(self, pool: dict[int, list[int]], pointer: int, size: int) -> None:
        self._pool = pool
        self.pointer = pointer
        self.size = size

    def __del__(self) -> None:
        # May run in any thread, also inside our own calls: nothing but one append, which needs no lock.
        free = self._pool.get(self.size)
        if free is not None:
            free.append(self.pointer)


class Cuda:
    """One GPU's primary context (the one TensorRT uses), a stream, device memory and pinned host memory.

    `copies` counts the transfers that were asked for: (host to device, device to host).
    """

    def __init__(self, index: int) -> None:
        here = gpus()
        if index >= len(here):
            names = ", ".join(f"cuda:{gpu.index} {gpu}" for gpu in here) or "no GPU"
            message = f"there is no cuda:{index} here; the driver shows {names}"
            raise EngineError(message)
        self.gpu = here[index]
        self.lock = threading.RLock()
        self.copies = [0, 0]
        self._library = library()
        self._device, context, stream = _INT(), _POINTER(), _POINTER()
        self._call("cuDeviceGet", ctypes.byref(self._device), index)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), NON_BLOCKING_STREAM)
        self.stream: int = stream.value or 0
        self._pool: dict[int, list[int]] = {}
        self._allocated: set[int] = set()
        self._pinned: dict[int, list[int]] = {}
        self._all_pinned: set[int] = set()
        self._in_flight: deque[tuple[Any, int, int]] = deque()  # event, pinned pointer, size
        self.closed = False

    def _call(self, function: str, *arguments: Any) -> None:
        _check(self._library, function, getattr(self._library, function)(*arguments))

    @contextlib.contextmanager
    def enqueue(self) -> Iterator[None]:
        """Hold the stream and make the GPU the calling thread's; calls in the block are one unit on the stream."""
        with self.lock:
            if self.closed:
                raise EngineError("the engine's CUDA context is closed")
            self._call("cuCtxSetCurrent", self._context)
            yield

    def allocate(self, size: int) -> Block:
        """`size` bytes or a little more on the GPU; the content is undefined. Raises `EngineError` when it is full."""
        size = _rounded(size)
        with self.enqueue():
            free = self._pool.setdefault(size, [])
            if free:
                return Block(self._pool, free.pop(), size)
            pointer = _DEVICE_POINTER()
            result = self._library.cuMemAlloc_v2(ctypes.byref(pointer), size)
            if result == OUT_OF_MEMORY:
                self._free_pool()
                result = self._library.cuMemAlloc_v2(ctypes.byref(pointer), size)
            if result == OUT_OF_MEMORY:
                message = (
                    f"GPU out of memory on {self.gpu}: {self.memory()}, a tensor needs {_mib(size)} more. "
                    "Free the GPU, run fewer cases at the same time, or use a bundle with a smaller window"
                )
                raise EngineError(message)
            _check(self._library, "cuMemAlloc_v2", result)
            self._allocated.add(pointer.value)
            return Block(self._pool, pointer.value, size)

    def memory(self) -> str:
        """Free and total memory in words."""
        free, total = self.memory_bytes()
        return f"{_mib(free)} of {_mib(total)} are free"

    def memory_bytes(self) -> tuple[int, int]:
        """(free, total) bytes on the GPU, as the driver sees it for all processes."""
        free, total = _SIZE(), _SIZE()
        with self.enqueue():
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def upload(self, array: Array) -> Block:
        """Copy an array to the GPU through pinned memory; returns before the copy is done."""
        with self.enqueue():
            block = self.allocate(array.nbytes)
            staged, size = self._stage(array.nbytes)
            _view(staged, array.dtype, array.shape)[...] = array
            self._call("cuMemcpyHtoDAsync_v2", block.pointer, staged, array.nbytes, self.stream)
            self._in_flight.append((self._event(), staged, size))
            self.copies[0] += 1
        return block

    def download(self, block: Block, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Copy to a new host array; waits for everything that was asked for before."""
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self.enqueue():
            staged, size = self._stage(count)
            self._call("cuMemcpyDtoHAsync_v2", staged, block.pointer, count, self.stream)
            event = self._event()
            self.copies[1] += 1
        # Other threads may enqueue while this one waits.
        self._call("cuEventSynchronize", event)
        array = np.array(_view(staged, dtype, shape), copy=True)
        with self.enqueue():
            self._call("cuEventDestroy_v2", event)
            self._pinned[size].append(staged)
        return array

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        with self.enqueue():
            self._call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Wait, give all memory back, let go of the GPU."""
        with self.lock:
            if self.closed:
                return
            with self.enqueue():
                self._library.cuStreamSynchronize(self.stream)
                for event, _, _ in self._in_flight:
                    self._library.cuEventDestroy_v2(event)
                self._pool.clear()
                for pointer in self._allocated:
                    self._library.cuMemFree_v2(pointer)
                for pinned in self._all_pinned:
                    self._library.cuMemFreeHost(pinned)
                self._library.cuStreamDestroy_v2(self.stream)
            self.closed = True
            self._library.cuDevicePrimaryCtxRelease_v2(self._device)

    def _event(self) -> Any:
        event = _POINTER()
        self._call("cuEventCreate", ctypes.byref(event), NO_TIMING)
        self._call("cuEventRecord", event, self.stream)
        return event

    def _stage(self, size: int) -> tuple[int, int]:
        """Pinned host memory of at least `size` bytes: (pointer, its size)."""
        while self._in_flight and self._done(self._in_flight[0][0]):
            event, pointer, of = self._in_flight.popleft()
            self._call("cuEventDestroy_v2", event)
            self._pinned[of].append(pointer)
        size = _rounded(size)
        free = self._pinned.setdefault(size, [])
        if free:
            return free.pop(), size
        made = _POINTER()
        self._call("cuMemHostAlloc", ctypes.byref(made), size, 0)
        pinned = int(made.value or 0)
        self._all_pinned.add(pinned)
        return pinned, size

    def _done(self, event: Any) -> bool:
        result = self._library.cuEventQuery(event)
        if result != NOT_READY:
            _check(self._library, "cuEventQuery", result)
        return bool(result == SUCCESS)

    def _free_pool(self) -> None:
        """Give unused blocks back to the driver, which waits for the GPU."""
        for free in self._pool.values():
            while free:
                pointer = free.pop()
                self._call("cuMemFree_v2", pointer)
                self._allocated.discard(pointer)


def _rounded(size: int) -> int:
    """Up to a multiple of the smallest block: few sizes, so that blocks are found again."""
    return max(1, -(-size // SMALLEST_BLOCK)) * SMALLEST_BLOCK


def _view(pointer: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = memoryview((ctypes.c_char * count).from_address(pointer))
    return np.ndarray(shape, dtype, memory)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
