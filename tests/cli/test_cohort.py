"""`rediff segment COHORT` as people start it: odd folders, ends in the middle, second starts, disks that are full."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

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
