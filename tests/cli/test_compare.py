"""`rediff compare`: exit codes, what goes to stdout, files."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

HEADER = [
    *("model", "seed", "fold", "case", "region", "dice", "hd95_mm"),
    *("lesion_dice", "lesion_hd95_mm", "reference_voxels", "definition"),
]


def write_scores(path: Path, models: dict[str, float], cases: int = 6, definition: str = "surface, mm") -> Path:
    """Scores of `cases` cases in two folds; the number of a model is what it adds to Dice."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for model, gain in models.items():
            for k in range(cases):
                for region in ("WT", "TC", "ET", "Avg"):
                    scores = (0.5 + 0.02 * k + gain * (k + 1), 9.0 - k - 10 * gain * (k + 2))
                    writer.writerow([model, 0, k % 2, f"C{k}", region, *scores, "", "", "", definition])
    return path


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    return write_scores(tmp_path / "scores.csv", {"unet": 0.0, "rediffinet": 0.01})


def test_tables_on_stdout(rediff: Any, scores: Path) -> None:
    done = rediff("compare", scores, "--a", "unet", "--b", "rediffinet", "--resamples", 200)
    assert (done.code, done.err) == (0, "")
    assert "A = unet" in done.out
    assert "| HD95 [mm] | WT     | pooled | 6 | 6.500  | 6.050  | -0.450 " in done.out
    assert "Wilcoxon" in done.out


def test_json_is_all_of_stdout(rediff: Any, scores: Path, tmp_path: Path) -> None:
    files = ("--out", tmp_path / "out.md", "--qq", tmp_path / "qq.png")
    done = rediff("compare", scores, "--a", "unet", "--b", "rediffinet", "--json", "--resamples", 200, *files)
    assert done.code == 0
    document = json.loads(done.out)
    assert document["schema"] == "rediffinet.comparison/1"
    assert (document["a"]["model"], document["b"]["model"]) == ("unet", "rediffinet")
    assert next(row for row in document["rows"] if row["region"] == "Avg" and row["fold"] == "pooled")["pairs"] == 6
    assert done.err == f"wrote {tmp_path / 'qq.png'}\nwrote {tmp_path / 'out.md'}\n"
    assert (tmp_path / "out.md").read_text().startswith("# rediffinet against unet")


def test_two_files(rediff: Any, tmp_path: Path) -> None:
    a = write_scores(tmp_path / "a.csv", {"unet": 0.0})
    b = write_scores(tmp_path / "b.csv", {"rediffinet": 0.01}, cases=5)
    done = rediff("compare", a, b)
    assert done.code == 2
    assert done.err.startswith("error: The two models were not scored on the same cases.")
    assert "C5 (seed 0, fold 1)" in done.err
    assert done.out == ""
    done = rediff("compare", a, b, "--common", "--resamples", 200)
    assert done.code == 0
    assert "1 predictions were dropped" in done.out


def test_errors_the_user_can_fix(rediff: Any, scores: Path, tmp_path: Path) -> None:
    pooled = write_scores(tmp_path / "pooled.csv", {"rediffinet": 0.0}, definition="pooled, voxels")
    both = ("--a", "unet", "--b", "rediffinet")
    for arguments, words in (
        ((scores,), "Name one with --a MODEL"),
        ((scores, "--a", "unet", "--b", "nothing"), "has no model 'nothing'"),
        ((scores, pooled, "--a", "unet"), "2 definitions"),
        ((tmp_path / "nowhere.csv",), "Cannot read"),
        ((scores, *both, "--out", tmp_path / "out.xls"), "ends in .csv, .json or .md"),
        ((scores, *both, "--qq", tmp_path / "qq.pdf"), "ends in .png"),
        ((scores, *both, "--interval", "normal"), "Expected bca or percentile"),
        ((scores, *both, "--definition", "lesion"), "No definition"),
    ):
        done = rediff("compare", *arguments)
        assert done.code == 2, arguments
        assert words in done.err
        assert done.err.startswith("error: ")
        assert "Traceback" not in done.err
        assert done.out == ""
