"""NVIDIA's driver library through ctypes: what is called, how it says no, and the GPUs that it shows.

`libcuda` comes with the driver, so this needs no Python package, and works beside any CUDA version.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from rediffinet.errors import EngineError

INT, UINT, SIZE, POINTER = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
LONG = ctypes.c_ulonglong
DEVICE_POINTER = ctypes.c_uint64
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (UINT,),
    "cuGetErrorName": (INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuGetErrorString": (INT, ctypes.POINTER(ctypes.c_char_p)),
    "cuDriverGetVersion": (ctypes.POINTER(INT),),
    "cuDeviceGetCount": (ctypes.POINTER(INT),),
    "cuDeviceGet": (ctypes.POINTER(INT), INT),
    "cuDeviceGetName": (ctypes.c_char_p, INT, INT),
    "cuDeviceGetAttribute": (ctypes.POINTER(INT), INT, INT),
    "cuDeviceTotalMem_v2": (ctypes.POINTER(SIZE), INT),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(POINTER), INT),
    "cuDevicePrimaryCtxRelease_v2": (INT,),
    "cuCtxPushCurrent_v2": (POINTER,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(POINTER),),
    "cuMemGetInfo_v2": (ctypes.POINTER(SIZE), ctypes.POINTER(SIZE)),
    "cuMemAlloc_v2": (ctypes.POINTER(DEVICE_POINTER), SIZE),
    "cuMemFree_v2": (DEVICE_POINTER,),
    "cuMemHostAlloc": (ctypes.POINTER(POINTER), SIZE, UINT),
    "cuMemFreeHost": (POINTER,),
    "cuMemcpyHtoDAsync_v2": (DEVICE_POINTER, POINTER, SIZE, POINTER),
    "cuMemcpyDtoHAsync_v2": (POINTER, DEVICE_POINTER, SIZE, POINTER),
    "cuStreamCreate": (ctypes.POINTER(POINTER), UINT),
    "cuStreamSynchronize": (POINTER,),
    "cuStreamDestroy_v2": (POINTER,),
    "cuStreamBeginCapture_v2": (POINTER, INT),
    "cuStreamEndCapture": (POINTER, ctypes.POINTER(POINTER)),
    "cuGraphInstantiateWithFlags": (ctypes.POINTER(POINTER), POINTER, LONG),
    "cuGraphLaunch": (POINTER, POINTER),
    "cuGraphDestroy": (POINTER,),
    "cuGraphExecDestroy": (POINTER,),
    "cuEventCreate": (ctypes.POINTER(POINTER), UINT),
    "cuEventRecord": (POINTER, POINTER),
    "cuEventQuery": (POINTER,),
    "cuEventSynchronize": (POINTER,),
    "cuEventDestroy_v2": (POINTER,),
}
"""What is called, with the arguments' types; every function returns a CUresult (int)."""

SUCCESS, OUT_OF_MEMORY, NOT_READY = 0, 2, 600
NON_BLOCKING_STREAM, NO_TIMING, CAPTURE_THREAD_LOCAL = 1, 2, 1
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
TOO_OLD = {
    803: "libcuda and the driver that is loaded are of different releases",
    804: "libcuda is newer than the driver, which this GPU does not take",
}
"""Results of cuInit that a driver of one release everywhere would not give."""


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
        getattr(found, function).restype = INT
    check(found, "cuInit", found.cuInit(0))
    return found


def gpus() -> list[Gpu]:
    """The GPUs here. Raises `EngineError` without a driver."""
    count = INT()
    found = library()
    check(found, "cuDeviceGetCount", found.cuDeviceGetCount(ctypes.byref(count)))
    return [_describe(found, index) for index in range(count.value)]


def _describe(found: Any, index: int) -> Gpu:
    device, version, major, minor = INT(), INT(), INT(), INT()
    memory, name = SIZE(), ctypes.create_string_buffer(256)
    for function, arguments in (
        ("cuDeviceGet", (ctypes.byref(device), index)),
        ("cuDriverGetVersion", (ctypes.byref(version),)),
        ("cuDeviceGetName", (name, len(name), device)),
        ("cuDeviceGetAttribute", (ctypes.byref(major), CAPABILITY_MAJOR, device)),
        ("cuDeviceGetAttribute", (ctypes.byref(minor), CAPABILITY_MINOR, device)),
        ("cuDeviceTotalMem_v2", (ctypes.byref(memory), device)),
    ):
        check(found, function, getattr(found, function)(*arguments))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(index, name.value.decode(), (major.value, minor.value), memory.value, driver)


def check(found: Any, function: str, result: int) -> None:
    """Raise `EngineError` with the driver's own words when a call did not succeed."""
    if result == SUCCESS:
        return
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    found.cuGetErrorName(result, ctypes.byref(name))
    found.cuGetErrorString(result, ctypes.byref(text))
    said = " ".join(part.decode() for part in (name.value, text.value) if part) or "unknown error"
    message = f"CUDA: {function} failed with {result} ({said})"
    if result in TOO_OLD:
        message += f": {TOO_OLD[result]}; install NVIDIA's driver, release 535 or newer, and restart the machine"
    raise EngineError(message)
