"""Tables of the shape of the paper's: all models on one fold (1), and the main ones over all folds (2).

Published numbers stand in rows of their own that say so. A case that was scored with several seeds enters with the
mean over its seeds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.errors import OutputError, ResultsError
from rediffinet.files import write_atomically
from rediffinet.method.models import MODELS
from rediffinet.reports import published
from rediffinet.reports.formats import Cells, latex_table, markdown_table
from rediffinet.scoring.results import Results, Score, one_definition
from rediffinet.scoring.scores import to_csv

NAMES = {
    "dice": "Dice",
    "hd95_mm": "HD95",
    "surface_dice_1mm": "surface Dice 1 mm",
    "surface_dice_2mm": "surface Dice 2 mm",
}
BASELINE, REFINED = "unet", "rediffinet"
MAIN_MODELS = (BASELINE, "ua-diffusion-concat", "discrepancy-unet", REFINED)
NOT_AVAILABLE = "n/a"
NOT_AVAILABLE_NOTE = "n/a: not available here. The published number was not found in a source that can be named."
ABSENT = "–"

Place = tuple[str, str]
"""Metric and region."""
Number = tuple[float, float | None]
"""Mean and, over folds, standard deviation."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One model: `origin` is ours, published or change; `numbers` lacks what does not exist."""

    model: str
    origin: str
    seeds: int | None
    folds: tuple[int, ...]
    cases: int | None
    numbers: dict[Place, Number]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Groups of rows with a number in each place, and below them what has to be said about them."""

    name: str
    title: str
    places: tuple[Place, ...]
    groups: tuple[tuple[TableRow, ...], ...]
    notes: tuple[str, ...]


def one_fold_table(results: Results, fold: int | None = None) -> PaperTable:
    """All models on one fold, the lowest there is unless one is named: means over its cases.

    Raises:
        ResultsError: several definitions, or no model has the fold.
    """
    definition = one_definition(results)
    folds = sorted({score.key.fold for score in results.scores})
    chosen = folds[0] if fold is None else fold
    if chosen not in folds:
        listed = ", ".join(map(str, folds))
        raise ResultsError(f"{results.source} has no fold {chosen}.\nIt has the folds {listed}.")
    scores = [score for score in results.scores if score.key.fold == chosen]
    models = _in_order(MODELS, results.models)
    places = _places(results)
    rows = tuple(_our_row(model, scores, places, over_folds=False) for model in models)
    notes = [f"Fold {chosen}; means over cases.", *_notes(definition, rows, scores)]
    return PaperTable(
        "table1",
        f"Models on fold {chosen} (shape of the paper's Table 1)",
        places,
        (rows, _published_rows(1, models, places)),
        tuple(notes),
    )


def all_folds_table(results: Results) -> PaperTable:
    """The main models, and models that the paper does not have, over all folds: mean and deviation of the folds' means.

    Raises:
        ResultsError: several definitions.
    """
    definition = one_definition(results)
    further = [model for model in results.models if model not in MODELS]
    models = _in_order(MAIN_MODELS, further)
    places = _places(results)
    rows = tuple(_our_row(model, results.scores, places, over_folds=True) for model in models)
    ours = {row.model: row for row in rows}
    changes = {
        place: _change(ours[BASELINE].numbers[place][0], number[0])
        for place, number in ours[REFINED].numbers.items()
        if ours[BASELINE].numbers.get(place, (0.0,))[0] != 0.0
    }
    change = f"{REFINED} against {BASELINE}, change of the mean in %"
    both = [row for row in (ours[BASELINE], ours[REFINED]) if row.folds]
    seeds = min((row.seeds or 0 for row in both), default=0)
    change_rows = (
        TableRow(change, "change", seeds or None, ours[REFINED].folds, ours[REFINED].cases, changes),
        TableRow(
            change,
            "published",
            None,
            (),
            None,
            {place: (value, None) for place, value in published.CHANGES.items()},
        ),
    )
    notes = [
        "Mean ± standard deviation (n − 1) over folds of each fold's mean over cases.",
        *_notes(definition, rows, results.scores),
        "The published change is the average that the abstract gives; whether its Dice is in percent or in points, it "
        "does not say.",
    ]
    groups = (rows, _published_rows(2, models, places), change_rows)
    title = "Main models over all folds (shape of the paper's Table 2)"
    return PaperTable("table2", title, places, groups, tuple(notes))


def to_markdown(table: PaperTable) -> str:
    """Title, table and notes."""
    rows = [_cells(row, table.places) for group in table.groups for row in group]
    return f"## {table.title}\n\n{markdown_table(_header(table.places), rows)}\n" + "".join(
        f"- {note}\n" for note in table.notes
    )


def to_latex(table: PaperTable) -> str:
    """A LaTeX table for booktabs."""
    groups = [[_cells(row, table.places) for row in group] for group in table.groups]
    header = _header(table.places)
    return latex_table(header, groups, f"{table.title}.", f"tab:rediffinet-{table.name}", table.notes)


def to_records(table: PaperTable) -> str:
    """CSV with a column for each number and for each deviation, at full precision; empty where there is none."""
    records = []
    for row in (row for group in table.groups for row in group):
        record: dict[str, Any] = {
            "model": row.model,
            "origin": row.origin,
            "source": published.CITATION if row.origin == "published" else "",
            "seeds": row.seeds,
            "folds": " ".join(map(str, row.folds)),
            "cases": row.cases,
        }
        for place in table.places:
            mean, deviation = row.numbers.get(place, (None, None))
            record |= {"_".join(place): mean, f"{'_'.join(place)}_sd": deviation}
        missing = "not available here" if row.origin == "published" else "no results"
        records.append(record | {"note": "" if len(row.numbers) == len(table.places) else f"empty: {missing}"})
    return to_csv(records)


def write_paper_tables(tables: Iterable[PaperTable], out: Path) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME.tex of each table into a folder, made when absent; return the files.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {out}: {error.strerror or error}.") from error
    written = []
    for table in tables:
        for ending, content in (("md", to_markdown(table)), ("csv", to_records(table)), ("tex", to_latex(table))):
            path = out / f"{table.name}.{ending}"
            write_atomically(path, content.encode())
            written.append(path)
    return written


def _in_order(first: Iterable[str], others: Iterable[str]) -> list[str]:
    """The known models as the paper has them, then the rest as they come."""
    return list(dict.fromkeys([*first, *others]))


def _our_row(model: str, scores: Iterable[Score], places: Iterable[Place], *, over_folds: bool) -> TableRow:
    own = [score for score in scores if score.key.model == model]
    folds = sorted({score.key.fold for score in own})
    numbers: dict[Place, Number] = {}
    for place in places if own else ():
        means = [_mean_over_cases([score for score in own if score.key.fold == fold], place) for fold in folds]
        deviation = float(np.std(means, ddof=1)) if over_folds and len(means) > 1 else None
        numbers[place] = float(np.mean(means)), deviation
    seeds = len({score.key.seed for score in own})
    cases = len({(score.key.fold, score.key.case) for score in own})
    return TableRow(model, "ours", seeds or None, tuple(folds), cases or None, numbers)


def _mean_over_cases(scores: Iterable[Score], place: Place) -> float:
    metric, region = place
    by_case: dict[str, list[float]] = {}
    for score in scores:
        if score.region == region:
            by_case.setdefault(score.key.case, []).append(getattr(score, metric))
    return float(np.mean([np.mean(values) for values in by_case.values()]))


def _published_rows(table: int, models: Iterable[str], places: Sequence[Place]) -> tuple[TableRow, ...]:
    """A row for each model with a published number, and one for all others."""
    rows, without = [], []
    for model in (model for model in models if model in MODELS):
        cells = {place: published.CELLS.get((table, model, *place)) for place in places}
        numbers = {place: cell for place, cell in cells.items() if cell is not None}
        if numbers:
            rows.append(TableRow(model, "published", None, (), None, numbers))
        else:
            without.append(model)
    if without:
        rows.append(TableRow(", ".join(without) if rows else "all models", "published", None, (), None, {}))
    return tuple(rows)


def _change(before: float, after: float) -> Number:
    return 100.0 * (after / before - 1.0), None


def _notes(definition: str, rows: Iterable[TableRow], scores: Iterable[Score]) -> list[str]:
    """What holds for both tables: definition, seeds, sources, and where rows are not of the same cases."""
    ours = [row for row in rows if row.folds]
    seeds = sorted({row.seeds or 0 for row in ours})
    notes = [f"Ours: {definition}."]
    if seeds[-1:] > [1]:
        notes.append(f"{' or '.join(map(str, seeds))} seeds: a case enters with the mean over its seeds.")
    listed = {row.model for row in ours}
    tested: dict[str, set[tuple[int, str]]] = {}
    seeds_of: dict[tuple[str, int, str], set[int]] = {}
    for score in scores:
        key = score.key
        if key.model in listed:
            tested.setdefault(key.model, set()).add((key.fold, key.case))
            seeds_of.setdefault((key.model, key.fold, key.case), set()).add(key.seed)
    every = set().union(*tested.values()) if tested else set()
    fewer = [f"{model} has {len(cases)} of {len(every)}" for model, cases in tested.items() if cases != every]
    if fewer:
        notes.append(f"The rows are not of the same cases: {'; '.join(fewer)}.")
    uneven = [row.model for row in ours if any(len(s) != row.seeds for k, s in seeds_of.items() if k[0] == row.model)]
    if uneven:
        notes.append(f"Not every case has every seed: {', '.join(uneven)}.")
    return [*notes, f"Published: {published.CITATION}. {published.SETTING}.", NOT_AVAILABLE_NOTE]


def _header(places: Iterable[Place]) -> Cells:
    return ("model", "seeds", "folds", "cases", *(f"{NAMES[metric]} {region}" for metric, region in places))


def _cells(row: TableRow, places: Iterable[Place]) -> Cells:
    label = f"{row.model} (published)" if row.origin == "published" else row.model
    folds = ABSENT
    if row.folds:
        several = len(row.folds) > 2 and row.folds[-1] - row.folds[0] == len(row.folds) - 1
        folds = f"{row.folds[0]}–{row.folds[-1]}" if several else ", ".join(map(str, row.folds))
    counts = (str(row.seeds or ABSENT), folds, str(row.cases or ABSENT))
    is_change = row.model.endswith("%")
    return (label, *counts, *(_number(row, place, is_change) for place in places))


def _number(row: TableRow, place: Place, is_change: bool) -> str:
    if place not in row.numbers:
        return NOT_AVAILABLE if row.origin == "published" else ABSENT
    mean, deviation = row.numbers[place]
    if is_change:
        return f"{mean:+.2f}".replace("-", "−")
    digits = 2 if place[0] == "hd95_mm" else 4
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if deviation is not None else "")


def _places(results: Results) -> tuple[Place, ...]:
    """Every metric that the results have, by region, in the paper's order: Dice first."""
    return tuple((metric, region) for metric in NAMES if metric in results.measures for region in results.regions)
