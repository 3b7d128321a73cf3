"""`rediff segment COHORT` as people start it: odd folders, ends in the middle, second starts, disks that are full."""

import csv
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rediffinet.clinic.cohort import Order, list_inputs, segment_cohort
from rediffinet.clinic.inputs import Shard
from rediffinet.clinic.table import open_table
from rediffinet.errors import OutputError
from rediffinet.segmenter import Segmenter

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture
def options(toy_bundle: Any) -> tuple[Any, ...]:
    return "--bundle", toy_bundle.path, "--engine", "onnxruntime", "--threads", 1, "--no-preview"


@pytest.fixture
def cohort(tmp_path: Path, toy_folder: Path) -> Path:
    for name in ("A", "B", "C"):
        folder = tmp_path / "cohort" / name
        folder.mkdir(parents=True)
        for contrast in CONTRASTS:
            shutil.copy(toy_folder / f"toy-{contrast}.nii.gz", folder / f"{name}-{contrast}.nii.gz")
    return tmp_path / "cohort"


def rows(out: Path, name: str = "cohort.csv") -> dict[str, dict[str, str]]:
    with (out / name).open(newline="") as stream:
        return {row["case"]: row for row in csv.DictReader(stream)}


def states(out: Path, name: str = "cohort.csv") -> dict[str, str]:
    return {case: row["state"] for case, row in rows(out, name).items()}


def test_folders_whose_images_have_unknown_names_fail_and_those_without_images_are_named(
    rediff: Any, cohort: Path, options: Any
) -> None:
    (cohort / "B" / "B-t1n.nii.gz").rename(cohort / "B" / "first.nii.gz")
    for contrast in CONTRASTS[1:]:
        (cohort / "B" / f"B-{contrast}.nii.gz").unlink()
    for name, file in {"deep": "scan/T1.nii", "dicom": "IM1", "nrrd": "x.nrrd"}.items():
        path = cohort / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(128) + b"DICM")
    (cohort / "logs").mkdir()
    (cohort / "logs" / "run.txt").touch()
    (cohort / "labels").mkdir()
    (cohort / "labels" / "A_seg.nii.gz").touch()
    (cohort / ".hidden").mkdir()
    out = cohort / "out"  # the outputs are no case, at the second start neither
    for again in ((), ("--skip-existing",)):
        done = rediff("segment", cohort, "-o", out, *options, *again)
        assert done.code == 3
        assert states(out) == {"A": "done", "B": "failed", "C": "done"} | dict.fromkeys(
            ("deep", "dicom", "nrrd"), "failed"
        )
        found = rows(out)
        assert "first.nii.gz" in found["B"]["error"]
        assert str(Path("scan/T1.nii")) in found["deep"]["error"]
        for name in ("logs", "labels"):
            assert f"{cohort / name}: holds no image and is no case\n" in done.err
        assert f"{out}:" not in done.err
        assert "Traceback" not in done.err


def test_raw_scans_under_names_of_which_none_is_known(tmp_path: Path) -> None:
    from rediffinet.prepare.names import list_raw

    for name in ("P1", "P2"):
        (tmp_path / name).mkdir()
        for sequence in ("T1_MPRAGE", "T1_MPRAGE_gd", "T2_TSE", "FLAIR_axial"):
            (tmp_path / name / f"{sequence}.nii.gz").touch()
    (tmp_path / "P2" / "FLAIR_axial.nii.gz").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "P0").mkdir()
    (tmp_path / "P0" / "P0-t1n.nii.gz").touch()
    listed, empty = list_raw(tmp_path)
    assert [(folder.name, found is not None) for folder, found in listed] == [
        ("P0", False),
        ("P1", True),
        ("P2", False),
    ]
    assert [folder.name for folder in empty] == ["empty"]


