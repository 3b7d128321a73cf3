"""Folders as people keep them: which cases are in them, and what each is called."""

import os
import sys
from pathlib import Path

import pytest

from rediffinet.errors import CaseError, OutputError
from rediffinet.io.cases import Case, load_case
from rediffinet.io.naming import case_name, find_cases, find_contrasts, find_labels, printable
from rediffinet.io.outputs import OutputChoice, check_output, save_result
from rediffinet.report import Report
from rediffinet.segmenter import Segmenter

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

NNUNET = tuple(f"_000{number}" for number in range(4))
NEW = tuple(f"-{contrast}" for contrast in CONTRASTS)
OLD = ("_t1", "_t1ce", "_t2", "_flair")


def fill(folder: Path, *names: str, endings: tuple[str, ...] = NEW) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for ending in endings:
            (folder / f"{name}{ending}.nii.gz").touch()
    return folder


def cases(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_cases(folder)]


@pytest.mark.parametrize("endings", [NNUNET, NEW, OLD], ids=["nnU-Net", "2023", "2021"])
def test_a_flat_folder_of_many_cases_is_a_cohort(tmp_path: Path, endings: tuple[str, ...]) -> None:
    fill(tmp_path, "P1", "P2", "BRATS_003", endings=endings)
    (tmp_path / "dataset.json").touch()
    assert cases(tmp_path) == ["BRATS_003", "P1", "P2"]
    channels = CONTRASTS if endings is NNUNET else None
    for case in find_cases(tmp_path):
        found = find_contrasts(case, channels)
        assert [path.name for path in found.values()] == [f"{case.name}{ending}.nii.gz" for ending in endings]
        assert case_name(found, case) == case.name
        assert find_cases(case) == [case]


def test_a_case_of_a_flat_folder_that_lacks_a_contrast_is_listed_with_the_others(tmp_path: Path) -> None:
    fill(tmp_path, "P1", "P2")
    (tmp_path / "P3-t1n.nii.gz").touch()
    assert cases(tmp_path) == ["P1", "P2", "P3"]
    with pytest.raises(CaseError, match="missing: t1c, t2w, t2f"):
        find_contrasts(tmp_path / "P3")


def test_names_of_which_one_begins_the_other(tmp_path: Path) -> None:
    fill(tmp_path, "P1", "P1-2", "P1_2", "P11")
    assert cases(tmp_path) == ["P1", "P1-2", "P11", "P1_2"]
    assert find_contrasts(tmp_path / "P1")["t1n"].name == "P1-t1n.nii.gz"
    assert find_contrasts(tmp_path / "P1-2")["t1n"].name == "P1-2-t1n.nii.gz"


def test_a_folder_of_outputs_named_like_a_case_of_a_flat_folder(tmp_path: Path) -> None:
    fill(tmp_path, "P1", "P2")
    fill(tmp_path / "P1", "P1", endings=("-seg", "-baseline"))
    assert cases(tmp_path) == ["P1", "P2"]
    assert find_contrasts(tmp_path / "P1")["t1n"] == tmp_path / "P1-t1n.nii.gz"


def test_labels_of_a_flat_folder_are_those_of_the_case(tmp_path: Path) -> None:
    fill(tmp_path, "P1", "P2", endings=(*NEW, "-seg"))
    assert find_labels(tmp_path / "P2") == tmp_path / "P2-seg.nii.gz"


def test_a_flat_folder_taken_for_one_case_says_how_to_name_one(tmp_path: Path) -> None:
    fill(tmp_path, "P1", "P2")
    with pytest.raises(CaseError, match=f"2 cases lie together here: name one of them as {tmp_path}/P1"):
        find_contrasts(tmp_path)


@pytest.mark.parametrize("loose", [("-t1n",), ("-t1c", "-t2f"), ("_0000",), ("_flair", "-seg")])
@pytest.mark.parametrize("name", ["atlas", "P1", "stray"])
def test_loose_images_beside_case_folders_hide_none(tmp_path: Path, loose: tuple[str, ...], name: str) -> None:
    for case in ("P1", "P2", "P3"):
        fill(tmp_path / case, case)
    fill(tmp_path, name, endings=loose)
    assert cases(tmp_path) == ["P1", "P2", "P3"]


def test_a_whole_case_beside_case_folders_is_one_of_them(tmp_path: Path) -> None:
    fill(fill(tmp_path, "P0") / "P1", "P1")
    fill(tmp_path / "P2", "P2")
    assert cases(tmp_path) == ["P0", "P1", "P2"]


