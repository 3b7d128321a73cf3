"""A bundle's graphs on an engine. It imports no more than they need: they load while the images are read."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from rediffinet.bundle import Bundle
from rediffinet.engines import Graph, open_engine

SIDE_BY_SIDE = 2
"""Graphs that load at the same time: what OpenVINO does to one is the work of one core."""


class Opened:
    """A bundle whose graphs load in the background from now on; `loaded` waits for them."""

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        device: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
    ) -> None:
        """Open the engine and begin to load. Raises as `Segmenter.open`, but for what a graph's file says."""
        self.bundle = bundle
        self.requested = engine
        self.engine = open_engine(engine, device, threads=threads, precision=precision or "fp32")
        try:
            specs = [bundle.graph(name, self.engine.precision) for name in bundle.manifest.graphs]
        except BaseException:
            self.engine.close()
            raise
        pool = ThreadPoolExecutor(SIDE_BY_SIDE if device == "cpu" else 1, "rediffinet-load")
        self._loading: dict[str, Future[Graph]] = {spec.name: pool.submit(self.engine.load, spec) for spec in specs}
        pool.shutdown(wait=False)

    def loaded(self) -> dict[str, Graph]:
        """The graphs by name, once all are loaded. Raises EngineError for one that does not load."""
        return {name: loading.result() for name, loading in self._loading.items()}

    def close(self) -> None:
        """Give the engine's memory back."""
        for loading in self._loading.values():
            if not loading.cancel():
                loading.exception()  # what begins to load cannot be stopped, and would be left behind
        self.engine.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
