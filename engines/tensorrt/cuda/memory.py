"""Memory that is used again: blocks on the GPU, and pinned memory of the host through which copies go.

Both belong to a `Cuda`, whose lock is held and whose context is current in every call here.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from rediffinet.engines.base import Array
from rediffinet.engines.tensorrt.cuda import driver
from rediffinet.errors import EngineError

Call = Callable[..., None]
"""Calls a function of the driver by name, raises when it fails."""
SMALLEST_BLOCK = 4096


class GpuMemoryError(EngineError):
    """The GPU has not enough free memory. needed, free, total: bytes."""

    def __init__(self, message: str, needed: int, free: int, total: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free
        self.total = total


class Block:
    """Memory on the GPU, which goes back to its pool when the last reference to it is gone."""

    __slots__ = ("_free", "pointer", "size")

    def __init__(self, free: dict[int, list[int]], pointer: int, size: int) -> None:
        self._free = free
        self.pointer = pointer
        self.size = size

    def __del__(self) -> None:
        # May run in any thread, also inside our own calls: nothing but one append, which needs no lock.
        free = self._free.get(self.size)
        if free is not None:
            free.append(self.pointer)


class DevicePool:
    """Blocks on the GPU. One that is given back goes to the next call that wants its size, which the stream orders."""

    def __init__(self, library: Any, call: Call) -> None:
        self._library = library
        self._call = call
        self._free: dict[int, list[int]] = {}
        self._allocated: set[int] = set()

    def allocate(self, size: int) -> Block | None:
        """At least `size` bytes with undefined content; None when the GPU is full."""
        size = rounded(size)
        free = self._free.setdefault(size, [])
        if free:
            return Block(self._free, free.pop(), size)
        pointer = driver.DEVICE_POINTER()
        result = self._library.cuMemAlloc_v2(ctypes.byref(pointer), size)
        if result == driver.OUT_OF_MEMORY:
            self.trim()
            result = self._library.cuMemAlloc_v2(ctypes.byref(pointer), size)
        if result == driver.OUT_OF_MEMORY:
            return None
        driver.check(self._library, "cuMemAlloc_v2", result)
        self._allocated.add(pointer.value)
        return Block(self._free, pointer.value, size)

    def trim(self) -> None:
        """Give unused blocks back to the driver, which waits for the GPU."""
        for free in self._free.values():
            while free:
                pointer = free.pop()
                self._call("cuMemFree_v2", pointer)
                self._allocated.discard(pointer)

    def close(self) -> None:
        """Give all blocks back, those in use as well."""
        self._free.clear()
        for pointer in self._allocated:
            self._library.cuMemFree_v2(pointer)
        self._allocated.clear()


class PinnedPool:
    """Pinned memory of the host: copies from and to it run while the host goes on."""

    def __init__(self, library: Any, call: Call) -> None:
        self._library = library
        self._call = call
        self._free: dict[int, list[int]] = {}
        self._all: set[int] = set()
        self._in_flight: deque[tuple[Any, int, int]] = deque()  # event, pointer, size

    def take(self, size: int) -> tuple[int, int]:
        """At least `size` bytes that no copy uses: (pointer, its size)."""
        while self._in_flight and self._is_done(self._in_flight[0][0]):
            event, pointer, of = self._in_flight.popleft()
            self._call("cuEventDestroy_v2", event)
            self._free[of].append(pointer)
        size = rounded(size)
        free = self._free.setdefault(size, [])
        if free:
            return free.pop(), size
        made = driver.POINTER()
        self._call("cuMemHostAlloc", ctypes.byref(made), size, 0)
        pinned = int(made.value or 0)
        self._all.add(pinned)
        return pinned, size

    def give_back(self, pointer: int, size: int) -> None:
        """The memory may be taken again now."""
        self._free[size].append(pointer)

    def give_back_after(self, event: Any, pointer: int, size: int) -> None:
        """The memory may be taken again once the event has happened; the event is destroyed then."""
        self._in_flight.append((event, pointer, size))

    def close(self) -> None:
        """Give everything back; no copy may be under way."""
        for event, _, _ in self._in_flight:
            self._library.cuEventDestroy_v2(event)
        self._in_flight.clear()
        for pointer in self._all:
            self._library.cuMemFreeHost(pointer)
        self._all.clear()

    def _is_done(self, event: Any) -> bool:
        result = self._library.cuEventQuery(event)
        if result != driver.NOT_READY:
            driver.check(self._library, "cuEventQuery", result)
        return bool(result == driver.SUCCESS)


def rounded(size: int) -> int:
    """Up to a multiple of the smallest block: few sizes, so that blocks are found again."""
    return max(1, -(-size // SMALLEST_BLOCK)) * SMALLEST_BLOCK


def view(pointer: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Host memory at `pointer` as an array; valid while the memory is."""
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = memoryview((ctypes.c_char * count).from_address(pointer))
    return np.ndarray(shape, dtype, memory)


def mib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:.0f} MiB"