@pytest.mark.parametrize("inside", ["P1", "scan"])
def test_a_folder_of_the_same_case_inside_it_is_no_other_case(tmp_path: Path, inside: str) -> None:
    fill(fill(tmp_path / "P1", "P1") / "raw", "P1")
    for ending in ("t1n", "t2f"):  # files that carry no case's name
        (tmp_path / "P1" / inside).mkdir(exist_ok=True)
        (tmp_path / "P1" / inside / f"{ending}.nii.gz").touch()
    assert find_cases(tmp_path / "P1") == [tmp_path / "P1"]


def test_files_without_a_case_name_make_their_folder_the_case(tmp_path: Path) -> None:
    for contrast in CONTRASTS:
        (fill(tmp_path / "P7") / f"{contrast}.nii").touch()
    assert find_cases(tmp_path / "P7") == [tmp_path / "P7"]
    assert case_name(find_contrasts(tmp_path / "P7"), tmp_path / "P7") == "P7"


@pytest.mark.parametrize("name", ["scan_2019.nii.gz", "P1_0004.nii.gz", "notes.txt", ".P1-t1n.nii.gz"])
def test_other_files_are_no_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    fill(tmp_path / "P2", "P2")
    assert cases(tmp_path) == ["P2"]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may list every folder")
def test_a_folder_that_may_not_be_listed_is_told_and_hides_none(tmp_path: Path) -> None:
    fill(tmp_path / "P1", "P1")
    fill(tmp_path / "P2", "P2").chmod(0)
    assert cases(tmp_path) == ["P1", "P2"]


# --- names ---


@pytest.mark.parametrize("below", ["", ".", "../link"])
def test_a_case_behind_a_link_is_named_after_the_link(tmp_path: Path, below: str) -> None:
    store = tmp_path / "store" / "0815"
    store.mkdir(parents=True)
    for contrast in CONTRASTS:
        (store / f"{contrast}.nii.gz").touch()
    (tmp_path / "link").symlink_to(store, target_is_directory=True)
    link = tmp_path / "link"
    assert case_name(find_contrasts(link), link / below if below != "../link" else link) == "link"


def test_files_behind_links_are_named_after_the_links(tmp_path: Path) -> None:
    for number, contrast in enumerate(CONTRASTS):
        (tmp_path / f"blob{number}").touch()
        (fill(tmp_path / "P1") / f"P1-{contrast}.nii.gz").symlink_to(tmp_path / f"blob{number}")
    assert case_name(find_contrasts(tmp_path / "P1"), tmp_path / "P1") == "P1"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("Größe – 大脑", "Größe – 大脑"),
        ("a\udcffb", "a%FFb"),
        ("\udce4\udcb8", "%E4%B8"),
        ("a\nb\x1b[31m", "a%0Ab%1B[31m"),
    ],
)
def test_what_cannot_be_encoded_or_shown_is_written_in_percent(name: str, shown: str) -> None:
    assert printable(name) == shown
    shown.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes on Linux only")
def test_a_path_that_cannot_be_encoded_gets_its_report(tmp_path: Path, toy_bundle, toy_case: Case) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    toy_case.save(folder)
    for path in folder.iterdir():
        path.rename(folder / path.name.replace("toy", os.fsdecode(b"M\xfcller")))
    case = load_case(folder)
    assert case.name == "M%FCller"
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        saved = save_result(segmenter.segment(case), folder / "out", OutputChoice(preview=True))
    report = Report.model_validate_json(saved.paths["report"].read_bytes())
    assert report.case == "M%FCller" and "caf%E9" in report.inputs[0].path
    assert all(path.is_file() for path in saved.paths.values())


@pytest.mark.parametrize("letter", ["x", "ü", "脑"])
def test_a_case_name_longer_than_the_file_system_takes_is_refused_before_the_work(tmp_path: Path, letter: str) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX") - len("-probabilities.nii.gz")
    size = len(letter.encode())
    check_output(tmp_path, letter * (most // size), OutputChoice())
    with pytest.raises(OutputError, match=f"too long for its outputs.*at most {most} bytes"):
        check_output(tmp_path, letter * (most // size + 1), OutputChoice())
    assert list(tmp_path.iterdir()) == []


def test_a_path_longer_than_the_system_takes_is_refused_before_the_work(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 21)
    with pytest.raises(OutputError, match="shorter path|too long"):
        check_output(deep, "X", OutputChoice())


def test_an_output_folder_with_a_name_that_is_none(tmp_path: Path) -> None:
    for folder in (tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match="output folder"):
            check_output(folder, "X", OutputChoice())
