"""`rediff evaluate`: exit codes, what goes to stdout, files."""

import json

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rediffinet.cli.evaluate import evaluate
from rediffinet.errors import CaseError, ConfigError

app = typer.Typer()
app.command()(evaluate)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path):
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[3:12, 3:12, 3:12] = 3
    for folder in ("preds", "refs"):
        (tmp_path / folder).mkdir()
        for case in ("A", "B"):
            nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / folder / f"{case}-seg.nii.gz")
    return tmp_path / "preds", tmp_path / "refs"


def test_summary_on_stdout(folders):
    result = run(*folders)
    assert result.exit_code == 0
    assert "protocol brats2023-gli (BraTS-2023 GLI); HD95 definition: surface, in mm" in result.stdout
    assert "| ET     | lesion_hd95 | 2 " in result.stdout
    assert result.stderr == ""


def test_two_files_show_the_case(folders):
    result = run(*(folder / "A-seg.nii.gz" for folder in folders), "--protocol", "paper")
    assert result.exit_code == 0
    assert "HD95 definition: pooled, in voxels" in result.stdout
    assert "| A    | WT     | 1" in result.stdout


def test_json_is_all_of_stdout(folders):
    document = json.loads(run(*folders, "--json").stdout)
    assert [row["lesion_dice"] for row in document["cases"]] == [1.0] * 6


def test_some_cases_failed(folders, tmp_path):
    (folders[0] / "A-seg.nii.gz").unlink()
    result = run(*folders, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 3
    assert "A: failed: A has no prediction" in result.stderr
    assert "1 of 2 cases failed, 1 were scored" in result.stderr
    assert "1 cases failed and are in no mean" in result.stdout
    assert (tmp_path / "scores.csv").read_text().count("\nB,") == 3
    assert (tmp_path / "scores-summary.csv").is_file()


def test_errors_the_user_can_fix(folders, tmp_path):
    for arguments, error, words in (
        ((*folders, "--protocol", "brats2029"), ConfigError, "brats2023-gli"),
        ((*folders, "--out", tmp_path / "scores.xls"), ConfigError, r"\.csv"),
        ((tmp_path / "nowhere", folders[1]), CaseError, "does not exist"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, error)
        assert words.replace("\\", "") in str(result.exception)
    for path in folders[0].iterdir():
        path.write_bytes(b"")
    result = run(*folders)
    assert isinstance(result.exception, CaseError)
    assert "none could be scored" in str(result.exception)
