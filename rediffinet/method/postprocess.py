"""Corrections of a label map: small whole-tumour components, and enhancing tumour that is doubted as a whole."""

import numpy as np
import numpy.typing as npt

from rediffinet.ext import component_sizes, label_components
from rediffinet.labels import LabelSchema


def remove_small_components(
    labels: npt.NDArray[np.uint8], *, connectivity: int, min_voxels: int, min_fraction: float
) -> tuple[npt.NDArray[np.uint8], int]:
    """Set whole-tumour components under the limits to background; returns (label map, voxels removed).

    A component goes when it has fewer than min_voxels voxels, or fewer than min_fraction of the largest component's
    (stray components in healthy brain dominate HD95). With both 0 nothing is removed. labels: (X, Y, Z).
    """
    components, count = label_components(labels > 0, connectivity)
    if count == 0:
        return labels, 0
    sizes = component_sizes(components, count)
    limit = max(float(min_voxels), min_fraction * float(sizes.max()))
    gone = np.concatenate([[False], sizes < limit])
    if not gone.any():
        return labels, 0
    removed = gone[components]
    return np.where(removed, np.uint8(0), labels), int(removed.sum())


def enhancing_confidence(
    labels: npt.NDArray[np.uint8], probability: npt.NDArray[np.float32], schema: LabelSchema
) -> float:
    """Mean probability of ET, (X, Y, Z), over what a label map calls enhancing tumour; 1 where it calls nothing so."""
    enhancing = labels == schema.et
    return float(probability[enhancing].mean(dtype=float)) if enhancing.any() else 1.0


def enhancing_to_core(labels: npt.NDArray[np.uint8], schema: LabelSchema) -> tuple[npt.NDArray[np.uint8], int]:
    """The label map with its enhancing tumour called core without enhancement; and how many voxels that were."""
    enhancing = labels == schema.et
    return np.where(enhancing, np.uint8(schema.ncr), labels), int(enhancing.sum())
