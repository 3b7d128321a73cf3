"""Paired statistics against SciPy called on the arrays, and against closed forms."""

import math
import warnings
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
from scipy import stats

from rediffinet.errors import ConfigError, MissingExtraError
from rediffinet.reports.statistics import Bootstrap, bootstrap_intervals, compare_pairs

FEW = Bootstrap(resamples=500)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """HD95 of 30 cases: many unchanged, a few much better."""
    generator = np.random.default_rng(5)
    a = generator.gamma(2.0, 3.0, 30)
    b = np.maximum(0.0, a + generator.normal(-0.5, 1.0, 30))
    b[::5] = a[::5]
    return a, b


@pytest.mark.parametrize("tail", ["less", "greater"])
def test_tests_are_those_of_scipy(pairs: Any, tail: Literal["less", "greater"]) -> None:
    a, b = pairs
    found = compare_pairs(a, b, tail, FEW)
    t = stats.ttest_rel(b, a, alternative=tail)
    assert (found.t, found.t_p) == (pytest.approx(t.statistic), pytest.approx(t.pvalue))
    w = stats.shapiro(b - a)
    assert (found.shapiro_w, found.shapiro_p) == (pytest.approx(w.statistic), pytest.approx(w.pvalue))
    expected = stats.wilcoxon(b, a, zero_method="pratt", alternative=tail)
    assert found.wilcoxon_p == pytest.approx(expected.pvalue)
    assert found.pairs == 30
    assert found.zeros == 6
    better = int((b < a).sum()) if tail == "less" else int((b > a).sum())
    assert (found.better, found.better + found.worse) == (better, 24)
    assert found.note == ""


def test_means_and_change(pairs: Any) -> None:
    a, b = pairs
    found = compare_pairs(a, b, "less", FEW)
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.change_percent == pytest.approx(100 * (b.mean() - a.mean()) / a.mean())


def test_closed_forms_for_three_pairs() -> None:
    """With two degrees of freedom P(T < t) = 1/2 + t / (2 sqrt(2 + t²)); three of one sign have p = 1/8 by ranks."""
    a = np.array([5.0, 6.0, 7.0])
    differences = np.array([-1.0, -2.0, -4.5])
    found = compare_pairs(a, a + differences, "less", FEW)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(3))
    assert found.t == pytest.approx(t)
    assert found.t_p == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))
    assert found.wilcoxon_p == pytest.approx(1 / 8)
    assert compare_pairs(a, a + differences, "greater", FEW).wilcoxon_p == pytest.approx(1.0)


@pytest.mark.parametrize("interval", ["bca", "percentile"])
def test_interval_of_the_difference_is_that_of_scipy(pairs: Any, interval: Literal["bca", "percentile"]) -> None:
    a, b = pairs
    bootstrap = Bootstrap(interval, resamples=2000, seed=7)
    expected = stats.bootstrap(
        (b - a,), np.mean, n_resamples=2000, method=interval, rng=np.random.default_rng(7)
    ).confidence_interval
    assert bootstrap_intervals(a, b, bootstrap)[0] == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("interval", ["bca", "percentile"])
def test_interval_of_the_change_is_that_of_scipy(
    pairs: Any, interval: Literal["bca", "percentile"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resampled in several chunks, whose draws go on where the last ended."""
    monkeypatch.setattr("rediffinet.reports.statistics.CHUNK", 10_000)
    a, b = pairs
    expected = stats.bootstrap(
        (a, b),
        lambda a, b, axis: 100 * (b.mean(axis=axis) / a.mean(axis=axis) - 1),
        paired=True,
        n_resamples=2000,
        method=interval,
        rng=np.random.default_rng(7),
    ).confidence_interval
    found = bootstrap_intervals(a, b, Bootstrap(interval, resamples=2000, seed=7))[1]
    assert found == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_interval_of_a_coin() -> None:
    """Percentile interval of the mean of zeros and ones: quantiles of a binomial, to what resampling leaves open."""
    a, b = np.full(100, 2.0), 2.0 + np.repeat([0.0, 1.0], [60, 40])
    low, high = bootstrap_intervals(a, b, Bootstrap("percentile", resamples=20_000))[0]
    assert low == pytest.approx(stats.binom.ppf(0.025, 100, 0.4) / 100, abs=0.011)
    assert high == pytest.approx(stats.binom.ppf(0.975, 100, 0.4) / 100, abs=0.011)


def test_seed_decides(pairs: Any) -> None:
    first, again, other = (bootstrap_intervals(*pairs, Bootstrap(resamples=300, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def no_nan(found: Any) -> bool:
    return not any(isinstance(value, float) and math.isnan(value) for value in asdict(found).values())


def test_all_differences_zero() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_pairs(a, a.copy(), "less", FEW)
    assert found.note == "all 4 differences are zero: nothing to test"
    assert (found.t_p, found.shapiro_p, found.wilcoxon_p, found.difference_interval) == (None, None, None, None)
    assert (found.difference, found.change_percent, found.zeros) == (0.0, 0.0, 4)
    assert no_nan(found)


def test_rounding_of_means_over_seeds_is_no_difference() -> None:
    a = np.array([0.1 + 0.2, 0.5, 0.7, 0.9])
    assert compare_pairs(a, np.array([0.3, 0.5, 0.7, 0.9]), "greater", FEW).zeros == 4


def test_all_differences_the_same() -> None:
    a = np.linspace(1.0, 4.0, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_pairs(a, a - 0.1, "less", FEW)
    assert "all 7 differences are the same" in found.note
    assert (found.t_p, found.shapiro_p) == (None, None)
    assert found.wilcoxon_p == pytest.approx(1 / 2**7, rel=0.5)
    assert found.difference_interval == pytest.approx((-0.1, -0.1))
    assert no_nan(found)


def test_too_few_pairs_are_not_tested() -> None:
    found = compare_pairs(np.array([1.0, 2.0]), np.array([1.5, 1.0]), "less", FEW)
    assert found.note == "2 of at least 3 pairs: not tested"
    assert (found.t_p, found.wilcoxon_p, found.difference_interval) == (None, None, None)
    assert found.difference == pytest.approx(-0.25)


def test_a_mean_of_zero_has_no_relative_change() -> None:
    found = compare_pairs(np.zeros(4), np.array([0.0, 1.0, 2.0, 4.0]), "less", FEW)
    assert (found.change_percent, found.change_interval) == (None, None)
    assert "no relative change" in found.note
    sparse = compare_pairs(np.array([0.0, 0.0, 0.0, 3.0]), np.array([0.0, 1.0, 2.0, 4.0]), "less", FEW)
    assert sparse.change_percent is not None
    assert sparse.change_interval is None
    assert "no interval" in sparse.note


@pytest.mark.parametrize("settings", [{"interval": "normal"}, {"confidence": 95.0}, {"resamples": 10}])
def test_bad_settings(settings: Any) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        Bootstrap(**settings)


def test_without_scipy(pairs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scipy", "scipy.stats"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rediffinet\[report\]'"):
        compare_pairs(*pairs, "less", FEW)
