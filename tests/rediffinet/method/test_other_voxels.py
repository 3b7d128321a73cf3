"""Cases of another voxel size than the bundle's, on toy graphs in closed form and against SciPy's interpolation."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.io.cases import Case
from rediffinet.segmenter import Segmenter, SegmentOptions

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
TWO = (2.0, 2.0, 2.0)


def double(volume: np.ndarray) -> np.ndarray:
    """Each voxel of (…, X, Y, Z) as eight of half the size."""
    return volume.repeat(2, axis=-3).repeat(2, axis=-2).repeat(2, axis=-1)


def halve(volume: np.ndarray) -> np.ndarray:
    """Mean of each block of eight voxels of (C, X, Y, Z)."""
    c, x, y, z = volume.shape
    return np.asarray(volume.reshape(c, x // 2, 2, y // 2, 2, z // 2, 2).mean(axis=(2, 4, 6)))


def up(values: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.zoom(v, 2, order=1, mode="nearest", grid_mode=True) for v in np.float64(values)])


@pytest.fixture
def fine_case(make_toy_images: Any) -> Case:
    """The toy images with every voxel split into eight of 1 mm."""
    return Case.from_arrays("toy", double(make_toy_images()), AFFINE)


@pytest.mark.parametrize("model", ["rediffinet", "discrepancy-unet", "ua-diffusion-concat", "unet"])
def test_a_bundle_of_2_mm_on_a_case_of_1_mm(make_toy_bundle: Any, fine_case: Case, model: str) -> None:
    toy = make_toy_bundle(model=model, spacing_mm=TWO)
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(fine_case, options=SegmentOptions(refine_everywhere=True))
    crop = fine_case.images[(slice(None), *result.box)].astype(np.float64)
    normalised = np.full(crop.shape, -1.0)
    for channel, image in enumerate(crop):
        brain = image > 0
        low, high = np.percentile(image[brain], (0.5, 99.5))
        normalised[channel][brain] = 2 * (np.clip(image[brain], low, high) - low) / (high - low) - 1
    assert np.allclose(result.crop_image, normalised, atol=1e-5)  # what the preview shows is the case's own
    coarse = halve(normalised)
    p = toy.formula.probability(coarse)
    mask, r = p > 0.5, p
    if model != "unet":
        x0 = toy.formula.x0(np.concatenate([2 * p - 1, coarse]))
        r = x0 if model == "ua-diffusion-concat" else abs(p - (x0 > 0.5))
        assert ((r > 0.5) != mask).sum() > 100
    for labels, soft in ((result.crop_labels, up(r)), (result.crop_baseline, up(p))):
        assert labels is not None
        wt, tc, et = soft > 0.5
        clear = (abs(soft - 0.5) > 1e-3).all(axis=0)
        assert clear.mean() > 0.95
        assert np.array_equal(labels[clear], np.select([et, tc, wt], [3, 1, 2], 0)[clear])
    assert result.labels.shape == result.uncertainty.shape == fine_case.images.shape[1:]
    assert "resampled" not in [warning.code for warning in result.report.warnings]  # the case is as models expect it


def test_a_lesion_stays_where_it_is(make_toy_bundle: Any) -> None:
    """A ball in the middle of a symmetric head: of 1 mm, of 2 mm, and 1 mm through a model of 2 mm."""
    images = np.full((4, 48, 52, 44), 100.0, np.float32)
    images += np.random.default_rng(0).uniform(-3, 3, images.shape).astype(np.float32)
    places = np.stack(np.indices(images.shape[1:])) + 0.5
    centre = np.array([25.0, 24.0, 21.0])  # in mm from the corner
    ball = ((places - centre.reshape(3, 1, 1, 1)) ** 2).sum(axis=0) <= 9.0**2
    images[3][ball] = 330.0
    case = Case.from_arrays("ball", images, AFFINE)
    for spacing in ((1.0, 1.0, 1.0), TWO, (1.5, 2.0, 1.25), (0.8, 0.8, 0.8)):
        toy = make_toy_bundle(model="unet", spacing_mm=spacing, bias=np.float32([-1, -60, -60]))
        with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
            labels = segmenter.segment(case).labels
        found = np.array(ndimage.center_of_mass(labels > 0)) + 0.5
        assert np.allclose(found, centre, atol=0.1), spacing
        assert (labels > 0).sum() == pytest.approx(ball.sum(), rel=0.12), spacing


@pytest.mark.parametrize(
    ("case_mm", "model_mm", "warns"),
    [
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), False),
        ((1.0, 1.005, 1.0), (1.0, 1.0, 1.0), False),
        ((1.0, 1.0, 1.2), (1.0, 1.0, 1.0), True),
        ((1.0, 1.0, 1.2), TWO, True),
        ((1.2, 1.2, 1.2), (1.2, 1.2, 1.2), False),
        ((0.8, 0.9, 1.25), TWO, True),
    ],
)
def test_who_is_told_of_the_resampling(
    make_toy_bundle: Any, make_toy_images: Any, case_mm: tuple, model_mm: tuple, warns: bool
) -> None:
    toy = make_toy_bundle(spacing_mm=model_mm)
    case = Case.from_arrays("toy", make_toy_images(), np.diag([-case_mm[0], -case_mm[1], case_mm[2], 1.0]))
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(case)
    told = [warning.message for warning in result.report.warnings if warning.code == "resampled"]
    assert len(told) == int(warns)
    if warns:
        assert all(" × ".join(f"{size:.3g}" for size in spacing) in told[0] for spacing in (case_mm, model_mm))
    assert result.labels.shape == (26, 30, 24)
    millilitres = np.count_nonzero(result.labels) * np.prod(case_mm) / 1000
    assert pytest.approx(millilitres, abs=6e-4) == result.report.volumes_ml.refined.WT


def test_storage_order_and_voxel_size_together(make_toy_bundle: Any, make_toy_images: Any) -> None:
    """Axes of unequal spacing, stored in another order: the same labels in the same places."""
    toy = make_toy_bundle(spacing_mm=(1.0, 2.0, 1.5))
    images = make_toy_images()
    affine = np.array([[-0.9, 0, 0, 5], [0, -1.1, 0, 9], [0, 0, 1.2, 1], [0, 0, 0, 1]])
    turned_affine = affine[:, [2, 0, 1, 3]]
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        plain = segmenter.segment(Case.from_arrays("toy", images, affine))
        turned = segmenter.segment(Case.from_arrays("toy", images.transpose(0, 3, 1, 2), turned_affine))
    assert plain.labels.any()
    assert np.array_equal(turned.labels.transpose(1, 2, 0), plain.labels)
    assert np.array_equal(turned.uncertainty.transpose(1, 2, 0), plain.uncertainty)
