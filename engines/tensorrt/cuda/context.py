"""One GPU: its primary context, and one stream on which the work of all threads happens in order.

The order of the stream is the order of the calls, so a buffer that is given back can be used again by the next call
without waiting. Nothing here waits for the GPU but `download`, `synchronize` and `close`.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from rediffinet.engines.base import Array
from rediffinet.engines.tensorrt.cuda import driver
from rediffinet.engines.tensorrt.cuda.memory import Block, DevicePool, GpuMemoryError, PinnedPool, mib, view
from rediffinet.errors import EngineError


class Cuda:
    """One GPU's primary context (the one TensorRT uses), a stream, device memory and pinned host memory.

    `copies` counts the transfers that were asked for: (host to device, device to host).
    """

    def __init__(self, index: int) -> None:
        here = driver.gpus()
        if index >= len(here):
            names = ", ".join(f"cuda:{gpu.index} {gpu}" for gpu in here) or "no GPU"
            message = f"there is no cuda:{index} here; the driver shows {names}"
            raise EngineError(message)
        self.gpu = here[index]
        self.lock = threading.RLock()
        self._idle = threading.Condition(self.lock)
        self._waiting = 0  # threads that wait for a copy, without the lock
        self.copies = [0, 0]
        self.closed = False
        self._library = driver.library()
        self._device, context, stream = driver.INT(), driver.POINTER(), driver.POINTER()
        self._call("cuDeviceGet", ctypes.byref(self._device), index)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context
        try:
            with self._current():
                self._call("cuStreamCreate", ctypes.byref(stream), driver.NON_BLOCKING_STREAM)
        except EngineError:
            self._library.cuDevicePrimaryCtxRelease_v2(self._device)
            raise
        self.stream: int = stream.value or 0
        self._device_memory = DevicePool(self._library, self._call)
        self._pinned_memory = PinnedPool(self._library, self._call)

    def _call(self, function: str, *arguments: Any) -> None:
        driver.check(self._library, function, getattr(self._library, function)(*arguments))

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Make the GPU's context the calling thread's in the block, and what was current there again afterwards."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(driver.POINTER()))

    @contextlib.contextmanager
    def enqueue(self) -> Iterator[None]:
        """Hold the stream and make the GPU the calling thread's; calls in the block are one unit on the stream."""
        with self.lock:
            if self.closed:
                raise EngineError("the engine's CUDA context is closed")
            with self._current():
                yield

    def allocate(self, size: int) -> Block:
        """`size` bytes or a little more on the GPU; the content is undefined. `GpuMemoryError` when it is full."""
        with self.enqueue():
            block = self._device_memory.allocate(size)
            if block is not None:
                return block
            free, total = self.memory_bytes()
        message = (
            f"GPU out of memory on {self.gpu}: {mib(free)} of {mib(total)} are free, a tensor needs {mib(size)} more"
        )
        raise GpuMemoryError(message, size, free, total)

    def memory(self) -> str:
        """Free and total memory in words."""
        free, total = self.memory_bytes()
        return f"{mib(free)} of {mib(total)} are free"

    def memory_bytes(self) -> tuple[int, int]:
        """(free, total) bytes on the GPU, as the driver sees it for all processes."""
        free, total = driver.SIZE(), driver.SIZE()
        with self.enqueue():
            self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def upload(self, array: Array) -> Block:
        """Copy an array to the GPU through pinned memory; returns before the copy is done."""
        with self.enqueue():
            block = self.allocate(array.nbytes)
            staged, size = self._pinned_memory.take(array.nbytes)
            view(staged, array.dtype, array.shape)[...] = array
            self._call("cuMemcpyHtoDAsync_v2", block.pointer, staged, array.nbytes, self.stream)
            self._pinned_memory.give_back_after(self._event(), staged, size)
            self.copies[0] += 1
        return block

    def download(self, block: Block, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Copy to a new host array; waits for everything that was asked for before."""
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with self.enqueue():
            staged, size = self._pinned_memory.take(count)
            self._call("cuMemcpyDtoHAsync_v2", staged, block.pointer, count, self.stream)
            event = self._event()
            self.copies[1] += 1
            self._waiting += 1  # `close` leaves the memory until this copy is read
        try:
            with self._current():  # other threads may enqueue while this one waits
                self._call("cuEventSynchronize", event)
            return np.array(view(staged, dtype, shape), copy=True)
        finally:
            with self.lock:
                self._library.cuEventDestroy_v2(event)
                self._pinned_memory.give_back(staged, size)
                self._waiting -= 1
                self._idle.notify_all()

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        with self.enqueue():
            self._call("cuStreamSynchronize", self.stream)

    def record(self, work: Callable[[], None]) -> int:
        """Record what `work` puts on the stream, without running it; the handle of a graph that `launch` runs.

        Raises what `work` raises, and `EngineError` when it does something that cannot be recorded.
        """
        with self.enqueue():
            recorded, made = driver.POINTER(), driver.POINTER()
            self._call("cuStreamBeginCapture_v2", self.stream, driver.CAPTURE_THREAD_LOCAL)
            try:
                work()
            except BaseException:
                self._end_recording(recorded)  # a stream that stays in capture could not be used any more
                self._destroy(recorded)
                raise
            driver.check(self._library, "cuStreamEndCapture", self._end_recording(recorded))
            try:
                self._call("cuGraphInstantiateWithFlags", ctypes.byref(made), recorded, 0)
            finally:
                self._destroy(recorded)
        return int(made.value or 0)

    def _end_recording(self, recorded: Any) -> int:
        return int(self._library.cuStreamEndCapture(self.stream, ctypes.byref(recorded)))

    def _destroy(self, recorded: Any) -> None:
        if recorded.value:
            self._call("cuGraphDestroy", recorded)

    def launch(self, graph: int) -> None:
        """Put a recorded graph on the stream."""
        with self.enqueue():
            self._call("cuGraphLaunch", graph, self.stream)

    def forget(self, graphs: Iterable[int]) -> None:
        """Destroy recorded graphs, after the last launch of them is done."""
        with self.enqueue():
            try:
                self._call("cuStreamSynchronize", self.stream)
            finally:
                for graph in graphs:
                    self._library.cuGraphExecDestroy(graph)

    def trim(self) -> None:
        """Give the blocks that nobody uses back to the driver, for a module that allocates by itself."""
        with self.enqueue():
            self._device_memory.trim()

    def close(self) -> None:
        """Wait, give all memory back, let go of the GPU.

        A GPU that is in an error state refuses every call: they are all made nevertheless, and what they say is not
        asked, so that nothing is left behind.
        """
        with self.lock:
            if self.closed:
                return
            self.closed = True  # no new work
            self._idle.wait_for(lambda: self._waiting == 0)
            self._library.cuCtxPushCurrent_v2(self._context)
            self._library.cuStreamSynchronize(self.stream)
            self._pinned_memory.close()
            self._device_memory.close()
            self._library.cuStreamDestroy_v2(self.stream)
            self._library.cuCtxPopCurrent_v2(ctypes.byref(driver.POINTER()))
            self._library.cuDevicePrimaryCtxRelease_v2(self._device)

    def _event(self) -> Any:
        event = driver.POINTER()
        self._call("cuEventCreate", ctypes.byref(event), driver.NO_TIMING)
        self._call("cuEventRecord", event, self.stream)
        return event
