"""A corrected label map and its entry."""

import gzip
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from rediffinet.clinic.viewer.corrections import Origin, read_corrections, save_correction
from rediffinet.clinic.viewer.scene import open_scene, read_report
from rediffinet.errors import CaseError, ChangedError, LabelError, OutputError, TooManyError


def packed(labels: np.ndarray) -> bytes:
    return gzip.compress(labels.astype(np.uint8).tobytes(order="F"))


def changed(labels: np.ndarray) -> np.ndarray:
    """Two voxels of the corner, of which no case has any tumour, become enhancing and edema."""
    other = labels.copy()
    assert not other[0, :2, 0].any()
    other[0, :2, 0] = (3, 2)
    return other


def save(segmented: Any, labels: np.ndarray, origin: str = "toy-seg.nii.gz", **about: str) -> Any:
    report = read_report(segmented.output("report.json"))
    begun = drawn_on(segmented, origin)
    return save_correction(segmented.out, report, begun, packed(labels), **{"who": "A. Reader", **about})


def drawn_on(segmented: Any, name: str = "toy-seg.nii.gz") -> Origin:
    path = segmented.out / name
    content = path.read_bytes() if path.is_file() else b""
    return Origin(file=name, sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("axes", ["LPS", "RAS", "ASR"])
def test_a_correction_is_a_map_of_the_same_grid(make_segmented: Any, axes: str) -> None:
    segmented = make_segmented(axes)
    before = segmented.output("seg.nii.gz").read_bytes()
    want = changed(segmented.labels())
    entry = save(segmented, want, note="  two voxels ")
    saved, seg = nib.load(segmented.out / entry.file), nib.load(segmented.output("seg.nii.gz"))
    np.testing.assert_array_equal(np.asanyarray(saved.dataobj), want)
    np.testing.assert_array_equal(saved.affine, seg.affine)
    assert saved.get_data_dtype() == np.uint8
    assert entry.file == "toy-corrected-1.nii.gz"
    assert segmented.output("seg.nii.gz").read_bytes() == before


def test_the_entry_says_who_when_and_from_what(segmented: Any) -> None:
    started = datetime.now(UTC).replace(microsecond=0)
    save(segmented, changed(segmented.labels()), who="  A.\n Reader", note="two voxels")
    entry = json.loads((segmented.out / "toy-corrected-1.json").read_text())
    assert entry["who"] == "A. Reader"
    assert entry["note"] == "two voxels"
    assert started <= datetime.fromisoformat(entry["when"]) <= datetime.now(UTC)
    for name, of in ((entry["from"]["file"], entry["from"]), (entry["file"], entry)):
        assert hashlib.sha256((segmented.out / name).read_bytes()).hexdigest() == of["sha256"]
    assert entry["changed_voxels"] == 2
    gained = {name: entry["volumes_ml"]["after"][name] - ml for name, ml in entry["volumes_ml"]["before"].items()}
    assert gained == pytest.approx({"WT": 0.002, "TC": 0.001, "ET": 0.001}, abs=1e-9)


def test_corrections_are_numbered_and_can_follow_one_another(segmented: Any) -> None:
    first = save(segmented, changed(segmented.labels()))
    second = save(segmented, segmented.labels(), origin=first.file)
    assert (second.file, second.changed_voxels) == ("toy-corrected-2.nii.gz", 2)
    assert [entry.file for entry in read_corrections(segmented.out, "toy")] == [first.file, second.file]
    (segmented.out / "toy-corrected-1.json").unlink()
    (segmented.out / first.file).unlink()
    assert save(segmented, segmented.labels()).file == "toy-corrected-3.nii.gz"


def test_a_map_without_its_entry_is_never_written_over(segmented: Any) -> None:
    left = segmented.out / "toy-corrected-1.nii.gz"
    left.write_bytes(b"by hand")
    assert save(segmented, segmented.labels()).file == "toy-corrected-2.nii.gz"
    assert left.read_bytes() == b"by hand"


def test_a_correction_of_an_earlier_result_is_told(segmented: Any) -> None:
    entry = save(segmented, changed(segmented.labels()))
    assert [one["current"] for one in open_scene(segmented.out).to_dict()["corrections"]] == [True]
    again = nib.load(segmented.output("seg.nii.gz"))
    nib.save(nib.Nifti1Image(np.zeros(again.shape, np.uint8), again.affine), segmented.output("seg.nii.gz"))
    told = open_scene(segmented.out).to_dict()["corrections"]
    assert [(one["file"], one["current"]) for one in told] == [(entry.file, False)]


def test_a_correction_of_the_baseline_is_of_this_result(segmented: Any) -> None:
    save(segmented, segmented.labels("baseline.nii.gz"), origin="toy-baseline.nii.gz")
    assert [one["current"] for one in open_scene(segmented.out).to_dict()["corrections"]] == [True]


def test_a_map_that_was_written_again_since_it_was_drawn_on(segmented: Any, segment_again: Any) -> None:
    first = save(segmented, changed(segmented.labels()))
    begun = {name: drawn_on(segmented, name) for name in ("toy-seg.nii.gz", "toy-baseline.nii.gz", first.file)}
    drawn = packed(changed(segmented.labels()))
    segment_again(segmented)
    for name in (first.file, "toy-corrected-1.json"):
        (segmented.out / name).unlink()
    report = read_report(segmented.output("report.json"))
    assert save(segmented, segmented.labels()).file == first.file
    there = sorted(segmented.out.iterdir())
    for name, origin in begun.items():
        with pytest.raises(ChangedError, match=rf"{name} was written again .* nothing was saved"):
            save_correction(segmented.out, report, origin, drawn, who="A. Reader")
    assert sorted(segmented.out.iterdir()) == there


def test_a_case_name_with_pattern_characters(segmented: Any) -> None:
    assert read_corrections(segmented.out, "t[o]y*") == []


@pytest.mark.parametrize("who", ["", "  ", "x" * 101])
def test_a_correction_needs_a_name(segmented: Any, who: str) -> None:
    with pytest.raises(CaseError, match="name of who made it"):
        save(segmented, segmented.labels(), who=who)


@pytest.mark.parametrize(
    "about", [{"who": "A\0B"}, {"who": "A\x1b[31mB"}, {"who": "A\x7f"}, {"who": "A\x9b"}, {"note": "a\x07b"}]
)
def test_control_characters_of_a_name_or_a_note(segmented: Any, about: dict[str, str]) -> None:
    there = sorted(segmented.out.iterdir())
    with pytest.raises(CaseError, match="control characters"):
        save(segmented, segmented.labels(), **about)
    assert sorted(segmented.out.iterdir()) == there


def test_names_and_notes_of_several_lines_and_scripts(segmented: Any) -> None:
    entry = save(segmented, segmented.labels(), who="علی\u200cرضا\tMüller", note="one\n\ttwo\r\nthree")
    assert (entry.who, entry.note) == ("علی\u200cرضا Müller", "one\n\ttwo\r\nthree")


@pytest.mark.parametrize("origin", ["", "toy-t1n.nii.gz", "../out/toy-seg.nii.gz", "toy-corrected-1.nii.gz"])
def test_a_correction_of_no_label_map_of_the_case(segmented: Any, origin: str) -> None:
    with pytest.raises(CaseError, match="not a label map of case toy"):
        save(segmented, segmented.labels(), origin=origin)


def test_labels_that_the_schema_has_not(segmented: Any) -> None:
    with pytest.raises(LabelError, match=r"hold \[4, 9\]"):
        save(segmented, np.where(segmented.labels() == 3, 4, 9))


@pytest.mark.parametrize(
    "sent",
    [b"", b"no gzip", packed(np.zeros((26, 30, 24)))[:-9], packed(np.zeros((26, 30, 23))), packed(np.zeros(10**8))],
    ids=["nothing", "no gzip", "cut short", "a slice too few", "a bomb"],
)
def test_bodies_that_are_no_label_map(segmented: Any, sent: bytes) -> None:
    report = read_report(segmented.output("report.json"))
    there = sorted(segmented.out.iterdir())
    with pytest.raises(LabelError, match="nothing was saved"):
        save_correction(segmented.out, report, drawn_on(segmented), sent, who="A")
    assert sorted(segmented.out.iterdir()) == there


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: whole[:-1], "cut off"),
        (lambda whole: whole[:-8], "cut off"),
        (lambda whole: whole[:20], "cut off"),
        (lambda whole: b"", "cut off"),
        (lambda whole: whole + b"\0", "1 bytes after the gzip"),
        (lambda whole: whole + whole, "after the gzip"),
        (lambda whole: whole[:-8] + bytes(8), "incorrect data check"),
    ],
    ids=["a byte", "the trailer", "most", "all", "a byte more", "twice", "another trailer"],
)
def test_what_is_wrong_with_a_gzip_is_said(segmented: Any, change: Any, said: str) -> None:
    report = read_report(segmented.output("report.json"))
    with pytest.raises(LabelError, match=f"{said}.*nothing was saved"):
        save_correction(segmented.out, report, drawn_on(segmented), change(packed(segmented.labels())), who="A")


def test_no_more_corrections_than_there_may_be_even_at_once(segmented: Any) -> None:
    report = read_report(segmented.output("report.json"))
    voxels, begun = packed(segmented.labels()), drawn_on(segmented)

    def one(_: int) -> str:
        try:
            return save_correction(segmented.out, report, begun, voxels, who="A", most=3).file
        except TooManyError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(one, range(8)))
    saved = [f"toy-corrected-{number}.nii.gz" for number in (1, 2, 3)]
    assert sorted(name for name in told if name.endswith(".gz")) == saved
    assert all("has 3 corrections" in text for text in told if not text.endswith(".gz"))
    assert sorted(path.name for path in segmented.out.glob("*-corrected-*.nii.gz")) == saved
    (segmented.out / saved[1]).unlink()
    assert one(0) == "toy-corrected-4.nii.gz"


def test_a_failed_write_leaves_nothing(segmented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.clinic.viewer import corrections

    def full(*_: Any) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr(corrections, "write_atomically", full)
    there = sorted(segmented.out.iterdir())
    with pytest.raises(OutputError):
        save(segmented, segmented.labels())
    assert sorted(segmented.out.iterdir()) == there
