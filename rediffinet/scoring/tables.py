"""Tables of cohort scores: per case, summary, and both as CSV, JSON or Markdown; every one names its protocol."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.errors import ConfigError
from rediffinet.files import write_atomically
from rediffinet.labels import REGIONS
from rediffinet.metrics import RegionScores
from rediffinet.scoring.evaluation import CohortScores

Row = dict[str, Any]

RULE = (
    "Every scored case counts in mean, median and quartiles: a region in one map only (missed or invented) with the "
    "penalty, a region absent in both with the best score. mean_both leaves these out, for comparison only."
)


def case_rows(scores: CohortScores) -> list[Row]:
    """One row per case and region, with protocol, HD95 definition and label schemas."""
    return [
        {
            "case": case.case,
            "region": region,
            **_numbers(found),
            "presence": found.presence,
            "pred_voxels": found.pred_voxels,
            "ref_voxels": found.ref_voxels,
            "pred_schema": case.prediction_schema,
            "ref_schema": case.reference_schema,
            "protocol": scores.protocol.name,
            "hd95_definition": scores.protocol.definition,
        }
        for case in scores.cases
        for region, found in case.regions.items()
    ]


def summary_rows(scores: CohortScores) -> list[Row]:
    """One row per region and metric over all cases; see RULE for what counts."""
    rows = []
    for region in REGIONS:
        found = [case.regions[region] for case in scores.cases]
        if not found:
            continue
        presence = [scores_.presence for scores_ in found]
        metrics = [name for name in _numbers(found[0]) if not name.endswith(("_tp", "_fp", "_fn"))]
        for metric in metrics:
            values = np.array([_numbers(scores_)[metric] for scores_ in found])
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
    """Both tables, failures and the protocol as one JSON document."""
    protocol = scores.protocol
    document = {
        "schema": "rediffinet.scoring.evaluation/1",
        "protocol": protocol.name,
        "hd95_definition": protocol.definition,
        "hd95_unit": "voxels" if protocol.in_voxels else "mm",
        "penalty": protocol.penalty_mm,
        "definition": protocol.describe(),
        "rule": RULE,
        "cases": case_rows(scores),
        "summary": summary_rows(scores),
        "files": [
            {
                "case": case.case,
                "prediction": case.prediction,
                "reference": case.reference,
                "spacing_mm": case.spacing_mm,
            }
            for case in scores.cases
        ],
        "failed": [{"case": failure.case, "message": failure.message} for failure in scores.failures],
    }
    return json.dumps(document, indent=2) + "\n"


def summary_markdown(scores: CohortScores) -> str:
    """The summary table under the protocol and the rule for means."""
    failed = f"{len(scores.failures)} cases failed and are in no mean; " if scores.failures else ""
    head = f"{len(scores.cases)} cases scored; {failed}{scores.protocol.describe()}."
    return f"{head}\n\n{RULE}\n\n{markdown(summary_rows(scores))}"


def to_markdown(scores: CohortScores) -> str:
    """Summary, table per case, conversions and failures."""
    parts = [summary_markdown(scores), markdown(case_rows(scores))]
    parts += [f"Converted: {line}.\n" for line in conversions(scores)]
    parts += [f"Failed: {failure.case}: {' '.join(failure.message.split())}\n" for failure in scores.failures]
    return "\n".join(parts)


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV with a header line; an absent number is an empty field."""
    text = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def conversions(scores: CohortScores) -> list[str]:
    """What was read in another label schema than BraTS-2023, one line for each side."""
    lines = []
    for side, schemas in (
        ("prediction", [case.prediction_schema for case in scores.cases]),
        ("reference", [case.reference_schema for case in scores.cases]),
    ):
        older = [case.case for case, schema in zip(scores.cases, schemas, strict=True) if schema != "brats2023"]
        if older:
            shown = ", ".join(older[:5]) + (f" and {len(older) - 5} more" if len(older) > 5 else "")
            lines.append(f"ET = 4 read as 3 (BraTS 2022 and before) in the {side} of {shown}")
    return lines


def write_tables(scores: CohortScores, path: Path) -> list[Path]:
    """Write FILE.csv and FILE-summary.csv, FILE.json, or FILE.md, by the ending; return what was written.

    Raises:
        ConfigError: another ending.
        OutputError: the folder is absent or not writable.
    """
    check_table_path(path)
    if path.suffix == ".csv":
        summary = path.with_name(f"{path.stem}-summary.csv")
        protocol = {"protocol": scores.protocol.name, "hd95_definition": scores.protocol.definition}
        contents = {
            path: to_csv(case_rows(scores)),
            summary: to_csv([row | protocol for row in summary_rows(scores)]),
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


def _numbers(scores: RegionScores) -> Row:
    numbers: Row = {"dice": scores.dice, "hd95": scores.hd95}
    if scores.lesions is not None:
        lesions = scores.lesions
        numbers |= {"lesion_dice": lesions.dice, "lesion_hd95": lesions.hd95}
        numbers |= {"lesion_tp": lesions.tp, "lesion_fp": lesions.fp, "lesion_fn": lesions.fn}
    return numbers


def markdown(rows: Sequence[Row]) -> str:
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
