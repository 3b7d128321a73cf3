"""Distances between the surfaces of two masks, both ways, from one call."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from rediffinet.ext import _surface
from rediffinet.ext._threads import run, slabs
from rediffinet.ext.surfels import surfel_areas

_Numbers = npt.NDArray[np.float64]
_NEAR = 7  # rows this many voxels away are searched one by one, the rest by blocks
_MARGIN = _NEAR + 1  # empty rows around, so that no search leaves the bits
_BATCH = 2048  # surface elements that are worth a thread


@dataclass(frozen=True, slots=True)
class SurfaceDistances:
    """Distances in mm from each surface element of one mask to the nearest of the other, and the elements' weights.

    Elements are in no particular order. Where the other mask is empty the distances are inf.
    """

    a_to_b: _Numbers
    b_to_a: _Numbers
    a_areas: _Numbers
    """Area in mm² of each element of a_to_b; 1 for voxels."""
    b_areas: _Numbers


@dataclass(frozen=True, slots=True)
class _Surface:
    """Elements of one mask in the joint box: their places (n, 3) and pattern codes (n,)."""

    places: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint8]
    bits: npt.NDArray[np.uint64]


def surface_distances(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    elements: Literal["surfels", "voxels"] = "surfels",
    threads: int = 1,
) -> SurfaceDistances:
    """Exact Euclidean distances between the surfaces of two masks (X, Y, Z), in both directions.

    Args:
        a, b: masks of one shape, bool or any number; not 0 is inside. Outside the image is background, so a mask that
            touches the edge has a surface there.
        spacing_mm: voxel size along X, Y, Z, each above 0.
        elements: "surfels": one per 2 × 2 × 2 neighbourhood that is neither all inside nor all outside, at its
            centre, weighted by the area of the marching-cubes surface in it (DeepMind surface-distance, BraTS-2023);
            "voxels": inside voxels with an outside 6-neighbour, weight 1 (MONAI, MedPy).
        threads: the elements are shared among this many threads; the result does not depend on it.

    Extra memory: about one byte per voxel of the joint box of the two masks (each mask and each surface as bits, with
    margins) and 30 bytes per surface element; besides that a copy of a mask that is neither C- nor Fortran-contiguous,
    or not of one byte a voxel.

    Raises:
        ValueError: masks of different or not three-dimensional shapes, spacing or threads out of range.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more")
    both = directions(a, b, spacing_mm, elements=elements)
    distances = [np.empty(len(direction)) for direction in both]
    tasks = []
    for direction, out in zip(both, distances, strict=True):
        parts = slabs(len(out), min(threads, len(out) // _BATCH + 1))
        tasks += [partial(direction.search, out, *part) for part in parts]
    run(lambda k: tasks[k](), len(tasks), threads)
    return SurfaceDistances(*distances, *(direction.areas for direction in both))


@dataclass(frozen=True, slots=True)
class Direction:
    """From the surface of one mask to that of another; its length is the number of surface elements."""

    areas: _Numbers
    """Area in mm² of each element; 1 for voxels."""
    _places: npt.NDArray[np.int32]
    _anchors: npt.NDArray[np.int32] | None
    """Elements of the other surface to begin with, one for each 8 × 8 rows; None where it has none."""
    _nearest: Callable[..., None]
    """The compiled search of the other surface, up to its anchors."""

    def __len__(self) -> int:
        return len(self._places)

    def distances(self, enough_mm: float = 0.0, every: int = 1) -> _Numbers:
        """Exact distances in mm of every `every`-th element to the other surface, inf where there is none.

        Up to enough_mm they are not found exactly: of an element that is no farther than that some distance is told
        that is neither shorter than its own nor longer than enough_mm.
        """
        out = np.empty(-(-len(self) // every))
        self.search(out, 0, len(out), enough_mm, every)
        return out

    def search(self, out: _Numbers, start: int, stop: int, enough_mm: float = 0.0, every: int = 1) -> None:
        """The same → out, from start to stop."""
        if self._anchors is None:
            out[start:stop] = np.inf
            return
        places = np.ascontiguousarray(self._places[::every])
        self._nearest(self._anchors.copy(), places, out, enough_mm, start, stop)


def directions(
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    elements: Literal["surfels", "voxels"] = "surfels",
) -> tuple[Direction, Direction]:
    """From the surface of a to that of b, and back. Arguments, memory and errors as those of `surface_distances`."""
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"masks are {a.shape} and {b.shape}, expected one shape (X, Y, Z)")
    if len(spacing_mm) != 3 or not all(0 < step < np.inf for step in spacing_mm):
        raise ValueError(f"spacing is {spacing_mm} mm, expected three numbers above 0")
    rows, turned = _rows(a, b)
    x, y, z = (float(step) for step in (spacing_mm[::-1] if turned else spacing_mm))
    outlines = [_outline(mask) for mask in rows]
    box = _joint(outlines)
    if box is None:
        box = np.zeros((3, 2), np.intp)
    one, other = (_surface_in(*pair, box, elements) for pair in zip(rows, outlines, strict=True))
    return _direction(one, other, (x, y, z)), _direction(other, one, (x, y, z))


def joint_box(a: npt.NDArray[Any], b: npt.NDArray[Any], margin: int = 0) -> tuple[slice, slice, slice]:
    """The smallest box that holds what is not 0 in two arrays (X, Y, Z) of one shape, widened by a margin in the image.

    Empty where both arrays are. Raises ValueError for different or not three-dimensional shapes.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise ValueError(f"arrays are {a.shape} and {b.shape}, expected one shape (X, Y, Z)")
    rows, turned = _rows(a, b)
    box = _joint([_outline(mask) for mask in rows])
    if box is None:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    x, y, z = (
        slice(max(int(start) - margin, 0), min(int(stop) + margin, size))
        for (start, stop), size in zip(box[::-1] if turned else box, a.shape, strict=True)
    )
    return x, y, z


def _rows(*masks: npt.NDArray[Any]) -> tuple[list[npt.NDArray[np.uint8]], bool]:
    """Masks as contiguous bytes, not 0 inside; True if they had Fortran order and are transposed."""
    turned = all(mask.flags.f_contiguous and not mask.flags.c_contiguous for mask in masks)
    small = [mask if mask.dtype in (np.bool_, np.uint8) else mask != 0 for mask in masks]
    return [np.ascontiguousarray(mask.T if turned else mask).view(np.uint8) for mask in small], turned


class _Outline(NamedTuple):
    """Where a mask holds something."""

    box: npt.NDArray[np.intp]
    """First and past-the-last index (3, 2) along each axis; zeros where there is none."""
    filled: npt.NDArray[np.uint8]
    """Not 0 for the planes (X,) that hold some."""


def _outline(mask: npt.NDArray[np.uint8]) -> _Outline:
    box = np.zeros((3, 2), np.intp)
    if not mask.size:
        return _Outline(box, np.zeros(len(mask), np.uint8))
    filled = mask.reshape(len(mask), -1).max(axis=1)  # all is read once, as fast as memory gives it
    _surface.outline(mask, filled, box, np.zeros(mask.shape[2], np.uint8))
    return _Outline(box, filled)


def _joint(outlines: list[_Outline]) -> npt.NDArray[np.intp] | None:
    """The box around all; None where all are empty."""
    boxes = [outline.box for outline in outlines if outline.box[0, 1]]
    if not boxes:
        return None
    box = boxes[0].copy()
    for other in boxes[1:]:
        np.minimum(box[:, 0], other[:, 0], out=box[:, 0])
        np.maximum(box[:, 1], other[:, 1], out=box[:, 1])
    return box


def _surface_in(mask: npt.NDArray[np.uint8], outline: _Outline, joint: npt.NDArray[np.intp], elements: str) -> _Surface:
    x, y, z = (joint[:, 1] - joint[:, 0]).tolist()
    bits, surface = np.zeros((2, x + 2 * _MARGIN, y + 2 * _MARGIN, (z + 1) // 64 + 2), np.uint64)
    origin = joint[:, 0] - (_MARGIN, _MARGIN, 0)
    box = outline.box - origin[:, None]
    counts = np.zeros(len(bits), np.int32)
    _surface.pack(mask, *outline, origin, bits)
    find = _surface.find_surfels if elements == "surfels" else _surface.find_border_voxels
    count = find(bits, box, surface, counts) if outline.box[0, 1] else 0
    places = np.empty((count, 3), np.int32)
    codes = np.empty(count if elements == "surfels" else 0, np.uint8)
    if count:
        _surface.list_elements(bits, box, surface, counts, places, codes)
    return _Surface(places, codes, surface)


def _direction(of: _Surface, to: _Surface, spacing: tuple[float, float, float]) -> Direction:
    areas = surfel_areas(spacing)[of.codes] if len(of.codes) else np.ones(len(of.places))
    _, y, words = shape = to.bits.shape
    cells, blocks = (np.zeros([-(-size // side) for size in shape], np.uint64) for side in (4, 8))
    columns = np.empty(blocks.shape[0] * blocks.shape[1], np.int32)
    first = np.empty(blocks.shape[0] + 1, np.int32)
    _surface.coarsen(to.places, cells, blocks, columns, first)
    offsets, reach = _offsets(spacing[0], spacing[1])
    jumps = offsets.astype(np.intp) @ np.array([y * words, words], np.intp)
    anchors = None
    if len(to.places):
        anchors = np.empty((-(-y // 8), 8 * words, 3), np.int32)
        anchors[:] = to.places[0]
    pyramid = to.bits, cells, blocks, columns, first
    search = partial(_surface.nearest, *pyramid, np.array(spacing), offsets, jumps, reach)
    return Direction(areas, of.places, anchors, search)


@lru_cache(maxsize=16)
def _offsets(step_x: float, step_y: float) -> tuple[npt.NDArray[np.int32], _Numbers]:
    """Steps (m, 2) across rows by growing squared distance (m,) in mm², all of those nearer than the _NEAR + 1-st."""
    side = np.arange(-_NEAR, _NEAR + 1, dtype=np.int32)
    steps = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    squared = (steps[:, 0] * step_x) ** 2 + (steps[:, 1] * step_y) ** 2
    near = np.flatnonzero(squared < ((_NEAR + 1) * min(step_x, step_y)) ** 2)
    near = near[np.argsort(squared[near], kind="stable")]
    return np.ascontiguousarray(steps[near]), squared[near]
