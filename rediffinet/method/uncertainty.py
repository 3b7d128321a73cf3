"""Uncertainty that means something: the stated probability of a wrong label, held against how often it was wrong.

A network's own probabilities are over-sure. On cases that took no part in training, voxels are grouped by the stated
probability p of a wrong label and the share that really was wrong is measured (a reliability diagram, DeGroot and
Fienberg 1983); a rising curve through these points then replaces p. The expected calibration error (Naeini et al. 2015)
is the distance of the two, averaged over the groups by their size.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

Values = npt.NDArray[np.floating]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
LEAST = 0.01
"""Voxels whose stated probability is below are not counted: the sure background would make any error look small."""
FITTED = 0.001
"""The curve is fitted down to here: what an over-sure network doubts less than `LEAST` can be wrong more often."""


class UncertaintyCurve(BaseModel):
    """Stated probability → observed share of wrong labels, both rising from point to point; linear in between.

    Flat beyond the last point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stated: Annotated[tuple[Fraction, ...], Field(min_length=2)]
    observed: Annotated[tuple[Fraction, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.stated) != len(self.observed):
            raise ValueError(f"got {len(self.stated)} stated and {len(self.observed)} observed values")
        if any(np.diff(self.stated) <= 0) or any(np.diff(self.observed) < 0):
            raise ValueError("stated must rise and observed must not fall")
        return self

    def __call__(self, stated: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Calibrated probability of a wrong label, float32, of any shape."""
        (x0, x1), (y0, y1) = self.stated[:2], self.observed[:2]
        slope = np.float32((y1 - y0) / (x1 - x0))
        found = np.asarray(np.float32(y0) + (np.maximum(stated, np.float32(x0)) - np.float32(x0)) * slope)
        above = stated > x1  # few voxels of a head: looking the others up in the table would be most of the work
        found[above] = np.interp(stated[above], self.stated, self.observed)
        return found


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: per group of voxels the mean stated probability, the share wrong, and how many."""

    stated: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error."""
        return float(np.average(np.abs(self.stated - self.observed), weights=self.count)) if self.count.sum() else 0.0


def reliability(stated: Values, wrong: npt.NDArray[np.bool_], groups: int = 15) -> Reliability:
    """Group voxels by stated probability into `groups` of equal width between 0 and 1; empty groups are left out.

    stated and wrong: one value per voxel, of any equal shape. Voxels stated below `LEAST` are not counted.
    """
    chosen = stated >= LEAST
    values, hit = stated[chosen].astype(np.float64), wrong[chosen]
    index = np.minimum((values * groups).astype(np.int64), groups - 1)
    count = np.bincount(index, minlength=groups)
    filled = count > 0
    total = np.bincount(index, values, groups)[filled]
    errors = np.bincount(index, hit, groups)[filled]
    return Reliability(total / count[filled], errors / count[filled], count[filled])


def fit_curve(stated: Values, wrong: npt.NDArray[np.bool_], points: int = 20) -> UncertaintyCurve | None:
    """The rising curve through groups of equally many voxels, by pooling neighbours that fall; 0 stays 0.

    It is flat beyond the last group: the highest doubts are those of labels that a rule decided otherwise than the
    probability, and they are not wrong more often than not. Voxels stated below `FITTED` are left out. None when fewer
    than two groups can be told apart.
    """
    chosen = stated >= FITTED
    values, hit = stated[chosen].astype(np.float64), wrong[chosen].astype(np.float64)
    if values.size < 2 * points:
        return None
    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, points)
    blocks = [(float(values[part].mean()), float(hit[part].mean()), len(part)) for part in parts]
    rising: list[tuple[float, float, int]] = []
    for block in blocks:
        rising.append(block)
        while len(rising) > 1 and (rising[-1][1] < rising[-2][1] or rising[-1][0] <= rising[-2][0]):
            (x0, y0, n0), (x1, y1, n1) = rising[-2:]
            total = n0 + n1
            rising[-2:] = [((x0 * n0 + x1 * n1) / total, (y0 * n0 + y1 * n1) / total, total)]
    x, y = [0.0, *(block[0] for block in rising)], [0.0, *(block[1] for block in rising)]
    return UncertaintyCurve(stated=tuple(x), observed=tuple(y)) if len(rising) > 1 else None
