"""Model A against model B on the same cases: paired per case, per region and fold and pooled over folds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rediffinet.errors import ResultsError
from rediffinet.reports.statistics import MIN_PAIRS, Bootstrap, Paired, Tail, Values, compare_pairs
from rediffinet.scoring.results import Results, Score, one_definition, read_results_in, select_model

POOLED = "pooled"
TAILS: dict[str, Tail] = {
    "hd95_mm": "less",
    "dice": "greater",
    "surface_dice_1mm": "greater",
    "surface_dice_2mm": "greater",
}
"""Metric → what B has to be to be better."""
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. `dropped`: pairs (seed, fold, case) that one of the two lacks; `rows`: see `Compared`."""

    a: str
    b: str
    sources: tuple[str, str]
    definition: str
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    cases: int
    dropped: int
    bootstrap: Bootstrap
    rows: tuple["Compared", ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of one region in one fold, or pooled; the values (n,) of each case are kept for figures."""

    metric: str
    region: str
    fold: str
    paired: Paired
    values_a: Values
    values_b: Values


def read_pair(
    files: list[Path], a: str | None = None, b: str | None = None, definition: str | None = None
) -> tuple[Results, Results]:
    """The scores of A and of B: from a file (or the folder of a study) each, or both by name from one.

    Raises:
        ResultsError: not one or two files, a table cannot be read, or a model is not named where there are several,
            is not there, or is compared with itself.
    """
    if len(files) not in (1, 2):
        raise ResultsError(f"{len(files)} files were given.\nExpected A.csv B.csv, or one with `a=MODEL` `b=MODEL`.")
    tables = [read_results_in(path, definition) for path in files]
    chosen_a = _chosen(tables[0], a, "`a`")
    chosen_b = _chosen(tables[-1], b, "`b`")
    if len(files) == 1 and chosen_a == chosen_b:
        listed = ", ".join(tables[0].models)
        message = f"A and B are the same model of the same file, '{chosen_a}'.\nExpected two of {listed}."
        raise ResultsError(message)
    return select_model(tables[0], chosen_a), select_model(tables[-1], chosen_b)


def compare(a: Results, b: Results, *, common: bool = False, bootstrap: Bootstrap | None = None) -> Comparison:
    """Compare two models, each with the scores of its own.

    A score belongs to a seed, a fold and a case, and needs a counterpart with the same three. What is compared are
    cases: a case scored with several seeds enters once, with the mean over its seeds, because repeats of one case are
    not independent. Rows are HD95, then Dice, then surface Dice where both have it; by region, folds before pooled.

    Args:
        common: go on with what both have where one lacks a prediction; how many were dropped is in the result.

    Raises:
        ResultsError: different definitions, a prediction without counterpart (unless `common`), fewer than three
            cases.
        MissingExtraError: SciPy is not installed.
    """
    bootstrap = bootstrap or Bootstrap()
    definition = one_definition(a, b)
    tables = _by_prediction(a.scores), _by_prediction(b.scores)
    shared = sorted(tables[0].keys() & tables[1].keys())
    alone = [sorted(one.keys() - other.keys()) for one, other in (tables, tables[::-1])]
    if any(alone) and not common:
        raise ResultsError(_unpaired(a, b, alone))
    cases = len({case for _, _, case in shared})
    if cases < MIN_PAIRS:
        message = (
            f"{cases} cases have scores of both {a.models[0]} ({a.source}) and {b.models[0]} ({b.source}).\n"
            f"Expected {MIN_PAIRS} or more, with the same seed, fold and case name in both."
        )
        raise ResultsError(message)
    folds = sorted({fold for _, fold, _ in shared})
    rows = []
    for metric in (name for name in a.measures if name in b.measures):
        tail = TAILS[metric]
        for region in a.regions:
            for fold in (*folds, None):
                pairs = [key for key in shared if fold is None or key[1] == fold]
                values = [_per_case({key: table[key][region] for key in pairs}, metric) for table in tables]
                paired = compare_pairs(values[0], values[1], tail, bootstrap)
                rows.append(
                    Compared(metric, region, POOLED if fold is None else str(fold), paired, values[0], values[1])
                )
    return Comparison(
        a=a.models[0],
        b=b.models[0],
        sources=(a.source, b.source),
        definition=definition,
        seeds=tuple(sorted({seed for seed, _, _ in shared})),
        folds=tuple(folds),
        cases=cases,
        dropped=sum(map(len, alone)),
        bootstrap=bootstrap,
        rows=tuple(rows),
    )


def _chosen(table: Results, name: str | None, option: str) -> str:
    if name is None and len(table.models) > 1:
        message = f"{table.source} holds several models: {', '.join(table.models)}.\nName one with {option} MODEL."
        raise ResultsError(message)
    return name if name is not None else table.models[0]


def _by_prediction(scores: Iterable[Score]) -> dict[tuple[int, int, str], dict[str, Score]]:
    """(seed, fold, case) → region → score."""
    table: dict[tuple[int, int, str], dict[str, Score]] = {}
    for score in scores:
        table.setdefault((score.key.seed, score.key.fold, score.key.case), {})[score.region] = score
    return table


def _per_case(scores: dict[tuple[int, int, str], Score], metric: str) -> Values:
    """Mean over the seeds of each case, (n,) float64, in the order of the cases' names."""
    by_case: dict[str, list[float]] = {}
    for (_, _, case), score in scores.items():
        by_case.setdefault(case, []).append(getattr(score, metric))
    return np.array([np.mean(by_case[case]) for case in sorted(by_case)], np.float64)


def _unpaired(a: Results, b: Results, alone: list[list[tuple[int, int, str]]]) -> str:
    lines = ["The two models were not scored on the same cases."]
    for one, other, keys in ((a, b, alone[0]), (b, a, alone[1])):
        if keys:
            listed = ", ".join(f"{case} (seed {seed}, fold {fold})" for seed, fold, case in keys[:SHOWN])
            more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
            lines.append(f"  {one.models[0]} ({one.source}), not {other.models[0]}: {listed}{more}")
    return "\n".join(lines) + "\nExpected the same seeds, folds and cases; `common=True` goes on with what both have."
