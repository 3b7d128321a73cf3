"""The computing process: one case after another from the store, from files to files, in the case's own folder."""

import gzip
import os
import shutil
import signal
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rediffinet.clinic.case import Order, Outcome, segment_case
from rediffinet.clinic.finished import read_finished
from rediffinet.clinic.inputs import CaseInput, list_inputs
from rediffinet.clinic.interrupt import Interrupted, interruptible
from rediffinet.clinic.service.archives import unpack
from rediffinet.clinic.service.logs import log, log_error
from rediffinet.clinic.service.problems import problem
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.service.store import Job, JobStore
from rediffinet.errors import CaseCancelledError, CaseError, DeadlineError, RediffError
from rediffinet.io.outputs import OutputChoice
from rediffinet.segmenter import Segmenter, SegmentOptions
from rediffinet.task import Task

POLL_S = 0.2
TELL_S = 0.5
IMAGE_BYTES = 2**30
RESULTS = "results.zip"


def work(settings: Settings, parent: Connection) -> None:
    """Compute until the web process ends or says so (SIGTERM). The target of the computing process."""
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the web process decides
    try:
        with interruptible(), _only_one(settings.data):
            _work(settings, parent)
    except Interrupted:
        log("computing process ends")
    except RediffError as error:
        _send(parent, str(error))
        sys.exit(2)


def _work(settings: Settings, parent: Connection) -> None:
    store = JobStore(settings.database)
    recover(store, settings)
    with Segmenter.open(
        settings.bundle, settings.engine, settings.device, settings.threads, settings.precision
    ) as segmenter:
        _send(parent, "ready")
        while True:
            job = store.claim()
            if job is None:
                time.sleep(POLL_S)
                continue
            log("case begun", id=job.id, attempt=job.attempts)
            started = time.monotonic()
            try:
                state = _compute(store, segmenter, settings, job)
            except Interrupted:
                store.put_back(job.id)
                raise
            log("case ended", id=job.id, state=state, seconds=round(time.monotonic() - started, 3))


def recover(store: JobStore, settings: Settings) -> None:
    """Decide about jobs that were running when the computing process ended: done, once more, or failed."""
    for job in store.running():
        if _whole(settings.jobs / job.id) is not None:
            store.finish(job.id, "done", result=_result(settings.jobs / job.id))
            log("case was done already", id=job.id)
        elif job.attempts >= settings.limits.attempts:
            detail = f"The computing process ended {job.attempts} times during this case, which is given up."
            store.finish(job.id, "failed", problem=problem(500, detail))
            log("case given up", "warning", id=job.id)
        else:
            store.requeue(job.id)
            log("case queued again", "warning", id=job.id)


def _compute(store: JobStore, segmenter: Segmenter, settings: Settings, job: Job) -> str:
    folder = settings.jobs / job.id
    state, told, result = "failed", None, None
    last = 0.0
    cancelled = False

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last, cancelled
        if time.monotonic() - last >= TELL_S:
            last = time.monotonic()
            cancelled = store.advance(job.id, stage, done, total)

    before = Path.cwd()
    try:
        os.chdir(folder)  # the paths in the report are those in the case's own folder
        _segment(segmenter, job, settings, progress, lambda: cancelled)
        state, result = "done", _result(Path())
    except CaseCancelledError:
        state = "cancelled"
    except DeadlineError as error:
        told = problem(504, str(error))
    except RediffError as error:
        told = problem(422 if isinstance(error, CaseError) else 500, str(error))
    except OSError as error:
        told = problem(507, f"A file of the case could not be read or written: {error.strerror}.")
    except Exception as error:
        log_error("case failed", error, id=job.id)
        told = problem(500, "An unexpected error, which the log of the service tells by the id of the case.")
    finally:
        os.chdir(before)
    if state != "done":
        shutil.rmtree(folder / "out", ignore_errors=True)
    return state if store.finish(job.id, state, problem=told, result=result) else "gone"


