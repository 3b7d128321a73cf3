"""Raw series of a phantom head → a case, and a segmentation back on the grids of the series."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.errors import CaseError, ConfigError, LabelError
from rediffinet.io.cases import Case
from rediffinet.io.geometry import Grid
from rediffinet.io.nifti import Image, new_header
from rediffinet.prepare import register
from rediffinet.prepare.checks import check_brain, check_series
from rediffinet.prepare.native import to_native, which_series
from rediffinet.prepare.pipeline import Prepared, already_prepared, prepare
from rediffinet.prepare.report import BrainInfo, SeriesInfo, SpaceInfo, to_rows
from rediffinet.prepare.space import Space, resample
from rediffinet.task import DEFAULT_TASK, TASKS, regions_of

pytest.importorskip("SimpleITK", reason="needs the extra [prepare]")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / max(np.count_nonzero(one) + np.count_nonzero(other), 1)


def mask_on(scanned: Any, contrast: str, mask: np.ndarray) -> np.ndarray:
    """A mask of the head, bool, on the grid of a series where the head was moved."""
    grid = scanned.images[contrast].grid
    move = np.linalg.inv(scanned.moves[contrast])
    return resample(mask.astype(np.float32), scanned.head.affine, Space(grid.shape, grid.affine), move) > 0.5


@pytest.fixture(scope="module")
def prepared(scanned_whole: Any) -> Prepared:
    return prepare("P1", scanned_whole.images, threads=2)


def prepared_with_truth(scanned: Any) -> Prepared:
    """Prepared with the brain that the phantom has."""
    fixed = scanned.images["t1c"]
    brain = Image(Path("brain.nii.gz"), "b" * 64, mask_on(scanned, "t1c", scanned.head.brain), fixed.grid, fixed.header)
    return prepare("P1", scanned.images, brain_mask=brain)


@pytest.fixture(scope="module")
def fewer_samples() -> Iterator[None]:
    """Of a registration, which is quicker by so much; how near it comes is what test_register.py asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "SAMPLES", 10_000)
        yield


@pytest.fixture(scope="module")
def with_truth(scanned: Any, fewer_samples: None) -> Prepared:
    return prepared_with_truth(scanned)


@pytest.mark.slow
def test_the_case_is_upright_at_one_millimetre_with_the_brain_in_it(prepared: Prepared, scanned_whole: Any) -> None:
    case = prepared.case
    assert case.spacing_mm == pytest.approx((1.0, 1.0, 1.0))
    assert np.array_equal(np.sign(np.diag(case.affine)), [-1, -1, 1, 1])
    assert all(size >= least for size, least in zip(case.images.shape[1:], (240, 240, 155), strict=True))
    truth = (
        resample(scanned_whole.head.brain, scanned_whole.head.affine, Space(prepared.brain.shape, case.affine)) > 0.5
    )
    assert dice(prepared.brain, truth) > 0.9
    assert not case.images[:, ~prepared.brain].any()
    assert not case.warnings


def test_each_contrast_lies_on_the_reference(with_truth: Prepared, scanned: Any) -> None:
    """Against the phantom's own images, which know nothing of registration: correlation within the brain."""
    case, head = with_truth.case, scanned.head
    space = Space(with_truth.brain.shape, case.affine)
    assert all(size >= least for size, least in zip(space.shape, (240, 240, 155), strict=True))
    for image, own in zip(case.images, head.images, strict=True):
        expected = resample(own, head.affine, space)
        assert np.corrcoef(image[with_truth.brain], expected[with_truth.brain])[0, 1] > 0.85


@pytest.mark.slow
def test_the_report_says_what_was_done(prepared: Prepared, scanned_whole: Any) -> None:
    report, head = prepared.report, scanned_whole.head
    assert not report.passed_through
    assert report.reference == "t1c"
    assert report.brain is not None
    assert report.brain.source == "network"
    assert set(report.series) == set(scanned_whole.images)
    for contrast, series in report.series.items():
        found, truth = np.array(series.to_series), scanned_whole.moves[contrast]
        points = np.argwhere(head.brain)[::211] @ head.affine[:3, :3].T + head.affine[:3, 3]
        error = (points @ (found - truth)[:3, :3].T) + (found - truth)[:3, 3]
        assert np.linalg.norm(error, axis=1).mean() < 1.5
        assert series.coverage > 0.98
        if contrast != "t1c":
            assert series.similarity_after > series.similarity_before
            assert series.head_overlap > 0.9
    assert report.peak_rss_mb < 3000
    assert type(report).model_validate_json(report.to_json()) == report


