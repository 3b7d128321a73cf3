"""Reading tables of results: what comes out, and a message for everything that is wrong."""

from typing import Any

import pytest

from rediffinet.errors import ResultsError
from rediffinet.scoring.results import one_definition, read_results, read_results_in, select_model

DICE, HD95 = (0.9, 0.8, 0.7), (2.0, 4.0, 6.0)


def test_rows_are_typed(write_results: Any, prediction: Any) -> None:
    path = write_results("all.csv", prediction("unet", "A", DICE, HD95, seed=1, fold=2))
    scores = read_results(path).scores
    assert [score.region for score in scores] == ["WT", "TC", "ET", "Avg"]
    first, last = scores[0], scores[-1]
    assert (first.key.model, first.key.seed, first.key.fold, first.key.case) == ("unet", 1, 2, "A")
    assert (first.dice, first.hd95_mm, first.lesion_dice, first.reference_voxels) == (0.9, 2.0, 0.9, 120)
    assert (last.dice, last.hd95_mm) == (pytest.approx(0.8), 4.0)
    assert (last.lesion_dice, last.lesion_hd95_mm, last.reference_voxels) == (None, None, None)


def test_average_is_made_where_it_is_absent(write_results: Any, prediction: Any) -> None:
    path = write_results("all.csv", prediction("unet", "A", DICE, HD95)[:3])
    last = read_results(path).scores[-1]
    assert (last.region, last.dice, last.hd95_mm) == ("Avg", pytest.approx(0.8), pytest.approx(4.0))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("dice", "1.2", "finite number in [0, 1]"),
        ("dice", "", "dice is ''"),
        ("hd95_mm", "inf", "of 0 or more"),
        ("hd95_mm", "nan", "never nothing"),
        ("hd95_mm", "-1", "of 0 or more"),
        ("lesion_dice", "good", "lesion_dice is 'good'"),
        ("seed", "0.5", "seed is '0.5'"),
        ("fold", "", "whole number"),
        ("reference_voxels", "-3", "whole number"),
        ("region", "wt", "one of WT, TC, ET, Avg"),
        ("case", " ", "case is empty"),
        ("definition", "", "definition is empty"),
    ],
)
def test_bad_field(write_results: Any, prediction: Any, column: str, value: str, words: str) -> None:
    rows = prediction("unet", "A", DICE, HD95)
    rows[1][column] = value
    path = write_results("all.csv", rows)
    with pytest.raises(ResultsError) as caught:
        read_results(path)
    assert words in str(caught.value)
    assert f"{path}, line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(",", ";"), r"no commas between its columns"),
        (lambda text: text.replace(",", "\t"), r"no commas between its columns"),
        (lambda text: text.replace("hd95_mm", "dice", 1), r"lacks the column hd95_mm"),
        (lambda text: text.replace("seed", "seed,seed", 1), r"has the column seed twice"),
        (lambda text: text + "x" * 200_000, r"after line 5: field larger than field limit"),
    ],
)
def test_a_table_that_was_changed(write_results: Any, prediction: Any, change: Any, words: str) -> None:
    path = write_results("all.csv", prediction("unet", "A", DICE, HD95))
    path.write_text(change(path.read_text()))
    with pytest.raises(ResultsError, match=words):
        read_results(path)


def test_numbers_and_json_beyond_all_measure(write_results: Any, prediction: Any, tmp_path: Any) -> None:
    rows = prediction("unet", "A", DICE, HD95)
    rows[1]["fold"] = "9" * 5000
    with pytest.raises(ResultsError, match="whole number"):
        read_results(write_results("all.csv", rows))
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ResultsError, match="is not JSON"):
        read_results(path)


def test_files_in_a_folder_that_are_no_tables_may_be_in_any_encoding(
    write_results: Any, prediction: Any, tmp_path: Any
) -> None:
    write_results("all.csv", prediction("unet", "A", DICE, HD95))
    (tmp_path / "patients.csv").write_bytes("Fall;Größe\n".encode("cp1252"))
    assert read_results_in(tmp_path).models == ["unet"]


def test_missing_column(tmp_path: Any) -> None:
    path = tmp_path / "a.csv"
    path.write_text("model,seed,case\nunet,0,A\n")
    with pytest.raises(ResultsError, match=r"lacks the column fold, region, dice.*\n.*Expected the columns model,"):
        read_results(path)


