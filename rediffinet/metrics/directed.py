"""The larger of the two directed percentiles between two surfaces, without most of the distances.

Only the longest distances decide a high percentile, and they are the ones that take long to find. A sample tells from
where on they count, shorter ones are only found to be shorter. What it tells is checked by what is then found: where
it was too high, all distances are found, so the result is that of all of them, to the bit.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rediffinet.ext import Direction
from rediffinet.metrics.reducers import TIE, reaches

_Numbers = npt.NDArray[np.float64]
_EVERY = 32  # elements of which one is in the sample
_Reduce = Callable[[_Numbers, _Numbers, float, float], float | None]
"""(lengths, areas, fraction, enough): the percentile, given that lengths up to `enough` may be anything up to it:
`enough` where it is not above, None where that cannot be told."""


def larger_percentile(there: Direction, back: Direction, percent: float, reduce: _Reduce) -> float:
    """In mm; 0 where there is no surface at all, inf where there is one alone."""
    if not (len(there) and len(back)):
        return float("inf") if len(there) or len(back) else 0.0
    fraction = percent / 100
    guesses = [_low_quantile(direction.distances(0.0, _EVERY), fraction) for direction in (there, back)]
    order = (there, back) if guesses[0] >= guesses[1] else (back, there)  # the one that decides first
    enough = (1 - 1e-9) * max(guesses)  # for many elements are at the very same distance
    found = _largest(order, fraction, reduce, enough)
    return found if found > enough else _largest(order, fraction, reduce, 0.0)


def _low_quantile(sample: _Numbers, fraction: float) -> float:
    """What the quantile of all is hardly ever below: that of the sample, lower by three times its standard error."""
    slack = 3 * math.sqrt(fraction * (1 - fraction) / len(sample))
    return float(np.sort(sample)[int(max(fraction - slack, 0) * (len(sample) - 1))])


def _largest(order: tuple[Direction, Direction], fraction: float, reduce: _Reduce, enough: float) -> float:
    """The largest percentile, or `enough` where none is above it."""
    for direction in order:
        found = reduce(direction.distances(enough), direction.areas, fraction, enough)
        if found is None:
            found = reduce(direction.distances(0.0), direction.areas, fraction, 0.0)
        enough = max(enough, found or 0.0)
    return enough


def interpolated(lengths: _Numbers, areas: _Numbers, fraction: float, enough: float) -> float | None:
    """That of np.percentile: elements alike, interpolated linearly."""
    del areas
    far = np.sort(lengths[lengths > enough])
    rank = (len(lengths) - 1) * fraction
    k = int(rank) - (len(lengths) - len(far))
    if k + 1 < 0 or not len(far):
        return enough
    if k < 0 and enough > 0:
        return None
    low = float(far[k]) if k >= 0 else 0.0
    high, part = float(far[min(k + 1, len(far) - 1)]), rank % 1
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


def weighted(lengths: _Numbers, areas: _Numbers, fraction: float, enough: float) -> float | None:
    """That of `reducers.weighted_percentile`: the length up to which elements hold the fraction of the area."""
    if enough == 0:
        return reaches(lengths, areas, fraction)
    is_far = lengths > enough
    far, weights = lengths[is_far], areas[is_far]
    order = np.argsort(far)
    total = areas.sum()
    within = total - weights.sum() + np.concatenate([[0.0], np.cumsum(weights[order])])
    past = within - fraction * total
    if np.abs(past).min() < TIE * total:
        return None
    if past[0] > 0:
        return enough
    return float(far[order[np.searchsorted(past, 0.0) - 1]])
