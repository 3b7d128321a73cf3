"""Jobs in SQLite (WAL): what was accepted survives a restart, kill −9 and loss of power.

Every change of state is one transaction that names the state it comes from, so no two processes both make it.

    queued → running → done | failed | cancelled        running → queued when the computing process ended
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACTIVE = ("queued", "running")
FINAL = ("done", "failed", "cancelled")
STATES = (*ACTIVE, *FINAL)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    key TEXT,
    state TEXT NOT NULL DEFAULT 'queued',
    request TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    finished REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0,
    problem TEXT,
    result TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_key ON jobs (owner, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, seq);
"""


@dataclass(frozen=True)
class Job:
    """One row. request: what the client asked; problem: why it failed; result: what was written."""

    seq: int
    id: str
    owner: str
    key: str | None
    state: str
    request: dict[str, Any]
    created: float
    started: float | None
    finished: float | None
    attempts: int
    stage: str
    done: int
    total: int
    cancel: bool
    problem: dict[str, Any] | None
    result: dict[str, Any] | None


class JobStore:
    """The table; usable from any thread, one statement at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have ended it already, or left it open
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, job_id: str, owner: str, request: dict[str, Any], key: str | None = None) -> Job:
        """Queue a job. When the owner has one of the same key already, that one is returned."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO jobs (id, owner, key, request, created) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (owner, key) WHERE key IS NOT NULL DO NOTHING",
                (job_id, owner, key, json.dumps(request), time.time()),
            )
            row = connection.execute(
                "SELECT * FROM jobs WHERE id = ? OR (owner = ? AND key = ?)", (job_id, owner, key)
            ).fetchone()
        return _job(row)

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        rows = self._rows("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return rows[0] if rows else None

    def find(self, owner: str, key: str) -> Job | None:
        """A job by the key that its owner gave it."""
        rows = self._rows("SELECT * FROM jobs WHERE owner = ? AND key = ?", (owner, key))
        return rows[0] if rows else None

    def newest(self, owner: str, limit: int, before: int | None = None) -> list[Job]:
        """The owner's jobs, newest first, older than the sequence number `before`."""
        last = 2**62 if before is None else before
        return self._rows(
            "SELECT * FROM jobs WHERE owner = ? AND seq < ? ORDER BY seq DESC LIMIT ?", (owner, last, limit)
        )

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        with self._lock:
            found = dict(self._connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return {state: found.get(state, 0) for state in STATES}

    def ahead(self, job: Job) -> int:
        """How many jobs are computed before it."""
        with self._lock:
            (count,) = self._connection.execute(
                "SELECT count(*) FROM jobs WHERE state IN ('queued', 'running') AND seq < ?", (job.seq,)
            ).fetchone()
        return int(count)

    def claim(self) -> Job | None:
        """Take the oldest waiting job: it is running from now on."""
        with self._transaction() as connection:
            row = connection.execute("SELECT id FROM jobs WHERE state = 'queued' ORDER BY seq LIMIT 1").fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE jobs SET state = 'running', started = ?, attempts = attempts + 1, stage = 'load', done = 0, "
                "total = 1 WHERE id = ?",
                (time.time(), row["id"]),
            )
            taken = connection.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone()
        return _job(taken)

    def advance(self, job_id: str, stage: str, done: int, total: int) -> bool:
        """Note how far a running job is; returns whether it shall be cancelled."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ? WHERE id = ? AND state = 'running'",
                (stage, done, total, job_id),
            )
            row = connection.execute("SELECT cancel FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return row is None or bool(row["cancel"])

    def finish(
        self,
        job_id: str,
        state: str,
        *,
        problem: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
    ) -> bool:
        """End a running job; False when it was not running."""
        with self._transaction() as connection:
            changed = connection.execute(
                "UPDATE jobs SET state = ?, finished = ?, problem = ?, result = ? WHERE id = ? AND state = 'running'",
                (state, time.time(), _dump(problem), _dump(result), job_id),
            ).rowcount
        return changed == 1

    def put_back(self, job_id: str) -> None:
        """Queue a running job again as if it had not been begun: the computing process was told to end."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'queued', attempts = attempts - 1, stage = '' WHERE id = ? "
                "AND state = 'running'",
                (job_id,),
            )

    def running(self) -> list[Job]:
        """Jobs that are being computed, or were when the computing process ended."""
        return self._rows("SELECT * FROM jobs WHERE state = 'running' ORDER BY seq", ())

    def requeue(self, job_id: str) -> None:
        """Queue a running job once more; it counts as begun."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'queued', stage = '' WHERE id = ? AND state = 'running'", (job_id,)
            )

    def cancel(self, job_id: str) -> Job | None:
        """A waiting job is cancelled, a running one asked to stop."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, cancel = 1 WHERE id = ? AND state = 'queued'",
                (time.time(), job_id),
            )
            connection.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (job_id,))
            row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def remove(self, job_id: str) -> bool:
        """Forget a job that has ended; False when it has not."""
        with self._transaction() as connection:
            changed = connection.execute(
                "DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'cancelled')", (job_id,)
            ).rowcount
        return changed == 1

    def recent(self, limit: int) -> list[Job]:
        """The jobs that were done last."""
        return self._rows("SELECT * FROM jobs WHERE state = 'done' ORDER BY finished DESC LIMIT ?", (limit,))

    def ended_before(self, moment: float) -> list[str]:
        """Ids of jobs that ended before a moment."""
        return [
            job.id
            for job in self._rows("SELECT * FROM jobs WHERE finished IS NOT NULL AND finished < ?", (moment,))
            if job.state in FINAL
        ]

    def _rows(self, query: str, values: tuple[Any, ...]) -> list[Job]:
        with self._lock:
            return [_job(row) for row in self._connection.execute(query, values).fetchall()]


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name in ("request", "problem", "result"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Job(**{**values, "cancel": bool(values["cancel"])})


def _dump(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)
