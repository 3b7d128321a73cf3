"""Where the seconds of a case go, as a trace that a browser opens (chrome://tracing, ui.perfetto.dev).

Spans: the case, its stages, and every call of a graph on the engine. On a GPU whose engine does not wait, the span of a
call is the time that it took to ask for it.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from rediffinet.files import write_atomically
from rediffinet.report import Report

STAGES = ("load", "normalise", "baseline", "refine", "decode", "write")
"""Of a case, in their order."""


class Trace:
    """Spans since it was made, of whatever threads."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._events: list[dict[str, Any]] = []

    def graph(self, name: str, batch: int, begun: float, ended: float) -> None:
        """A call of a graph, from and to by `time.perf_counter` (`Segmenter.watch`)."""
        self._add(name, "graph", begun, ended, batch=batch)

    def case(self, report: Report) -> None:
        """The case that was begun when the trace was: its stages one after the other, as long as the report says."""
        at = self._begun
        for stage in STAGES:
            seconds = getattr(report.seconds, stage)
            self._add(stage, "stage", at, at + seconds)
            at += seconds
        self._add(report.case, "case", self._begun, time.perf_counter())

    def write(self, path: Path) -> None:
        """Write the trace; OutputError where that cannot be."""
        events = sorted(self._events, key=lambda event: float(event["ts"]))
        write_atomically(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode(), parents=True)

    def _add(self, name: str, kind: str, begun: float, ended: float, **arguments: Any) -> None:
        span = {"ts": round(1e6 * (begun - self._begun), 1), "dur": round(1e6 * (ended - begun), 1)}
        place = {"pid": os.getpid(), "tid": threading.get_native_id() if kind == "graph" else 0}
        self._events.append({"name": name, "cat": kind, "ph": "X", **span, **place, "args": arguments})
