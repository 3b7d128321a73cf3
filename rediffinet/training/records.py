"""The tables of a run, log.csv and validation.csv: written whole, and cut back to the checkpoint when resumed."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rediffinet.errors import TrainingError
from rediffinet.files import write_atomically

LOG = "log.csv"
LOG_COLUMNS = ("step", "loss", "learning_rate", "seconds", "waiting_seconds")
VALIDATION = "validation.csv"
VALIDATION_COLUMNS = ("step", "region", "dice", "hd95_mm")
Record = list[Any]


class RegionScore(NamedTuple):
    """Means over the held-out cases for one region."""

    region: str
    dice: float
    hd95_mm: float


def read_rows(path: Path, columns: Sequence[str], step: int) -> list[Record]:
    """Rows up to the checkpoint's step, later ones will be made again; 0 in columns that an older file lacks.

    Empty without a file. Raises TrainingError when it is not one of ours.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [[row.get(column) or "0" for column in columns] for row in csv.DictReader(file)]
        return [row for row in rows if int(row[0]) <= step]
    except (OSError, ValueError) as error:
        message = f"{path}: {error}. Expected the table that `rediff train` wrote; remove it to go on without."
        raise TrainingError(message) from None


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Replace the table, atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