def test_empty_truncated_and_unreadable(write_results: Any, prediction: Any, tmp_path: Any) -> None:
    with pytest.raises(ResultsError, match="nothing follows its header"):
        read_results(write_results("empty.csv"))
    path = write_results("cut.csv", prediction("unet", "A", DICE, HD95))
    path.write_text(path.read_text() + "unet,0,0,B,WT,0.5\n")
    with pytest.raises(ResultsError, match="line 6 has another number of fields"):
        read_results(path)
    with pytest.raises(ResultsError, match="Cannot read .*nowhere"):
        read_results(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ResultsError, match="not UTF-8"):
        read_results(tmp_path / "binary.csv")


def test_duplicate_row(write_results: Any, prediction: Any) -> None:
    rows = prediction("unet", "A", DICE, HD95)
    path = write_results("all.csv", rows, rows[2:3])
    with pytest.raises(ResultsError, match=r"line 6: unet, seed 0, fold 0, A, ET is there twice; .*line 4"):
        read_results(path)


def test_missing_region_and_wrong_average(write_results: Any, prediction: Any) -> None:
    rows = prediction("unet", "A", DICE, HD95)
    with pytest.raises(ResultsError, match="has WT, ET, Avg, and no TC"):
        read_results(write_results("less.csv", [rows[0], *rows[2:]]))
    rows[3]["hd95_mm"] = "5"
    with pytest.raises(ResultsError, match="hd95_mm of Avg is 5, and the mean of the three regions 4"):
        read_results(write_results("wrong.csv", rows))


def test_case_in_two_folds(write_results: Any, prediction: Any) -> None:
    path = write_results("a.csv", prediction("unet", "A", DICE, HD95), prediction("unet", "A", DICE, HD95, fold=1))
    with pytest.raises(ResultsError, match="in fold 1 and, in .*line 2, in fold 0"):
        read_results(path)


def test_unknown_model_lists_what_is_there(write_results: Any, prediction: Any) -> None:
    path = write_results("a.csv", *(prediction(name, "A", DICE, HD95) for name in ("unet", "rediffinet")))
    results = read_results(path)
    assert results.models == ["unet", "rediffinet"]
    assert {score.key.model for score in select_model(results, "unet").scores} == {"unet"}
    with pytest.raises(ResultsError, match=r"no model 'diff-unet'.\nIt has unet, rediffinet"):
        select_model(results, "diff-unet")


def test_several_definitions_in_one_file(write_results: Any, prediction: Any) -> None:
    parts = [prediction("unet", "A", DICE, HD95, definition=text) for text in ("surface, mm", "pooled, voxels")]
    path = write_results("a.csv", *parts)
    with pytest.raises(
        ResultsError, match=r"2 definitions(.|\n)*surface, mm(.|\n)*pooled, voxels(.|\n)*`definition=TEXT`"
    ):
        one_definition(read_results(path))
    assert one_definition(read_results(path, "pooled")) == "pooled, voxels"
    with pytest.raises(ResultsError, match="No definition in .* holds the text 'lesion'"):
        read_results(path, "lesion")


def test_folder(write_results: Any, prediction: Any, tmp_path: Any) -> None:
    """The table of a study counts, not its parts further down, which are the same rows; without it, the parts do."""
    part = prediction("unet", "A", DICE, HD95)
    write_results("study/seed0/fold0/unet/scores.csv", part)
    (tmp_path / "study" / "log.csv").write_text("step,loss\n1,2\n")
    other = prediction("rediffinet", "A", DICE, HD95)
    write_results("study/seed0/fold0/rediffinet/scores.csv", other)
    assert sorted(read_results_in(tmp_path / "study").models) == ["rediffinet", "unet"]
    write_results("study/scores.csv", part, other)
    assert len(read_results_in(tmp_path / "study").scores) == 8
    write_results("study/again.csv", part)
    with pytest.raises(ResultsError, match="is there twice"):
        read_results_in(tmp_path / "study")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "log.csv").write_text("step,loss\n1,2\n")
    with pytest.raises(ResultsError, match=r"holds no table of results \(found: log.csv\)"):
        read_results_in(tmp_path / "none")
