"""Discrepancy and what follows from it, voxel by voxel."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.method.discrepancy import (
    doubted_components,
    near_boundary,
    refined_probability,
    wrong_probability,
)


def test_refined_probability_of_every_combination() -> None:
    for inside, reached, p, delta in itertools.product((False, True), (False, True), (0.2, 0.9), (0.0, 0.3, 1.0)):
        got = refined_probability(
            np.full((3, 1, 1, 1), inside),
            np.full((3, 1, 1, 1), p, np.float32),
            np.full((3, 1, 1, 1), delta, np.float32),
            np.full((1, 1, 1), reached),
        )
        assert got.dtype == np.float32
        expected = abs(inside - delta) if reached else p
        assert np.allclose(got, expected)


def test_wrong_probability_is_the_largest_of_the_regions() -> None:
    regions = np.array([True, False, False]).reshape(3, 1, 1, 1)
    probability = np.array([0.9, 0.3, 0.05], np.float32).reshape(3, 1, 1, 1)
    assert np.allclose(wrong_probability(regions, probability), 0.3)
    assert np.allclose(wrong_probability(~regions, probability), 0.95)


def blobs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A region of three components, of 27, 36 and 1 voxels, each with its own mean of Δ̂: 0.02, 0.25 and 0.9."""
    names = np.zeros((12, 10, 9), np.uint8)
    names[1:4, 1:4, 1:4] = 1
    names[6:10, 1:4, 1:4] = 2
    names[8, 8, 8] = 3
    rng = np.random.default_rng(0)
    delta = rng.random(names.shape).astype(np.float32)  # outside the region Δ̂ has no say
    for name, mean in ((1, 0.02), (2, 0.25), (3, 0.9)):
        here = rng.random(int((names == name).sum())) * 0.01
        delta[names == name] = here - here.mean() + mean
    return names > 0, delta, names


def test_components_that_are_doubted_as_a_whole() -> None:
    mask, delta, names = blobs()
    for limit, expected in ((0.2, (2, 3)), (0.26, (3,)), (0.95, ()), (1.0, ())):
        assert np.array_equal(doubted_components(mask, delta, limit), np.isin(names, expected)), limit


def test_a_quarter_of_what_is_believed_is_kept() -> None:
    mask, delta, names = blobs()
    # believed in: 27 × 0.98, 36 × 0.75 and 0.1 voxels; with the first doubted too, nothing would be left
    assert not doubted_components(mask, delta, 0.01).any()
    only = mask & (names == 2)
    assert not doubted_components(only, delta, 0.1).any(), "the only component stays"
    assert not doubted_components(np.zeros_like(mask), delta, 0.1).any()
    # a fleck that is sure does not stand in for a tumour that is not
    small = mask & (names != 1)
    delta[names == 3] = 0.0
    assert not doubted_components(small, delta, 0.2).any()


def test_corners_connect() -> None:
    mask, delta = np.zeros((6, 6, 6), bool), np.full((6, 6, 6), 0.5, np.float32)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[4:, 4:, 4:] = True
    delta[4:, 4:, 4:] = 0.0
    delta[0, 0, 0] = 0.0  # with its neighbour at the corner it is doubted by 0.25
    expected = mask.copy()
    expected[4:] = False
    assert np.array_equal(doubted_components(mask, delta, 0.2), expected)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 2.5)])
@pytest.mark.parametrize("reach", [1.0, 2.0, 3.3, 50.0])
def test_near_a_boundary_against_the_distance_transform(spacing: tuple[float, float, float], reach: float) -> None:
    rng = np.random.default_rng(7)
    for shape, share in (((9, 12, 11), 0.03), ((13, 8, 10), 0.5), ((10, 9, 12), 0.97)):
        mask = rng.random(shape) < share
        distance = np.maximum(
            ndimage.distance_transform_edt(mask, spacing), ndimage.distance_transform_edt(~mask, spacing)
        )
        assert np.array_equal(near_boundary(mask, reach, spacing), distance <= reach)


def test_nothing_is_near_a_region_without_a_voxel() -> None:
    assert not near_boundary(np.zeros((4, 5, 6), bool), 3.0, (1.0, 1.0, 1.0)).any()
