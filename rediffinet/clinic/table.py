"""The table of a cohort, written as it goes: cohort.csv and cohort.json, whole at every moment, and a line a case."""

import csv
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rediffinet.clinic.case import Outcome
from rediffinet.clinic.inputs import CaseInput
from rediffinet.errors import OutputError, RediffError
from rediffinet.files import write_atomically
from rediffinet.task import DEFAULT_TASK, TASKS

SCHEMA = "rediffinet-cohort/1"
SHARE = 0.05
"""The share of time that may go into writing the table: a table of ten thousand rows is not written for every case."""


@dataclass
class CaseRow:
    """One case. state: waiting, done or failed; volumes: ml by region; log, report, html: paths from the folder."""

    case: str
    source: str
    state: str = "waiting"
    volumes: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    log: str = ""
    report: str = ""
    html: str = ""


class CohortTable:
    """Rows that become files in `folder`. A process that is killed loses the last rows at most, never the table.

    What is done is told by the reports of the cases alone; the table is for people and for pandas.
    """

    def __init__(self, folder: Path, inputs: Sequence[CaseInput], *, suffix: str = "") -> None:
        self.csv = folder / f"cohort{suffix}.csv"
        self.json = folder / f"cohort{suffix}.json"
        self.log = folder / f"cohort{suffix}.log"
        self._folder = folder
        self._regions = (inputs[0].task if inputs else TASKS[DEFAULT_TASK]).region_names
        self._rows = {id(given): CaseRow(_name(given), given.source) for given in inputs}
        self._next = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"output folder {folder} cannot be made: {error.strerror or error}. Give another `out`."
            raise OutputError(message) from None
        self.write()

    def add(self, given: CaseInput, outcome: Outcome) -> None:
        """Note what became of a case."""
        row = self._rows[id(given)]
        report = outcome.report
        if report is None:
            row.state, row.error = "failed", reason(outcome.error)
            row.log = "" if outcome.log is None else self._beside(outcome.log)
        else:
            row.state, row.error, row.log = "done", "", ""
            row.case = report.case
            row.volumes = {name: round(ml, 3) for name, ml in report.to_dict()["volumes_ml"]["refined"].items()}
            row.seconds = round(report.seconds.total, 2)
            row.warnings = [warning.code for warning in report.warnings]
            row.report = self._beside((outcome.folder or Path()) / f"{report.case}-report.json")
            page = report.outputs.get("html")
            row.html = "" if page is None else self._beside((outcome.folder or Path()) / page)
        self._tell(row, outcome)
        if time.monotonic() >= self._next:
            self.write()

    def _beside(self, path: Path) -> str:
        return Path(os.path.relpath(path, self._folder)).as_posix()

    def write(self) -> None:
        """Write both files, each whole."""
        started = time.monotonic()
        rows = list(self._rows.values())
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        names = [f"{region}_ml" for region in self._regions]
        writer.writerow(["case", "state", *names, "seconds", "warnings", "error", "log", "report", "html", "source"])
        for row in rows:
            volumes = [row.volumes.get(region) for region in self._regions]
            told = [" ".join(row.warnings), row.error, row.log, row.report, row.html, row.source]
            writer.writerow([row.case, row.state, *volumes, row.seconds, *told])
        write_atomically(self.csv, text.getvalue().encode(errors="backslashreplace"))
        content = {"schema": SCHEMA, "counts": self.counts(), "cases": [asdict(row) for row in rows]}
        write_atomically(self.json, (json.dumps(content, indent=1) + "\n").encode(errors="backslashreplace"))
        self._next = time.monotonic() + (time.monotonic() - started) / SHARE

    def counts(self) -> dict[str, int]:
        """Cases by state."""
        states = [row.state for row in self._rows.values()]
        return {state: states.count(state) for state in ("waiting", "done", "failed")}

    def _tell(self, row: CaseRow, outcome: Outcome) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        what: list[Any] = [now, row.case, "skipped" if outcome.skipped else row.state]
        if outcome.report is not None:
            volumes = ", ".join(f"{name} {ml} ml" for name, ml in row.volumes.items())
            what += [f"{row.seconds} s", volumes, *row.warnings]
            what += [f"again: {', '.join(outcome.again)}"] if outcome.again else []
        else:
            what += [row.error, row.log]
        line = "\t".join(str(part) for part in what if part) + "\n"
        with self.log.open("ab") as stream:  # one write of one line: lines of two processes do not mix
            stream.write(line.encode(errors="backslashreplace"))


def reason(error: Exception | None) -> str:
    """Why a case failed, in one line of at most 300 characters."""
    if error is None:
        return ""
    text = " ".join(str(error).split())
    if not isinstance(error, RediffError):
        text = f"unexpected {type(error).__name__}: {text}" if text else f"unexpected {type(error).__name__}"
    return text if len(text) <= 300 else f"{text[:299]}…"


def _name(given: CaseInput) -> str:
    try:
        return given.name
    except RediffError:  # its files are not complete; the row of the failure tells it
        return Path(given.source).name
