"""The computing process: one case after another from the store, from files to files, in the case's own folder."""

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from rediffinet.clinic.interrupt import Interrupted, interruptible
from rediffinet.clinic.service.computing import finished_name, forget_received, segment_received, told_result
from rediffinet.clinic.service.logs import log, log_error, tell_libraries
from rediffinet.clinic.service.problems import in_fields, problem
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.service.store import Job, JobStore
from rediffinet.errors import (
    ArchiveError,
    CaseCancelledError,
    CaseError,
    ConfigError,
    DeadlineError,
    LabelError,
    MissingExtraError,
    OutputError,
    RediffError,
)
from rediffinet.segmenter import Segmenter, watched

POLL_S = 0.1
TELL_S = 0.5
AGAIN_S = 1.0
_T = TypeVar("_T")


def work(settings: Settings, parent: Connection) -> None:
    """Compute until the web process ends or says so (SIGTERM). The target of the computing process."""
    tell_libraries()
    threading.Thread(target=_end_with_parent, args=(parent, settings), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the web process decides
    try:
        with interruptible(), _only_one(settings.data):
            _work(settings, parent)
    except Interrupted:
        log("computing process ends")
    except RediffError as error:
        _send(parent, str(error))
        sys.exit(2)
    except Exception as error:
        log_error("computing process failed", error)
        sys.exit(1)


def _work(settings: Settings, parent: Connection) -> None:
    store = JobStore(settings.database)
    _insist(lambda: recover(store, settings))
    with Segmenter.open(
        settings.bundle, settings.engine, settings.device, settings.threads, settings.precision
    ) as segmenter:
        _send(parent, "ready")
        while True:
            job = _insist(store.claim)
            if job is None:
                time.sleep(POLL_S)
                continue
            log("case begun", id=job.id, attempt=job.attempts)
            started = time.monotonic()
            try:
                state = _compute(store, segmenter, settings, job)
            except Interrupted:
                with suppress(sqlite3.OperationalError):  # the next process finds it running, and does the same
                    store.put_back(job.id)
                raise
            log("case ended", id=job.id, state=state, seconds=round(time.monotonic() - started, 3))


def _insist(write: Callable[[], _T]) -> _T:
    """Write to the store, again until it can be written: there may be room again on a disk that is full."""
    told = False
    while True:
        try:
            return write()
        except sqlite3.OperationalError as error:
            if not told:
                log_error("the store cannot be written; trying again", error)
            told = True
            time.sleep(AGAIN_S)


def recover(store: JobStore, settings: Settings) -> None:
    """Decide about jobs that were running when the computing process ended: done, once more, or failed."""
    for job in store.running():
        if finished_name(settings.jobs / job.id) is not None:
            store.finish(job.id, "done", result=told_result(settings.jobs / job.id))
            log("case was done already", id=job.id)
        elif job.attempts >= settings.limits.attempts:
            detail = f"The computing process ended {job.attempts} times during this case, which is given up."
            store.finish(job.id, "failed", problem=problem(500, detail))
            forget_received(settings.jobs / job.id)
            log("case given up", "warning", id=job.id)
        else:
            store.requeue(job.id)
            log("case queued again", "warning", id=job.id)


def _compute(store: JobStore, segmenter: Segmenter, settings: Settings, job: Job) -> str:
    folder = settings.jobs / job.id
    state, told, result = "failed", None, None
    last, cancelled = 0.0, False

    def advance(stage: str, done: int, total: int) -> None:
        nonlocal last, cancelled
        now = time.monotonic()
        if now - last >= TELL_S:
            last = now
            with suppress(sqlite3.OperationalError):  # the case does not depend on it
                cancelled = store.advance(job.id, stage, done, total)

    progress = watched("The case", advance, lambda: cancelled, settings.limits.case_s)
    before = Path.cwd()
    try:
        os.chdir(folder)  # the paths in the report are those in the case's own folder
        result = segment_received(segmenter, job.request, settings, progress)
        state = "done"
    except CaseCancelledError:
        state = "cancelled"
    except RediffError as error:
        told = _told(error)
    except OSError as error:
        told = problem(507, _unwritten(error))
    except Exception as error:
        log_error("case failed", error, id=job.id)
        told = problem(500, "An unexpected error, which the log of the service tells by the id of the case.")
    finally:
        os.chdir(before)
    if state != "done":
        shutil.rmtree(folder / "out", ignore_errors=True)
    known = _insist(lambda: store.finish(job.id, state, problem=told, result=result))
    if state != "done":  # after it is said: until then the case may be begun again
        forget_received(folder)
    return state if known else "gone"


def _told(error: RediffError) -> dict[str, Any]:
    """The problem of a case that failed."""
    status = _status(error)
    cause = error.__cause__
    return problem(status, _unwritten(cause) if status == 507 and isinstance(cause, OSError) else in_fields(str(error)))


def _unwritten(error: OSError) -> str:
    return f"A file of the case could not be read or written: {error.strerror}. Send it again later."


def _status(error: RediffError) -> int:
    """What went wrong with a case as a status of HTTP."""
    if isinstance(error, DeadlineError):
        return 504
    if isinstance(error, MissingExtraError):
        return 501
    if isinstance(error, ArchiveError):
        return 502
    if isinstance(error, OutputError) and isinstance(error.__cause__, OSError):
        return 507
    return 422 if isinstance(error, CaseError | ConfigError | LabelError | OutputError) else 500


def _only_one(data: Path) -> Any:
    from rediffinet.clinic.lock import held

    return held(data / "computing.lock", wait=True)


def _end_with_parent(parent: Connection, settings: Settings) -> None:
    """End at once when the web process is gone: what is half done is done again by the next one, as if not begun."""
    try:
        parent.recv()
    except (EOFError, OSError):
        with suppress(sqlite3.Error):
            store = JobStore(settings.database)
            for job in store.running():
                store.put_back(job.id)
        os._exit(3)


def _send(parent: Connection, text: str) -> None:
    try:
        parent.send(text)
    except OSError:
        os._exit(3)
