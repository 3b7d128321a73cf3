"""What was fixed and what was broken, on a toy whose counts are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from rediffinet.errors import CaseError, ConfigError, LabelError, MissingExtraError, OutputError
from rediffinet.io.cases import load_case
from rediffinet.reports.overlay import change_centre, draw_overlay, find_changes, planes, write_overlay
from rediffinet.task import TASKS

SHAPE = (24, 28, 20)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def boxed(value: int, *slices: slice) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[slices] = value
    return labels


@pytest.fixture
def toy(tmp_path: Path) -> SimpleNamespace:
    """A case whose tumour is 8×8×8; the baseline lacks a slab, the refined map has it and sticks out elsewhere."""
    folder = tmp_path / "toy"
    folder.mkdir()
    generator = np.random.default_rng(0)
    brain = boxed(1, slice(2, 22), slice(2, 26), slice(2, 18))
    for contrast in ("t1n", "t1c", "t2w", "t2f"):
        image = (brain * generator.uniform(50, 200, SHAPE)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"toy-{contrast}.nii.gz")
    reference = boxed(2, slice(8, 16), slice(8, 16), slice(6, 14))
    reference[10:14, 10:14, 8:12] = 3
    baseline = reference.copy()
    baseline[8:10] = 0  # 2 × 8 × 8 missed
    refined = reference.copy()
    refined[8, 8:12, 6:14] = 0  # 1 × 4 × 8 still missed: 96 of the 128 are put right
    refined[16, 8:13, 6:10] = 2  # 1 × 5 × 4 invented
    refined[10, 10, 8] = 2  # one voxel of ET lost, which changes nothing in WT
    paths = {}
    for name, labels in {"reference": reference, "baseline": baseline, "refined": refined}.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(labels, AFFINE), paths[name])
    nib.save(nib.Nifti1Image(reference, AFFINE), folder / "toy-seg.nii.gz")
    return SimpleNamespace(
        folder=folder, reference=reference, out=tmp_path / "out.png", **{f"{k}_path": v for k, v in paths.items()}
    )


def test_counts_and_picture(toy: Any) -> None:
    counts = write_overlay(toy.folder, toy.baseline_path, toy.refined_path, toy.out)
    assert counts == {"fixed": 96, "broken": 20, "still_wrong": 32}
    with Image.open(toy.out) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for colour in ((0x56, 0xB4, 0xE9), (0xD5, 0x5E, 0x00)):  # at least in the legend
        assert (abs(pixels - colour).sum(axis=-1) < 12).sum() > 50


def test_another_region_and_reference(toy: Any) -> None:
    (toy.folder / "toy-seg.nii.gz").unlink()
    counts = write_overlay(
        toy.folder,
        toy.baseline_path,
        toy.refined_path,
        toy.out,
        reference=toy.reference_path,
        region="ET",
        contrast="t1n",
    )
    assert counts == {"fixed": 0, "broken": 1, "still_wrong": 0}


def test_a_region_of_another_task(toy: Any) -> None:
    """A cavity, in a case of two contrasts: drawn on the one that there is."""
    for name in ("t1n", "t2w"):
        (toy.folder / f"toy-{name}.nii.gz").unlink()
    task = TASKS["glioma-post-2024"].model_copy(update={"name": "two", "contrasts": ("t1c", "t2f")})
    for path in (toy.folder / "toy-seg.nii.gz", toy.baseline_path, toy.refined_path):
        labels = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(np.where(labels == 3, np.uint8(4), labels), AFFINE), path)
    counts = write_overlay(toy.folder, toy.baseline_path, toy.refined_path, toy.out, region="RC", task=task)
    assert counts == {"fixed": 0, "broken": 1, "still_wrong": 0}
    with pytest.raises(ConfigError, match=r"no contrast 't2w'.\nExpected one of t1c, t2f"):
        write_overlay(toy.folder, toy.baseline_path, toy.refined_path, toy.out, contrast="t2w", task=task)


def test_a_convention_that_is_named(toy: Any) -> None:
    paths = toy.folder / "toy-seg.nii.gz", toy.baseline_path, toy.refined_path
    for path in paths:
        labels = np.asarray(nib.load(path).dataobj)
        nib.save(nib.Nifti1Image(np.array([0, 2, 1, 3], np.uint8)[labels], AFFINE), path)
    arguments = {"region": "TC", "convention": TASKS["glioma-decathlon"]}
    assert write_overlay(toy.folder, *paths[1:], toy.out, **arguments) == {"fixed": 0, "broken": 1, "still_wrong": 0}
    assert write_overlay(toy.folder, *paths[1:], toy.out, region="TC")["fixed"] == 96  # read the other way round


def test_older_labels_are_understood(toy: Any, tmp_path: Path) -> None:
    older = np.where(toy.reference == 3, np.uint8(4), toy.reference)
    nib.save(nib.Nifti1Image(older, AFFINE), tmp_path / "older.nii.gz")
    counts = write_overlay(toy.folder, tmp_path / "older.nii.gz", toy.reference_path, toy.out, region="ET")
    assert counts == {"fixed": 0, "broken": 0, "still_wrong": 0}


def test_titles_and_legend(toy: Any) -> None:
    case = load_case(toy.folder, spacing_range_mm=(1.0, 2.0))
    truth, before = np.zeros((2, *SHAPE), bool)
    truth[4:8, 4:8, 4:8] = before[4:8, 4:8, 4:6] = True
    figure = draw_overlay(case, [truth, before, truth], find_changes(truth, before, truth), "WT", "t2f")
    assert [axes.get_title() for axes in figure.axes[:4]] == [
        *("reference", "baseline, Dice 0.667", "refined, Dice 1.000", "change"),
    ]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[1:3] == ["fixed: 32 voxels", "broken: 0 voxels"]
    assert len(figure.axes) == 12
    unchanged = draw_overlay(case, [truth, truth, truth], find_changes(truth, truth, truth), "WT", "t2f")
    assert unchanged.axes[3].get_title() == "nothing changed"


def test_no_tumour_at_all(toy: Any, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), tmp_path / "empty.nii.gz")
    empty = tmp_path / "empty.nii.gz"
    assert write_overlay(toy.folder, empty, empty, toy.out, reference=empty) == {
        "fixed": 0,
        "broken": 0,
        "still_wrong": 0,
    }
    assert toy.out.exists()


def test_planes_go_through_the_largest_change() -> None:
    truth = np.zeros((12, 12, 12), bool)
    refined = truth.copy()
    refined[1, 1, 1] = True
    refined[7:10, 5:8, 3:6] = True
    refined[8, 8, 4] = refined[8, 6, 6] = refined[10, 6, 4] = True  # the middle slices have most of it
    assert change_centre(find_changes(truth, truth, refined), truth) == (8, 6, 4)
    tumour = truth.copy()
    tumour[3:6, 3:6, 3:6] = True
    assert change_centre(find_changes(truth, truth, truth), tumour) in {(3, 3, 3), (4, 4, 4)}


def test_planes_are_upright() -> None:
    """Axes of the volume are left, posterior, superior; a picture's are right, down."""
    x, y, z = np.meshgrid(np.arange(4), np.arange(5), np.arange(6), indexing="ij")
    volume = 100 * x + 10 * y + z
    whole = (slice(None), slice(None), slice(None))
    axial, coronal, sagittal = planes(volume, (1, 2, 3), whole)
    assert [picture.shape for picture in (axial, coronal, sagittal)] == [(5, 4), (6, 4), (6, 5)]
    assert (axial[0, 0], axial[-1, 0], axial[0, -1]) == (3, 43, 303)
    assert (coronal[0, 0], coronal[-1, 0], coronal[0, -1]) == (25, 20, 325)
    assert (sagittal[0, 0], sagittal[-1, 0], sagittal[0, -1]) == (105, 100, 145)


def test_bad_input(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = (toy.baseline_path, toy.refined_path)
    for options, error, words in (
        ({"region": "NCR"}, ConfigError, "There is no region 'NCR'.\nExpected one of WT, TC, ET"),
        ({"contrast": "t1"}, ConfigError, "There is no contrast 't1'"),
        ({"reference": tmp_path / "nowhere.nii.gz"}, CaseError, "Cannot read"),
    ):
        with pytest.raises(error) as caught:
            write_overlay(toy.folder, *maps, toy.out, **options)
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        write_overlay(toy.folder, *maps, tmp_path / "out.jpg")
    with pytest.raises(OutputError):
        write_overlay(toy.folder, *maps, tmp_path / "nowhere" / "out.png")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), AFFINE), tmp_path / "small.nii.gz")
    with pytest.raises(LabelError, match="different grids"):
        write_overlay(toy.folder, tmp_path / "small.nii.gz", maps[1], toy.out)
    (toy.folder / "toy-seg.nii.gz").unlink()
    with pytest.raises(LabelError, match="Give `reference`"):
        write_overlay(toy.folder, *maps, toy.out)
    assert not toy.out.exists()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"rediffinet\[report\]"):
        write_overlay(toy.folder, *maps, toy.out)
