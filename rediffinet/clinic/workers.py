"""Many cases in several processes of one machine; one that dies loses at most the case it was computing."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from rediffinet.clinic.case import Order, Outcome, order_again, segment_case, tidy
from rediffinet.clinic.cohort import check_names, failed
from rediffinet.clinic.inputs import CaseInput
from rediffinet.clinic.interrupt import Interrupted, interruptible
from rediffinet.errors import CaseError, RediffError
from rediffinet.lean import spawn
from rediffinet.segmenter import Segmenter

ATTEMPTS = 2
"""How often a case is begun when its process dies: memory may have been short once."""


@dataclass(frozen=True)
class Opening:
    """How a Segmenter is opened; goes to other processes as it is."""

    bundle: Path | None = None
    engine: str = "auto"
    device: str = "cpu"
    threads: int | None = None
    precision: str | None = None

    def open(self) -> Segmenter:
        """Open it. Raises as Segmenter.open."""
        return Segmenter.open(self.bundle, self.engine, self.device, self.threads, self.precision)

    def shared_by(self, processes: int) -> "Opening":
        """The same for one of several processes, which share the cores unless the threads are given."""
        share = max(1, len(os.sched_getaffinity(0)) // processes) if hasattr(os, "sched_getaffinity") else None
        return self if self.threads is not None else replace(self, threads=share)


class _Worker:
    """A process and what it is computing."""

    def __init__(self, opening: Opening) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = spawn(_work, opening, connection=theirs)
        theirs.close()
        self.given: CaseInput | None = None

    def begin(self, given: CaseInput, order: Order) -> None:
        self.given = given
        self.connection.send((given, order))


def segment_in_processes(
    inputs: Sequence[CaseInput], order: Order, opening: Opening, processes: int
) -> Iterator[tuple[CaseInput, Outcome]]:
    """Segment cases, several at a time; outcomes come as they are ready. Files are those of one process.

    A signal, or closing the iterator, ends the processes after they removed what they had not finished. Raises what
    keeps a Segmenter from opening.
    """
    opening = opening.shared_by(processes)
    tidy(inputs, order)
    doubles = check_names(inputs)
    yield from ((given, Outcome(given.source, error=error)) for given, error in doubles)
    waiting = deque(given for given in inputs if not any(given is double for double, _ in doubles))
    begun: dict[int, int] = {}
    workers = [_Worker(opening) for _ in range(min(processes, len(waiting)))]
    idle: list[_Worker] = []
    try:
        while waiting or any(worker.given is not None for worker in workers):
            while idle and waiting:
                given = waiting.popleft()
                begun[id(given)] = begun.get(id(given), 0) + 1
                idle.pop().begin(given, order if begun[id(given)] == 1 else order_again(given, order))
            by_connection = {worker.connection: worker for worker in workers}
            for ready in wait(list(by_connection)):
                worker = by_connection[ready]  # type: ignore[index]
                try:
                    said = worker.connection.recv()
                except (EOFError, OSError):
                    said = None
                given_before, worker.given = worker.given, None
                if isinstance(said, RediffError):
                    raise said
                if said is not None:
                    idle.append(worker)
                    if isinstance(said, Outcome) and given_before is not None:
                        yield given_before, said
                    continue
                workers.remove(worker)
                worker.process.join()
                if given_before is not None:
                    if begun[id(given_before)] < ATTEMPTS:
                        waiting.append(given_before)
                    else:
                        yield given_before, _lost(given_before, worker, order)
                elif not begun:
                    message = f"A computing process ended before its first case (exit code {worker.process.exitcode})."
                    raise CaseError(message)
                if waiting:
                    workers.append(_Worker(opening))
    finally:
        _end(workers)


def _lost(given: CaseInput, worker: _Worker, order: Order) -> Outcome:
    message = (
        f"its process died {ATTEMPTS} times (exit code {worker.process.exitcode}; −9 is often too little memory). Use "
        "fewer `processes`."
    )
    return failed(given, CaseError(message), order)


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(20)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(opening: Opening, connection: Connection) -> None:
    """One process: cases come one by one, outcomes go back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with interruptible():
            _serve(opening, connection)
    except (Interrupted, EOFError, BrokenPipeError):
        return


def _serve(opening: Opening, connection: Connection) -> None:
    try:
        segmenter = opening.open()
    except RediffError as error:
        connection.send(CaseError(str(error)))
        return
    with segmenter:
        connection.send("ready")
        while True:
            given, order = connection.recv()
            try:
                outcome = segment_case(segmenter, given, order)
            except Exception as error:
                outcome = failed(given, error, order)
            connection.send(travelling(outcome))


def travelling(outcome: Outcome) -> Outcome:
    """The outcome, with another error where that of a library cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(outcome))
    except Exception:
        return replace(outcome, error=RuntimeError(f"{type(outcome.error).__name__}: {outcome.error}"))
    return outcome


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(3)
