"""Tables of results made by hand."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rediffinet.scoring.scores import COLUMNS

DEFINITION = "surface, per direction, 95th percentile, missed = 374 (brats2023-gli)"


def rows_of(
    model: str,
    case: str,
    dice: tuple[float, float, float],
    hd95: tuple[float, float, float],
    *,
    seed: int = 0,
    fold: int = 0,
    definition: str = DEFINITION,
) -> list[dict[str, Any]]:
    """The four rows of one prediction."""
    rows = []
    for region, overlap, distance in zip(
        ("WT", "TC", "ET", "Avg"), (*dice, sum(dice) / 3), (*hd95, sum(hd95) / 3), strict=True
    ):
        lesions = ("", "", "") if region == "Avg" else (overlap, distance, 120)
        values = (model, seed, fold, case, region, f"{overlap:.6g}", f"{distance:.6g}", *lesions, definition)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


@pytest.fixture
def write_results(tmp_path: Path) -> Callable[..., Path]:
    """write_results("name.csv", *lists of rows) → its path."""

    def write(name: str, *parts: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(row for part in parts for row in part)
        return path

    return write


@pytest.fixture
def prediction() -> Callable[..., list[dict[str, Any]]]:
    """prediction(model, case, dice of WT TC ET, hd95 of WT TC ET, seed=, fold=, definition=) → its four rows."""
    return rows_of
