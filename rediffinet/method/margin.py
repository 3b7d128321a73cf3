"""Uncertainty in millimetres: around the boundary that was found, the band in which the true one lies with 90 %.

Every voxel b of a region's boundary has a margin of m(b) mm, which grows with the doubt around b: the mean probability
of a wrong membership over a small cube. The band is the union of the balls of radius m(b), so the true boundary at t is
in it when min |t − b| / m(b) ≤ 1. All of m(b) but its scale is fixed, and the scale of a region is that at which the
asked share of the true boundary voxels of cases that took no part in training lies in the band, each case weighing the
same: a conformal prediction by nested sets (Gupta, Kuchibhotla and Ramdas 2022). A region that was missed has no
boundary, so the band says nothing of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from rediffinet.ext import joint_box
from rediffinet.method.resample import Spacing

Mask = npt.NDArray[np.bool_]
Volume = npt.NDArray[np.float32]


class BoundaryMargin(BaseModel):
    """m(b) = scale · (sure + doubt(b)) mm, with a scale for each region of the task.

    share: of the true boundary that is to lie in the band. cube_mm: half the side of the cube that the doubt is taken
    over. sure: what is added to the doubt, so that the surest boundary has a margin too. At most 8 regions, which share
    the bits of a byte.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.9
    cube_mm: Annotated[float, Field(gt=0.0)] = 2.0
    sure: Annotated[float, Field(gt=0.0)] = 0.05
    scale_mm: Annotated[
        tuple[Annotated[float, Field(ge=0.0, allow_inf_nan=False)], ...], Field(min_length=1, max_length=8)
    ]


@dataclass(frozen=True)
class Boundary:
    """Boundary voxels of a region: inside it, with a neighbour over a face that is not.

    at: their indices (n, 3). doubt: float32 (n,), at each the mean probability of a wrong membership around it.
    """

    at: npt.NDArray[np.intp]
    doubt: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Margin:
    """The boundary voxels of a region that was found, indices (n, 3), and the margin in mm of each, float32 (n,)."""

    at: npt.NDArray[np.intp]
    mm: npt.NDArray[np.float32]

    @property
    def median_mm(self) -> float | None:
        """The margin at half of the boundary or more; None where there is none."""
        return float(np.median(self.mm)) if self.mm.size else None


def boundary_voxels(region: Mask) -> npt.NDArray[np.intp]:
    """Indices (n, 3) of voxels of a region (X, Y, Z) with one outside it over a face; the image's edge is outside."""
    box = joint_box(region, region)
    inside = region[box]
    padded = np.pad(inside, 1)
    inner = inside.copy()
    for axis in range(3):
        for step in (0, 2):
            there = [slice(1, -1)] * 3
            there[axis] = slice(step, step + inside.shape[axis])
            inner &= padded[tuple(there)]
    return np.argwhere(inside & ~inner) + np.array([part.start for part in box], np.intp)


def boundary(region: Mask, probability: Volume, settings: BoundaryMargin, spacing_mm: Spacing) -> Boundary:
    """The boundary of a region (X, Y, Z) and how much it is doubted; probability: of the region, the same shape."""
    at = boundary_voxels(region)
    doubt = np.zeros(len(at), np.float32)
    if len(at):
        half = [max(1, round(settings.cube_mm / size)) for size in spacing_mm]
        low, high = at.min(axis=0) - half, at.max(axis=0) + 1 + half
        near = tuple(slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True))
        wrong = np.where(region[near], 1.0 - probability[near], probability[near])
        around = _cube_mean(wrong, half)
        doubt = around[tuple((at - [part.start for part in near]).T)]
    return Boundary(at, doubt)


def _cube_mean(values: Volume, half: Sequence[int]) -> Volume:
    """Mean over the cube around every voxel, 0 beyond the image; float32 (X, Y, Z)."""
    mean = values.astype(np.float64)
    for axis, width in enumerate(half):
        padded = np.pad(mean, [(width + 1, width) if k == axis else (0, 0) for k in range(3)])
        total = np.cumsum(padded, axis=axis)
        size = 2 * width + 1
        count = total.shape[axis] - size
        mean = (total.take(range(size, size + count), axis) - total.take(range(count), axis)) / size
    return mean.astype(np.float32)


def margins(regions: Mask, probability: Volume, settings: BoundaryMargin, spacing_mm: Spacing) -> tuple[Margin, ...]:
    """The margin of every region (R, X, Y, Z); probability: of them, float32 of the same shape."""
    found = []
    for region, of_region, scale in zip(regions, probability, settings.scale_mm, strict=True):
        here = boundary(region, of_region, settings, spacing_mm)
        found.append(Margin(here.at, np.float32(scale) * (np.float32(settings.sure) + here.doubt)))
    return tuple(found)


def band(margin: Margin, shape: tuple[int, int, int], spacing_mm: Spacing) -> Mask:
    """The union of balls around the boundary voxels, each of its margin; bool of that shape."""
    inside = np.zeros(shape, bool)
    if not margin.mm.size:
        return inside
    order = np.argsort(-margin.mm, kind="stable")
    at, mm = margin.at[order], margin.mm[order].astype(np.float64)
    reach = [int(mm[0] / size) for size in spacing_mm]
    low = at.min(axis=0) - reach
    size = tuple(int(extent) for extent in at.max(axis=0) + 1 + reach - low)
    steps = np.array([size[1] * size[2], size[2], 1])
    flat = (at - low) @ steps
    found = np.zeros(size, bool)
    grown = found.reshape(-1)
    for offset, distance in _ball(reach, spacing_mm, float(mm[0])):  # farther ones from fewer voxels
        grown[flat[: np.searchsorted(-mm, -distance, side="right")] + offset @ steps] = True
    here = tuple(slice(max(0, int(a)), min(n, int(a) + s)) for a, n, s in zip(low, shape, size, strict=True))
    inside[here] = found[
        tuple(slice(part.start - int(a), part.stop - int(a)) for part, a in zip(here, low, strict=True))
    ]
    return inside


def _ball(reach: Sequence[int], spacing_mm: Spacing, radius: float) -> Iterator[tuple[npt.NDArray[np.intp], float]]:
    """Steps in voxels and how many mm each is, up to the radius."""
    axes = np.meshgrid(*(np.arange(-width, width + 1) for width in reach), indexing="ij")
    offsets = np.stack(axes, -1).reshape(-1, 3)
    distances = np.sqrt(((offsets * np.array(spacing_mm)) ** 2).sum(axis=1))
    near = distances <= radius
    yield from zip(offsets[near], distances[near].tolist(), strict=True)
