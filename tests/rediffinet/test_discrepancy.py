"""Discrepancy and what follows from it, voxel by voxel."""

import itertools

import numpy as np

from rediffinet.discrepancy import discrepancy, refined_probability, wrong_probability


def test_discrepancy_is_where_baseline_and_truth_differ() -> None:
    mask, truth = np.array([[0, 0, 1, 1], [0, 1, 0, 1]], bool)
    assert discrepancy(mask, truth).tolist() == [False, True, True, False]
    # eq. 5: the discrepancy turns the baseline into the truth
    assert np.array_equal(np.abs(mask.astype(int) - discrepancy(mask, truth)), truth)


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
