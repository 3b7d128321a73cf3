"""Two paired samples: is the second one better? Tests of the difference and bootstrap intervals, for plain arrays.

The paired t-test with a check of normality is what the paper does (Appendix B). Differences of HD95 between two models
are rarely normal: most cases hardly change and a few change a lot. So the signed-rank test and intervals from the
bootstrap, which assume no distribution, stand beside it.

Sources: Student's t for paired samples; Shapiro and Wilk 1965; Wilcoxon 1945 with the zeros of Pratt 1959; Efron 1987
for the bias-corrected and accelerated interval (BCa).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError, MissingExtraError

Values = npt.NDArray[np.float64]
Bounds = tuple[float, float]
Tail = Literal["less", "greater"]
"""The alternative: b − a is below zero (HD95), or above zero (Dice)."""

MIN_PAIRS = 3
"""Shapiro-Wilk needs three, and a test of fewer says nothing."""
SAME = 1e-12
"""Relative difference up to which two values are the same but for the rounding of a mean over seeds."""
CHUNK = 2_000_000
"""Most resampled values in memory at a time."""
ALL_ZERO = "all {n} differences are zero: nothing to test"
ALL_EQUAL = "all {n} differences are the same: no spread for a t-test or a check of normality"
TOO_FEW = f"{{n}} of at least {MIN_PAIRS} pairs: not tested"
NO_CHANGE = "the mean of A is zero: no relative change"
NO_CHANGE_INTERVAL = "the mean of A is zero in some resamples: no interval of the relative change"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals are made: `resamples` draws of all pairs with replacement from a generator seeded with `seed`."""

    interval: Literal["bca", "percentile"] = "bca"
    confidence: float = 0.95
    resamples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for settings without a meaning."""
        if self.interval not in ("bca", "percentile"):
            raise ConfigError(f"The interval is {self.interval!r}.\nExpected bca or percentile.")
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(f"The confidence is {self.confidence:g}.\nExpected a number between 0 and 1.")
        if self.resamples < 100:
            raise ConfigError(f"{self.resamples} bootstrap resamples were asked for.\nExpected 100 or more.")


@dataclass(frozen=True, slots=True)
class Paired:
    """What is known of b − a. None where a number does not exist; `note` says why."""

    pairs: int
    mean_a: float
    mean_b: float
    difference: float
    difference_interval: Bounds | None
    change_percent: float | None
    """100 (mean b / mean a − 1)."""
    change_interval: Bounds | None
    better: int
    worse: int
    zeros: int
    t: float | None
    t_p: float | None
    shapiro_w: float | None
    shapiro_p: float | None
    wilcoxon_p: float | None
    note: str


def compare_pairs(a: Values, b: Values, tail: Tail, bootstrap: Bootstrap) -> Paired:
    """All statistics of the pairs (a[i], b[i]), both (n,) float64 and finite, n ≥ 1.

    One-sided p values for "b − a is less (greater) than zero". Intervals are two-sided.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    differences = np.where(abs(b - a) <= SAME * np.maximum(abs(a), abs(b)), 0.0, b - a)
    pairs, zeros = len(a), int((differences == 0).sum())
    mean_a, mean_b = float(a.mean()), float(b.mean())
    lower, higher = int((differences < 0).sum()), int((differences > 0).sum())
    notes = []
    t = t_p = shapiro_w = shapiro_p = wilcoxon_p = None
    intervals: tuple[Bounds | None, Bounds | None] = (None, None)
    if mean_a == 0.0:
        notes.append(NO_CHANGE)
    if pairs < MIN_PAIRS:
        notes.append(TOO_FEW.format(n=pairs))
    elif zeros == pairs:
        notes.append(ALL_ZERO.format(n=pairs))
    else:
        stats = scipy_stats("Comparing two models")
        # Pratt: a case that did not change counts in the ranks, so that many such cases do not make few look like all.
        wilcoxon_p = float(stats.wilcoxon(differences, zero_method="pratt", alternative=tail).pvalue)
        if np.ptp(differences) <= 1e-9 * float(abs(differences).max()):
            notes.append(ALL_EQUAL.format(n=pairs))
        else:
            t, t_p = (float(value) for value in stats.ttest_1samp(differences, 0.0, alternative=tail))
            shapiro_w, shapiro_p = (float(value) for value in stats.shapiro(differences))
        intervals = bootstrap_intervals(a, b, bootstrap)
        if intervals[1] is None and mean_a != 0.0:
            notes.append(NO_CHANGE_INTERVAL)
    return Paired(
        pairs=pairs,
        mean_a=mean_a,
        mean_b=mean_b,
        difference=float(differences.mean()),
        difference_interval=intervals[0],
        change_percent=100.0 * (mean_b / mean_a - 1.0) if mean_a else None,
        change_interval=intervals[1],
        better=lower if tail == "less" else higher,
        worse=higher if tail == "less" else lower,
        zeros=zeros,
        t=t,
        t_p=t_p,
        shapiro_w=shapiro_w,
        shapiro_p=shapiro_p,
        wilcoxon_p=wilcoxon_p,
        note="; ".join(notes),
    )


