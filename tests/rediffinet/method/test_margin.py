"""The band in millimetres, against SciPy's morphology and distances, and against boundaries moved by a known amount."""

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from scipy.spatial.distance import cdist

from rediffinet.method.margin import BoundaryMargin, Margin, band, boundary, boundary_voxels, margins

SPACING = (1.0, 0.9, 1.2)


def blobs(seed: int, shape: tuple[int, int, int] = (24, 20, 18)) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(ndimage.gaussian_filter(noise, 2.0) > 0.05)


def ball(radius: float, side: int = 41) -> np.ndarray:
    at = np.indices((side,) * 3) - side // 2
    return np.asarray((at**2).sum(axis=0) <= radius**2)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_voxels_are_what_an_erosion_takes_away(seed: int) -> None:
    region = blobs(seed)
    taken = region & ~ndimage.binary_erosion(region)
    assert np.array_equal(boundary_voxels(region), np.argwhere(taken))


def test_doubt_is_the_mean_probability_of_a_wrong_membership_in_the_cube_around() -> None:
    region = blobs(1)
    probability = np.random.default_rng(2).uniform(size=region.shape).astype(np.float32)
    settings = BoundaryMargin(scale_mm=(1.0,), cube_mm=2.0)
    found = boundary(region, probability, settings, (1.0, 1.0, 2.0))
    wrong = np.where(region, 1.0 - probability, probability)
    around = ndimage.uniform_filter(wrong.astype(float), (5, 5, 3), mode="constant")
    assert found.doubt.dtype == np.float32
    assert found.doubt == pytest.approx(around[tuple(found.at.T)], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_band_is_the_union_of_balls(seed: int) -> None:
    """Boundary voxels at the edge of the image among them, and one without any margin."""
    rng = np.random.default_rng(seed)
    at = np.argwhere(rng.uniform(size=(12, 14, 10)) < 0.03)
    mm = rng.uniform(0.5, 4.0, len(at)).astype(np.float32)
    mm[0] = 0.0
    voxels = np.argwhere(np.ones((12, 14, 10), bool))
    near = (cdist(voxels * SPACING, at * SPACING) <= mm[None]).any(axis=1).reshape(12, 14, 10)
    assert np.array_equal(band(Margin(at, mm), (12, 14, 10), SPACING), near)


def test_the_margin_grows_with_the_doubt_and_has_a_least_width() -> None:
    region = ball(10)
    sure = np.where(region, 1.0, 0.0).astype(np.float32)
    unsure = np.where(region, 0.6, 0.4).astype(np.float32)
    settings = BoundaryMargin(scale_mm=(20.0, 20.0, 10.0), sure=0.05)
    made = margins(np.stack([region] * 3), np.stack([sure, unsure, sure]), settings, (1.0, 1.0, 1.0))
    assert [one.median_mm for one in made] == pytest.approx([1.0, 20 * 0.45, 0.5])
    shell = band(made[0], region.shape, (1.0, 1.0, 1.0))
    assert shell[20, 20, 30] and shell[20, 20, 31] and not shell[20, 20, 32] and not shell[20, 20, 20]


def test_a_region_that_was_not_found_has_no_band() -> None:
    empty = np.zeros((1, 5, 6, 7), bool)
    (none,) = margins(empty, np.zeros(empty.shape, np.float32), BoundaryMargin(scale_mm=(9.0,)), (1.0, 1.0, 1.0))
    assert none.median_mm is None
    assert not band(none, (5, 6, 7), (1.0, 1.0, 1.0)).any()


@pytest.mark.parametrize("wrong", [{"scale_mm": ()}, {"scale_mm": (1.0,) * 9}, {"scale_mm": (-1.0,)}])
def test_settings_that_no_byte_holds_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        BoundaryMargin(**wrong)
