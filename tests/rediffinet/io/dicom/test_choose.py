"""Which series is which contrast: names and tags as scanners write them, and what must not be guessed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.errors import CaseError
from rediffinet.io.dicom.choose import choose_series, guess
from rediffinet.io.dicom.files import Series
from rediffinet.io.dicom.study import read_study, study_name

pydicom = pytest.importorskip("pydicom", reason="needs the extra [dicom]")


def series(description: str, number: int = 1, problem: str = "", **tags: Any) -> Series:
    header = pydicom.Dataset()
    header.SeriesDescription, header.SeriesNumber, header.NumberOfFrames = description, number, 30
    for keyword, value in tags.items():
        setattr(header, keyword, value)
    return Series(f"1.2.{number}", (header,), (), problem)


T1 = {"RepetitionTime": 500, "EchoTime": 9}
T2 = {"RepetitionTime": 5000, "EchoTime": 100}
FLAIR = {"RepetitionTime": 9000, "EchoTime": 120, "InversionTime": 2500}


@pytest.mark.parametrize(
    ("description", "tags", "contrast"),
    [
        ("t1_mprage_sag", T1, "t1n"),
        ("AX T1 PRE", T1, "t1n"),
        ("T1 nativ tra", T1, "t1n"),
        ("AX T1 POST GAD", T1, "t1c"),
        ("t1_tse_tra_KM", T1, "t1c"),
        ("T1 SE +C", T1, "t1c"),
        ("3D BRAVO", {**T1, "ContrastBolusAgent": "Gadavist"}, "t1c"),
        ("3D BRAVO", {**T1, "ContrastBolusAgent": "none"}, "t1n"),
        ("AX T1 FLAIR", {**T1, "InversionTime": 860}, "t1n"),
        ("t2_tse_tra", T2, "t2w"),
        ("AX T2 PROPELLER", T2, "t2w"),
        ("AX T2 FLAIR", FLAIR, "t2f"),
        ("t2_tirm_tra_dark-fluid", FLAIR, "t2f"),
        ("T2W_FLAIR", {"RepetitionTime": 9000, "EchoTime": 120}, "t2f"),
        ("AX T2 FLAIR", {**FLAIR, "InversionTime": 400}, None),
        ("AX T2 FLAIR", {**T2, "ScanningSequence": "SE"}, None),
        ("T2 TSE", FLAIR, None),
        ("WIP 301", FLAIR, "t2f"),
        ("WIP 302", T2, "t2w"),
        ("WIP 303", T1, "t1n"),
        ("WIP 304", {}, None),
        ("T1 pre", {**T1, "ContrastBolusAgent": "Gadavist"}, None),
        ("ep2d_diff_3scan_trace_ADC", {}, None),
        ("t2_fl2d_tra_hemo", {}, None),
        ("localizer", T1, None),
        ("DSC perfusion T2*", {}, None),
    ],
)
def test_guesses(description: str, tags: dict[str, Any], contrast: str | None) -> None:
    assert guess(series(description, **tags)).contrast == contrast


FOUR = [
    series("t1 tse", 2, **T1),
    series("t1 tse km", 3, **T1),
    series("t2 tse", 4, **T2),
    series("flair", 5, **FLAIR),
]


def test_four_clear_series() -> None:
    chosen = choose_series([*FOUR, series("dwi b=1000", 6), series("t1 tse", 7, problem="one slice")])
    assert {contrast: one.number for contrast, one in chosen.items()} == {"t1n": 2, "t1c": 3, "t2w": 4, "t2f": 5}


def test_two_candidates_are_refused_with_a_table_and_the_flag_that_decides() -> None:
    double = [*FOUR, series("t1 mprage km", 8, **T1)]
    with pytest.raises(CaseError) as caught:
        choose_series(double)
    message = str(caught.value)
    assert "t1c: series 3, 8" in message
    assert "`t1c=NUMBER`" in message
    assert message.count("t1 mprage km") == 1
    for given in ("8", "1.2.8", "t1 mprage km"):
        assert choose_series(double, {"t1c": given})["t1c"].number == 8


def test_none_is_refused_and_can_be_named() -> None:
    with pytest.raises(CaseError, match="t2f: none"):
        choose_series(FOUR[:3])
    odd = [*FOUR[:3], series("WIP 9", 9)]
    assert choose_series(odd, {"t2f": "9"})["t2f"].number == 9
    with pytest.raises(CaseError, match="fits 0 series"):
        choose_series(FOUR, {"t2f": "77"})


def test_one_contrast_may_be_absent_where_that_is_allowed() -> None:
    assert set(choose_series(FOUR[:3], allow_missing=True)) == {"t1n", "t1c", "t2w"}
    with pytest.raises(CaseError, match="t2w: none; t2f: none"):
        choose_series(FOUR[:2], allow_missing=True)
    with pytest.raises(CaseError, match="t1c: series 3, 8"):  # two are no absence
        choose_series([*FOUR, series("t1 mprage km", 8, **T1)], allow_missing=True)
    with pytest.raises(CaseError, match="t1c: series 3, 8; t2f: none"):
        choose_series([*FOUR[:3], series("t1 mprage km", 8, **T1)], allow_missing=True)


def test_several_studies_are_refused_with_a_table_and_the_flag_that_decides(single: Any, tmp_path: Path) -> None:
    voxels = np.ones((8, 8, 4))
    for number, contrast in enumerate(("t1n", "t1c", "t2w", "t2f"), 1):
        single(tmp_path / "a", voxels, np.eye(4), contrast, number, StudyInstanceUID="1.2.1", StudyDate="20250301")
    single(tmp_path / "b", voxels, np.eye(4), "t1n", 7, StudyInstanceUID="1.2.2", StudyDate="20250310")
    with pytest.raises(CaseError) as caught:
        read_study(tmp_path)
    message = str(caught.value)
    names = {folder: study_name(tmp_path / folder) for folder in ("a", "b")}
    for said in ("2 studies", *names.values(), "`study=NAME`", "1 × t1n, 1 × t1c, 1 × t2w, 1 × t2f", "  9  "):
        assert said in message
    assert "2025" not in message
    for which in ("1.2.1", names["a"]):
        found = read_study(tmp_path, study=which)
        assert found.name == names["a"]
        assert {contrast: stack.series.number for contrast, stack in found.stacks.items()} == {
            "t1n": 1,
            "t1c": 2,
            "t2w": 3,
            "t2f": 4,
        }
    with pytest.raises(CaseError, match="no study 9"):
        read_study(tmp_path, study="9")


def test_series_of_several_frames_of_reference_are_refused_unless_named(single: Any, tmp_path: Path) -> None:
    for number, contrast in enumerate(("t1n", "t1c", "t2w", "t2f"), 1):
        frame = "1.2.77" if contrast == "t2f" else "1.2.76"
        single(tmp_path, np.ones((8, 8, 4)), np.eye(4), contrast, number, FrameOfReferenceUID=frame)
    with pytest.raises(CaseError) as caught:
        read_study(tmp_path)
    assert "2 frames of reference" in str(caught.value)
    assert "name them: `t2f=4`." in str(caught.value)
    assert "1.2.7" not in str(caught.value)
    assert set(read_study(tmp_path, {"t2f": "4"}).volumes) == {"t1n", "t1c", "t2w", "t2f"}
