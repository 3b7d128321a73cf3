"""From files to files: names, several cases, and one that fails."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from rediffinet.clinic.case import tidy
from rediffinet.clinic.cohort import CaseInput, Order, list_inputs, segment_case, segment_cohort
from rediffinet.clinic.inputs import Shard, check_one_kind
from rediffinet.clinic.table import CohortTable
from rediffinet.errors import CaseError, ConfigError, OutputError
from rediffinet.io.outputs import OutputChoice
from rediffinet.segmenter import Segmenter, SegmentOptions
from rediffinet.task import TASKS, find_task

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


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
        outcome = segment_case(segmenter, CaseInput(folder=toy_folder))
    assert outcome.folder == Path("toy")
    assert (tmp_path / "here" / "toy" / "toy-report.json").is_file()


def test_outputs_that_exist_stop_the_case_before_it_is_loaded(
    tmp_path: Path, toy_folder: Path, toy_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy-seg.nii.gz").write_bytes(b"precious")
    monkeypatch.setattr("rediffinet.clinic.case.load_case", lambda *_, **__: pytest.fail("loaded"))
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter, pytest.raises(OutputError, match="`overwrite=True`"):
        segment_case(segmenter, CaseInput(folder=toy_folder), Order(tmp_path))


def test_a_bad_case_does_not_stop_the_others(tmp_path: Path, toy_folder: Path, toy_bundle: Any) -> None:
    cohort = tmp_path / "cohort"
    for name in ("A", "B", "C"):
        copy(toy_folder, cohort / name, name)
    (cohort / "B" / "B-t2w.nii.gz").unlink()
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        order = Order(tmp_path / "out", choice=OutputChoice(preview=False))
        outcomes = list(segment_cohort(segmenter, list_inputs(cohort), order))
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
        first, second = segment_cohort(segmenter, list_inputs(cohort), Order(tmp_path / "out", choice=choice))
    assert first.report is not None
    assert "are both named X" in str(second.error)


def test_the_report_counts_loading(toy_folder: Path, toy_bundle: Any, tmp_path: Path) -> None:
    stages: list[str] = []
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        outcome = segment_case(
            segmenter, CaseInput(folder=toy_folder), Order(tmp_path / "out"), lambda stage, *_: stages.append(stage)
        )
    assert outcome.report is not None
    assert outcome.report.seconds.load > 0
    assert list(dict.fromkeys(stages)) == ["load", "normalise", "baseline", "refine", "decode", "write"]


@pytest.fixture
def cohort(tmp_path: Path, toy_folder: Path) -> Path:
    for name in ("A", "B", "C"):
        copy(toy_folder, tmp_path / "cohort" / name, name)
    return tmp_path / "cohort"


@pytest.mark.parametrize("error", [ValueError("surprise"), MemoryError(), ZeroDivisionError()])
@pytest.mark.parametrize("where", ["case.load_case", "case.save_result", "cohort.compute_case"])
def test_whatever_reading_computing_or_writing_a_case_raises_the_others_go_on(
    cohort: Path, toy_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    import importlib

    module = importlib.import_module(f"rediffinet.clinic.{where.partition('.')[0]}")
    real = getattr(module, where.partition(".")[2])
    calls = iter(range(10))

    def surprising(*arguments: Any, **named: Any) -> Any:
        if next(calls) == 1:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(module, where.partition(".")[2], surprising)
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        order = Order(tmp_path / "out", choice=OutputChoice(preview=False))
        outcomes = list(segment_cohort(segmenter, list_inputs(cohort), order))
    assert [outcome.report is not None for outcome in outcomes] == [True, False, True]
    assert outcomes[1].error is error
    assert outcomes[1].log == tmp_path / "out" / "B-error.log"
    assert type(error).__name__ in outcomes[1].log.read_text()
    assert "Traceback" in outcomes[1].log.read_text()
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        (again,) = segment_cohort(segmenter, [list_inputs(cohort)[1]], order)
    assert again.report is not None and not outcomes[1].log.exists()


def test_an_iterator_that_is_closed_leaves_whole_cases_only(cohort: Path, toy_bundle: Any, tmp_path: Path) -> None:
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        outcomes = segment_cohort(segmenter, list_inputs(cohort), Order(tmp_path / "out"))
        next(outcomes)
        outcomes.close()
    found = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = ("seg.nii.gz", "baseline.nii.gz", "preview.png", "report.json")
    cases = [name for name in "ABC" if f"{name}-report.json" in found]
    assert cases
    assert found == {f"{name}-{kind}" for name in cases for kind in kinds}


def again(segmenter: Segmenter, cohort: Path, order: Order) -> list[tuple[bool, tuple[str, ...]]]:
    return [(done.skipped, done.again) for done in segment_cohort(segmenter, list_inputs(cohort), order)]


def test_finished_cases_are_skipped_and_those_of_other_images_options_or_bundles_done_again(
    cohort: Path, toy_bundle: Any, make_toy_bundle: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    order = Order(out, choice=OutputChoice(preview=False), skip_existing=True)
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        assert again(segmenter, cohort, order) == [(False, ())] * 3
        assert again(segmenter, cohort, order) == [(True, ())] * 3
        (out / "B-seg.nii.gz").unlink()  # a report without its outputs is no finished case
        missing = (False, ("not all of its outputs are there and whole",))
        assert again(segmenter, cohort, order) == [(True, ()), missing, (True, ())]
        for path in out.glob("B-*"):
            path.unlink()
        assert again(segmenter, cohort, order) == [(True, ()), (False, ()), (True, ())]
        changed = nib.load(cohort / "C" / "C-t2f.nii.gz")
        nib.save(nib.Nifti1Image(np.asarray(changed.dataobj) * 2, changed.affine), cohort / "C" / "C-t2f.nii.gz")
        assert again(segmenter, cohort, order) == [(True, ()), (True, ()), (False, ("another t2f",))]
        seeded = replace(order, seed=3)
        assert again(segmenter, cohort, seeded) == [(False, ("seed 3 instead of 0",))] * 3
        assert again(segmenter, cohort, replace(seeded, options=SegmentOptions(steps=2))) == [(True, ())] * 3  # default
        other = replace(seeded, options=SegmentOptions(postprocess=False))
        assert again(segmenter, cohort, other) == [(False, ("postprocess False instead of True",))] * 3
        more = replace(other, choice=OutputChoice(preview=True))
        assert again(segmenter, cohort, more) == [(False, ("preview not written before",))] * 3
        assert again(segmenter, cohort, other) == [(True, ())] * 3  # more than what is asked for is there
    with Segmenter.open(make_toy_bundle(steep=7.0).path, threads=1) as segmenter:
        assert [len(why) for _, why in again(segmenter, cohort, other)] == [1, 1, 1]


def test_a_finished_case_says_what_skips_and_what_replaces_it(cohort: Path, toy_bundle: Any, tmp_path: Path) -> None:
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        segment_case(segmenter, CaseInput(folder=cohort / "A"), Order(tmp_path / "out"))
        with pytest.raises(OutputError, match=r"finished already.*`skip_existing=True`.*`overwrite=True`"):
            segment_case(segmenter, CaseInput(folder=cohort / "A"), Order(tmp_path / "out"))


@pytest.mark.parametrize("published", [(), ("X-seg.nii.gz",), ("X-seg.nii.gz", "X-baseline.nii.gz", "X-preview.png")])
def test_a_case_whose_writer_was_killed_between_two_renames_is_done_again(
    toy_folder: Path, toy_bundle: Any, tmp_path: Path, published: tuple[str, ...]
) -> None:
    """As SIGKILL leaves it: the hidden folder with the report, some of the files in their place, no report."""
    cohort, out = tmp_path / "cohort", tmp_path / "out"
    copy(toy_folder, cohort / "X", "X")
    order = Order(out, skip_existing=True)
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        expected = segment_case(segmenter, CaseInput(folder=cohort / "X"), order)
        hidden = out / ".rediffinet-abcd_123"
        hidden.mkdir()
        other = out / ".rediffinet-ijkl_456"
        other.mkdir()
        (other / "Y-seg.nii.gz").touch()  # of a shard that is at work
        (out / ".rediffinet-mnop_789").mkdir()  # of one that begins to write
        for path in list(out.glob("X-*")):
            if path.name not in published:
                path.rename(hidden / path.name)
        outcome = segment_case(segmenter, CaseInput(folder=cohort / "X"), order)
    assert outcome.report is not None and expected.report is not None
    assert not outcome.skipped
    assert outcome.report.volumes_ml == expected.report.volumes_ml
    assert sorted(path.name for path in out.glob(".*")) == [other.name, ".rediffinet-mnop_789"]
    tidy([], order, alone=True)  # nothing of cases that are not named
    tidy([CaseInput(folder=cohort / "X")], order, alone=True)
    assert [path.name for path in out.glob(".*")] == [other.name]


def test_a_reference_segmentation_is_not_taken_for_the_leftover_of_a_killed_run(
    toy_folder: Path, toy_bundle: Any
) -> None:
    (toy_folder / "toy-seg.nii.gz").write_bytes(b"reference")
    (toy_folder / ".rediffinet-abcdefgh").mkdir()  # a run that was killed before it had anything to publish
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter, pytest.raises(OutputError):
        segment_case(segmenter, CaseInput(folder=toy_folder), Order(toy_folder, skip_existing=True))
    assert (toy_folder / "toy-seg.nii.gz").read_bytes() == b"reference"


def test_the_table_is_whole_after_every_case_and_tells_each(cohort: Path, toy_bundle: Any, tmp_path: Path) -> None:
    (cohort / "B" / "B-t2w.nii.gz").unlink()
    inputs, out = list_inputs(cohort), tmp_path / "out"
    table = CohortTable(out, inputs)
    states = []
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        for given, outcome in zip(inputs, segment_cohort(segmenter, inputs, Order(out)), strict=True):
            table.add(given, outcome)
            table.write()
            rows = list(csv.DictReader((out / "cohort.csv").open(newline="")))
            assert [row["state"] for row in rows] == [
                row["state"] for row in json.loads(table.json.read_text())["cases"]
            ]
            states.append([row["state"] for row in rows])
    assert states == [
        ["done", "waiting", "waiting"],
        ["done", "failed", "waiting"],
        ["done", "failed", "done"],
    ]
    report = json.loads((out / "A-report.json").read_text())
    assert rows[0]["case"] == "A" and rows[0]["report"] == "A-report.json"
    assert float(rows[0]["TC_ml"]) == pytest.approx(report["volumes_ml"]["refined"]["TC"], abs=1e-3)
    assert "missing: t2w" in rows[1]["error"] and "\n" not in rows[1]["error"]
    lines = (out / "cohort.log").read_text().splitlines()
    assert [line.split("\t")[1:3] for line in lines] == [["A", "done"], ["B", "failed"], ["C", "done"]]


@pytest.mark.parametrize(
    ("name", "case", "cell"),
    [("=cmd|calc!A0", "=cmd|calc!A0", "'=cmd|calc!A0"), ("new\nline", "new%0Aline", "new%0Aline")],
)
def test_names_that_a_spreadsheet_or_a_terminal_would_follow(
    tmp_path: Path, toy_folder: Path, toy_bundle: Any, name: str, case: str, cell: str
) -> None:
    copy(toy_folder, tmp_path / "cohort" / name, name)
    inputs, out = list_inputs(tmp_path / "cohort"), tmp_path / "out"
    table = CohortTable(out, inputs)
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        for given, outcome in zip(inputs, segment_cohort(segmenter, inputs, Order(out)), strict=True):
            table.add(given, outcome)
    table.write()
    (row,) = csv.DictReader(table.csv.open(newline=""))
    assert (row["state"], row["case"]) == ("done", cell)
    assert json.loads(table.json.read_text())["cases"][0]["case"] == case
    assert len(table.log.read_text().splitlines()) == 1
    assert (out / f"{case}-seg.nii.gz").is_file()


def test_the_table_has_a_column_for_every_region_of_the_task(tmp_path: Path) -> None:
    table = CohortTable(tmp_path, [CaseInput(folder=tmp_path / "X", task=TASKS["pediatric-2024"])])
    header = table.csv.read_text().splitlines()[0].split(",")
    assert header[:6] == ["case", "state", "WT_ml", "TC_ml", "CC_ml", "ET_ml"]


def test_shards_share_a_cohort_without_overlap() -> None:
    inputs = [CaseInput(folder=Path(str(number))) for number in range(11)]
    shares = [Shard.parse(f"{index}/4").of(inputs) for index in (1, 2, 3, 4)]
    assert sorted((given.source for share in shares for given in share), key=int) == [str(n) for n in range(11)]
    assert [len(share) for share in shares] == [3, 3, 3, 2]
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4"):
        with pytest.raises(ConfigError, match="i/N"):
            Shard.parse(text)


def test_a_mask_whose_labels_mean_something_else_now_is_refined_again(
    toy_bundle: Any, toy_folder: Path, tmp_path: Path
) -> None:
    shape = nib.load(toy_folder / "toy-t1n.nii.gz").shape
    labels = np.zeros(shape, np.uint8)
    labels[8:16, 8:16, 8:16] = 1
    labels[10:14, 10:14, 10:14] = 2
    nib.save(nib.Nifti1Image(labels, nib.load(toy_folder / "toy-t1n.nii.gz").affine), tmp_path / "mask.nii.gz")
    given = CaseInput(folder=toy_folder)
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        for name, again in (
            ("glioma-2023", ()),
            ("glioma-2023", ()),
            ("glioma-decathlon", ("labels glioma-decathlon instead of glioma-2023",)),
        ):
            task = find_task(name)
            order = Order(tmp_path / "out", mask=tmp_path / "mask.nii.gz", mask_labels=task, skip_existing=True)
            outcome = segment_case(segmenter, given, order)
            assert outcome.again == again
            assert outcome.report is not None and outcome.report.baseline.labels == name


@pytest.mark.parametrize(("index", "count"), [(0, 4), (5, 4), (1, 0)])
def test_a_share_that_there_is_not(index: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"got '{index}/{count}', expected i/N"):
        Shard(index, count)


@pytest.mark.parametrize("stray", ["IM0001", "A/IM0001", "D/IM0001", "D/series 3/IM0001.dcm"])
def test_dicom_among_the_cases_of_a_cohort_is_refused_before_it_is_read_as_one_examination(
    tmp_path: Path, cohort_of: Any, toy_bundle: Any, rediff: Any, stray: str
) -> None:
    cohort = cohort_of("ABC")
    file = cohort / stray
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(128) + b"DICM" + bytes(100))
    options = ("--bundle", toy_bundle.path, "-o", tmp_path / "out", "--prepare")
    done = rediff("segment", cohort, *options)
    assert done.code == 2
    assert f"DICOM ({stray})" in done.err and "NIfTI (case folders: " in done.err and "move the DICOM out" in done.err
    assert not (tmp_path / "out").exists()


def test_images_that_belong_to_an_examination_in_dicom_make_no_cohort(tmp_path: Path, toy_folder: Path) -> None:
    """A mask beside it, images among its files, and what was prepared of it before."""
    study = tmp_path / "study"
    (study / "series").mkdir(parents=True)
    (study / "series" / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(100))
    shutil.copy(toy_folder / "toy-t1c.nii.gz", study / "mask.nii.gz")
    shutil.copy(toy_folder / "toy-t1c.nii.gz", study / "series" / "t1c.nii.gz")
    (copy(toy_folder, study / "X-prepared", "X") / "X-preparation.json").write_text("{}")
    copy(toy_folder, study / "out", "X")
    check_one_kind(study, apart=[study / "out"])
    with pytest.raises(ConfigError, match="such as out"):
        check_one_kind(study)
    check_one_kind(tmp_path / "absent")
    check_one_kind(toy_folder)
