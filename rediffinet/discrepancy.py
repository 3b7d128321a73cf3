"""The discrepancy between a baseline and the truth, and what a sampled one says (Re-DiffiNet, eq. 4 and 5)."""

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.float32]


def discrepancy(mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Δx0 = |U(I) − x0| of boolean regions of any equal shape (eq. 4)."""
    return np.asarray(mask != truth)


def refined_probability(
    mask: npt.NDArray[np.bool_], probability: Volume, delta: Volume, sampled: npt.NDArray[np.bool_]
) -> Volume:
    """Probability of each region after refinement, float32, all of shape (3, X, Y, Z).

    Where the discrepancy was sampled it is |U − Δ| read softly: Δ inside-out where U is set. Elsewhere it is the
    baseline's own. `sampled`: bool (X, Y, Z).
    """
    return np.where(sampled, np.where(mask, 1.0 - delta, delta), probability).astype(np.float32)


def wrong_probability(labels_in_regions: npt.NDArray[np.bool_], probability: Volume) -> Volume:
    """Probability that a voxel's final label is wrong, float32 (X, Y, Z): the largest over the three regions."""
    wrong = np.where(labels_in_regions, 1.0 - probability, probability)
    return np.asarray(wrong.max(axis=0), dtype=np.float32)
