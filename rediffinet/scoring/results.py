"""The table of scores that `scoring.scores` describes, read and checked: a CSV, or the JSON of `rediff evaluate`."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rediffinet.errors import ResultsError
from rediffinet.files import parse_json
from rediffinet.scoring.scores import AVERAGE, COLUMNS, FURTHER
from rediffinet.task import DEFAULT_TASK, TASKS

MEASURES = ("hd95_mm", "dice", "surface_dice_1mm", "surface_dice_2mm")
"""What is compared and tabulated, as far as a table has it: Dice and HD95 always."""
ROUNDING = {"dice": 1e-3, "hd95_mm": 1e-2, "surface_dice_1mm": 1e-3, "surface_dice_2mm": 1e-3}
"""How far an Avg that was written with few digits may be from the mean of its regions."""


@dataclass(frozen=True, slots=True)
class Key:
    """Which prediction was scored."""

    model: str
    seed: int
    fold: int
    case: str


@dataclass(frozen=True, slots=True)
class Score:
    """One row: Dice in [0, 1], HD95 in mm by `definition`; what is None was an empty field."""

    key: Key
    region: str
    dice: float
    hd95_mm: float
    lesion_dice: float | None
    lesion_hd95_mm: float | None
    reference_voxels: int | None
    definition: str
    surface_dice_1mm: float | None = None
    surface_dice_2mm: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Scores in the order of the file; every region and Avg for each prediction. `source`: where they are from."""

    source: str
    scores: tuple[Score, ...]

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions of the task, in its order, then Avg."""
        found = dict.fromkeys(score.region for score in self.scores)
        return (*(region for region in found if region != AVERAGE), AVERAGE)

    @property
    def measures(self) -> tuple[str, ...]:
        """Which of MEASURES every score has."""
        return tuple(name for name in MEASURES if all(getattr(score, name) is not None for score in self.scores))

    @property
    def models(self) -> list[str]:
        """Names of the models, in order of appearance."""
        return list(dict.fromkeys(score.key.model for score in self.scores))

    @property
    def definitions(self) -> list[str]:
        """Definitions of the scores, in order of appearance."""
        return list(dict.fromkeys(score.definition for score in self.scores))


def read_results(path: Path, definition: str | None = None) -> Results:
    """Read one file; with `definition`, only the rows whose definition holds that text.

    A prediction without a row Avg gets one, the mean of its regions.

    Raises:
        ResultsError: the file cannot be read, a column is missing, a field is not what it should be, a row is there
            twice, a prediction lacks a region, an Avg is not the mean of the regions, or no row has the definition.
    """
    return _checked(str(path), list(_rows(path)), definition)


def read_results_in(path: Path, definition: str | None = None) -> Results:
    """Read one file, or all tables of results in a folder as one; other CSV files there are left alone.

    Tables further down count only when the folder itself has none: a study keeps the parts of its table there.

    Raises:
        ResultsError: as `read_results`, or the folder holds no such table.
    """
    if not path.is_dir():
        return read_results(path, definition)
    files = sorted(path.rglob("*.csv"))
    tables = [file for file in files if set(COLUMNS) <= set(_header(file))]
    tables = [file for file in tables if file.parent == path] or tables
    if not tables:
        found = ", ".join(str(file.relative_to(path)) for file in files[:8]) or "no CSV file"
        message = f"{path} holds no table of results (found: {found}).\nExpected a CSV with the columns {_columns()}."
        raise ResultsError(message)
    return _checked(str(path), [row for file in tables for row in _rows(file)], definition)


def select_model(results: Results, model: str) -> Results:
    """The scores of one model. Raises ResultsError that lists the models when it is not there."""
    chosen = tuple(score for score in results.scores if score.key.model == model)
    if not chosen:
        message = f"{results.source} has no model '{model}'.\nIt has {', '.join(results.models)}."
        raise ResultsError(message)
    return Results(results.source, chosen)


def one_definition(*parts: Results) -> str:
    """The definition that all scores share.

    Raises:
        ResultsError: there are several, or the regions are others. Numbers of different definitions differ by
            millimetres for the same masks.
    """
    regions = {part.source: part.regions for part in parts}
    if len(set(regions.values())) > 1:
        listed = "\n".join(f"  {source}: {', '.join(names)}" for source, names in regions.items())
        raise ResultsError(f"The scores are of different regions and cannot be compared:\n{listed}\nExpected the same.")
    found = {part.source: part.definitions for part in parts}
    every = list(dict.fromkeys(text for texts in found.values() for text in texts))
    if len(every) > 1:
        listed = "\n".join(f"  {source}: {text}" for source, texts in found.items() for text in texts)
        message = (
            f"The scores are of {len(every)} definitions and cannot be compared:\n{listed}\n"
            "Expected one. Score both with the same protocol, or choose one with `definition=TEXT` where a file "
            "holds several."
        )
        raise ResultsError(message)
    return every[0]


@dataclass(frozen=True, slots=True)
class _Row:
    """A score, the regions that its task has, and its place, for messages."""

    score: Score
    regions: tuple[str, ...]
    where: str


def _checked(source: str, rows: list[_Row], definition: str | None) -> Results:
    if definition is not None:
        kept = [row for row in rows if definition in row.score.definition]
        if not kept:
            held = "\n".join(f"  {text}" for text in dict.fromkeys(row.score.definition for row in rows))
            raise ResultsError(f"No definition in {source} holds the text {definition!r}.\nIt has:\n{held}")
        rows = kept
    if not rows:
        raise ResultsError(f"{source} holds no scores: nothing follows its header.")
    predictions: dict[tuple[Key, str], dict[str, _Row]] = {}
    for row in rows:
        regions = predictions.setdefault((row.score.key, row.score.definition), {})
        twice = regions.setdefault(row.score.region, row)
        if twice is not row:
            message = (
                f"{row.where}: {_named(row.score.key)}, {row.score.region} is there twice; the first is in "
                f"{twice.where}.\nExpected one row per model, seed, fold, case and region."
            )
            raise ResultsError(message)
    _one_fold_per_case(rows)
    return Results(source, tuple(score for regions in predictions.values() for score in _complete(regions)))


def _complete(regions: dict[str, _Row]) -> Iterator[Score]:
    """The scores of one prediction: its regions, then their mean."""
    first = next(iter(regions.values()))
    missing = [region for region in first.regions if region not in regions]
    if missing:
        message = (
            f"{first.where}: {_named(first.score.key)} has {', '.join(regions)}, and no {', '.join(missing)}.\n"
            f"Expected a row for each of {', '.join(first.regions)}."
        )
        raise ResultsError(message)
    parts = [regions[region].score for region in first.regions]
    means: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [getattr(score, measure) for score in parts]
        means[measure] = None if None in values else sum(values) / len(values)
    yield from parts
    written = regions.get(AVERAGE)
    if written is None:
        dice, hd95_mm = means["dice"], means["hd95_mm"]
        assert dice is not None and hd95_mm is not None  # every row has them
        yield Score(
            first.score.key,
            AVERAGE,
            dice,
            hd95_mm,
            None,
            None,
            None,
            first.score.definition,
            means["surface_dice_1mm"],
            means["surface_dice_2mm"],
        )
        return
    for column, mean in means.items():
        value = getattr(written.score, column)
        if value is not None and mean is not None and abs(value - mean) > ROUNDING[column]:
            count = {3: "three"}.get(len(parts), str(len(parts)))
            message = (
                f"{written.where}: {column} of {AVERAGE} is {value:g}, and the mean of the {count} regions {mean:.6g}."
                "\nExpected the mean; leave the row out to have it computed."
            )
            raise ResultsError(message)
    yield written.score


def _one_fold_per_case(rows: Iterable[_Row]) -> None:
    """A case that is held out twice would count twice in what is pooled over folds."""
    folds: dict[tuple[str, int, str], _Row] = {}
    for row in rows:
        key = row.score.key
        first = folds.setdefault((key.model, key.seed, key.case), row)
        if first.score.key.fold != key.fold:
            message = (
                f"{row.where}: case {key.case} of {key.model}, seed {key.seed} is in fold {key.fold} and, in "
                f"{first.where}, in fold {first.score.key.fold}.\nExpected each case in one fold per model and seed."
            )
            raise ResultsError(message)


def _rows(path: Path) -> Iterator[_Row]:
    rows = list(_records(path))
    regions = [fields["region"].strip() for fields, _ in rows]
    for fields, where in rows:
        name = fields.get("task", "").strip()
        known = TASKS.get(name or DEFAULT_TASK)
        expected = known.region_names if known else tuple(dict.fromkeys(r for r in regions if r != AVERAGE))
        yield _Row(_score(fields, expected, where), expected, where)


def _records(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """The fields of each row as text, and its place."""
    if path.suffix == ".json":
        yield from _json_records(path)
        return
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        header = list(reader.fieldnames or [])
        _check_columns(header, path)
        for fields in reader:
            where = f"{path}, line {reader.line_num}"
            if None in fields or None in fields.values():
                raise ResultsError(f"{where} has another number of fields than the header ({len(header)}).")
            yield fields, where
    except csv.Error as error:
        raise ResultsError(f"Cannot read {path} after line {reader.line_num}: {error}.\nExpected a CSV.") from None


def _json_records(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    try:
        document = parse_json(_text(path))
    except ValueError as error:
        raise ResultsError(f"{path} is not JSON ({error}).\nExpected what `rediff evaluate` wrote.") from None
    rows = document.get("cases") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ResultsError(f"{path} has no list of cases.\nExpected what `rediff evaluate` wrote.")
    for k, row in enumerate(rows):
        _check_columns(list(row), path)
        yield {name: "" if value is None else str(value) for name, value in row.items()}, f"{path}, case row {k + 1}"


def _check_columns(header: list[str], path: Path) -> None:
    missing = [column for column in COLUMNS if column not in header]
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise ResultsError(f"{path} has no commas between its columns: {header[0]!r}.\nExpected a CSV with commas.")
    if missing:
        message = (
            f"{path} lacks the column {', '.join(missing)}; it has {', '.join(header) or 'nothing'}.\n"
            f"Expected the columns {_columns()}."
        )
        raise ResultsError(message)
    double = [column for k, column in enumerate(header) if column in header[:k]]
    if double:
        raise ResultsError(f"{path} has the column {double[0]} twice.\nExpected each once.")


def _score(fields: dict[str, str], regions: tuple[str, ...], where: str) -> Score:
    for column in ("model", "case", "definition"):
        if not fields[column].strip():
            raise ResultsError(f"{where}: {column} is empty.\nExpected a text.")
    region = fields["region"].strip()
    if region not in (*regions, AVERAGE):
        raise ResultsError(f"{where}: region is {region!r}.\nExpected one of {', '.join((*regions, AVERAGE))}.")
    key = Key(
        fields["model"].strip(), _whole(fields, "seed", where), _whole(fields, "fold", where), fields["case"].strip()
    )
    empty_voxels = not fields["reference_voxels"].strip()
    return Score(
        key,
        region,
        _number(fields, "dice", where, 1.0),
        _number(fields, "hd95_mm", where),
        _optional(fields, "lesion_dice", where, 1.0),
        _optional(fields, "lesion_hd95_mm", where),
        None if empty_voxels else _whole(fields, "reference_voxels", where),
        fields["definition"].strip(),
        _optional(fields, "surface_dice_1mm", where, 1.0),
        _optional(fields, "surface_dice_2mm", where, 1.0),
    )


def _optional(fields: dict[str, str], column: str, where: str, most: float = math.inf) -> float | None:
    return _number(fields, column, where, most) if fields.get(column, "").strip() else None


def _number(fields: dict[str, str], column: str, where: str, most: float = math.inf) -> float:
    text = fields[column].strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and 0.0 <= value <= most):
        span = "in [0, 1]" if most == 1.0 else "of 0 or more"
        message = (
            f"{where}: {column} is {text!r}.\nExpected a finite number {span}; a region that was missed has the "
            "protocol's penalty, never nothing."
        )
        raise ResultsError(message)
    return value


def _whole(fields: dict[str, str], column: str, where: str) -> int:
    text = fields[column].strip()
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ResultsError(f"{where}: {column} is {text!r}.\nExpected a whole number of 0 or more.")
    return int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise ResultsError(f"Cannot read {path}: {reason}.\nExpected a CSV with the columns {_columns()}.") from error


def _header(path: Path) -> Sequence[str]:
    """The names in the first line of a file, which may be no table and in any encoding."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, csv.Error):
        return []


def _columns() -> str:
    return f"{', '.join(COLUMNS)}, and possibly {', '.join(FURTHER)}"


def _named(key: Key) -> str:
    return f"{key.model}, seed {key.seed}, fold {key.fold}, {key.case}"
