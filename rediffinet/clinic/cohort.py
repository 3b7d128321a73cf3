"""Many cases on one engine: the next is read and the last is written while one is computed; none stops the others.

>>> from pathlib import Path
>>> from rediffinet import Segmenter, cohort
>>> cases, order = cohort.list_inputs(Path("cases")), cohort.Order(Path("all"))
>>> with Segmenter.open() as segmenter:
...     for outcome in cohort.segment_cohort(segmenter, cases, order):
...         print(outcome.error or outcome.report.case)
P1
"""

import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from rediffinet.clinic.case import (
    Order,
    Outcome,
    Read,
    compute_case,
    error_log,
    read_case,
    segment_case,
    tidy,
    write_case,
)
from rediffinet.clinic.finished import read_finished
from rediffinet.clinic.inputs import CaseInput, list_inputs
from rediffinet.errors import CaseError, RediffError
from rediffinet.files import write_atomically
from rediffinet.segmenter import Progress, Result, Segmenter

__all__ = ["CaseInput", "Order", "Outcome", "list_inputs", "segment_case", "segment_cohort"]


def segment_cohort(
    segmenter: Segmenter, inputs: Sequence[CaseInput], order: Order, progress: Progress | None = None
) -> Iterator[Outcome]:
    """Segment case after case, in order; whatever a case raises becomes its outcome.

    So does a name that an earlier case has: its outputs would replace that one's. Three cases are in memory at most:
    one being read, one computed, one written. An iterator that is closed, or a signal, leaves nothing half-written.
    """
    doubles = {id(given): error for given, error in check_names(inputs)}

    def read(given: CaseInput) -> Read | Outcome:
        if id(given) in doubles:
            raise doubles[id(given)]
        return read_case(segmenter, given, order)

    def write(given: CaseInput, found: Read, result: Result) -> Outcome:
        try:
            return write_case(found, result)
        except Exception as error:
            return failed(given, error, order)

    tidy(inputs, order)
    waiting = iter(inputs)
    with _one_thread() as reader, _one_thread() as writer:
        writing: deque[Future[Outcome]] = deque()
        given = next(waiting, None)
        reading = None if given is None else reader.submit(read, given)
        while given is not None and reading is not None:
            try:
                found = reading.result()
            except Exception as error:
                found = failed(given, error, order)
            following = next(waiting, None)
            reading = None if following is None else reader.submit(read, following)
            if isinstance(found, Outcome):
                outcome: Future[Outcome] = Future()
                outcome.set_result(found)
                writing.append(outcome)
            else:
                try:
                    result = compute_case(segmenter, found, order, progress)
                except Exception as error:
                    outcome = Future()
                    outcome.set_result(failed(given, error, order))
                    writing.append(outcome)
                else:
                    while writing:  # one result at a time is kept for its writing
                        yield writing.popleft().result()
                    writing.append(writer.submit(write, given, found, result))
            while writing and writing[0].done():
                yield writing.popleft().result()
            given = following
        while writing:
            yield writing.popleft().result()


def check_names(inputs: Iterable[CaseInput]) -> list[tuple[CaseInput, CaseError]]:
    """Cases with the name of an earlier one, whose outputs theirs would replace, each with the error that says so."""
    first: dict[str, CaseInput] = {}
    found = []
    for given in inputs:
        with suppress(RediffError):  # a case that is not whole fails when it is its turn
            other = first.setdefault(given.name, given)
            if other is not given:
                message = f"{given.source} and {other.source} are both named {given.name}. Segment them one by one."
                found.append((given, CaseError(message)))
    return found


def count_finished(inputs: Iterable[CaseInput], order: Order) -> list[str]:
    """Names of the cases whose outputs are all there."""
    found: dict[str, None] = {}
    for given in inputs:
        with suppress(RediffError):
            if given.name not in found and read_finished(order.folder(given.name), given.name) is not None:
                found[given.name] = None  # once, where two cases have one name
    return list(found)


def failed(given: CaseInput, error: Exception, order: Order) -> Outcome:
    """The outcome of a case that raised. What the user cannot mend is told in X-error.log where the outputs go."""
    if isinstance(error, RediffError):
        return Outcome(given.source, error=error)
    try:
        name = given.name
        folder = order.folder(name)
        log = error_log(folder, name)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(log, "".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
    except (RediffError, OSError):
        return Outcome(given.source, error=error)
    return Outcome(given.source, error=error, log=log)


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread whose waiting work is dropped when the block ends early; what it is doing is finished."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