@pytest.mark.slow
def test_the_picture_shows_every_contrast(prepared: Prepared) -> None:
    from rediffinet.prepare.picture import OUTLINE, draw_preparation

    pixels = np.asarray(draw_preparation(prepared))
    assert (pixels == OUTLINE).all(axis=-1).sum() > 1000
    rows = np.split(pixels[: 4 * (pixels.shape[0] // 4)], 4)
    assert all(row.std() > 10 for row in rows)


def result_of(prepared: Prepared, labels: np.ndarray, probability: np.ndarray) -> Any:
    """A result of this case with these labels, on the crop of the brain: what the way back needs of one."""
    from types import SimpleNamespace

    box = tuple(
        slice(int(held.min()), int(held.max()) + 1)
        for held in (np.flatnonzero(prepared.brain.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    )
    labels, probability = labels[box], probability[(slice(None), *box)]
    return SimpleNamespace(
        source=prepared.case.source,
        box=box,
        crop_labels=labels,
        crop_baseline=labels,
        crop_baseline_probability=probability,
        crop_probability=probability,
        crop_uncertainty=np.float32(probability[0] * (1 - probability[0])),
        task=TASKS[DEFAULT_TASK],
        report=SimpleNamespace(case="P1", labels={"edema": 2, "necrosis": 1, "enhancing": 3}),
    )


def test_labels_come_back_to_every_series_where_the_tumour_is(with_truth: Prepared, scanned: Any) -> None:
    """The phantom's truth goes through the way back alone, the registration's error included."""
    space = Space(with_truth.brain.shape, with_truth.case.affine)
    truth = regions_of(scanned.head.labels, TASKS[DEFAULT_TASK]).astype("f4")
    soft = np.stack([resample(region, scanned.head.affine, space) for region in truth])
    regions = soft > 0.5
    labels = np.where(regions[2], 3, np.where(regions[1], 1, np.where(regions[0], 2, 0))).astype(np.uint8)
    natives = to_native(result_of(with_truth, labels, soft), with_truth.report, list(scanned.images))
    true_ml = np.count_nonzero(scanned.head.labels) * Space((1, 1, 1), scanned.head.affine).voxel_ml
    for native in natives:
        grid = scanned.images[native.contrast].grid
        assert native.labels.shape == grid.shape
        assert np.array_equal(native.grid.affine, grid.affine)
        truth = mask_on(scanned, native.contrast, scanned.head.labels > 0)
        assert dice(native.labels > 0, truth) > 0.9
        assert native.volumes_ml["WT"] == pytest.approx(true_ml, rel=0.08)
        assert 0 <= native.uncertainty.min() <= native.uncertainty.max() <= 1
        assert np.array_equal(native.labels, native.baseline)  # of the same soft maps the same labels


def test_labels_that_postprocessing_changed_win_over_the_probability(with_truth: Prepared) -> None:
    shape = with_truth.brain.shape
    probability = np.zeros((3, *shape), np.float32)
    probability[:, 100:120, 100:120, 70:90] = 0.9  # a component that was removed
    labels = np.zeros(shape, np.uint8)
    labels[140:150, 140:150, 70:90] = 2  # and voxels that were added
    (native,) = to_native(result_of(with_truth, labels, probability), with_truth.report, ["t1c"])
    assert set(np.unique(native.labels)) == {0, 2}
    assert native.volumes_ml["WT"] == pytest.approx(2.0, rel=0.1)


@pytest.mark.slow
def test_a_moved_and_sliced_phantom_is_segmented_as_the_unmoved_one(scanned_whole: Any) -> None:
    from rediffinet.segmenter import Segmenter

    scanned, with_truth = scanned_whole, prepared_with_truth(scanned_whole)
    head = scanned.head
    space = Space(with_truth.brain.shape, with_truth.case.affine)
    still = np.stack([resample(np.where(head.brain, image, 0), head.affine, space) for image in head.images])
    unmoved = Case.from_arrays("P1", still, space.affine)
    truth = resample((head.labels > 0).astype(np.float32), head.affine, space) > 0.5
    with Segmenter.open(threads=2) as segmenter:
        reference = dice(segmenter.segment(unmoved).labels > 0, truth)
        result = segmenter.segment(with_truth.case)
    assert reference > 0.5
    for native in to_native(result, with_truth.report, list(scanned.images)):
        assert dice(native.labels > 0, mask_on(scanned, native.contrast, head.labels > 0)) >= 0.9 * reference


def test_prepared_images_are_passed_through(phantoms: Path) -> None:
    from rediffinet.prepare.files import read_raw

    name, images = read_raw(sorted(phantoms.iterdir())[0])
    padded = {}
    for contrast, image in images.items():  # the small phantom fills its volume
        affine = image.grid.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ np.full(3, 12.0)
        voxels = np.pad(image.voxels, 12)
        padded[contrast] = replace(image, voxels=voxels, grid=Grid(voxels.shape, affine), header=new_header(affine))
    done = prepare(name, padded)
    assert done.report.passed_through
    for contrast, image in zip(padded, done.case.images, strict=True):
        assert np.array_equal(image, np.float32(padded[contrast].voxels))
    assert already_prepared(name, padded | {"t2w": replace(padded["t2w"], voxels=padded["t2w"].voxels + 1)}) is None


def info(**changes: Any) -> SeriesInfo:
    affine = to_rows(np.diag([1.0, 1.0, changes.pop("slice_mm", 1.0), 1.0]))
    values = {"path": "x", "sha256": "0" * 64, "grid": SpaceInfo(shape=(9, 9, 9), affine=affine)}
    good = {"to_series": to_rows(np.eye(4)), "similarity_before": 1.05, "similarity_after": 1.1, "head_overlap": 0.95}
    return SeriesInfo.model_validate({**values, **good, **changes})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"similarity_after": 1.04}, "registration-doubtful"),
        ({"moved_mm": 60.0}, "registration-far"),
        ({"degrees": 40.0}, "registration-far"),
        ({"head_overlap": 0.5}, "heads-differ"),
        ({"coverage": 0.6}, "partial-coverage"),
        ({"slice_mm": 8.0}, "thick-slices"),
    ],
)
def test_limits_of_a_series(changes: dict[str, Any], code: str) -> None:
    assert [warning.code for warning in check_series("t2w", "t1c", info(**changes))] == [code]
    assert not check_series("t2w", "t1c", info())


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"volume_ml": 300}, "brain-volume"), ({"left_out": 0.2}, "brain-in-pieces"), ({"at_edge": 0.6}, "brain-cut-off")],
)
def test_limits_of_a_brain_mask(changes: dict[str, Any], code: str) -> None:
    good = {"source": "network", "name": "n", "sha256": None, "volume_ml": 1400.0}
    assert [one.code for one in check_brain("t1c", BrainInfo.model_validate({**good, **changes}))] == [code]
    assert not check_brain("t1c", BrainInfo.model_validate(good))


