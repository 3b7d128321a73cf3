"""Tables of a scored cohort: per case, summary, and both as CSV, JSON or Markdown; every one names its protocol."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.errors import ConfigError
from rediffinet.files import write_atomically
from rediffinet.scoring.evaluation import CohortScores
from rediffinet.scoring.scores import METRICS, ScoreRow, score_rows, to_csv
from rediffinet.task import Task

RULE = (
    "Every scored case counts in mean, median and quartiles: a region in one map only (missed or invented) with the "
    "penalty, a region absent in both with the best score. mean_both leaves these out, for comparison only."
)
SHOWN = ("case", "region", *METRICS, "lesion_tp", "lesion_fp", "lesion_fn", "presence", "reference_voxels")
"""Columns of the table per case where people read it: what is the same in all rows stands above."""


def case_rows(scores: CohortScores) -> list[ScoreRow]:
    """One row per case and region, the table of scores of `scoring.scores`."""
    return [
        row
        for case in scores.cases
        for row in score_rows(
            case.regions, model=scores.model, case=case.case, protocol=scores.protocol, task=scores.task
        )
    ]


def summary_rows(scores: CohortScores) -> list[dict[str, Any]]:
    """One row per region and metric over all cases; see RULE for what counts."""
    every = case_rows(scores)
    rows = []
    for region in scores.task.region_names if every else ():
        found = [row for row in every if row["region"] == region]
        presence = [row["presence"] for row in found]
        for metric in METRICS:
            if found[0][metric] is None:
                continue
            values = np.array([row[metric] for row in found])
            both = values[[where == "both" for where in presence]]
            quarter, median, three_quarters = np.percentile(values, (25, 50, 75))
            rows.append(
                {
                    "region": region,
                    "metric": metric,
                    "cases": len(values),
                    "mean": float(values.mean()),
                    "median": float(median),
                    "q1": float(quarter),
                    "q3": float(three_quarters),
                    "missed": presence.count("missed"),
                    "invented": presence.count("invented"),
                    "absent": presence.count("absent"),
                    "mean_both": float(both.mean()) if len(both) else None,
                }
            )
    return rows


def to_json(scores: CohortScores) -> str:
    """Both tables, failures, the task and the protocol as one JSON document."""
    protocol = scores.protocol
    document = {
        "schema": "rediffinet.scoring.evaluation/2",
        "model": scores.model,
        "task": scores.task.model_dump(mode="json"),
        "protocol": protocol.name,
        "hd95_definition": protocol.definition,
        "hd95_unit": "voxels" if protocol.in_voxels else "mm",
        "penalty": protocol.penalty_mm,
        "definition": protocol.describe(),
        "rule": RULE,
        "labels": {"predictions": scores.predictions.name, "references": scores.references.name},
        "cases": case_rows(scores),
        "summary": summary_rows(scores),
        "files": [
            {
                "case": case.case,
                "prediction": case.prediction,
                "reference": case.reference,
                "spacing_mm": case.spacing_mm,
                "notes": case.notes,
            }
            for case in scores.cases
        ],
        "hints": scores.hints,
        "failed": [{"case": failure.case, "message": failure.message} for failure in scores.failures],
    }
    return json.dumps(document, indent=2) + "\n"


def summary_markdown(scores: CohortScores) -> str:
    """The summary table under the protocol and the rule for means."""
    failed = f"{len(scores.failures)} cases failed and are in no mean; " if scores.failures else ""
    head = f"{len(scores.cases)} cases scored; {failed}{scores.protocol.describe()}."
    return f"{head}\n\n{RULE}\n\n{markdown(summary_rows(scores))}"


def cases_markdown(scores: CohortScores) -> str:
    """The table per case, without what is the same in all rows."""
    return markdown([{column: row[column] for column in SHOWN} for row in case_rows(scores)])


def to_markdown(scores: CohortScores) -> str:
    """Summary, table per case, what was assumed, and failures."""
    parts = [summary_markdown(scores), cases_markdown(scores)]
    parts += [f"{line}\n" for line in remarks(scores)]
    parts += [f"Failed: {failure.case}: {' '.join(failure.message.split())}\n" for failure in scores.failures]
    return "\n".join(parts)


def remarks(scores: CohortScores) -> list[str]:
    """What has to be known about how the files were read: conventions other than the task's, assumptions, hints."""
    lines = []
    for side, convention in (("predictions", scores.predictions), ("references", scores.references)):
        if convention.name != scores.task.name:
            lines.append(_converted(side, convention, scores.task))
    return [*lines, *(note for case in scores.cases for note in case.notes), *scores.hints]


def _converted(side: str, convention: Task, task: Task) -> str:
    return (
        f"The {side} were read as '{convention.name}' ({convention.describe_labels()}) and scored as '{task.name}' "
        f"({task.describe_labels()})."
    )


def write_tables(scores: CohortScores, path: Path) -> list[Path]:
    """Write FILE.csv and FILE-summary.csv, FILE.json, or FILE.md, by the ending; return what was written.

    Raises:
        ConfigError: another ending.
        OutputError: the folder is absent or not writable.
    """
    check_table_path(path)
    if path.suffix == ".csv":
        protocol = {"protocol": scores.protocol.name, "hd95_definition": scores.protocol.definition}
        contents = {
            path: to_csv(case_rows(scores)),
            path.with_name(f"{path.stem}-summary.csv"): to_csv([row | protocol for row in summary_rows(scores)]),
        }
    else:
        contents = {path: to_json(scores) if path.suffix == ".json" else to_markdown(scores)}
    for target, content in contents.items():
        write_atomically(target, content.encode())
    return list(contents)


def check_table_path(path: Path) -> None:
    """Raise ConfigError unless the ending names a format."""
    if path.suffix not in (".csv", ".json", ".md"):
        raise ConfigError(f"Cannot tell the format of {path}.\nExpected a name that ends in .csv, .json or .md.")


def markdown(rows: Sequence[ScoreRow]) -> str:
    """Rows, at least one, as a Markdown table with aligned columns."""
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
