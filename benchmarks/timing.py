"""Timing shared by the benchmarks: contestants take turns in one run; medians, and minima for a busy machine."""

import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    """Median, shortest and longest of the repeats, in ms."""

    median: float
    shortest: float
    longest: float


def interleaved(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Timing]:
    """Time of each contestant; each is called once before, then all take turns."""
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(*(1e3 * pick(values) for pick in (statistics.median, min, max)))
        for name, values in seconds.items()
    }


def ratio(theirs: Timing, ours: Timing) -> str:
    """How many times longer theirs took, by medians and by minima."""
    return f"{theirs.median / ours.median:.1f}× / {theirs.shortest / ours.shortest:.1f}×"


def describe(packages: Sequence[str]) -> str:
    """Processor, cores, Python and versions of the packages, the absent ones named as such."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = f"{len(names)} × {names[0]}" if names else platform.processor() or platform.machine()
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} absent")
    return f"{processor}; Python {sys.version.split()[0]}; {', '.join(found)}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as a Markdown table with aligned columns."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in cells]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])
