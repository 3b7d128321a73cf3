"""CUDA graphs of a loop: the same launch, with the same addresses, is recorded once and then launched as one.

A recorded graph holds the addresses that it was recorded with. A sampling loop comes back to the same few of them (two
buffers that are swapped, one scalar per step), so the key of a recording is all of its addresses. A launch is made
plainly when its key is new, and recorded when it comes again before `KEPT` others: a loop longer than that is never
recorded, instead of being recorded over and over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from rediffinet.engines.tensorrt.cuda.context import Cuda
from rediffinet.errors import EngineError

KEPT = 64
"""Recordings that are kept per graph of a bundle."""

Key = tuple[int, ...]


class Launches:
    """Launches of one graph of a bundle; who calls holds the stream (`Cuda.enqueue`).

    recorded, replayed, plain: how many there were of each. why_not: what the module or the driver said when recording
    failed; from then on everything is launched plainly.
    """

    def __init__(self, cuda: Cuda, *, enabled: bool) -> None:
        self._cuda = cuda
        self._seen: OrderedDict[Key, int] = OrderedDict()  # key → graph, 0 when not recorded yet
        self.enabled = enabled
        self.recorded = self.replayed = self.plain = 0
        self.why_not = "" if enabled else "switched off"

    def run(self, key: Key, work: Callable[[], None]) -> None:
        """Do `work`, or launch its recording. `work` puts the same on the stream whenever `key` is the same."""
        graph = self._seen.pop(key, None) if self.enabled else None
        if graph == 0:
            graph = self._record(work)
        if self.enabled:
            self._keep(key, graph or 0)
        if graph:
            self._cuda.launch(graph)
            self.replayed += 1
        else:
            work()
            self.plain += 1

    def clear(self) -> None:
        """Forget all recordings: what they hold is no longer true."""
        recorded = [graph for graph in self._seen.values() if graph]
        self._seen.clear()
        if recorded:
            self._cuda.forget(recorded)

    def _record(self, work: Callable[[], None]) -> int | None:
        try:
            graph = self._cuda.record(work)
        except EngineError as error:
            self.enabled = False
            self.why_not = str(error)
            self.clear()
            return None
        self.recorded += 1
        return graph

    def _keep(self, key: Key, graph: int) -> None:
        self._seen[key] = graph
        if len(self._seen) > KEPT:
            _, oldest = self._seen.popitem(last=False)
            if oldest:
                self._cuda.forget([oldest])
