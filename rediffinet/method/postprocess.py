"""Corrections of a label map: small components of the whole tumour and of regions in it, and enhancing tumour that is
doubted as a whole.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from rediffinet.ext import component_sizes, joint_box, label_components
from rediffinet.task import Task


def remove_small_components(
    labels: npt.NDArray[np.uint8],
    *,
    connectivity: int,
    min_voxels: int,
    min_fraction: float,
    whole: Collection[int] | None = None,
) -> tuple[npt.NDArray[np.uint8], int]:
    """Set whole-tumour components under the limits to background; returns (label map, voxels removed).

    A component goes when it has fewer than min_voxels voxels, or fewer than min_fraction of the largest component's
    (stray components in healthy brain dominate HD95). With both 0 nothing is removed. labels: (X, Y, Z);
    whole: the values that make the whole tumour, None for all.
    """
    components, count = label_components(labels > 0 if whole is None else np.isin(labels, list(whole)), connectivity)
    if count == 0:
        return labels, 0
    sizes = component_sizes(components, count)
    limit = max(float(min_voxels), min_fraction * float(sizes.max()))
    gone = np.concatenate([[False], sizes < limit])
    if not gone.any():
        return labels, 0
    removed = gone[components]
    return np.where(removed, np.uint8(0), labels), int(removed.sum())


def dissolve_small_parts(
    labels: npt.NDArray[np.uint8], task: Task, min_voxels: int
) -> tuple[npt.NDArray[np.uint8], int]:
    """Call small parts of a region that lies in another what is around them; returns (label map, voxels changed).

    A part is a 26-connected component of such a region (in BraTS of the enhancing tumour, which becomes core without
    enhancement, then of the core, which becomes edema), and small under min_voxels voxels; the largest of a region
    always stays, and so does the whole tumour. Lesion-wise scores count every such speck as a lesion that is not there.
    labels: (X, Y, Z).
    """
    if min_voxels < 2:
        return labels, 0
    found = labels.copy()
    tumour = labels > 0
    part = found[joint_box(tumour, tumour)]
    for index in reversed(range(len(task.parents))):  # a parent stands before its children
        parent = task.parents[index]
        if parent < 0:
            continue
        components, count = label_components(np.isin(part, task.regions[index].labels), 26)
        if count < 2:
            continue
        sizes = component_sizes(components, count)
        small = np.concatenate([[False], sizes < min_voxels])
        small[1 + int(np.argmax(sizes))] = False
        np.copyto(part, np.uint8(task.paint[parent]), where=small[components])
    return found, int(np.count_nonzero(found != labels))


def enhancing_confidence(labels: npt.NDArray[np.uint8], probability: npt.NDArray[np.float32], task: Task) -> float:
    """Mean probability of ET over what a label map (X, Y, Z) calls so; 1 where it calls nothing so, or no region is ET.

    probability: of every region, (R, X, Y, Z).
    """
    index = task.role("enhancing")
    if index is None:
        return 1.0
    return confidence(np.isin(labels, task.regions[index].labels), probability[index])


def confidence(inside: npt.NDArray[np.bool_], probability: npt.NDArray[np.floating]) -> float:
    """Mean probability of a region over what was called so; 1 where nothing was. Both (X, Y, Z)."""
    return float(probability[inside].mean(dtype=float)) if inside.any() else 1.0


def enhancing_to_core(labels: npt.NDArray[np.uint8], task: Task) -> tuple[npt.NDArray[np.uint8], int]:
    """The label map with its enhancing tumour called what is around it; and how many voxels that were.

    What is around it is the region that it lies in, the core without enhancement in BraTS; it is background where
    there is none. Nothing changes where no region is enhancing tumour.
    """
    index = task.role("enhancing")
    if index is None:
        return labels, 0
    parent = task.parents[index]
    enhancing = np.isin(labels, task.regions[index].labels)
    return np.where(enhancing, np.uint8(0 if parent < 0 else task.paint[parent]), labels), int(enhancing.sum())
