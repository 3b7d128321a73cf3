"""The table of a cohort, written as it goes: cohort.csv and cohort.json, whole at every moment, and a line a case."""

import csv
import errno
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rediffinet.clinic.case import Order, Outcome, tidy
from rediffinet.clinic.cohort import check_names, count_finished
from rediffinet.clinic.finished import read_finished
from rediffinet.clinic.inputs import CaseInput, Shard
from rediffinet.clinic.lock import held
from rediffinet.errors import OutputError, RediffError
from rediffinet.files import write_atomically
from rediffinet.io.naming import printable
from rediffinet.report import Report
from rediffinet.task import DEFAULT_TASK, TASKS

SCHEMA = "rediffinet-cohort/1"
WHOLE = Shard()
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


@contextmanager
def open_table(inputs: Sequence[CaseInput], order: Order, share: Shard = WHOLE) -> Iterator["CohortTable"]:
    """The table of a run, which has the folder, or its share of it, to itself until the block ends.

    It begins with what the reports in the folder tell, and ends so: it never tells less than they do.

    Raises:
        ConfigError: another run has this share.
        OutputError: some cases are finished, and they are neither to be skipped nor to be replaced; or the folder
            cannot be written, at the end too.
    """
    folder = order.out or Path()
    with ExitStack() as locks:
        locks.enter_context(held(folder / ".cohort.lock", shared=share.count > 1))
        if share.count > 1:
            locks.enter_context(held(folder / f".cohort{share.suffix}.lock"))
        _check_unfinished(inputs, order)
        tidy(inputs, order, alone=share.count == 1)
        table = CohortTable(folder, inputs, suffix=share.suffix, order=order)
        try:
            yield table
        except BaseException:
            with suppress(OutputError):
                table.take_up(order)
                table.write()
            raise
        table.write()


def _check_unfinished(inputs: Sequence[CaseInput], order: Order) -> None:
    finished = [] if order.skip_existing or order.choice.overwrite else count_finished(inputs, order)
    if finished:
        more = f" and {len(finished) - 8} more" if len(finished) > 8 else ""
        message = (
            f"{len(finished)} of {len(inputs)} cases are finished already in {order.out or 'their folders'}: "
            f"{', '.join(finished[:8])}{more}. Nothing was changed.\n"
            "Use `skip_existing=True` to go on with the others, `overwrite=True` to do all again, or another folder."
        )
        raise OutputError(message)


