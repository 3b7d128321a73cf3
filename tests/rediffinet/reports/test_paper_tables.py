"""The tables against means made by hand."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import pytest

from rediffinet.errors import OutputError, ResultsError
from rediffinet.reports import published
from rediffinet.reports.formats import latex, markdown_table
from rediffinet.reports.paper_tables import (
    all_folds_table,
    one_fold_table,
    to_latex,
    to_markdown,
    to_records,
    write_paper_tables,
)
from rediffinet.scoring.results import Results, read_results


def line_of(text: str, label: str) -> list[str]:
    """Cells of the one Markdown row with that label."""
    (found,) = [line for line in text.splitlines() if line.split("|")[1:2] and line.split("|")[1].strip() == label]
    return [cell.strip() for cell in found.strip("|").split("|")]


@pytest.fixture
def results(write_results: Any, prediction: Any) -> Results:
    """Two cases in each of two folds; U-Net with one seed, refiner with two, and a model the paper does not have."""
    parts = []
    for fold, (dice, hd95) in enumerate((((0.8, 0.6), (10.0, 20.0)), ((0.9, 0.7), (6.0, 12.0)))):
        for k in (0, 1):
            case, ones = f"F{fold}C{k}", (1, 1, 1)
            parts.append(prediction("mine", case, (0.5, 0.6, 0.7), (1.0, 2.0, 3.0), fold=fold))
            parts.append(
                prediction("unet", case, tuple(dice[k] for _ in ones), tuple(hd95[k] for _ in ones), fold=fold)
            )
            for seed, gain in ((0, 0.0), (1, 0.1)):
                better = tuple(dice[k] + gain for _ in ones)
                parts.append(
                    prediction("rediffinet", case, better, tuple(hd95[k] / 2 for _ in ones), seed=seed, fold=fold)
                )
    return read_results(write_results("scores.csv", *parts))


def test_one_fold_by_hand(results: Results) -> None:
    text = to_markdown(one_fold_table(results))
    assert line_of(text, "unet") == ["unet", "1", "0", "2", *["0.7000"] * 4, *["15.00"] * 4]
    # seeds first: cases of 0.85 and 0.65
    assert line_of(text, "rediffinet") == ["rediffinet", "2", "0", "2", *["0.7500"] * 4, *["7.50"] * 4]
    mine = line_of(text, "mine")
    assert mine[4:] == ["0.5000", "0.6000", "0.7000", "0.6000", "1.00", "2.00", "3.00", "2.00"]
    assert line_of(text, "ua-diffusion-masked")[1:] == ["–"] * 11
    assert "1 or 2 seeds: a case enters with the mean over its seeds." in text
    assert "Ours: surface, per direction, 95th percentile" in text
    labels = re.findall(r"^\| ([a-z][^|]*?) +\|", text, re.MULTILINE)
    assert labels[1:] == [
        *("unet", "discrepancy-unet", "diff-unet", "ua-diffusion-mask-only", "ua-diffusion-concat"),
        *("ua-diffusion-masked", "rediffinet", "mine", "all models (published)"),
    ]


def test_another_fold(results: Results) -> None:
    assert line_of(to_markdown(one_fold_table(results, 1)), "unet")[4] == "0.8000"
    with pytest.raises(ResultsError, match=r"no fold 7.\nIt has the folds 0, 1"):
        one_fold_table(results, 7)


def test_all_folds_by_hand(results: Results) -> None:
    """Folds of means 0.7 and 0.8: mean 0.75, deviation 0.1 / sqrt 2; HD95 15 and 9, halved by the refiner."""
    table = all_folds_table(results)
    text = to_markdown(table)
    unet = line_of(text, "unet")
    assert unet[:4] == ["unet", "1", "0, 1", "4"]
    assert unet[4] == f"0.7500 ± {0.1 / math.sqrt(2):.4f}"
    assert unet[8] == f"12.00 ± {6 / math.sqrt(2):.2f}"
    assert line_of(text, "rediffinet")[11] == f"6.00 ± {3 / math.sqrt(2):.2f}"
    change = line_of(text, "rediffinet against unet, change of the mean in %")
    assert change[4:] == [f"+{100 * 0.05 / 0.75:.2f}"] * 4 + ["−50.00"] * 4
    assert line_of(text, "mine")[4].startswith("0.5000")
    assert "| diff-unet" not in text


def test_published_numbers_are_labelled_and_nothing_is_invented(results: Results) -> None:
    text = to_markdown(all_folds_table(results))
    row = line_of(text, "rediffinet against unet, change of the mean in % (published)")
    assert row[4:] == ["n/a", "n/a", "n/a", "+0.55", "n/a", "n/a", "n/a", "−16.28"]
    assert line_of(text, "all models (published)")[4:] == ["n/a"] * 8
    assert published.CITATION in text
    assert "not available here" in text


def test_a_published_cell_gets_a_row_of_its_own(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(published.CELLS, (2, "unet", "dice", "WT"), (0.5, 0.25))
    text = to_markdown(all_folds_table(results))
    assert line_of(text, "unet (published)")[4:6] == ["0.5000 ± 0.2500", "n/a"]
    assert line_of(text, "ua-diffusion-concat, discrepancy-unet, rediffinet (published)")[4] == "n/a"


def test_records_are_at_full_precision(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(to_records(all_folds_table(results)))))
    unet = rows[0]
    assert (unet["model"], unet["origin"], unet["folds"]) == ("unet", "ours", "0 1")
    assert float(unet["dice_Avg"]) == pytest.approx(0.75, abs=1e-6)
    assert float(unet["hd95_mm_WT_sd"]) == pytest.approx(6 / math.sqrt(2))
    last = rows[-1]
    assert (last["origin"], last["hd95_mm_Avg"], last["hd95_mm_WT"]) == ("published", "-16.28", "")
    assert "2402.07354" in last["source"]
    assert last["note"] == "empty: not available here"
    assert next(row for row in rows if row["model"] == "discrepancy-unet")["note"] == "empty: no results"


def test_latex_has_the_same_cells(results: Results) -> None:
    table = all_folds_table(results)
    text = to_latex(table)
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrrrrrrrrrr}"):
        assert command in text
    rows = [line.strip() for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + sum(map(len, table.groups))
    assert {row.count("&") - row.count(r"\&") for row in rows} == {11}
    assert text.count("{") == text.count("}")
    assert "%" not in re.sub(r"\\%", "", text.split("\n", 1)[1])


def test_characters_that_mean_something() -> None:
    assert latex("a_b & 5% ± 1") == r"a\_b \& 5\% $\pm$ 1"
    assert markdown_table(("m",), [("a|b",)]).splitlines()[2] == r"| a\|b |"


def test_without_the_baseline_and_with_one_fold(write_results: Any, prediction: Any) -> None:
    parts = [prediction("rediffinet", case, (0.5,) * 3, (2.0,) * 3, fold=3) for case in "AB"]
    text = to_markdown(all_folds_table(read_results(write_results("a.csv", *parts))))
    assert line_of(text, "rediffinet")[2:5] == ["3", "2", "0.5000"]
    assert line_of(text, "rediffinet against unet, change of the mean in %")[4:] == ["–"] * 8


def test_rows_of_different_cases_are_said_to_be(write_results: Any, prediction: Any) -> None:
    parts = [prediction("unet", case, (0.5,) * 3, (2.0,) * 3) for case in "ABC"]
    parts += [
        prediction("rediffinet", case, (0.5,) * 3, (2.0,) * 3, seed=s) for case, s in (("A", 0), ("A", 1), ("B", 0))
    ]
    text = to_markdown(one_fold_table(read_results(write_results("a.csv", *parts))))
    assert "The rows are not of the same cases: rediffinet has 2 of 3." in text
    assert "Not every case has every seed: rediffinet." in text


def test_definitions_are_not_mixed(write_results: Any, prediction: Any) -> None:
    parts = [prediction(model, "A", (0.5,) * 3, (2.0,) * 3, definition=model) for model in ("unet", "rediffinet")]
    results = read_results(write_results("a.csv", *parts))
    for make in (one_fold_table, all_folds_table):
        with pytest.raises(ResultsError, match="2 definitions"):
            make(results)


def test_files(results: Results, tmp_path: Path) -> None:
    tables = [one_fold_table(results), all_folds_table(results)]
    written = write_paper_tables(tables, tmp_path / "deep" / "out")
    names = [f"{name}.{ending}" for name in ("table1", "table2") for ending in ("md", "csv", "tex")]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "deep" / "out").iterdir()) == sorted(names)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        write_paper_tables(tables, tmp_path / "file" / "out")
