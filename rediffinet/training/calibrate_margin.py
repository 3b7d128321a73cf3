"""The scale of the margin in mm, fitted on boundaries that no network had seen (rediffinet.method.margin)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.method.margin import Boundary, BoundaryMargin, boundary, boundary_voxels
from rediffinet.method.recipe import Decision, Recipe
from rediffinet.method.resample import Spacing
from rediffinet.task import regions_of
from rediffinet.training.calibrate import Found

POINTS = 1500
"""True boundary voxels of a case and region that are looked at, at most: evenly spread over all."""
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BoundaryError:
    """Of a region of a held-out case: the scale at which each true boundary voxel comes into the band, in mm.

    needed: (n,); None where the region was not found. doubt: of the boundary that was found.
    """

    case: str
    fold: int
    region: int
    needed: Numbers | None
    doubt: npt.NDArray[np.float32]


def boundary_errors(recipe: Recipe, cases: Iterable[Found], decisions: Mapping[int, Decision]) -> list[BoundaryError]:
    """Of every region that the reference of a case has, with the decision of the case's fold."""
    shape = BoundaryMargin(scale_mm=(0.0,) * len(recipe.task.regions))
    errors = []
    for found in cases:
        decoded = found.decoded(recipe, decisions[found.fold])
        for index, truth in enumerate(regions_of(found.reference, recipe.task)):
            points = boundary_voxels(truth)
            if len(points):
                points = points[:: 1 + (len(points) - 1) // POINTS]
                here = boundary(decoded.regions[index], decoded.probability[index], shape, found.spacing_mm)
                needed = _needed(points, here, shape.sure, found.spacing_mm) if len(here.at) else None
                errors.append(BoundaryError(found.case.name, found.fold, index, needed, here.doubt))
    return errors


def fit_margin(errors: Sequence[BoundaryError], regions: int, share: float = 0.9) -> BoundaryMargin | None:
    """The margin whose band holds that share of the true boundary, each case weighing the same.

    None where a region was found in no case, or there are more regions than a byte has bits.
    """
    scales = []
    for index in range(regions):
        of_region = [error.needed for error in errors if error.region == index and error.needed is not None]
        if not of_region:
            return None
        values = np.concatenate(of_region)
        weights = np.concatenate([np.full(len(needed), 1.0 / len(needed) / len(of_region)) for needed in of_region])
        order = np.argsort(values)
        reached = int(np.searchsorted(np.cumsum(weights[order]), share - 1e-9))
        scales.append(float(values[order][min(reached, len(values) - 1)]))
    return BoundaryMargin(share=share, scale_mm=tuple(scales)) if regions <= 8 else None


def held_out_coverage(errors: Sequence[BoundaryError], names: Sequence[str], share: float = 0.9) -> dict[str, Any]:
    """What share of the true boundary lies in the band that was fitted on the other folds; JSON-ready, by region.

    coverage: mean over cases; by_fold: the same; of_points: of all boundary voxels looked at; cases: in which the
    region was found, missed: in which it was not; reached: cases in which the share is in the band; least: of one case.
    median_mm, median_mm_range: median and range over cases of the median margin.
    """
    folds = sorted({error.fold for error in errors})
    fitted = {fold: fit_margin([e for e in errors if e.fold != fold], len(names), share) for fold in folds}
    told: dict[str, Any] = {}
    for index, name in enumerate(names):
        inside: dict[int, list[npt.NDArray[np.bool_]]] = {}
        medians, missed = [], 0
        for error in errors:
            margin = fitted[error.fold]
            if error.region != index or margin is None:
                continue
            if error.needed is None:
                missed += 1
                continue
            scale = margin.scale_mm[index]
            inside.setdefault(error.fold, []).append(error.needed <= scale)
            medians.append(float(np.median(scale * (margin.sure + error.doubt))))
        by_case = [float(hit.mean()) for hits in inside.values() for hit in hits]
        if not by_case:
            continue
        told[name] = {
            "cases": len(by_case),
            "missed": missed,
            "coverage": round(float(np.mean(by_case)), 4),
            "by_fold": {str(fold): round(float(np.mean([h.mean() for h in hits])), 4) for fold, hits in inside.items()},
            "of_points": round(float(np.concatenate([h for hits in inside.values() for h in hits]).mean()), 4),
            "reached": sum(value >= share for value in by_case),
            "least": round(min(by_case), 4),
            "median_mm": round(float(np.median(medians)), 2),
            "median_mm_range": [round(min(medians), 2), round(max(medians), 2)],
        }
    return {"share": share, "regions": told}


def _needed(points: npt.NDArray[np.intp], here: Boundary, sure: float, spacing_mm: Spacing) -> Numbers:
    """min over b of |t − b| / (sure + doubt(b)) for every point t (n, 3), in mm.

    The square of |t − b| · w is one product of matrices: (|t|², t, 1) · (w², −2 w² b, w² |b|²).
    """
    steps, middle = np.array(spacing_mm), here.at.mean(axis=0)
    asked, found = (points - middle) * steps, (here.at - middle) * steps
    weight = 1.0 / (sure + here.doubt.astype(np.float64)[:, None]) ** 2
    left = np.hstack([(asked**2).sum(axis=1, keepdims=True), asked, np.ones((len(asked), 1))])
    right = np.hstack([weight, -2.0 * weight * found, weight * (found**2).sum(axis=1, keepdims=True)]).T
    least = [(left[start : start + 256] @ right).min(axis=1) for start in range(0, len(points), 256)]
    return np.asarray(np.sqrt(np.maximum(np.concatenate(least), 0.0)))