class CohortTable:
    """Rows that become files in `folder`. A process that is killed loses the last rows at most, never the table.

    What is done is told by the reports of the cases alone; the table is for people and for pandas. With an order the
    rows begin with what reports in its folder tell, and cases of earlier runs keep theirs as long as their reports are
    there. Raises OutputError when something cannot be written.
    """

    def __init__(
        self, folder: Path, inputs: Sequence[CaseInput], *, suffix: str = "", order: Order | None = None
    ) -> None:
        self.csv = folder / f"cohort{suffix}.csv"
        self.json = folder / f"cohort{suffix}.json"
        self.log = folder / f"cohort{suffix}.log"
        self._folder = folder
        self._regions = (inputs[0].task if inputs else TASKS[DEFAULT_TASK]).region_names
        self._inputs = inputs
        self._rows = {id(given): CaseRow(_name(given), given.source) for given in inputs}
        self._others: list[CaseRow] = []
        self._next = 0.0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"output folder {folder} cannot be made: {error.strerror or error}. Give another `out`."
            raise OutputError(message) from None
        if order is not None:
            self._others = self._before()
            self.take_up(order)
        self.write()

    def take_up(self, order: Order) -> None:
        """Note what is finished, by its report, and not noted yet."""
        doubles = {id(given) for given, _ in check_names(self._inputs)}
        for given in self._inputs:
            row = self._rows[id(given)]
            if row.state == "waiting" and id(given) not in doubles:
                folder = order.folder(row.case)
                if (report := read_finished(folder, row.case)) is not None:
                    self._note(row, report, folder)

    def _before(self) -> list[CaseRow]:
        """Rows of the last table for cases that are not of this run, and whose reports are still there."""
        try:
            rows = [CaseRow(**row) for row in json.loads(self.json.read_bytes())["cases"]]
            mine = {row.case for row in self._rows.values()}
            return [
                row for row in rows if row.case not in mine and row.report and (self._folder / row.report).is_file()
            ]
        except (OSError, ValueError, TypeError, KeyError):  # none, or of another version
            return []

    def add(self, given: CaseInput, outcome: Outcome) -> None:
        """Note what became of a case."""
        row = self._rows[id(given)]
        report = outcome.report
        if report is None:
            row.state, row.error = "failed", reason(outcome.error)
            row.log = "" if outcome.log is None else self._beside(outcome.log)
        else:
            self._note(row, report, outcome.folder or Path())
        self._tell(row, outcome)
        if time.monotonic() >= self._next:
            self.write()

    def _note(self, row: CaseRow, report: Report, folder: Path) -> None:
        row.state, row.error, row.log = "done", "", ""
        row.case = report.case
        row.volumes = {name: round(ml, 3) for name, ml in report.volumes_ml.refined.by_region.items()}
        row.seconds = round(report.seconds.total, 2)
        row.warnings = [warning.code for warning in report.warnings]
        row.report = self._beside(folder / f"{report.case}-report.json")
        page = report.outputs.get("html")
        row.html = "" if page is None else self._beside(folder / page)

    def _beside(self, path: Path) -> str:
        return Path(os.path.relpath(path, self._folder)).as_posix()

    def write(self) -> None:
        """Write both files, each whole."""
        started = time.monotonic()
        rows = [*self._rows.values(), *self._others]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        names = [f"{region}_ml" for region in self._regions]
        writer.writerow(["case", "state", *names, "seconds", "warnings", "error", "log", "report", "html", "source"])
        for row in rows:
            volumes = [row.volumes.get(region) for region in self._regions]
            told = map(_cell, (" ".join(row.warnings), row.error, row.log, row.report, row.html, row.source))
            writer.writerow([_cell(row.case), row.state, *volumes, row.seconds, *told])
        write_atomically(self.csv, text.getvalue().encode(errors="backslashreplace"), durable=True)
        content = {"schema": SCHEMA, "counts": self.counts(), "cases": [asdict(row) for row in rows]}
        encoded = (json.dumps(content, indent=1) + "\n").encode(errors="backslashreplace")
        write_atomically(self.json, encoded, durable=True)
        self._next = time.monotonic() + (time.monotonic() - started) / SHARE

    def counts(self) -> dict[str, int]:
        """Cases by state."""
        states = [row.state for row in (*self._rows.values(), *self._others)]
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
        line = "\t".join(printable(str(part)) for part in what if part) + "\n"
        try:
            with self.log.open("ab", buffering=0) as stream:
                begin = stream.tell()
                content = line.encode(errors="backslashreplace")
                if stream.write(content) < len(content):  # no room for the rest
                    stream.truncate(begin)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            message = f"Cannot write {self.log}: {error.strerror or error}.\nMake room, or make it writable."
            raise OutputError(message) from error


def reason(error: Exception | None) -> str:
    """Why a case failed, in one line of at most 300 characters."""
    if error is None:
        return ""
    text = " ".join(str(error).split())
    if not isinstance(error, RediffError):
        text = f"unexpected {type(error).__name__}: {text}" if text else f"unexpected {type(error).__name__}"
    return text if len(text) <= 300 else f"{text[:299]}…"


def _cell(text: str) -> str:
    """Text on one line that a spreadsheet takes for no formula (OWASP, CSV Injection); JSON has it as it is."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _name(given: CaseInput) -> str:
    try:
        return given.name
    except RediffError:  # its files are not complete; the row of the failure tells it
        return printable(Path(given.source).name)
