"""The store and the folders of a service without a process: clocks that go back, and a disk that is full."""

import sqlite3
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from rediffinet.clinic.service.jobs import INCOMING, Jobs
from rediffinet.clinic.service.settings import Settings
from rediffinet.clinic.service.store import JobStore
from rediffinet.clinic.service.uploads import Received
from rediffinet.clinic.service.worker import _status
from rediffinet.errors import CaseError, EngineError, MissingExtraError, OutputError

NOW = time.time()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    settings = Settings(tmp_path / "data", retention_s=3600.0)
    return Jobs(settings, JobStore(settings.database))


def accept(jobs: Jobs) -> str:
    jobs.admit()
    job_id, folder = jobs.new_folder()
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "t1n.nii").write_bytes(b"x")
    job, new = jobs.accept(job_id, folder, Received(files={"t1n": folder / "in" / "t1n.nii"}), "", None)
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
    assert jobs.store.ids() == set(ids)
    clock.now = NOW + 3601.0  # and set right again: what ended long ago is removed, what waits never is
    jobs.expire()
    assert jobs.store.ids() == set(ids[1:])
    assert {path.name for path in jobs.settings.jobs.iterdir()} == set(ids[1:])


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
    assert accept(jobs) in jobs.store.ids()
    assert not list(jobs.settings.jobs.glob(f"{INCOMING}*"))


def test_statuses_of_what_stopped_a_case() -> None:
    full = OutputError("x")
    full.__cause__ = OSError(28, "No space left on device")
    assert _status(full) == 507
    assert _status(OutputError("a segmentation without a voxel")) == 422
    assert _status(CaseError("x")) == 422
    assert _status(MissingExtraError("x", "SimpleITK", "prepare")) == 501
    assert _status(EngineError("x")) == 500