def scipy_stats(what: str) -> Any:
    """The module scipy.stats. Raises MissingExtraError, in which `what` needs it."""
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise MissingExtraError(what, str(error.name), "report") from None
    return stats


def bootstrap_intervals(a: Values, b: Values, bootstrap: Bootstrap) -> tuple[Bounds, Bounds | None]:
    """Intervals of mean(b − a) and of 100 (mean b / mean a − 1), from the same resamples of the pairs.

    The second is None when a mean of `a` is zero, also when only that of a resample is.
    """
    n = len(a)
    generator = np.random.default_rng(bootstrap.seed)
    means = np.empty((2, bootstrap.resamples))
    step = max(1, CHUNK // n)
    for start in range(0, bootstrap.resamples, step):
        stop = min(start + step, bootstrap.resamples)
        chosen = generator.integers(0, n, (stop - start, n))
        means[:, start:stop] = a[chosen].mean(axis=1), b[chosen].mean(axis=1)
    left_out = np.stack([(values.sum() - values) / (n - 1) for values in (a, b)])
    found = np.array([a.mean(), b.mean()])

    def interval(statistic: npt.NDArray[np.float64], value: float, jackknife: npt.NDArray[np.float64]) -> Bounds:
        tails = ((1.0 - bootstrap.confidence) / 2.0, (1.0 + bootstrap.confidence) / 2.0)
        if bootstrap.interval == "bca":
            tails = bca_tails(statistic, value, jackknife, bootstrap.confidence)
        low, high = np.quantile(statistic, tails)
        return float(low), float(high)

    difference = interval(means[1] - means[0], float(found[1] - found[0]), left_out[1] - left_out[0])
    if not (found[0] and means[0].all() and left_out[0].all()):
        return difference, None
    of_means, of_all, of_left_out = (100.0 * (both[1] / both[0] - 1.0) for both in (means, found, left_out))
    return difference, interval(of_means, float(of_all), of_left_out)


def bca_tails(
    resampled: npt.NDArray[np.float64], value: float, jackknife: npt.NDArray[np.float64], confidence: float
) -> Bounds:
    """Which quantiles of the resampled statistic (R,) bound the BCa interval.

    value: the statistic of the sample; jackknife: (n,), without each pair in turn. Plain tails where the correction
    does not exist (all resamples on one side of the value).
    """
    normal = NormalDist()
    tails = ((1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0)
    below = float((resampled < value).mean() + (resampled <= value).mean()) / 2.0  # ties count half
    if not 0.0 < below < 1.0:
        return tails
    bias = normal.inv_cdf(below)
    spread = jackknife.mean() - jackknife
    squares = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6.0 * squares**1.5) if squares > 0.0 else 0.0

    def corrected(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1.0 - acceleration * z))

    low, high = corrected(tails[0]), corrected(tails[1])
    return (low, high) if math.isfinite(low + high) else tails
