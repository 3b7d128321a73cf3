"""The store and the folders of a service without a process: clocks that go back, and a disk that is full."""

import multiprocessing
import os
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from rediffinet.bundle import read_manifest
from rediffinet.clinic.service import worker
from rediffinet.clinic.service.jobs import INCOMING, Jobs
from rediffinet.clinic.service.problems import Problem
from rediffinet.clinic.service.settings import Archive, Settings
from rediffinet.clinic.service.store import JobStore
from rediffinet.clinic.service.uploads import Received
from rediffinet.clinic.viewer.corrections import Correction, Origin, read_corrections
from rediffinet.errors import CaseError, EngineError, MissingExtraError, OutputError

NOW = time.time()


class Clock:
    """now: of the wall. steady: what cannot be set."""

    def __init__(self) -> None:
        self.now, self.steady = NOW, 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", lambda: made.now)
    monkeypatch.setattr(time, "monotonic", lambda: made.steady)
    return made


@pytest.fixture
def jobs(tmp_path: Path, toy_bundle: Any) -> Jobs:
    settings = Settings(tmp_path / "data", retention_s=3600.0)
    return Jobs(settings, JobStore(settings.database), read_manifest(toy_bundle.path))


def stored(jobs: Jobs) -> set[str]:
    return {job.id for job in jobs.store.newest("", 100)}


def accept(jobs: Jobs) -> str:
    jobs.admit()
    job_id, folder = jobs.new_folder()
    (folder / "in").mkdir(parents=True)
    files = {contrast: folder / "in" / f"{contrast}.nii" for contrast in ("t1n", "t1c", "t2w", "t2f")}
    for path in files.values():
        path.write_bytes(b"x")
    job, new = jobs.accept(job_id, folder, Received(files=files), "", None)
    assert new
    return job.id


def test_a_clock_that_is_set_back_changes_no_order_and_loses_nothing(jobs: Jobs, clock: Clock) -> None:
    ids = []
    for step in (0.0, -86400.0, -10 * 86400.0):
        clock.now = NOW + step
        ids.append(accept(jobs))
    assert [job.id for job in jobs.store.newest("", 10)] == ids[::-1]
    claimed = jobs.store.claim()
    assert claimed is not None and claimed.id == ids[0]  # by the order of arrival, whatever the clock said
    clock.now = NOW - 20 * 86400.0
    assert jobs.store.finish(ids[0], "done")  # it ended before it began, as the clock has it
    told = jobs.describe(jobs.own(ids[1], ""))
    assert (told["state"], told["ahead"]) == ("queued", 0)
    assert jobs._wait_s() >= 1
    jobs.expire()
    assert stored(jobs) == set(ids)
    clock.now = NOW  # and set right again: it ended a moment ago
    jobs.expire()
    assert stored(jobs) == set(ids)
    clock.now, clock.steady = NOW + 3599.0, 3599.0
    jobs.expire()
    assert stored(jobs) == set(ids)
    clock.now, clock.steady = NOW + 3601.0, 3601.0
    jobs.expire()
    assert stored(jobs) == set(ids[1:])  # its time is over; what waits never is removed
    assert {path.name for path in jobs.settings.jobs.iterdir()} == set(ids[1:])


def test_the_time_of_a_case_is_counted_from_its_latest_correction(jobs: Jobs, clock: Clock) -> None:
    corrected, other = finished(jobs), finished(jobs)
    out = correct(jobs, corrected)
    for path in out.iterdir():
        os.utime(path, (NOW + 1800.0, NOW + 1800.0))
    for later, kept in ((0.0, {corrected, other}), (3601.0, {corrected}), (5399.0, {corrected}), (5401.0, set())):
        clock.now, clock.steady = NOW + later, later
        jobs.expire()
        assert stored(jobs) == kept == {path.name for path in jobs.settings.jobs.iterdir()}


