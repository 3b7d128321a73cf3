"""Flip the baseline where the discrepancy says it is wrong, and decode the regions to labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.ext import _flip
from rediffinet.ext._threads import run, slabs

MAX_REGIONS = 8  # bits of a byte
_TURNED = (0, 3, 2, 1)  # a Fortran-order volume seen in C order


@dataclass(frozen=True, slots=True)
class FlipResult:
    """Refined segmentation of one volume."""

    labels: npt.NDArray[np.uint8]
    """Label map (X, Y, Z)."""
    voxels: npt.NDArray[np.int64]
    """Voxels (R,) of each region in `labels`."""
    flipped: npt.NDArray[np.int64]
    """Voxels (R,) whose membership in each region differs between `labels` and the baseline painted alike."""


def flip_and_decode(
    delta: npt.NDArray[np.float32] | npt.NDArray[np.float16],
    baseline: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
    thresholds: Sequence[float],
    label_values: Sequence[int],
    parents: Sequence[int] | None = None,
    *,
    threads: int = 1,
) -> FlipResult:
    """Flip the baseline where the discrepancy exceeds its threshold and paint the regions as labels, in one pass.

    Per region, refined = baseline XOR (delta > threshold). Regions are painted in their order, a later one over an
    earlier: the last region that has a voxel gives it its label, and the voxel is then in that region and its
    ancestors and in no other. For BraTS' WT, TC, ET, each the parent of the next, an ET voxel gets the ET label and so
    is in TC and WT too; else a TC voxel gets the TC label and is in WT too; else a WT voxel the WT label; else 0. So
    regions are nested in the label map as their parents say, whatever the masks were.

    Args:
        delta: (R, X, Y, Z) float32 or float16, the probability that the baseline is wrong in each region; logits do as
            well with thresholds in logit units. NaN counts as not wrong: the baseline stays. R is from 1 to 8.
        baseline: (R, X, Y, Z) bool or uint8, the masks U(I) of the regions; not 0 is inside. They need not be nested.
        thresholds: one per region, compared as float32 (a float16 delta is widened exactly). Not NaN.
        label_values: the label that each region paints: 1…255, distinct; see `Task.paint`.
        parents: index of each region's parent, -1 for none; a parent stands before its children; see `Task.parents`.
            None: a chain, each region inside the one before it.
        threads: slabs of the first spatial axis are shared among this many threads; the result does not depend on it.

    Returns:
        A FlipResult. `voxels` counts the regions of the written label map. `flipped` compares them with the baseline
        painted by the same rule, so it counts what a reader of the two label maps sees.

    Any strides are accepted. C-order and Fortran-order volumes (equal in delta and baseline) run at memory speed; other
    layouts are gathered row by row, without a copy of the whole. Labels have Fortran order where delta has.

    Raises:
        TypeError: a dtype other than those above.
        ValueError: shapes that differ or are not (R, X, Y, Z); thresholds, label values, parents or threads out of
            range.
    """
    if delta.dtype not in (np.float32, np.float16):
        raise TypeError(f"delta is {delta.dtype}, expected float32 or float16")
    if baseline.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"baseline is {baseline.dtype}, expected bool or uint8")
    if delta.ndim != 4 or not 1 <= delta.shape[0] <= MAX_REGIONS or baseline.shape != delta.shape:
        message = f"delta is {delta.shape} and baseline {baseline.shape}, expected (R, X, Y, Z) for both, R from 1 to 8"
        raise ValueError(message)
    regions = delta.shape[0]
    limits = np.asarray(thresholds, np.float32)
    if limits.shape != (regions,) or np.isnan(limits).any():
        raise ValueError(f"thresholds are {thresholds!r}, expected {regions} numbers, one for each region")
    if len(label_values) != regions or len(set(label_values)) != regions or not all(0 < v < 256 for v in label_values):
        raise ValueError(f"label values are {label_values!r}, expected {regions} distinct integers in 1…255")
    membership = _membership(range(-1, regions - 1) if parents is None else parents, regions)
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more")

    fortran = delta[0].flags.f_contiguous and not delta[0].flags.c_contiguous
    shape = delta.shape[1:]
    labels = np.empty(shape, np.uint8, order="F" if fortran else "C")
    values: npt.NDArray[Any] = delta.view(np.uint16) if delta.dtype == np.float16 else delta
    masks, out = baseline.view(np.uint8), labels[None]
    if fortran:
        values, masks, out = values.transpose(_TURNED), masks.transpose(_TURNED), out.transpose(_TURNED)
    if values[0].flags.c_contiguous and masks[0].flags.c_contiguous:  # each plane is one long row
        planes = (regions, values.shape[1], 1, values.shape[2] * values.shape[3])
        values, masks, out = values.reshape(planes), masks.reshape(planes), out.reshape(1, *planes[1:])

    bounds: npt.NDArray[Any] = _floor_float16(limits).view(np.uint16) if delta.dtype == np.float16 else limits
    codes = np.array(label_values, np.uint8)
    parts = slabs(values.shape[1], threads)
    counts = np.zeros((len(parts), 2, regions), np.int64)

    def flip(k: int) -> None:
        _flip.flip_rows(values, masks, bounds, codes, membership, out, counts[k], *parts[k])

    if labels.size:
        run(flip, len(parts), threads)
    voxels, flipped = counts.sum(axis=0)
    return FlipResult(labels, voxels, flipped)


def _membership(parents: Sequence[int], regions: int) -> npt.NDArray[np.uint8]:
    """For each region (R,) the bits of the regions that a voxel painted by it is in: its own and its ancestors'."""
    bits = np.zeros(regions, np.uint8)
    if len(parents) != regions or not all(-1 <= parent < k for k, parent in enumerate(parents)):
        raise ValueError(f"parents are {list(parents)}, expected {regions} indices of earlier regions, or -1 for none")
    for k, parent in enumerate(parents):
        bits[k] = 1 << k | (bits[parent] if parent >= 0 else 0)
    return bits


def _floor_float16(limits: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Largest float16 not above each limit: a float16 exceeds the one exactly where it exceeds the other."""
    with np.errstate(over="ignore"):
        rounded = limits.astype(np.float16)
        below = np.nextafter(rounded, np.float16(-np.inf))
    return np.where(rounded.astype(np.float32) > limits, below, rounded) + np.float16(0)  # -0 would sort below +0
