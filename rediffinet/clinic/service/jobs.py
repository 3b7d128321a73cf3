"""What the web process does with cases: admit, accept, describe, remove. No HTTP here."""

import os
import shutil
import sqlite3
import threading
import time
import uuid
import zipfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rediffinet.bundle import Manifest
from rediffinet.clinic.service.archives import check_archive
from rediffinet.clinic.service.computing import NO_ARCHIVE, RESULTS, forget_received, pack
from rediffinet.clinic.service.dicomweb import store_objects
from rediffinet.clinic.service.logs import log
from rediffinet.clinic.service.problems import Problem
from rediffinet.clinic.service.requests import check_possible, parse_request, read_request
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.service.store import FINAL, Job, JobStore
from rediffinet.clinic.service.uploads import ARCHIVE, Received
from rediffinet.clinic.viewer.corrections import read_corrections
from rediffinet.clinic.viewer.scene import Scene, open_scene
from rediffinet.errors import ArchiveError, CaseError

INCOMING = ".incoming-"
NO_CASE = "There is no such case. It may have been removed: results are kept for a limited time."


class Jobs:
    """Cases of one service: rows of the store and a folder each. manifest: of its bundle, which can do what it says."""

    def __init__(self, settings: Settings, store: JobStore, manifest: Manifest) -> None:
        self.settings = settings
        self.store = store
        self._manifest = manifest
        self._lock = threading.Lock()
        self._packing = threading.Lock()
        self._receiving = 0
        self._looked: tuple[float, float] | None = None
        self._leapt = 0.0
        settings.jobs.mkdir(parents=True, exist_ok=True)

    def admit(self) -> None:
        """Take a place in the queue for an upload that begins. Raises Problem 429 when there is none.

        Every admit is followed by one `accept` or `leave`.
        """
        with self._lock:
            counts = self.store.counts()
            waiting = counts["queued"] + counts["running"] + self._receiving
            if waiting < self.settings.limits.queue:
                self._receiving += 1
                return
        detail = f"{waiting} cases are waiting, as many as this service takes at a time. Try again later."
        raise Problem(429, detail, {"Retry-After": str(self._wait_s())})

    def leave(self) -> None:
        """Give the place back."""
        with self._lock:
            self._receiving -= 1

    def new_folder(self) -> tuple[str, Path]:
        """(id, folder that a client's files go into). The folder is not made."""
        job_id = uuid.uuid4().hex
        return job_id, self.settings.jobs / f"{INCOMING}{job_id}"

    def accept(self, job_id: str, folder: Path, received: Received, owner: str, key: str | None) -> tuple[Job, bool]:
        """Queue what was received, on the disk before this returns: (the job, whether it is new).

        Raises Problem 422, CaseError or ConfigError for options or an archive that cannot be used.
        """
        request = parse_request(received.texts)
        check_possible(read_request(request), received.files, self._manifest)
        if request["study"] is not None and self.settings.archive is None:
            raise Problem(422, NO_ARCHIVE)
        if ARCHIVE in received.files:
            limits = self.settings.limits
            try:
                check_archive(received.files[ARCHIVE], limits.files, limits.unpacked_bytes)
            except CaseError as error:
                raise Problem(422, str(error)) from None
        for path in received.files.values():
            _sync(path)
        final = self.settings.jobs / job_id
        folder.rename(final)
        _sync(final)
        _sync(self.settings.jobs)
        try:
            with self._lock:
                job = self.store.add(job_id, owner, request, key)
                self._receiving -= 1
        except BaseException:
            shutil.rmtree(final, ignore_errors=True)
            raise
        if job.id != job_id:
            shutil.rmtree(final, ignore_errors=True)
        return job, job.id == job_id

    def own(self, job_id: str, owner: str) -> Job:
        """A job of the owner. Raises Problem 404, for those of others too."""
        job = self.store.get(job_id)
        if job is None or job.owner != owner:
            raise Problem(404, NO_CASE)
        return job

    def describe(self, job: Job) -> dict[str, Any]:
        """JSON-ready, as the API tells it."""
        result = job.result
        told: dict[str, Any] = {
            "id": job.id,
            "case": result["case"] if result else job.request["name"],
            "state": job.state,
            "created": iso(job.created),
            "started": iso(job.started),
            "finished": iso(job.finished),
            "ahead": self.store.ahead(job) if job.state == "queued" else 0,
            "progress": {"stage": job.stage, "done": job.done, "of": job.total} if job.state == "running" else None,
            "cancelling": job.state == "running" and job.cancel,
            "problem": job.problem,
            "result": None,
        }
        if result is not None:
            base = f"v1/cases/{job.id}/files/"
            files = {
                kind: {"name": name, "url": base + quote(name), "bytes": result["bytes"].get(file)}
                for kind, file in result["files"].items()
                for name in [Path(file).name]
            }
            for kind, path in self._corrected(job).items():
                with suppress(FileNotFoundError):  # the case is being removed
                    size = path.stat().st_size
                    files[kind] = {"name": path.name, "url": base + quote(path.name), "bytes": size}
            told["result"] = {
                "seconds": result["seconds"],
                "volumes_ml": result["volumes_ml"],
                "warnings": result["warnings"],
                "files": files,
                "images": {contrast: base + quote(name) for contrast, (name, _) in self._images(job).items()},
                "zip": base + RESULTS,
            }
        return told

    def files(self, job: Job) -> dict[str, Path]:
        """Every file of a job that may be fetched, by the name it has in a URL."""
        if job.result is None:
            return {}
        folder = self.settings.jobs / job.id
        outputs = {Path(file).name: folder / "out" / file for file in (*job.result["files"].values(), RESULTS)}
        corrections = {path.name: path for path in self._corrected(job).values()}
        return {**outputs, **corrections, **dict(self._images(job).values())}

    def scene(self, job: Job) -> Scene:
        """What the page shows of a job that is done. Raises Problem 409 before."""
        if job.result is None:
            raise Problem(409, f"The case is {job.state}: there is nothing to look at.")
        folder = self.settings.jobs / job.id
        images = {path.parent for _, path in self._images(job).values()}
        raw = images if not any(path.is_relative_to(folder / "out") for path in images) else set()
        return open_scene(folder / "out" / job.result["case"], next(iter(raw), None))

    def store_objects(self, job: Job, *, uncorrected: bool = False) -> list[str]:
        """Send the DICOM objects of a case to the archive; returns their names.

        uncorrected: also those of a case that a person corrected, which hold none of that. Raises Problem: 409 for a
        case without any, or with corrections, 422 without an archive, 502 when the archive does not take them.
        """
        objects = [file for kind, file in (job.result or {}).get("files", {}).items() if kind.startswith("dicom-")]
        if not objects:
            raise Problem(409, f"The case is {job.state} and has no DICOM objects. Ask for them with `dicom_seg=true`.")
        corrections = sum(kind.endswith("-entry") for kind in self._corrected(job))
        if corrections and not uncorrected:
            detail = (
                f"The case has corrections ({corrections}), and its DICOM objects are those of the uncorrected result. "
                "Nothing was stored; `uncorrected=true` stores them all the same."
            )
            raise Problem(409, detail)
        if self.settings.archive is None:
            raise Problem(422, NO_ARCHIVE)
        try:
            store_objects(self.settings.archive, [self.settings.jobs / job.id / "out" / file for file in objects])
        except ArchiveError as error:
            raise Problem(502, str(error)) from None
        return objects

    def pack(self, job: Job) -> None:
        """Make the archive of a job again where corrections came since. Raises Problem 507 when it cannot."""
        corrected = self._corrected(job)
        if job.result is None or not corrected:
            return
        out = self.settings.jobs / job.id / "out"
        try:
            with self._packing:
                with zipfile.ZipFile(out / RESULTS) as made:
                    held = set(made.namelist())
                if not {path.name for path in corrected.values()} <= held:
                    pack(out, [*job.result["files"].values(), *(path.name for path in corrected.values())])
        except OSError:
            self.own(job.id, job.owner)  # it may have been removed meanwhile
            raise Problem(507, "The archive of the results could not be written. Fetch the files one by one.") from None

    def _corrected(self, job: Job) -> dict[str, Path]:
        """Corrected label maps and their entries, by kind, the oldest first."""
        if job.result is None:
            return {}
        out = self.settings.jobs / job.id / "out"
        found = {}
        with suppress(FileNotFoundError):  # the case is being removed
            for entry in read_corrections(out, job.result["case"]):
                name = entry.file.removesuffix(".nii.gz")
                kind = name.removeprefix(f"{job.result['case']}-")
                found[kind], found[f"{kind}-entry"] = out / entry.file, out / f"{name}.json"
        return found

    def remove(self, job_id: str) -> bool:
        """Forget a case, with its files; False when it has not ended."""
        folder = self.settings.jobs / job_id
        try:
            removed = self.store.remove(job_id)
        except sqlite3.OperationalError:  # on a full disk the files make the room for saying that they are gone
            job = self.store.get(job_id)
            if job is None or not ended(job):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            removed = self.store.remove(job_id)
        if removed:
            shutil.rmtree(folder, ignore_errors=True)
        return removed

    def tidy(self) -> None:
        """At the start: folders of uploads that were cut off, of cases that were forgotten, and what a kill left."""
        for path in self.settings.jobs.iterdir():
            job = self.store.get(path.name)
            if job is None:
                shutil.rmtree(path, ignore_errors=True)
            elif job.state in ("failed", "cancelled"):
                forget_received(path)

    def expire(self) -> None:
        """Remove cases whose time is over. What ended while the clock was wrong is kept longer, not shorter."""
        now, steady = time.time(), time.monotonic()
        if self._looked is not None:
            self._leapt += max(0.0, (now - self._looked[0]) - (steady - self._looked[1]))
        self._looked = now, steady
        over = now - self._leapt - self.settings.retention_s
        for job_id in self.store.ended_before(over):
            job = self.store.get(job_id)
            corrected = [] if job is None else list(self._corrected(job).values())
            with suppress(FileNotFoundError):  # its owner is removing it
                if all(path.stat().st_mtime < over for path in corrected) and self.remove(job_id):
                    log("case expired", id=job_id)

    def _images(self, job: Job) -> dict[str, tuple[str, Path]]:
        """(name in a URL, file) of each contrast; paths are those of the report, inside the job's folder."""
        folder = self.settings.jobs / job.id
        found = {}
        for contrast, path in (job.result or {}).get("inputs", {}).items():
            ending = ".nii.gz" if path.lower().endswith(".gz") else ".nii"
            found[contrast] = (f"{contrast}{ending}", folder / path)
        return found

    def _wait_s(self) -> int:
        """A guess at when a place will be free: the mean time of the last cases."""
        recent = [job for job in self.store.recent(10) if job.started is not None and job.finished is not None]
        spent = [max(0.0, (job.finished or 0.0) - (job.started or 0.0)) for job in recent]
        return max(1, round(sum(spent) / len(spent))) if spent else 10


def ended(job: Job) -> bool:
    """Whether nothing more becomes of it."""
    return job.state in FINAL


def iso(moment: float | None) -> str | None:
    """A time as the API tells it, UTC."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


def _sync(path: Path) -> None:
    """A file or folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some systems do not sync folders
            raise
    finally:
        os.close(descriptor)
