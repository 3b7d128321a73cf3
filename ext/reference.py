"""Numpy twins of the compiled functions, same signatures: the oracles of the tests. Slow, and never a fall-back."""

from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rediffinet.ext import FlipResult, SurfaceDistances, surfel_areas


def flip_and_decode(
    delta: npt.NDArray[np.float32] | npt.NDArray[np.float16],
    baseline: npt.NDArray[np.bool_] | npt.NDArray[np.uint8],
    thresholds: Sequence[float],
    label_values: Sequence[int],
    parents: Sequence[int] | None = None,
    *,
    threads: int = 1,
) -> FlipResult:
    """Twin of `rediffinet.ext.flip_and_decode`; threads is ignored."""
    del threads
    parents = range(-1, len(label_values) - 1) if parents is None else parents
    limits = np.asarray(thresholds, np.float32)[:, None, None, None]
    before = baseline != 0
    refined = before ^ (delta.astype(np.float32) > limits)
    labels, labels_before = _painted(refined, label_values), _painted(before, label_values)
    regions, regions_before = (_regions(painted, label_values, parents) for painted in (labels, labels_before))
    voxels = regions.sum(axis=(1, 2, 3), dtype=np.int64)
    flipped = (regions != regions_before).sum(axis=(1, 2, 3), dtype=np.int64)
    return FlipResult(labels, voxels, flipped)


def _painted(masks: npt.NDArray[np.bool_], label_values: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Masks (R, X, Y, Z) as labels, the later over the earlier."""
    labels = np.zeros(masks.shape[1:], np.uint8)
    for mask, value in zip(masks, label_values, strict=True):
        labels[mask] = value
    return labels


def _regions(
    labels: npt.NDArray[np.uint8], label_values: Sequence[int], parents: Sequence[int]
) -> npt.NDArray[np.bool_]:
    """Labels as regions (R, X, Y, Z): each its own label and all of the regions inside it."""
    found = np.stack([labels == value for value in label_values])
    for k in reversed(range(len(parents))):  # children come after their parents
        if parents[k] >= 0:
            found[parents[k]] |= found[k]
    return found


def label_components(mask: npt.NDArray[Any], connectivity: int = 26) -> tuple[npt.NDArray[np.int32], int]:
    """Twin of `rediffinet.ext.label_components`: every voxel takes its neighbours' lowest index until none changes."""
    inside = np.pad(mask != 0, 1)
    outside = inside.size
    lowest = np.where(inside, np.arange(inside.size).reshape(inside.shape), outside)
    faces = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [step for step in product((-1, 0, 1), repeat=3) if 0 < np.abs(step).sum() <= faces]
    changed = bool(inside.any())
    while changed:
        before = lowest.copy()
        for step in steps:  # the padding keeps what rolls over the edge outside
            lowest = np.where(inside, np.minimum(lowest, np.roll(lowest, step, axis=(0, 1, 2))), outside)
        changed = not np.array_equal(before, lowest)
    first, labels = np.unique(lowest[1:-1, 1:-1, 1:-1], return_inverse=True)
    labels = labels.reshape(mask.shape) + 1
    if outside in first:
        labels[labels == len(first)] = 0
    count = len(first) - int(outside in first)
    return labels.astype(np.int32), count


def component_sizes(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """Twin of `rediffinet.ext.component_sizes`."""
    return np.array([(labels == k).sum() for k in range(1, count + 1)], np.int64)


def component_boxes(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.intp]:
    """Twin of `rediffinet.ext.component_boxes`."""
    boxes = np.zeros((count, 3, 2), np.intp)
    for k in range(count):
        places = np.argwhere(labels == k + 1)
        if len(places):
            boxes[k] = np.stack([places.min(axis=0), places.max(axis=0) + 1], axis=1)
    return boxes


def dilate(mask: npt.NDArray[Any], iterations: int = 1) -> npt.NDArray[np.uint8]:
    """Twin of `rediffinet.ext.dilate`."""
    grown = np.pad(mask != 0, 1)
    steps = [step for step in product((-1, 0, 1), repeat=3) if np.abs(step).sum() <= 2]
    for _ in range(iterations):
        wider = np.logical_or.reduce([np.roll(grown, step, axis=(0, 1, 2)) for step in steps])
        grown = np.pad(wider[1:-1, 1:-1, 1:-1], 1)
    return grown[1:-1, 1:-1, 1:-1].astype(np.uint8)


def surface_distances(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    elements: Literal["surfels", "voxels"] = "surfels",
    threads: int = 1,
) -> SurfaceDistances:
    """Twin of `rediffinet.ext.surface_distances`: every element against every other; threads is ignored."""
    del threads
    find = _surfels if elements == "surfels" else _border_voxels
    (places_a, codes_a), (places_b, codes_b) = find(np.pad(a != 0, 1)), find(np.pad(b != 0, 1))
    areas = surfel_areas(spacing_mm) if elements == "surfels" else np.ones(256)
    steps = (places_a[:, None] - places_b[None]) * np.array(spacing_mm)
    distances = np.sqrt((steps**2).sum(axis=2))
    return SurfaceDistances(
        distances.min(axis=1, initial=np.inf), distances.min(axis=0, initial=np.inf), areas[codes_a], areas[codes_b]
    )


def _surfels(padded: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Places (n, 3) and codes (n,) of the 2 × 2 × 2 neighbourhoods that are neither all in nor all out."""
    codes = np.zeros([size - 1 for size in padded.shape], np.int64)
    for bit, (x, y, z) in enumerate(product((0, 1), repeat=3)):
        x_size, y_size, z_size = codes.shape
        codes |= padded[x : x + x_size, y : y + y_size, z : z + z_size].astype(np.int64) << bit
    places = np.argwhere((codes > 0) & (codes < 255))
    return places, codes[tuple(places.T)]


def _border_voxels(padded: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Places (n, 3) of inside voxels with an outside 6-neighbour; the codes are zeros."""
    inner = np.logical_and.reduce([np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)])
    places = np.argwhere(padded & ~inner)
    return places, np.zeros(len(places), np.int64)
