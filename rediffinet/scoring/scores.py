"""The one table of scores: a row for each model, case and region, whoever writes it and whoever reads it.

`rediff evaluate` and `rediff crossval` write it, `rediff compare` and `rediff tables` read it (`scoring.results`).
"""

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from rediffinet.metrics import Protocol, RegionScores
from rediffinet.task import Task

ScoreRow = dict[str, Any]

KEYS = ("model", "seed", "fold", "case", "region")
"""Which prediction, and which region of it; a prediction made once has the seed 0, a cohort without folds is fold 0."""
METRICS = ("dice", "hd95_mm", "surface_dice_1mm", "surface_dice_2mm", "lesion_dice", "lesion_hd95_mm")
"""HD95 is in the unit that the definition names: mm, but under the protocol `paper`, which counts voxels."""
COLUMNS = (*KEYS, "dice", "hd95_mm", "lesion_dice", "lesion_hd95_mm", "reference_voxels", "definition")
"""What every table has; an absent number is an empty field."""
FURTHER = (
    *("surface_dice_1mm", "surface_dice_2mm", "lesion_tp", "lesion_fp", "lesion_fn"),
    *("presence", "predicted_voxels", "task", "protocol"),
)
"""What tables of earlier versions lack."""
ORDER = (
    *KEYS,
    *METRICS,
    *("lesion_tp", "lesion_fp", "lesion_fn", "presence", "predicted_voxels", "reference_voxels"),
    *("task", "protocol", "definition"),
)
AVERAGE = "Avg"
"""In the place of a region: the mean over the regions."""


def score_rows(
    scores: Mapping[str, RegionScores],
    *,
    model: str,
    case: str,
    protocol: Protocol,
    task: Task,
    seed: int = 0,
    fold: int | None = 0,
) -> list[ScoreRow]:
    """A row for each region of one case."""
    rows = []
    for region, found in scores.items():
        lesions = found.lesions
        rows.append(
            {
                "model": model,
                "seed": seed,
                "fold": fold,
                "case": case,
                "region": region,
                "dice": found.dice,
                "hd95_mm": found.hd95,
                "surface_dice_1mm": found.surface_dice_1mm,
                "surface_dice_2mm": found.surface_dice_2mm,
                "lesion_dice": lesions.dice if lesions else None,
                "lesion_hd95_mm": lesions.hd95 if lesions else None,
                "lesion_tp": lesions.tp if lesions else None,
                "lesion_fp": lesions.fp if lesions else None,
                "lesion_fn": lesions.fn if lesions else None,
                "presence": found.presence,
                "predicted_voxels": found.pred_voxels,
                "reference_voxels": found.ref_voxels,
                "task": task.name,
                "protocol": protocol.name,
                "definition": protocol.describe(),
            }
        )
    return rows


def average_row(rows: Sequence[ScoreRow]) -> ScoreRow:
    """The mean over the regions of one case; what is no metric of theirs is empty."""
    row = {column: rows[0][column] if column in (*KEYS, "task", "protocol", "definition") else None for column in ORDER}
    row["region"] = AVERAGE
    for metric in METRICS:
        values = [one[metric] for one in rows]
        row[metric] = None if None in values else mean(values)
    return row


def as_text(row: ScoreRow) -> dict[str, str]:
    """A row as it stands in a CSV, numbers with six digits."""
    return {column: _text(value) for column, value in row.items()}


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header line; an absent number is an empty field."""
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