def test_after_any_end_the_table_begins_with_what_the_reports_tell(
    rediff: Any, cohort: Path, options: Any, toy_bundle: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:  # killed: two reports and no table
        list(segment_cohort(segmenter, list_inputs(cohort)[:2], Order(out)))
    reports = [json.loads((out / f"{name}-report.json").read_text()) for name in "AB"]
    with pytest.raises(KeyboardInterrupt), open_table(list_inputs(cohort), Order(out, skip_existing=True)):
        assert states(out) == {"A": "done", "B": "done", "C": "waiting"}
        (out / "cohort.csv").unlink()
        raise KeyboardInterrupt
    assert [float(rows(out)[name]["seconds"]) for name in "AB"] == [
        pytest.approx(report["seconds"]["total"], abs=0.01) for report in reports
    ]
    assert json.loads((out / "cohort.json").read_text())["counts"] == {"waiting": 1, "done": 2, "failed": 0}


def test_what_is_finished_at_the_end_is_in_the_table_though_nobody_told_it(
    cohort: Path, toy_bundle: Any, tmp_path: Path
) -> None:
    out, inputs = tmp_path / "out", list_inputs(cohort)
    with pytest.raises(KeyboardInterrupt), open_table(inputs, Order(out)):
        with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
            list(segment_cohort(segmenter, inputs[:1], Order(out)))
        raise KeyboardInterrupt
    assert states(out) == {"A": "done", "B": "waiting", "C": "waiting"}


def test_a_second_start_without_a_word_on_what_is_finished_changes_nothing(
    rediff: Any, cohort: Path, options: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert rediff("segment", cohort, "-o", out, *options).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    done = rediff("segment", cohort, "-o", out, *options)
    assert done.code == 2
    assert "3 of 3 cases are finished already" in done.err and "A, B, C" in done.err
    assert "--skip-existing" in done.err and "--overwrite" in done.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert rediff("segment", cohort, "-o", out, *options, "--overwrite").code == 0


def test_two_cases_of_one_name_are_one_that_is_finished(
    rediff: Any, cohort: Path, options: Any, tmp_path: Path
) -> None:
    shutil.rmtree(cohort / "C")
    shutil.rmtree(cohort / "B")
    shutil.copytree(cohort / "A", cohort / "B")
    command = ("segment", cohort, "-o", tmp_path / "out", *options)
    assert rediff(*command).code == 3
    for more, said in (((), "1 of 2 cases are finished already"), (("--skip-existing",), "both named A")):
        done = rediff(*command, *more)
        assert said in done.err
        with (tmp_path / "out" / "cohort.csv").open(newline="") as stream:
            assert [row["state"] for row in csv.DictReader(stream)] == ["done", "failed"]


def test_the_rows_of_another_cohort_stay_as_long_as_its_reports(
    rediff: Any, cohort: Path, options: Any, toy_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert rediff("segment", cohort, "-o", out, *options).code == 0
    for path in out.glob("B-*"):
        path.unlink()
    for name in "DE":
        shutil.copytree(toy_folder, tmp_path / "more" / name)
        for path in (tmp_path / "more" / name).iterdir():
            path.rename(path.with_name(path.name.replace("toy", name)))
    assert rediff("segment", tmp_path / "more", "-o", out, *options).code == 0
    assert states(out) == dict.fromkeys("DEAC", "done")


@pytest.mark.parametrize("damage", ["empty", "truncated", "gone"])
def test_a_label_map_that_is_not_whole_is_made_again(
    rediff: Any, cohort: Path, options: Any, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    assert rediff("segment", cohort, "-o", out, *options).code == 0
    path = out / "B-seg.nii.gz"
    whole, others = path.read_bytes(), (out / "A-seg.nii.gz").stat().st_mtime_ns
    path.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    if damage == "gone":
        path.unlink()
    done = rediff("segment", cohort, "-o", out, *options, "--skip-existing")
    assert done.code == 0
    assert "B: was finished, done again: not all of its outputs" in done.err
    assert path.read_bytes() == whole
    assert (out / "A-seg.nii.gz").stat().st_mtime_ns == others


@pytest.mark.parametrize("told", [True, False])
def test_a_label_map_that_a_person_saved_again_is_left_alone(
    rediff: Any, cohort: Path, options: Any, tmp_path: Path, told: bool
) -> None:
    """told: whether the report has the sizes, which those of earlier versions have not."""
    out = tmp_path / "out"
    assert rediff("segment", cohort, "-o", out, *options).code == 0
    report = json.loads((out / "B-report.json").read_text())
    assert report["output_bytes"] == {kind: (out / file).stat().st_size for kind, file in report["outputs"].items()}
    hashes = {kind: hashlib.sha256((out / file).read_bytes()).hexdigest() for kind, file in report["outputs"].items()}
    assert report["output_sha256"] == hashes
    if not told:
        del report["output_bytes"], report["output_sha256"]
        (out / "B-report.json").write_text(json.dumps(report))
    path = out / "B-seg.nii.gz"
    path.write_bytes(edited := gzip.compress(gzip.decompress(path.read_bytes()), 0))
    done = rediff("segment", cohort, "-o", out, *options, "--skip-existing")
    assert done.code == 0 and "B: finished before, skipped" in done.err
    assert path.read_bytes() == edited


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("broken", "code"), [("", 3), ("ABC", 2)])
def test_a_disk_that_is_full_when_the_log_is_written(
    rediff: Any, cohort: Path, options: Any, tmp_path: Path, broken: str, code: int
) -> None:
    for name in broken:
        (cohort / name / f"{name}-t2w.nii.gz").unlink()
    out = tmp_path / "out"
    out.mkdir()
    (out / "cohort.log").symlink_to("/dev/full")
    done = rediff("segment", cohort, "-o", out, *options)
    assert done.code == code
    assert "cohort.log: No space left on device" in done.err and "Traceback" not in done.err
    finished = "" if broken else "A"
    assert [name for name, state in states(out).items() if state == "done"][:1] == list(finished)
    assert not list(out.glob(".*"))
    (out / "cohort.log").unlink()
    assert rediff("segment", cohort, "-o", out, *options, "--skip-existing").code == (3 if broken else 0)


@pytest.mark.parametrize("name", ["cohort.csv", "cohort.json"])
def test_a_disk_that_is_full_when_the_table_is_written(
    rediff: Any, cohort: Path, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from rediffinet.clinic import table

    real, calls = table.write_atomically, iter(range(100))

    def full(path: Path, content: bytes, **more: Any) -> None:
        if path.name == name and next(calls) >= 1:
            raise OutputError(f"Cannot write {path}: No space left on device.")
        real(path, content, **more)

    monkeypatch.setattr(table, "write_atomically", full)
    out = tmp_path / "out"
    done = rediff("segment", cohort, "-o", out, *options)
    assert done.code == 3
    assert f"{name}: No space left on device" in done.err and "Traceback" not in done.err
    assert set(states(out).values()) == {"waiting"} or name == "cohort.json"  # the one before, whole


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_line_of_the_log_that_does_not_fit_leaves_no_half(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from rediffinet.clinic.case import Outcome
from rediffinet.clinic.inputs import CaseInput
from rediffinet.clinic.table import CohortTable
from rediffinet.errors import CaseError, OutputError

given = CaseInput(folder=Path(sys.argv[1]) / "X", given="X")
table = CohortTable(Path(sys.argv[1]), [given])
table.add(given, Outcome("X", error=CaseError("first")))
size = table.log.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, size + 5))
try:
    table.add(given, Outcome("X", error=CaseError("second")))
except OutputError as error:
    sys.exit(7 if table.log.stat().st_size == size else 8)
"""
    assert subprocess.run([sys.executable, "-c", program, tmp_path], timeout=120).returncode == 7


def test_a_second_run_of_the_same_share_is_refused(rediff: Any, cohort: Path, options: Any, tmp_path: Path) -> None:
    out, inputs = tmp_path / "out", list_inputs(cohort)
    order, command = Order(out, skip_existing=True), ("segment", cohort, "-o", out, *options, "--skip-existing")
    half = Shard(1, 2)
    for shard, refused, taken in (
        (Shard(), ((), ("--shard", "1/2"), ("--processes", 2)), ()),
        (half, ((), ("--shard", "1/2")), (("--shard", "2/2"),)),
    ):
        with open_table(shard.of(inputs), order, shard):
            for more in refused:
                done = rediff(*command, *more)
                assert done.code == 2
                assert f"works in {out} already (process {os.getpid()} on " in done.err
            for more in taken:
                assert rediff(*command, *more).code == 0
    assert rediff(*command).code == 0
    assert not list(out.glob(".*"))
