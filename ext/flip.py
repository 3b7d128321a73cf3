"""Flip the baseline where the discrepancy says it is wrong, and decode the regions to labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.ext import _flip
from rediffinet.ext._threads import run, slabs

_TURNED = (0, 3, 2, 1)  # a Fortran-order volume seen in C order


@dataclass(frozen=True, slots=True)
class FlipResult:
    """Refined segmentation of one volume."""

    labels: npt.NDArray[np.uint8]
    """Label map (X, Y, Z)."""
    voxels: npt.NDArray[np.int64]
    """Voxels (3,) of WT, TC, ET in `labels`."""
    flipped: npt.NDArray[np.int64]
    """Voxels (3,) whose membership in WT, TC, ET differs between `labels` and the baseline decoded by the same rule."""


def flip_and_decode(
    delta: npt.NDArray[np.float32] | npt.NDArray[np.float16],
    baseline: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
    thresholds: Sequence[float],
    label_values: Sequence[int],
    *,
    threads: int = 1,
) -> FlipResult:
    """Flip the baseline where the discrepancy exceeds its threshold and decode the regions to labels, in one pass.

    Per region, refined = baseline XOR (delta > threshold). Overlapping regions decode by priority: an ET voxel gets
    the ET label and so is in TC and WT too; else a TC voxel gets the TC label and is in WT too; else a WT voxel the
    WT label; else 0. So ET ⊂ TC ⊂ WT holds in the label map whatever the three masks were, and a region only ever
    grows by decoding.

    Args:
        delta: (3, X, Y, Z) float32 or float16, the probability that the baseline is wrong in WT, TC, ET; logits do as
            well with thresholds in logit units. NaN counts as not wrong: the baseline stays.
        baseline: (3, X, Y, Z) bool or uint8, the masks U(I) of WT, TC, ET; not 0 is inside. They need not be nested.
        thresholds: one per region, compared as float32 (a float16 delta is widened exactly). Not NaN.
        label_values: label of a voxel in WT only, in TC but not ET, and in ET: 1…255, distinct; see
            `LabelSchema.values`.
        threads: slabs of the first spatial axis are shared among this many threads; the result does not depend on it.

    Returns:
        A FlipResult. `voxels` counts the regions of the written label map. `flipped` compares them with the baseline
        decoded by the same priority rule, so it counts what a reader of the two label maps sees.

    Any strides are accepted. C-order and Fortran-order volumes (equal in delta and baseline) run at memory speed; other
    layouts are gathered row by row, without a copy of the whole. Labels have Fortran order where delta has.

    Raises:
        TypeError: a dtype other than those above.
        ValueError: shapes that differ or are not (3, X, Y, Z); thresholds, label values or threads out of range.
    """
    if delta.dtype not in (np.float32, np.float16):
        raise TypeError(f"delta is {delta.dtype}, expected float32 or float16")
    if baseline.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"baseline is {baseline.dtype}, expected bool or uint8")
    if delta.ndim != 4 or delta.shape[0] != 3 or baseline.shape != delta.shape:
        raise ValueError(f"delta is {delta.shape} and baseline {baseline.shape}, expected (3, X, Y, Z) for both")
    limits = np.asarray(thresholds, np.float32)
    if limits.shape != (3,) or np.isnan(limits).any():
        raise ValueError(f"thresholds are {thresholds!r}, expected three numbers, one for each of WT, TC, ET")
    if len(set(label_values)) != 3 or not all(1 <= value <= 255 for value in label_values):
        raise ValueError(f"label values are {label_values!r}, expected three distinct integers in 1…255")
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
        planes = (3, values.shape[1], 1, values.shape[2] * values.shape[3])
        values, masks, out = values.reshape(planes), masks.reshape(planes), out.reshape(1, *planes[1:])

    bounds: npt.NDArray[Any] = _floor_float16(limits).view(np.uint16) if delta.dtype == np.float16 else limits
    codes = np.array(label_values, np.uint8)
    parts = slabs(values.shape[1], threads)
    counts = np.zeros((len(parts), 2, 3), np.int64)

    def flip(k: int) -> None:
        _flip.flip_rows(values, masks, bounds, codes, out, counts[k], *parts[k])

    if labels.size:
        run(flip, len(parts), threads)
    voxels, flipped = counts.sum(axis=0)
    return FlipResult(labels, voxels, flipped)


def flip_masks(baseline: npt.NDArray[Any], delta: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Refined mask |U - Δ| of 0/1 masks (Re-DiffiNet eq. 5): 1 where exactly one of the two is set.

    Both are bool or uint8 of one shape, not 0 is inside. Returns uint8 0/1 in the memory order of `baseline`.
    Raises TypeError for other dtypes, ValueError for different shapes.
    """
    for name, mask in (("baseline", baseline), ("delta", delta)):
        if mask.dtype not in (np.bool_, np.uint8):
            raise TypeError(f"{name} is {mask.dtype}, expected bool or uint8")
    if baseline.shape != delta.shape:
        raise ValueError(f"baseline is {baseline.shape} and delta {delta.shape}, expected one shape")
    order: Any = "F" if baseline.flags.f_contiguous and not baseline.flags.c_contiguous else "C"
    refined = np.empty(baseline.shape, np.uint8, order=order)
    before, wrong = (mask.view(np.uint8).ravel(order=order) for mask in (baseline, delta))
    _flip.xor_rows(before, wrong, refined.ravel(order=order))
    return refined


def _floor_float16(limits: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """Largest float16 not above each limit: a float16 exceeds the one exactly where it exceeds the other."""
    with np.errstate(over="ignore"):
        rounded = limits.astype(np.float16)
        below = np.nextafter(rounded, np.float16(-np.inf))
    return np.where(rounded.astype(np.float32) > limits, below, rounded) + np.float16(0)  # -0 would sort below +0