def test_a_case_that_is_removed_while_it_is_told_or_expires(
    jobs: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another request, between the reading of its corrections and the look at their files."""
    ids = [finished(jobs) for _ in range(4)]
    for job_id in ids[:3]:
        correct(jobs, job_id)

    def read_and_remove(out: Path, case: str) -> Any:
        found = read_corrections(out, case)
        if out.parent.name != ids[0]:
            assert jobs.remove(out.parent.name)
        return found

    assert "corrected-1" in jobs.describe(jobs.own(ids[1], ""))["result"]["files"]
    monkeypatch.setattr("rediffinet.clinic.service.jobs.read_corrections", read_and_remove)
    listed = [jobs.describe(job) for job in jobs.store.newest("", 10) if job.id != ids[3]]
    assert [sorted(told["result"]["files"]) for told in listed] == [[], [], ["corrected-1", "corrected-1-entry"]]
    for path in (jobs.settings.jobs / ids[0] / "out").iterdir():
        os.utime(path, (NOW, NOW))
    correct(jobs, ids[3])
    clock.now, clock.steady = NOW + 3601.0, 3601.0
    jobs.expire()  # one is removed by its owner meanwhile, the other because its time is over
    assert stored(jobs) == set() and not list(jobs.settings.jobs.iterdir())


def test_objects_of_a_corrected_case_are_stored_when_that_is_said(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        "rediffinet.clinic.service.jobs.store_objects", lambda _, paths: sent.extend(path.name for path in paths)
    )
    jobs.settings = replace(jobs.settings, archive=Archive("http://127.0.0.1:1/dicom-web"))
    files = {"dicom-seg-t1c": "P1-seg-t1c.dcm"}
    job = jobs.own(finished(jobs, files), "")
    assert jobs.store_objects(job) == sent == ["P1-seg-t1c.dcm"]
    correct(jobs, job.id)
    with pytest.raises(Problem, match=r"has corrections \(1\).* uncorrected result.*`uncorrected=true`") as refused:
        jobs.store_objects(job)
    assert (refused.value.status, len(sent)) == (409, 1)
    assert jobs.store_objects(job, uncorrected=True) == ["P1-seg-t1c.dcm"] == sent[1:]


def test_what_was_sent_for_a_case_that_failed_goes_at_the_next_start_after_a_kill(jobs: Jobs) -> None:
    done, failed, waits = finished(jobs), accept(jobs), accept(jobs)
    jobs.store.claim()
    assert jobs.store.finish(failed, "failed")  # and the process is killed before it removes anything
    jobs.tidy()
    left = {job_id: (jobs.settings.jobs / job_id / "in").is_dir() for job_id in (done, failed, waits)}
    assert left == {done: True, failed: False, waits: True}


def finished(jobs: Jobs, files: dict[str, str] | None = None) -> str:
    job_id = accept(jobs)
    jobs.store.claim()
    result = {
        "case": "P1",
        "files": files or {},
        "bytes": {},
        "inputs": {},
        "seconds": 1.0,
        "volumes_ml": {},
        "warnings": [],
    }
    assert jobs.store.finish(job_id, "done", result=result)
    return job_id


def correct(jobs: Jobs, job_id: str) -> Path:
    """The folder of its outputs, with a correction in it."""
    out = jobs.settings.jobs / job_id / "out"
    out.mkdir()
    (out / "P1-corrected-1.nii.gz").write_bytes(b"x")
    entry = Correction(
        case="P1",
        file="P1-corrected-1.nii.gz",
        sha256="",
        who="Dr Test",
        when="2026-01-31T12:00:00+00:00",
        note="",
        origin=Origin(file="P1-seg.nii.gz", sha256=""),
        changed_voxels=1,
        volumes_ml={},
        rediffinet="0",
    )
    (out / "P1-corrected-1.json").write_text(entry.model_dump_json(by_alias=True))
    return out


def test_a_list_of_cases_that_cannot_be_written_keeps_neither_a_place_nor_a_folder(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.store, "add", full)
        for _ in range(40):  # more often than there are places
            with pytest.raises(sqlite3.OperationalError):
                accept(jobs)
            jobs.leave()
    assert list(jobs.settings.jobs.iterdir()) == []
    assert accept(jobs) in stored(jobs)
    assert not list(jobs.settings.jobs.glob(f"{INCOMING}*"))


def test_a_full_disk_is_made_free_by_removing_a_case(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, waits = accept(jobs), accept(jobs)
    claimed = jobs.store.claim()
    assert claimed is not None and jobs.store.finish(job_id, "done")
    real = jobs.store.remove

    def remove(one: str) -> bool:
        if (jobs.settings.jobs / one).exists():
            raise sqlite3.OperationalError("database or disk is full")
        return real(one)

    monkeypatch.setattr(jobs.store, "remove", remove)
    assert jobs.remove(job_id)
    with pytest.raises(sqlite3.OperationalError):
        jobs.remove(waits)
    assert {path.name for path in jobs.settings.jobs.iterdir()} == {waits} == stored(jobs)


def test_a_store_goes_on_when_its_disk_has_room_again(jobs: Jobs) -> None:
    waits = accept(jobs)
    jobs.store.claim()
    connection = jobs.store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite then says is what it says of a full disk
    large = {"x": "x" * 100_000}
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="full"):
            jobs.store.finish(waits, "done", result=large)
    assert jobs.store.counts()["running"] == 1
    threading.Timer(0.3, connection.execute, ["PRAGMA max_page_count = 100000"]).start()
    assert worker._insist(lambda: jobs.store.finish(waits, "done", result=large))
    assert jobs.store.counts()["done"] == 1


def test_a_case_is_not_counted_as_begun_when_it_was_the_web_process_that_ended(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    job_id = accept(jobs)
    for _ in range(5):  # more often than a case that ends its process is begun
        claimed = jobs.store.claim()
        assert claimed is not None and (claimed.id, claimed.attempts) == (job_id, 1)
        ours, theirs = multiprocessing.Pipe()
        ours.close()
        worker._end_with_parent(theirs, jobs.settings)
    assert ended == [3] * 5
    for attempts in (1, 2):
        claimed = jobs.store.claim()
        assert claimed is not None and claimed.attempts == attempts
        assert (jobs.settings.jobs / job_id / "in").is_dir()
        worker.recover(jobs.store, jobs.settings)  # the computing process ended by itself
    assert jobs.store.counts()["failed"] == 1
    assert not list((jobs.settings.jobs / job_id).iterdir())


def test_statuses_of_what_stopped_a_case() -> None:
    full = OutputError("Cannot write /srv/data/x: No space left on device.")
    full.__cause__ = OSError(28, "No space left on device")
    assert worker._status(full) == 507
    assert "No space left" in worker._told(full)["detail"] and "/srv" not in worker._told(full)["detail"]
    assert worker._status(OutputError("a segmentation without a voxel")) == 422
    assert worker._status(CaseError("x")) == 422
    assert worker._status(MissingExtraError("x", "SimpleITK", "prepare")) == 501
    assert worker._status(EngineError("x")) == 500


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Say which it is: `t1n=NUMBER` `t2f=NUMBER`.", "Say which it is: `series=t1n=NUMBER,t2f=NUMBER`."),
        ("name them: `t1c=7`.", "name them: `series=t1c=7`."),
        ("Say which it is: `t1n=FILE`.", "Say which it is: `t1n=FILE`."),
        ("`study=NAME` (or its UID)", "`examination=NAME` (or its UID)"),
        ("To go on without it: `allow_missing=True`.", "To go on without it: `allow_missing=true`."),
        ("leave `save_margin=True` out", "leave `margin=true` out"),
    ],
)
def test_arguments_in_messages_become_fields_that_the_form_has(said: str, told: str) -> None:
    from rediffinet.clinic.service.problems import in_fields
    from rediffinet.clinic.service.requests import FIELDS

    assert in_fields(said) == told
    field = told.partition("`")[2].partition("=")[0]
    assert field in (*FIELDS, "t1n", "t1c", "t2w", "t2f")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("in/t1c.nii is not a NIfTI image", "t1c is not a NIfTI image"),
        ("in/t1n.nii.gz and in/brain_mask.nii.gz differ", "t1n and brain_mask differ"),
        ("archive/a/P1-t1c.nii.gz is truncated", "a/P1-t1c.nii.gz is truncated"),
        ("http://archive:8042/archive/x answers 404", "http://archive:8042/archive/x answers 404"),
    ],
)
def test_files_in_messages_are_called_as_they_were_sent(said: str, told: str) -> None:
    from rediffinet.clinic.service.problems import in_fields

    assert in_fields(said) == told


def test_the_list_ends_where_there_are_no_older_cases(jobs: Jobs) -> None:
    from fastapi.testclient import TestClient

    from rediffinet.clinic.service.app import create_app
    from rediffinet.clinic.service.supervisor import Supervisor
    from rediffinet.clinic.service.tokens import TokenFile

    newest_first = [accept(jobs) for _ in range(4)][::-1]
    supervisor = Supervisor(jobs.settings, jobs.store, lambda _: None)
    app = create_app(jobs, TokenFile(jobs.settings.tokens), supervisor, "0")
    with TestClient(app, base_url="http://127.0.0.1") as client:
        page = client.get("/v1/cases", params={"limit": 2}).json()
        last = client.get("/v1/cases", params={"limit": 2, "before": page["next"]}).json()
    assert [case["id"] for case in page["cases"] + last["cases"]] == newest_first
    assert last["next"] is None
