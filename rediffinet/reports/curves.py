"""Training curves: loss and learning rate of each run, and its scores on held-out cases where it has them."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.errors import ResultsError
from rediffinet.reports.drawing import check_figure_path, new_figure, write_figure
from rediffinet.reports.statistics import Values
from rediffinet.task import DEFAULT_TASK, TASKS, Task

LOG, VALIDATION, CONFIG = "log.csv", "validation.csv", "config.json"
LOG_COLUMNS = ("step", "loss", "learning_rate", "seconds")
VALIDATION_COLUMNS = ("step", "region", "dice", "hd95_mm")
WHAT = "The figure of training curves"
AVERAGE = "Avg"
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)), (0, (1, 1)))
"""Of the mean over the regions, then of each region."""


@dataclass(frozen=True, eq=False)
class Curves:
    """One run: steps, losses and learning rates (n,); per region the steps, Dice and HD95 in mm of its validations."""

    name: str
    steps: Values
    losses: Values
    rates: Values
    validation: dict[str, tuple[Values, Values, Values]]


def read_curves(run: Path) -> Curves:
    """Read the log of a run folder and, if it is there, its validation.

    Raises:
        ResultsError: no log, nothing in it yet, a column is missing, or a field is no number.
    """
    log = _table(run / LOG, LOG_COLUMNS)
    if not log:
        raise ResultsError(f"{run / LOG} has no rows yet.\nExpected a run that has written its first checkpoint.")
    columns = [np.array([_number(row, column, run / LOG) for row in log]) for column in LOG_COLUMNS[:3]]
    validation: dict[str, tuple[Values, Values, Values]] = {}
    path = run / VALIDATION
    rows = _table(path, VALIDATION_COLUMNS) if path.exists() else []
    known = (AVERAGE, *_regions(run))
    for region in dict.fromkeys(row["region"] for row in rows):
        if region not in known:
            raise ResultsError(f"{path}: region is {region!r}.\nExpected one of {', '.join(known)}.")
        own = [row for row in rows if row["region"] == region]
        steps, overlaps, distances = (
            np.array([_number(row, column, path) for row in own]) for column in ("step", "dice", "hd95_mm")
        )
        validation[region] = (steps, overlaps, distances)
    return Curves(run.name or str(run), columns[0], columns[1], columns[2], validation)


def write_curves(runs: Sequence[Path], out: Path) -> None:
    """Write the curves of the runs as PNG, a colour for each run.

    Raises:
        ConfigError: the name does not end in .png.
        ResultsError: no run, or a log that cannot be read; see `read_curves`.
        OutputError: the figure cannot be written.
        MissingExtraError: Matplotlib is not installed.
    """
    check_figure_path(out)
    if not runs:
        raise ResultsError("No run was given.\nExpected one or more run folders.")
    curves = [read_curves(run) for run in runs]
    names = [one.name for one in curves]
    labels = [name if names.count(name) == 1 else str(run) for name, run in zip(names, runs, strict=True)]
    write_figure(draw_curves(curves, labels), out)


def draw_curves(curves: Sequence[Curves], labels: Sequence[str]) -> Any:
    """The figure: loss and learning rate, and below Dice and HD95 where a run has a validation."""
    validated = any(one.validation for one in curves)
    figure = new_figure(10.0, 7.0 if validated else 3.6, WHAT)
    panels = figure.subplots(2 if validated else 1, 2, squeeze=False)
    for k, (one, label) in enumerate(zip(curves, labels, strict=True)):
        colour = f"C{k % 10}"
        panels[0][0].plot(one.steps, one.losses, color=colour, alpha=0.3, linewidth=0.8)
        panels[0][0].plot(one.steps, smoothed(one.losses), color=colour, linewidth=1.5, label=label)
        panels[0][1].plot(one.steps, one.rates, color=colour, linewidth=1.5)
        regions = [region for region in one.validation if region != AVERAGE]
        styles = dict(zip((AVERAGE, *regions), STYLES, strict=False))
        for region, (steps, overlaps, distances) in one.validation.items():
            shared = {"color": colour, "linestyle": styles[region], "marker": ".", "linewidth": 1.2}
            panels[1][0].plot(steps, overlaps, label=f"{label}, {region}", **shared)
            panels[1][1].plot(steps, distances, **shared)
    titles = [["loss (pale: as logged; line: running mean)", "learning rate"], ["Dice", "HD95 [mm]"]]
    for line, names in zip(panels, titles, strict=False):
        for panel, name in zip(line, names, strict=True):
            panel.set_title(name, fontsize=9)
            panel.set_xlabel("step", fontsize=8)
            panel.tick_params(labelsize=8)
            panel.grid(alpha=0.3)
    if all((one.losses > 0).all() for one in curves):
        panels[0][0].set_yscale("log")
    for line in panels:
        line[0].legend(fontsize=7)
    return figure


def smoothed(values: Values) -> Values:
    """Running mean over a twentieth of the values (n,) → (n,), over fewer at the start."""
    window = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(0, stops - window)
    return np.asarray((sums[stops] - sums[starts]) / (stops - starts), np.float64)


def _regions(run: Path) -> tuple[str, ...]:
    """The regions of a run's task; those of the default task for a run that does not tell."""
    try:
        return Task.model_validate(json.loads((run / CONFIG).read_text(encoding="utf-8"))["task"]).region_names
    except (OSError, ValueError, KeyError, TypeError):
        return TASKS[DEFAULT_TASK].region_names


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        message = f"Cannot read {path}: {reason}.\nExpected a run folder of rediff train with its {LOG}."
        raise ResultsError(message) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = list(reader.fieldnames or [])
    missing = [column for column in columns if column not in header]
    if missing:
        message = (
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(header) or 'nothing'}.\n"
            f"Expected the columns {', '.join(columns)}."
        )
        raise ResultsError(message)
    return list(reader)


def _number(row: dict[str, str], column: str, path: Path) -> float:
    text = row[column]
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ResultsError(f"{path}: {column} is {text!r}.\nExpected a finite number.")
    return value