def cut(image: Image, low: float, high: float, axis: int = 2) -> Image:
    """The part of an image between two shares of an axis."""
    size = image.grid.shape[axis]
    first, last = int(low * size), int(high * size)
    voxels = np.take(image.voxels, range(first, last), axis)
    affine = image.grid.affine.copy()
    affine[:3, 3] += first * affine[:3, axis]
    return replace(image, voxels=voxels, grid=Grid(voxels.shape, affine), header=new_header(affine))


def test_images_that_trigger_the_warnings(scanned: Any, fewer_samples: None) -> None:
    """Half a t2w, a t2f that is noise, and a brain mask that is too small and reaches the edge of t1c."""
    rng = np.random.default_rng(0)
    images = {contrast: image for contrast, image in scanned.images.items() if contrast != "t1n"}  # which has no part
    images["t1c"] = fixed = cut(images["t1c"], 0.0, 0.62)
    images["t2w"] = cut(images["t2w"], 0.5, 1.0)
    images["t2f"] = replace(images["t2f"], voxels=rng.integers(0, 900, images["t2f"].grid.shape).astype(np.int16))
    inside = mask_on(scanned, "t1c", scanned.head.brain)[:, :, : fixed.grid.shape[2]]
    inside[: inside.shape[0] // 2] = False
    mask = Image(Path("half.nii.gz"), "c" * 64, inside, fixed.grid, fixed.header)
    report = prepare("P1", images, brain_mask=mask, allow_missing=True).report
    found = {(one.code, one.contrast) for one in report.warnings}
    assert ("partial-coverage", "t2w") in found
    assert ("registration-doubtful", "t2f") in found
    assert ("brain-volume", None) in found


def test_bad_input(scanned: Any) -> None:
    images = scanned.images
    fixed = images["t1c"]
    with pytest.raises(CaseError, match="has no t2f"):
        prepare("P1", {key: image for key, image in images.items() if key != "t2f"})
    with pytest.raises(CaseError, match="one slice"):
        prepare("P1", images | {"t2w": cut(images["t2w"], 0.0, 1 / 30)})
    other = Image(Path("m.nii.gz"), "", images["t2w"].voxels > 10, images["t2w"].grid, None)
    with pytest.raises(LabelError, match="another grid"):
        prepare("P1", images, brain_mask=other)
    with pytest.raises(LabelError, match="empty"):
        prepare("P1", images, brain_mask=replace(fixed, voxels=np.zeros(fixed.grid.shape, np.uint8)))


def test_which_series(with_truth: Prepared) -> None:
    assert which_series(with_truth.report, "all") == ["t1n", "t1c", "t2w", "t2f"]
    assert which_series(with_truth.report, "t2f, t1c") == ["t1c", "t2f"]
    assert which_series(with_truth.report, "none") == []
    with pytest.raises(ConfigError, match="t1x"):
        which_series(with_truth.report, "t1x")
