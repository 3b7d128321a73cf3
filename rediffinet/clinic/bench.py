"""Contestants on one case and one machine: each in a process of its own, taking turns, with its quality and its memory.

A contestant is a function, named by module so that its own process can import it, that prepares a run and returns it.
What cannot be prepared (a package that is absent, a precision that the processor lacks) says why and takes no turn.
"""

import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rediffinet.engines.machine import describe_processor
from rediffinet.io.cases import Case, load_case, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.io.geometry import to_canonical
from rediffinet.io.naming import find_labels
from rediffinet.lean import spawn
from rediffinet.metrics import region_dice
from rediffinet.report import peak_rss_mb
from rediffinet.task import DEFAULT_TASK, TASKS, Task

Labels = npt.NDArray[np.uint8]
Told = Callable[[str], None]
PACKAGES = ("rediffinet", "onnxruntime", "openvino", "torch", "monai", "nnunetv2", "numpy")


@dataclass(frozen=True)
class Measured:
    """One turn. seconds: of what was run; times: how often the whole case needs that, where it was not run in full.

    stages: seconds of the parts of the case. labels: uint8 (X, Y, Z) of the case, None for random weights.
    """

    seconds: float
    times: float = 1.0
    stages: Mapping[str, float] = field(default_factory=dict)
    labels: Labels | None = None


class Turn(Protocol):
    """A contestant that is ready: one call is one turn."""

    def __call__(self) -> Measured:
        """Take a turn."""
        ...


@dataclass(frozen=True)
class Contestant:
    """name: as it is shown. make: "module:function", called with the case and `arguments`. note: what was not run."""

    name: str
    make: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Standing:
    """What a contestant did: seconds of the whole case (median, shortest, longest), quality, memory; or why nothing."""

    name: str
    note: str = ""
    why_not: str = ""
    turns: int = 0
    median_s: float = 0.0
    shortest_s: float = 0.0
    longest_s: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    dice: Mapping[str, float] = field(default_factory=dict)
    peak_rss_mb: float = 0.0


def segmenter_run(case: Case, *, bundle: str | None, engine: str, precision: str, threads: int | None) -> Turn:
    """Our own: the whole case by a bundle on an engine, without reading and writing."""
    from rediffinet.segmenter import Segmenter

    segmenter = Segmenter.open(bundle, engine, threads=threads, precision=precision)

    def run() -> Measured:
        started = time.perf_counter()
        result = segmenter.segment(case)
        took = time.perf_counter() - started
        stages = {"baseline": result.report.seconds.baseline, "refine": result.report.seconds.refine}
        return Measured(took, stages=stages, labels=to_canonical(result.labels, case.grid))

    return run


def contest(
    folder: Path,
    contestants: Sequence[Contestant],
    turns: int,
    tell: Told = lambda what: None,
    task: Task = TASKS[DEFAULT_TASK],
) -> list[Standing]:
    """Prepare every contestant in a process of its own, then let them take turns; the first turn is not counted.

    folder: a case folder; its label map, where there is one, is what quality is measured against. task: of the bundle.
    """
    labels = find_labels(folder, task)
    reference = load_label_map(labels, Conventions(task)) if labels is not None else None
    workers = []
    for contestant in contestants:
        ours, theirs = multiprocessing.Pipe()
        process = spawn(_work, folder, contestant, task, connection=theirs)
        theirs.close()
        workers.append((contestant, process, ours))
    found: dict[str, list[Measured]] = {contestant.name: [] for contestant in contestants}
    why_not: dict[str, str] = {}
    memory: dict[str, float] = {}
    try:
        for turn in range(-1, turns + 1):  # -1: ready?  0: not counted
            for contestant, _, ours in workers:
                if contestant.name in why_not:
                    continue
                tell(f"{contestant.name}: {'getting ready' if turn < 0 else f'turn {turn} of {turns}'}")
                try:
                    if turn >= 0:
                        ours.send("go")
                    answer = ours.recv()
                except (EOFError, OSError):
                    answer = "its process ended without a word: out of memory, perhaps"
                if isinstance(answer, str):
                    why_not[contestant.name] = answer
                elif answer is not None:
                    measured, memory[contestant.name] = answer
                    if turn > 0:
                        found[contestant.name].append(measured)
    finally:
        for _, process, ours in workers:
            ours.close()
            process.join(5)
            if process.is_alive():
                process.kill()
    return [
        _standing(c, found[c.name], why_not.get(c.name, ""), memory.get(c.name, 0.0), reference, task)
        for c in contestants
    ]


def _work(folder: Path, contestant: Contestant, task: Task, pipe: Connection) -> None:
    """A contestant's process: None when it is ready, then for each "go" a (Measured, peak RSS), or why it cannot."""
    try:
        case = load_case(folder, task=task)
        module, _, function = contestant.make.partition(":")
        run: Turn = getattr(importlib.import_module(module), function)(case, **contestant.arguments)
        pipe.send(None)
        while pipe.recv() == "go":
            pipe.send((run(), peak_rss_mb()))
    except EOFError:  # it is over
        return
    except Exception as error:
        lines = str(error).splitlines() or [""]
        pipe.send(lines[0] if hasattr(error, "hint") else f"{type(error).__name__}: {lines[0]}")


def _standing(
    contestant: Contestant,
    turns: Sequence[Measured],
    why_not: str,
    memory: float,
    reference: Labels | None,
    task: Task,
) -> Standing:
    if why_not or not turns:
        return Standing(contestant.name, contestant.note, why_not)
    seconds = [measured.seconds * measured.times for measured in turns]
    last = turns[-1]
    stages = {
        stage: statistics.median(measured.stages[stage] * measured.times for measured in turns) for stage in last.stages
    }
    quality = region_dice(last.labels, reference, task) if last.labels is not None and reference is not None else {}
    spread = statistics.median(seconds), min(seconds), max(seconds)
    return Standing(contestant.name, contestant.note, "", len(turns), *spread, stages, quality, memory)


def describe() -> dict[str, str]:
    """The machine and the versions that the seconds belong to."""
    processor = describe_processor()
    found = {"processor": processor.name, "cores": str(processor.cores)}
    found["features"] = ", ".join(name for name, there in (processor.features or {}).items() if there) or "unknown"
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_json(case: str, standings: Sequence[Standing]) -> dict[str, Any]:
    """All of it, for a file."""
    return {"case": case, "machine": describe(), "contestants": [asdict(standing) for standing in standings]}


def as_rows(standings: Sequence[Standing]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a table; ratios are to the first contestant that ran."""
    first = next((standing for standing in standings if standing.turns), None)
    header = (
        "contestant",
        "seconds (shortest–longest)",
        "× the first",
        "baseline s",
        f"Dice {' / '.join(first.dice if first else ())}",
        "peak MB",
        "",
    )
    rows: list[tuple[str, ...]] = []
    for one in standings:
        if not one.turns or first is None:
            rows.append((one.name, "–", "", "", "", "", one.why_not))
            continue
        baseline = f"{one.stages['baseline']:.2f}" if "baseline" in one.stages else ""
        quality = " / ".join(f"{value:.3f}" for value in one.dice.values())
        spread = f"{one.median_s:.2f} ({one.shortest_s:.2f}–{one.longest_s:.2f})"
        times = f"{one.median_s / first.median_s:.1f}"
        rows.append((one.name, spread, times, baseline, quality, f"{one.peak_rss_mb:.0f}", one.note))
    return header, rows
