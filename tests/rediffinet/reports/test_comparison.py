"""Pairing two models, and what is written about it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from rediffinet.errors import ConfigError, MissingExtraError, OutputError, ResultsError
from rediffinet.reports.comparison import POOLED, compare, read_pair
from rediffinet.reports.comparison_tables import to_json, to_markdown, to_text, write_comparison
from rediffinet.reports.quantiles import write_quantile_plot
from rediffinet.reports.statistics import Bootstrap

FEW = Bootstrap(resamples=200)


@pytest.fixture
def numbers() -> dict[tuple[str, int, int], tuple[np.ndarray, np.ndarray]]:
    """(model, seed, fold) → Dice and HD95, each (5 cases, 3 regions)."""
    generator = np.random.default_rng(2)
    made = {}
    for fold in (0, 1):
        overlap, distance = generator.uniform(0.6, 0.9, (5, 3)), generator.uniform(2.0, 9.0, (5, 3))
        for seed in (0, 1):
            for model, gain in (("unet", 0.0), ("rediffinet", 0.02)):
                noise = generator.normal(0, 0.01, (2, 5, 3))
                better = np.maximum(0.1, distance * (1 - 5 * gain) + 10 * noise[1])
                made[model, seed, fold] = (overlap + gain + noise[0]).round(6), better.round(4)
    return made


@pytest.fixture
def both(write_results: Any, prediction: Any, numbers: Any) -> Path:
    """One file of both models, two seeds, two folds of five cases."""
    parts = [
        prediction(model, f"F{fold}C{case}", tuple(dice[case]), tuple(hd95[case]), seed=seed, fold=fold)
        for (model, seed, fold), (dice, hd95) in numbers.items()
        for case in range(5)
    ]
    return write_results("both.csv", *parts)


def test_seeds_are_averaged_and_folds_pooled(both: Path, numbers: Any) -> None:
    result = compare(*read_pair([both], "unet", "rediffinet"), bootstrap=FEW)
    assert (result.cases, result.seeds, result.folds, result.dropped) == (10, (0, 1), (0, 1), 0)
    rows = {(row.metric, row.region, row.fold): row for row in result.rows}
    assert len(rows) == len(result.rows) == 2 * 4 * 3

    def values(model: str, metric: int, region: int, fold: int) -> np.ndarray:
        return np.mean([numbers[model, seed, fold][metric][:, region] for seed in (0, 1)], axis=0)

    for metric, name, tail in ((1, "hd95_mm", "less"), (0, "dice", "greater")):
        for region, region_name in enumerate(("WT", "TC", "ET")):
            per_fold = [[values(model, metric, region, fold) for fold in (0, 1)] for model in ("unet", "rediffinet")]
            for fold in (0, 1):
                row = rows[name, region_name, str(fold)]
                np.testing.assert_allclose(row.values_a, per_fold[0][fold])
                assert row.paired.pairs == 5
            a, b = (np.concatenate(part) for part in per_fold)
            found = rows[name, region_name, POOLED].paired
            expected = stats.ttest_rel(b, a, alternative=tail)
            assert (found.t, found.t_p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    average = rows["dice", "Avg", "0"].values_b
    expected_average = np.mean([values("rediffinet", 0, region, 0) for region in range(3)], axis=0)
    np.testing.assert_allclose(average, expected_average, atol=1e-6)


def test_two_files_give_the_same_as_one(both: Path, tmp_path: Path) -> None:
    lines = both.read_text().splitlines(keepends=True)
    files = []
    for model in ("unet", "rediffinet"):
        path = tmp_path / f"{model}.csv"
        path.write_text("".join([lines[0], *(line for line in reversed(lines) if line.startswith(f"{model},"))]))
        files.append(path)
    one = compare(*read_pair([both], "unet", "rediffinet"), bootstrap=FEW)
    two = compare(*read_pair(files), bootstrap=FEW)
    assert [row.paired for row in one.rows] == [row.paired for row in two.rows]


def test_models_must_be_named(both: Path) -> None:
    for arguments, words in (
        (([both],), "holds several models: unet, rediffinet.\nName one with `a` MODEL"),
        (([both], "unet"), "Name one with `b` MODEL"),
        (([both], "unet", "unet"), "A and B are the same model of the same file, 'unet'"),
        (([both], "unet", "diff-unet"), "has no model 'diff-unet'.\nIt has unet, rediffinet"),
        (([both] * 3,), "3 files were given"),
        (([],), "0 files were given"),
    ):
        with pytest.raises(ResultsError) as caught:
            read_pair(*arguments)
        assert words in str(caught.value)


def test_different_definitions(write_results: Any, prediction: Any) -> None:
    paths = [
        write_results(
            f"{text}.csv", *(prediction(text, case, (0.9,) * 3, (1.0,) * 3, definition=text) for case in "ABC")
        )
        for text in ("surface", "pooled")
    ]
    with pytest.raises(ResultsError, match=r"2 definitions(.|\n)*surface.csv: surface(.|\n)*pooled.csv: pooled"):
        compare(*read_pair(paths))


def test_cases_that_one_lacks(write_results: Any, prediction: Any) -> None:
    def table(model: str, cases: str) -> Path:
        values = [((0.5 + 0.01 * k,) * 3, (3.0 + k,) * 3) for k in range(len(cases))]
        parts = (prediction(model, case, *pair) for case, pair in zip(cases, values, strict=True))
        return write_results(f"{model}.csv", *parts)

    a, b = read_pair([table("unet", "ABCDE"), table("rediffinet", "BCDEXY")])
    with pytest.raises(ResultsError) as caught:
        compare(a, b)
    message = str(caught.value)
    assert "unet.csv), not rediffinet: A (seed 0, fold 0)\n" in message
    assert "rediffinet.csv), not unet: X (seed 0, fold 0), Y (seed 0, fold 0)\n" in message
    assert "`common=True`" in message
    result = compare(a, b, common=True, bootstrap=FEW)
    assert (result.cases, result.dropped) == (4, 3)
    assert "3 predictions were dropped" in to_text(result)
    assert json.loads(to_json(result))["dropped"] == 3


def test_long_lists_are_cut(write_results: Any, prediction: Any) -> None:
    names = [f"C{k:02}" for k in range(14)]
    a = write_results("a.csv", *(prediction("a", name, (0.5,) * 3, (1.0,) * 3) for name in names))
    b = write_results("b.csv", *(prediction("b", name, (0.5,) * 3, (1.0,) * 3) for name in names[:2]))
    with pytest.raises(ResultsError, match=r"C11 \(seed 0, fold 0\) and 2 more"):
        compare(*read_pair([a, b]))
    with pytest.raises(ResultsError, match=r"2 cases have scores of both(.|\n)*Expected 3 or more"):
        compare(*read_pair([a, b]), common=True)


def test_the_same_scores(write_results: Any, prediction: Any) -> None:
    parts = [prediction(model, case, (0.5,) * 3, (2.0,) * 3) for model in ("a", "b") for case in "ABCD"]
    result = compare(*read_pair([write_results("all.csv", *parts)], "a", "b"), bootstrap=FEW)
    assert "all 4 differences are zero: nothing to test" in to_text(result)
    for text in (to_text(result), to_json(result), to_markdown(result)):
        assert "nan" not in text.lower()
    assert {row["t_p"] for row in json.loads(to_json(result))["rows"]} == {None}


def test_a_small_fold_is_said_to_be_small(write_results: Any, prediction: Any) -> None:
    parts = [
        prediction(model, f"C{k}", (0.5 + 0.01 * k * gain,) * 3, (9.0 - k * gain,) * 3, fold=int(k > 3))
        for model, gain in (("a", 1), ("b", 1.5))
        for k in range(5)
    ]
    result = compare(*read_pair([write_results("all.csv", *parts)], "a", "b"), bootstrap=FEW)
    notes = {row.fold: row.paired.note for row in result.rows}
    assert notes["1"] == "1 of at least 3 pairs: not tested"
    assert notes[POOLED] == ""


def test_documents_say_how_they_were_made(both: Path, tmp_path: Path) -> None:
    result = compare(*read_pair([both], "unet", "rediffinet"), bootstrap=Bootstrap("percentile", resamples=200, seed=3))
    for ending in ("md", "csv", "json"):
        write_comparison(result, tmp_path / f"out.{ending}")
    text = (tmp_path / "out.md").read_text()
    for words in (
        "2 seeds; the values of a case were averaged over its seeds first",
        "10 cases in 2 folds, paired by seed, fold and case",
        "Definition of the scores: surface, per direction",
        "(Pratt)",
        "95% percentile bootstrap of 200 resamples of the cases, seed 3",
        "below zero: B is lower",
        "above zero: B is higher",
    ):
        assert words in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(rows) == len(document["rows"]) == 24
    assert (rows[0]["a"], rows[0]["b"], rows[0]["seeds"]) == ("unet", "rediffinet", "2")
    for row, record in zip(rows, document["rows"], strict=True):
        assert float(row["t_p"]) == record["t_p"]
        assert record["difference_low"] <= record["difference"] <= record["difference_high"]
    with pytest.raises(ConfigError, match=r"\.csv, \.json or \.md"):
        write_comparison(result, tmp_path / "out.xlsx")
    with pytest.raises(OutputError):
        write_comparison(result, tmp_path / "nowhere" / "out.md")


def test_quantile_plot(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = compare(*read_pair([both], "unet", "rediffinet"), bootstrap=FEW)
    write_quantile_plot(result, tmp_path / "qq.png")
    with Image.open(tmp_path / "qq.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 1
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        write_quantile_plot(result, tmp_path / "qq.pdf")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"rediffinet\[report\]"):
        write_quantile_plot(result, tmp_path / "qq.png")


def test_quantile_plot_without_spread(write_results: Any, prediction: Any, tmp_path: Path) -> None:
    parts = [prediction(model, case, (0.5,) * 3, (2.0,) * 3) for model in ("a", "b") for case in "ABCD"]
    result = compare(*read_pair([write_results("all.csv", *parts)], "a", "b"), bootstrap=FEW)
    write_quantile_plot(result, tmp_path / "qq.png")
    assert (tmp_path / "qq.png").read_bytes().startswith(b"\x89PNG")
