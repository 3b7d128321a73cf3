"""Connected components of masks: labels, sizes, boxes, and the dilation that joins near ones."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.ext import _components

_CONNECTIVITIES = (6, 18, 26)


def label_components(mask: npt.NDArray[Any], connectivity: int = 26) -> tuple[npt.NDArray[np.int32], int]:
    """Connected components of a mask (X, Y, Z): int32 labels in the mask's memory order, and how many there are.

    Voxels that are not 0 are inside; 0 stays 0. Components are numbered 1…count by their first voxel in C order,
    whatever the memory order. connectivity: 6 (shared faces), 18 (and edges) or 26 (and corners).
    Raises ValueError for another connectivity or a mask that is not three-dimensional.
    """
    if mask.ndim != 3:
        raise ValueError(f"mask is {mask.shape}, expected (X, Y, Z)")
    if connectivity not in _CONNECTIVITIES:
        raise ValueError(f"connectivity is {connectivity}, expected one of {_CONNECTIVITIES}")
    fortran = mask.flags.f_contiguous and not mask.flags.c_contiguous
    labels = np.zeros(mask.shape, np.int32, order="F" if fortran else "C")
    if mask.size == 0:
        return labels, 0
    inside = mask if mask.dtype in (np.bool_, np.uint8) else mask != 0
    rows = inside.view(np.uint8)
    weights = (mask.shape[1] * mask.shape[2], mask.shape[2], 1)
    out = labels
    if fortran:
        rows, out, weights = rows.T, labels.T, weights[::-1]
    sizes = _components.label_runs(np.ascontiguousarray(rows), connectivity, out, weights)
    return labels, len(sizes)


def component_sizes(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """Voxels (count,) of the components 1…count of a label array, as `label_components` returns them.

    Raises TypeError for labels that are not int32, ValueError for a label outside 0…count.
    """
    if labels.dtype != np.int32:
        raise TypeError(f"labels are {labels.dtype}, expected int32")
    sizes = np.zeros(count + 1, np.int64)
    outside = _components.count_labels(labels.ravel(order="K"), sizes)
    if outside:
        raise ValueError(f"a label is {outside}, expected 0…{count}")
    return sizes[1:]


def component_boxes(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.intp]:
    """First and past-the-last index along each axis (count, 3, 2) of the components 1…count of labels (X, Y, Z).

    A number without voxels gets an empty box, 0 to 0. Raises TypeError and ValueError as `component_sizes` does.
    """
    if labels.dtype != np.int32 or labels.ndim != 3:
        raise TypeError(f"labels are {labels.dtype} {labels.shape}, expected int32 (X, Y, Z)")
    fortran = labels.flags.f_contiguous and not labels.flags.c_contiguous
    rows = labels.T if fortran else np.ascontiguousarray(labels)
    boxes = np.zeros((count + 1, 3, 2), np.intp)
    boxes[:, :, 0] = max(labels.shape)
    outside = _components.box_labels(rows, boxes) if labels.size else 0
    if outside:
        raise ValueError(f"a label is {outside}, expected 0…{count}")
    boxes[boxes[:, 0, 1] == 0] = 0
    return boxes[1:, ::-1] if fortran else boxes[1:]


def dilate(mask: npt.NDArray[Any], iterations: int = 1) -> npt.NDArray[np.uint8]:
    """Dilate a mask (X, Y, Z) by the 18-neighbour element (faces and edges), `iterations` times, inside the image.

    Voxels that are not 0 are inside. Returns uint8 0/1 in the mask's memory order. Raises ValueError for a mask that
    is not three-dimensional or a negative number of iterations.
    """
    if mask.ndim != 3:
        raise ValueError(f"mask is {mask.shape}, expected (X, Y, Z)")
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}, expected 0 or more")
    grown = (mask != 0).view(np.uint8)
    fortran = grown.flags.f_contiguous and not grown.flags.c_contiguous
    rows = grown.T if fortran else np.ascontiguousarray(grown)
    if mask.size:
        for _ in range(iterations):
            wider = np.empty_like(rows)
            _components.dilate_once(rows, wider)
            rows = wider
    return rows.T if fortran else rows
