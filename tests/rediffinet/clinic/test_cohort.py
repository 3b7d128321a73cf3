"""From files to files: names, several cases, and one that fails."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rediffinet.clinic.cohort import CaseInput, list_inputs, segment_case, segment_cohort
from rediffinet.errors import CaseError, OutputError
from rediffinet.io.outputs import OutputChoice
from rediffinet.labels import CONTRASTS
from rediffinet.segmenter import Segmenter


def copy(source: Path, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True)
    for contrast in CONTRASTS:
        shutil.copy(source / f"toy-{contrast}.nii.gz", folder / f"{name}-{contrast}.nii.gz")
    return folder


def test_a_case_folder_is_one_input_and_its_parent_several(tmp_path: Path, toy_folder: Path) -> None:
    copy(toy_folder, tmp_path / "b", "B")
    assert [given.folder for given in list_inputs(toy_folder)] == [toy_folder]
    assert [(given.folder, given.name) for given in list_inputs(tmp_path)] == [
        (tmp_path / "b", "B"),
        (toy_folder, "toy"),
    ]


def test_names_come_from_the_files_else_from_the_folder(tmp_path: Path, toy_folder: Path) -> None:
    files = {contrast: toy_folder / f"toy-{contrast}.nii.gz" for contrast in CONTRASTS}
    assert CaseInput(files=files).name == "toy"
    plain = tmp_path / "patient 7"
    plain.mkdir()
    for contrast, path in files.items():
        shutil.copy(path, plain / f"{contrast}.nii.gz")
    assert CaseInput(folder=plain).name == "patient 7"


def test_the_default_output_folder_is_named_after_the_case(
    tmp_path: Path, toy_folder: Path, toy_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        outcome = segment_case(segmenter, CaseInput(folder=toy_folder), None)
    assert outcome.folder == Path("toy")
    assert (tmp_path / "here" / "toy" / "toy-report.json").is_file()


def test_outputs_that_exist_stop_the_case_before_it_is_loaded(
    tmp_path: Path, toy_folder: Path, toy_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy-seg.nii.gz").write_bytes(b"precious")
    monkeypatch.setattr("rediffinet.clinic.cohort.load_case", lambda *_, **__: pytest.fail("loaded"))
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter, pytest.raises(OutputError, match="--overwrite"):
        segment_case(segmenter, CaseInput(folder=toy_folder), tmp_path)


def test_a_bad_case_does_not_stop_the_others(tmp_path: Path, toy_folder: Path, toy_bundle: Any) -> None:
    cohort = tmp_path / "cohort"
    for name in ("A", "B", "C"):
        copy(toy_folder, cohort / name, name)
    (cohort / "B" / "B-t2w.nii.gz").unlink()
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        run = partial(segment_case, segmenter, out=tmp_path / "out", choice=OutputChoice(preview=False))
        outcomes = list(segment_cohort(list_inputs(cohort), run))
    assert [outcome.report is not None for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1].error, CaseError)
    assert outcomes[1].source == str(cohort / "B")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {f"{name}-{kind}" for name in "AC" for kind in ("seg.nii.gz", "baseline.nii.gz", "report.json")}


def test_two_cases_of_one_name_do_not_replace_each_other(tmp_path: Path, toy_folder: Path, toy_bundle: Any) -> None:
    cohort = tmp_path / "cohort"
    for folder in ("first", "second"):
        copy(toy_folder, cohort / folder, "X")
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        choice = OutputChoice(preview=False, overwrite=True)
        run = partial(segment_case, segmenter, out=tmp_path / "out", choice=choice)
        first, second = segment_cohort(list_inputs(cohort), run)
    assert first.report is not None
    assert "are both named X" in str(second.error)


def test_the_report_counts_loading(toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> None:
    stages: list[str] = []
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        outcome = segment_case(
            segmenter, CaseInput(folder=toy_folder), tmp_path / "out", progress=lambda stage, *_: stages.append(stage)
        )
    assert outcome.report is not None
    assert outcome.report.seconds.load > 0
    assert list(dict.fromkeys(stages)) == ["load", "normalise", "baseline", "refine", "decode", "write"]
