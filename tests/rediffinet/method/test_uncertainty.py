"""Calibrated uncertainty against made-up voxels whose true chance of being wrong is known."""

import numpy as np
import pytest
from pydantic import ValidationError

from rediffinet.method.uncertainty import (
    LEAST,
    UncertaintyCurve,
    fit_curve,
    reliability,
)

RNG = np.random.default_rng(7)
STATED = RNG.uniform(0, 1, 200_000)


def wrong_with(chance: np.ndarray) -> np.ndarray:
    return RNG.uniform(0, 1, chance.shape) < chance


def test_honest_probabilities_have_no_error() -> None:
    diagram = reliability(STATED, wrong_with(STATED))
    assert diagram.error < 0.01
    assert np.allclose(diagram.stated, diagram.observed, atol=0.02)
    assert diagram.count.sum() == np.count_nonzero(STATED >= LEAST)


def test_error_of_known_size() -> None:
    # three times too sure of its doubts: |p − p/3| averages to 1/3 over uniform p
    assert reliability(STATED, wrong_with(STATED / 3)).error == pytest.approx(1 / 3, abs=0.01)
    two = np.array([0.2] * 30 + [0.8] * 10)
    wrong = np.array([True] * 15 + [False] * 15 + [True] * 8 + [False] * 2)
    assert reliability(two, wrong).error == pytest.approx((30 * 0.3 + 10 * 0.0) / 40)


@pytest.mark.parametrize("chance", [lambda p: p / 3, lambda p: p**2, lambda p: 0.5 * p**0.5])
def test_the_curve_finds_the_true_chance_on_other_voxels(chance) -> None:  # type: ignore[no-untyped-def]
    curve = fit_curve(STATED, wrong_with(chance(STATED)))
    assert curve is not None
    at = np.linspace(0.1, 0.95, 18).astype(np.float32)
    assert np.allclose(curve(at), chance(at), atol=0.03)
    other = np.random.default_rng(8).uniform(0, 1, 100_000).astype(np.float32)
    assert reliability(curve(other), wrong_with(chance(other))).error < 0.02
    assert curve(np.zeros((2, 3), np.float32)).shape == (2, 3) and curve(np.zeros(1, np.float32))[0] == 0.0


def test_the_curve_rises_even_where_the_voxels_do_not() -> None:
    curve = fit_curve(STATED, wrong_with(np.where(STATED < 0.5, 0.6 * STATED, 0.1)))
    assert curve is not None
    assert all(np.diff(curve.observed) >= 0) and all(np.diff(curve.stated) > 0)


def test_the_curve_is_flat_beyond_its_last_group() -> None:
    """Where the highest doubts are the least deserved, none of them is stated higher than the others' worst."""
    curve = fit_curve(STATED, wrong_with(np.where(STATED < 0.5, 0.8 * STATED, 0.1)))
    assert curve is not None
    top = curve(np.array([curve.stated[-1], 1.0], np.float32))
    assert top[0] == top[1] == np.float32(curve.observed[-1])


def test_small_doubts_that_are_too_small_are_raised() -> None:
    """Over-sure below what the error counts: five times as often wrong as stated."""
    small = RNG.uniform(0.0, 0.02, 400_000)
    curve = fit_curve(small, wrong_with(5 * small))
    assert curve is not None
    at = np.linspace(0.002, 0.018, 9).astype(np.float32)
    assert np.allclose(curve(at), 5 * at, atol=0.01)


def test_too_little_to_fit() -> None:
    assert fit_curve(np.zeros(1000), np.zeros(1000, bool)) is None
    assert fit_curve(np.full(1000, 0.5), np.zeros(1000, bool)) is None


@pytest.mark.parametrize(
    ("stated", "observed"),
    [((0.0, 0.5), (0.0, 0.3, 0.4)), ((0.5, 0.5), (0.0, 0.1)), ((0.0, 1.0), (0.4, 0.1)), ((0.0, 2.0), (0.0, 1.0))],
)
def test_curves_that_are_none(stated: tuple[float, ...], observed: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        UncertaintyCurve(stated=stated, observed=observed)