def _segment(
    segmenter: Segmenter,
    job: Job,
    settings: Settings,
    progress: Callable[[str, int, int], None],
    cancelled: Callable[[], bool],
) -> Outcome:
    request = job.request
    given = _given(request, settings, segmenter.bundle.manifest.recipe.task)
    name = request["name"] if request["named"] or given.files else given.name
    order = Order(
        Path("out"),
        request["seed"],
        SegmentOptions(request["steps"], request["samples"], request["refine_everywhere"], request["postprocess"]),
        OutputChoice(request["preview"], request["uncertainty"], request["probabilities"], overwrite=True),
    )
    outcome = segment_case(
        segmenter,
        CaseInput(given.folder, given.files, given.channels, name, given.task),
        order,
        progress,
        cancelled=cancelled,
        deadline_s=settings.limits.case_s,
    )
    _pack(Path("out"))
    return outcome


def _given(request: dict[str, Any], settings: Settings, task: Task) -> CaseInput:
    archive = Path("in/archive.zip")
    if archive.exists():
        shutil.rmtree("unpacked", ignore_errors=True)
        unpack(archive, Path("unpacked"), settings.limits.files, settings.limits.unpacked_bytes)
        found = list_inputs(Path("unpacked"), request["channels"], task)
        if len(found) != 1:
            message = f"The archive holds {len(found)} cases. Expected the four images of one; send others one by one."
            raise CaseError(message)
        given = found[0]
    else:
        files = {path.name.partition(".")[0]: path for path in sorted(Path("in").iterdir())}
        given = CaseInput(files=files, task=task)
    for path in given.contrasts().values():
        check_size(path, IMAGE_BYTES)
    return given


def check_size(path: Path, limit: int) -> None:
    """Raise CaseError for an image that unpacks to more than `limit` bytes, without unpacking it into memory."""
    size = 0
    try:
        with path.open("rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw as stream:
            while chunk := stream.read(2**20):
                size += len(chunk)
                if size > limit:
                    raise CaseError(f"The image unpacks to more than {limit / 2**20:.0f} MiB. Expected one 3-D image.")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CaseError(f"An image is a damaged or truncated gzip file ({error}). Send it again.") from None


def _pack(out: Path) -> None:
    """All outputs in one zip beside them; they are compressed already."""
    made = out / f".{RESULTS}"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(out.iterdir()):
            if not path.name.startswith(".") and path.name != RESULTS:
                archive.write(path, path.name)
    made.replace(out / RESULTS)


def _whole(folder: Path) -> str | None:
    """The name of the case when all its outputs are there."""
    out = folder / "out"
    for path in out.glob("*-report.json") if (out / RESULTS).is_file() else ():
        name = path.name.removesuffix("-report.json")
        if read_finished(out, name) is not None:
            return name
    return None


def _result(folder: Path) -> dict[str, Any]:
    name = _whole(folder)
    assert name is not None
    report = read_finished(folder / "out", name)
    assert report is not None
    files = {**report.outputs, "report": f"{name}-report.json"}
    sizes = {file: (folder / "out" / file).stat().st_size for file in files.values()}
    volumes = report.to_dict()["volumes_ml"]
    warnings = [warning.code for warning in report.warnings]
    inputs = {entry.contrast: entry.path for entry in report.inputs}
    told = {"files": files, "bytes": sizes, "volumes_ml": volumes, "warnings": warnings, "inputs": inputs}
    return {"case": name, "seconds": round(report.seconds.total, 2), **told}


def _only_one(data: Path) -> Any:
    from rediffinet.clinic.service.lock import held

    return held(data / "computing.lock", wait=True)


def _end_with_parent(parent: Connection) -> None:
    """End at once when the web process is gone; what is half done is done again by the next one."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(3)


def _send(parent: Connection, text: str) -> None:
    try:
        parent.send(text)
    except OSError:
        os._exit(3)
