"""A comparison as text, Markdown, CSV or JSON; each says how the numbers were made."""

import json
from pathlib import Path
from typing import Any

from rediffinet.files import write_atomically
from rediffinet.reports.comparison import POOLED, TAILS, Compared, Comparison
from rediffinet.reports.formats import Cells, markdown_table
from rediffinet.reports.statistics import Bounds
from rediffinet.scoring.scores import to_csv
from rediffinet.scoring.tables import check_table_path

NAMES = {
    "hd95_mm": "HD95 [mm]",
    "dice": "Dice",
    "surface_dice_1mm": "surface Dice 1 mm",
    "surface_dice_2mm": "surface Dice 2 mm",
}
_TESTED = {"less": "below zero: B is lower", "greater": "above zero: B is higher"}


def method_lines(comparison: Comparison) -> list[str]:
    """How the numbers were made, a sentence a line."""
    bootstrap = comparison.bootstrap
    kind = {"bca": "bias-corrected and accelerated (BCa)", "percentile": "percentile"}[bootstrap.interval]
    seeds = len(comparison.seeds)
    averaged = (
        f"{seeds} seeds; the values of a case were averaged over its seeds first, so that it counts once"
        if seeds > 1
        else f"1 seed ({comparison.seeds[0]})"
    )
    compared = {row.metric for row in comparison.rows}
    lines = [
        f"A = {comparison.a} ({comparison.sources[0]}), B = {comparison.b} ({comparison.sources[1]}); all differences "
        "are B − A.",
        f"{comparison.cases} cases in {len(comparison.folds)} folds, paired by seed, fold and case; {averaged}.",
        f"Definition of the scores: {comparison.definition}.",
        "One-sided p values of: "
        + "; ".join(
            f"{NAMES[metric]} difference {_TESTED[tail]}" for metric, tail in TAILS.items() if metric in compared
        )
        + ". They are not corrected for the number of rows.",
        "t-test: Student's for paired samples; Shapiro-Wilk: p value of normal differences, where a small one speaks "
        "against the t-test.",
        "Wilcoxon: signed-rank test; zero differences take part in the ranking and are dropped after it (Pratt).",
        f"Intervals: {bootstrap.confidence:.0%} {kind} bootstrap of {bootstrap.resamples} resamples of the cases, "
        f"seed {bootstrap.seed}.",
        "Change: of the mean, in percent of A's.",
    ]
    if comparison.dropped:
        lines.insert(2, f"{comparison.dropped} predictions were dropped because only one of the two models has them.")
    return lines


def to_markdown(comparison: Comparison) -> str:
    """Methods and tables, pooled first, then by fold."""
    lines = method_lines(comparison)
    parts = [f"# {comparison.b} against {comparison.a}\n", "\n".join(f"- {line}" for line in lines) + "\n"]
    pooled = [row for row in comparison.rows if row.fold == POOLED]
    parts += [f"## All folds\n\n{_table(pooled)}"]
    if len(comparison.folds) > 1:
        parts += [f"## By fold\n\n{_table([row for row in comparison.rows if row.fold != POOLED])}"]
    return "\n".join(parts)


def to_text(comparison: Comparison) -> str:
    """What the command prints: the tables, then the methods."""
    lines = method_lines(comparison)
    pooled = [row for row in comparison.rows if row.fold == POOLED]
    folds = [row for row in comparison.rows if row.fold != POOLED] if len(comparison.folds) > 1 else []
    tables = [_table(rows) for rows in (pooled, folds) if rows]
    return "\n".join([lines[0], "", *tables, *lines[1:]]) + "\n"


def to_json(comparison: Comparison) -> str:
    """All numbers as one JSON document; null where a number does not exist."""
    bootstrap = comparison.bootstrap
    document = {
        "schema": "rediffinet.comparison/1",
        "a": {"model": comparison.a, "source": comparison.sources[0]},
        "b": {"model": comparison.b, "source": comparison.sources[1]},
        "definition": comparison.definition,
        "cases": comparison.cases,
        "dropped": comparison.dropped,
        "seeds": comparison.seeds,
        "folds": comparison.folds,
        "zero_method": "pratt",
        "bootstrap": {
            "interval": bootstrap.interval,
            "confidence": bootstrap.confidence,
            "resamples": bootstrap.resamples,
            "seed": bootstrap.seed,
            "unit": "case, averaged over seeds",
        },
        "methods": method_lines(comparison),
        "rows": record_rows(comparison),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def record_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One flat record a row, at full precision."""
    records = []
    for row in comparison.rows:
        paired = row.paired
        difference, change = paired.difference_interval, paired.change_interval
        records.append(
            {
                "metric": row.metric,
                "region": row.region,
                "fold": row.fold,
                "pairs": paired.pairs,
                "mean_a": paired.mean_a,
                "mean_b": paired.mean_b,
                "difference": paired.difference,
                "difference_low": difference[0] if difference else None,
                "difference_high": difference[1] if difference else None,
                "change_percent": paired.change_percent,
                "change_low": change[0] if change else None,
                "change_high": change[1] if change else None,
                "better": paired.better,
                "worse": paired.worse,
                "zeros": paired.zeros,
                "alternative": TAILS[row.metric],
                "t": paired.t,
                "t_p": paired.t_p,
                "shapiro_w": paired.shapiro_w,
                "shapiro_p": paired.shapiro_p,
                "wilcoxon_p": paired.wilcoxon_p,
                "note": paired.note,
            }
        )
    return records


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write FILE.md, FILE.csv (the rows with models and definition) or FILE.json, by the ending.

    Raises:
        ConfigError: another ending.
        OutputError: the folder is absent or not writable.
    """
    check_table_path(path)
    if path.suffix == ".json":
        content = to_json(comparison)
    elif path.suffix == ".md":
        content = to_markdown(comparison)
    else:
        models = {"a": comparison.a, "b": comparison.b}
        made = {"seeds": len(comparison.seeds), "definition": comparison.definition}
        content = to_csv([models | record | made for record in record_rows(comparison)])
    write_atomically(path, content.encode())


def _table(rows: list[Compared]) -> str:
    header = (
        *("metric", "region", "fold", "n", "mean A", "mean B", "B − A", "interval", "change %", "interval"),
        *("better/worse/same", "t-test p", "Shapiro-Wilk p", "Wilcoxon p", "note"),
    )
    cells: list[Cells] = []
    for row in rows:
        paired = row.paired
        digits = 3 if row.metric == "hd95_mm" else 4
        cells.append(
            (
                *(NAMES[row.metric], row.region, row.fold, str(paired.pairs)),
                *(f"{value:.{digits}f}" for value in (paired.mean_a, paired.mean_b)),
                f"{paired.difference:+.{digits}f}",
                _interval(paired.difference_interval, digits),
                "–" if paired.change_percent is None else f"{paired.change_percent:+.2f}",
                _interval(paired.change_interval, 2),
                f"{paired.better}/{paired.worse}/{paired.zeros}",
                *(_p(p) for p in (paired.t_p, paired.shapiro_p, paired.wilcoxon_p)),
                paired.note,
            )
        )
    return markdown_table(header, cells)


def _interval(bounds: Bounds | None, digits: int) -> str:
    return f"[{bounds[0]:+.{digits}f}, {bounds[1]:+.{digits}f}]" if bounds else "–"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if value >= 1e-3 else f"{value:.1e}"
