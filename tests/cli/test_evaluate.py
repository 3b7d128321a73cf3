"""`rediff evaluate`: exit codes, what goes to stdout, files."""

import json

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rediffinet.cli.evaluate import evaluate
from rediffinet.errors import CaseError, ConfigError, LabelError, OutputError

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
    assert "| ET     | lesion_hd95_mm   | 2 " in result.stdout
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
    assert (tmp_path / "scores.csv").read_text().count("\npreds,0,0,B,") == 3
    assert (tmp_path / "scores-summary.csv").is_file()


def test_errors_the_user_can_fix(folders, tmp_path):
    for arguments, error, words in (
        ((*folders, "--protocol", "brats2029"), ConfigError, "brats2023-gli"),
        ((*folders, "--out", tmp_path / "scores.xls"), ConfigError, r"\.csv"),
        ((tmp_path / "nowhere", folders[1]), CaseError, "does not exist"),
        ((*folders, "--task", "glioma"), ConfigError, "glioma-2023"),
        ((*folders, "--labels", "nnunet,x"), ConfigError, "no task 'x'"),
        ((*folders, "--labels", "pediatric-2024", "--task", "pediatric-2024"), None, ""),
        ((*folders, "--labels", "brats2021"), CaseError, "ET = 4"),
    ):
        result = run(*arguments)
        if error is None:
            assert result.exit_code == 0
            continue
        assert isinstance(result.exception, error)
        assert words.replace("\\", "") in str(result.exception)
    for path in folders[0].iterdir():
        path.write_bytes(b"")
    result = run(*folders)
    assert isinstance(result.exception, CaseError)
    assert "none could be scored" in str(result.exception)


def test_another_examination_and_what_is_missing_are_listed(tmp_path):
    """Nothing can be scored, and what is there is said: each side with its own line."""
    for folder, name in (("preds", "P1_FU2"), ("refs", "P1")):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    result = run(tmp_path / "preds", tmp_path / "refs", "--out", tmp_path / "x.csv")
    assert result.exit_code == 3
    assert "P1: failed: P1 has no prediction" in result.stderr
    assert "P1_FU2: failed: " in result.stderr
    assert "2 of 2 cases failed, 0 were scored" in result.stderr
    assert not (tmp_path / "x.csv").exists()
    document = json.loads(run(tmp_path / "preds", tmp_path / "refs", "--json").stdout)
    assert [failure["case"] for failure in document["failed"]] == ["P1", "P1_FU2"]
    result = run(tmp_path / "preds", tmp_path / "refs", "--suffix", "_FU2")
    assert result.exit_code == 0


@pytest.mark.parametrize("name", ["absent/x.csv", "x" * 300 + ".csv", "refs.csv"])
def test_an_output_that_cannot_be_written_is_said_before_the_work(folders, tmp_path, name, monkeypatch):
    (tmp_path / "refs.csv").mkdir()
    monkeypatch.setattr("rediffinet.scoring.evaluation.evaluate_cohort", None)  # nobody scores
    result = run(*folders, "--out", tmp_path / name)
    assert isinstance(result.exception, OutputError)
    assert "Cannot write" in str(result.exception)


def test_whatever_one_case_raises_the_others_are_scored(folders, tmp_path, monkeypatch):
    """An error that nobody thought of: the case is listed with a short reason, the traceback is in a file."""
    import rediffinet.scoring.evaluation as module

    read = module.read_nifti

    def surprise(path):
        if path.name.startswith("A"):
            raise ZeroDivisionError("a surprise")
        return read(path)

    monkeypatch.setattr(module, "read_nifti", surprise)
    result = run(*folders, "--out", tmp_path / "scores.csv")
    assert result.exit_code == 3
    assert "A: failed: ZeroDivisionError: a surprise" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in (tmp_path / "scores-errors.log").read_text()
    assert (tmp_path / "scores.csv").read_text().count("\npreds,0,0,B,") == 3


def test_two_conventions_are_refused(folders):
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[3:12, 3:12, 3:12] = 4
    nib.save(nib.Nifti1Image(labels, np.eye(4)), folders[0] / "A-seg.nii.gz")
    result = run(*folders)
    assert isinstance(result.exception, LabelError)
    assert "in 2 conventions" in str(result.exception)
    assert "glioma-post-2024" in str(result.exception)


def test_labels_in_another_order_are_noted_and_named(folders):
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[3:12, 3:12, 3:12], labels[5:8, 5:8, 5:8] = 2, 1
    for name in "AB":
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folders[1] / f"{name}-seg.nii.gz")
        nib.save(nib.Nifti1Image(np.array([0, 2, 1], np.uint8)[labels], np.eye(4)), folders[0] / f"{name}-seg.nii.gz")
    result = run(*folders)
    assert result.exit_code == 0
    assert "note: Exchanging the labels NCR and ED on one side" in result.stderr
    result = run(*folders, "--labels", "nnunet,brats2023")
    assert (result.exit_code, result.stdout.count("| 1 ")) == (0, run(*folders[1:], folders[1]).stdout.count("| 1 "))
    assert "Exchanging" not in result.stderr
    assert "read as 'glioma-decathlon' (ED = 1, NCR = 2, ET = 3)" in result.stderr


def test_the_protocol_brings_its_task_and_the_task_its_protocol(folders, tmp_path):
    for arguments, task, protocol in (
        (("--protocol", "brats2023-ped"), "pediatric-2023", "brats2023-ped"),
        (("--task", "metastasis-2023"), "metastasis-2023", "brats2023-met"),
        (("--task", "pediatric-2024", "--protocol", "legacy"), "pediatric-2024", "legacy"),
        ((), "glioma-2023", "brats2023-gli"),
    ):
        document = json.loads(run(*folders, "--json", *arguments).stdout)
        assert (document["task"]["name"], document["protocol"]) == (task, protocol)
    path = tmp_path / "mine.json"
    task = document["task"] | {"name": "mine", "lesions": None}
    path.write_text(json.dumps(task))
    document = json.loads(run(*folders, "--json", "--task", path).stdout)
    assert (document["task"], document["protocol"]) == (task, "legacy")
