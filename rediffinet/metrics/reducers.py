"""Numbers from surface distances. One expensive call gives the distances, these are cheap.

Where one mask is empty every distance is inf; where both are, 0. Surface Dice is then 0 and 1.
"""

import numpy as np
import numpy.typing as npt

from rediffinet.ext import SurfaceDistances

_Numbers = npt.NDArray[np.float64]
_BINS = 4096
_FEW = 2000  # elements that are sorted outright
TIE = 1e-9  # of the total area: nearer than this to the fraction, rounding decides, and must do so as in the original


def is_empty(distances: SurfaceDistances) -> tuple[bool, bool]:
    """Whether mask a and mask b have no surface."""
    return len(distances.a_to_b) == 0, len(distances.b_to_a) == 0


def weighted_percentile(distances: SurfaceDistances, percent: float) -> float:
    """The larger of the two directed percentiles, elements weighted by area (DeepMind, BraTS-2023), in mm."""
    if any(is_empty(distances)):
        return _of_empty(distances)
    directions = ((distances.a_to_b, distances.a_areas), (distances.b_to_a, distances.b_areas))
    return max(reaches(lengths, areas, percent / 100) for lengths, areas in directions)


def pooled_percentile(distances: SurfaceDistances, percent: float) -> float:
    """The percentile of both directions together, elements alike, interpolated linearly (MedPy, panoptica), in mm."""
    if any(is_empty(distances)):
        return _of_empty(distances)
    return float(np.percentile(np.concatenate([distances.a_to_b, distances.b_to_a]), percent))


def weighted_average(distances: SurfaceDistances) -> float:
    """Mean distance in mm over the elements of both surfaces, weighted by area."""
    if any(is_empty(distances)):
        return _of_empty(distances)
    total = distances.a_areas.sum() + distances.b_areas.sum()
    return float((distances.a_to_b @ distances.a_areas + distances.b_to_a @ distances.b_areas) / total)


def share_within(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Share of both surfaces' area that lies within a tolerance of the other: normalised surface Dice."""
    if all(is_empty(distances)):
        return 1.0
    far = distances.a_areas @ (distances.a_to_b > tolerance_mm) + distances.b_areas @ (distances.b_to_a > tolerance_mm)
    share = 1 - float(far / (distances.a_areas.sum() + distances.b_areas.sum()))
    return max(share, 0.0)  # the sums are rounded in another order


def _of_empty(distances: SurfaceDistances) -> float:
    return 0.0 if all(is_empty(distances)) else float("inf")


def reaches(lengths: _Numbers, areas: _Numbers, fraction: float) -> float:
    """Smallest length up to which the elements hold the fraction of the area.

    Histogram first: only the bin in which the fraction is reached needs sorting.
    """
    longest = float(lengths.max())
    if longest == 0 or len(lengths) <= _FEW:
        return _reaches_sorted(lengths, areas, fraction)
    bins = (lengths * ((_BINS - 1) / longest)).astype(np.intp)
    reached = np.cumsum(np.bincount(bins, areas, minlength=_BINS))
    goal, slack = fraction * reached[-1], TIE * reached[-1]
    k = min(int(np.searchsorted(reached, goal)), _BINS - 1)
    members = np.flatnonzero(bins == k)
    members = members[np.argsort(lengths[members])]
    within = np.cumsum(areas[members]) + (reached[k - 1] if k else 0.0)
    if not len(members) or np.abs(within - goal).min() < slack or abs(within[0] - areas[members[0]] - goal) < slack:
        return _reaches_sorted(lengths, areas, fraction)
    return float(lengths[members[min(int(np.searchsorted(within, goal)), len(members) - 1)]])


def _reaches_sorted(lengths: _Numbers, areas: _Numbers, fraction: float) -> float:
    """The same by the original's own operations, so that ties at the fraction round as they do there."""
    order = np.lexsort((areas, lengths))
    share = np.cumsum(areas[order]) / np.sum(areas[order])
    return float(lengths[order[min(int(np.searchsorted(share, fraction)), len(order) - 1)]])
