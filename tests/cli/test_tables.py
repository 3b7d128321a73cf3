"""`rediff tables`: exit codes, what goes to stdout, files."""

from pathlib import Path
from typing import Any

import pytest

HEADER = "model,seed,fold,case,region,dice,hd95_mm,lesion_dice,lesion_hd95_mm,reference_voxels,definition"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder as `rediff crossval` leaves it, of one model and one case."""
    rows = [f'unet,0,4,A,{region},0.5,3,0.5,3,10,"surface, mm"' for region in ("WT", "TC", "ET")]
    for folder in ("study", "study/seed0/fold4/unet"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "scores.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return tmp_path / "study"


def test_files_and_stdout(rediff: Any, study: Path, tmp_path: Path) -> None:
    done = rediff("tables", study, "--out", tmp_path / "out")
    assert done.code == 0
    assert "## Models on fold 4 (shape of the paper's Table 1)" in done.out
    assert "## Main models over all folds (shape of the paper's Table 2)" in done.out
    assert "−16.28" in done.out
    names = [f"table{k}.{ending}" for k in (1, 2) for ending in ("md", "csv", "tex")]
    assert done.err.splitlines() == [f"wrote {tmp_path / 'out' / name}" for name in names]
    assert (tmp_path / "out" / "table1.md").read_text() in done.out


def test_errors_the_user_can_fix(rediff: Any, study: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((study, *out, "--fold", 9), "has no fold 9"),
        ((tmp_path / "empty", *out), "holds no table of results"),
        ((tmp_path / "nowhere.csv", *out), "Cannot read"),
        ((study, *out, "--definition", "pooled"), "No definition"),
    ):
        done = rediff("tables", *arguments)
        assert done.code == 2
        assert done.err.startswith("error: ")
        assert words in done.err
        assert done.out == ""
    assert not (tmp_path / "out").exists()
