"""What a sampled discrepancy Δ between a baseline and the truth says (Re-DiffiNet, eq. 4 and 5)."""

import numpy as np
import numpy.typing as npt

from rediffinet.ext import component_sizes, joint_box, label_components

Volume = npt.NDArray[np.float32]
KEPT = 0.25
"""Share of the tumour believed in that is kept at least when whole components are flipped, or none is."""


def refined_probability(
    mask: npt.NDArray[np.bool_], probability: Volume, delta: Volume, sampled: npt.NDArray[np.bool_]
) -> Volume:
    """Probability of each region after refinement, float32, all of shape (3, X, Y, Z).

    Where the discrepancy was sampled it is |U − Δ| read softly: Δ inside-out where U is set. Elsewhere it is the
    baseline's own. `sampled`: bool (X, Y, Z).
    """
    refined = probability.astype(np.float32)
    box = (slice(None), *joint_box(sampled, sampled))
    inside = sampled[box[1:]]
    for found, of_region, wrong in zip(
        refined[box], mask[box], delta[box], strict=True
    ):  # region by region: less memory
        np.copyto(found, np.where(of_region, 1.0 - wrong, wrong), where=inside)
    return refined


def wrong_probability(labels_in_regions: npt.NDArray[np.bool_], probability: Volume) -> Volume:
    """Probability that a voxel's final label is wrong, float32: the largest over the regions.

    labels_in_regions, probability: (R, …), of any equal shape, which without R is the result's.
    """
    wrong, of_region = np.zeros(probability.shape[1:], np.float32), np.empty(probability.shape[1:], np.float32)
    for inside, p in zip(labels_in_regions, probability, strict=True):  # region by region: less memory
        np.subtract(p, inside, out=of_region)
        np.maximum(wrong, np.abs(of_region, out=of_region), out=wrong)
    return wrong


def near_boundary(
    mask: npt.NDArray[np.bool_], reach_mm: float, spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.bool_]:
    """Voxels of a region within `reach_mm` of one outside it, and voxels outside as near to one of it; bool (X, Y, Z).

    Distances are between voxel centres. A region without a voxel has no boundary, so nothing is near it.
    """
    near = np.zeros(mask.shape, bool)
    widths = [min(int(reach_mm / size), n) for size, n in zip(spacing_mm, mask.shape, strict=True)]
    box = joint_box(mask, mask, max(widths))
    inside, found = mask[box], near[box]
    steps = np.meshgrid(*(np.arange(-width, width + 1) for width in widths), indexing="ij")
    offsets = np.stack(steps, -1).reshape(-1, 3)
    offsets = offsets[len(offsets) // 2 + 1 :]  # of a step and its opposite one: they join the same pairs of voxels
    for offset in offsets[((offsets * spacing_mm) ** 2).sum(1) <= reach_mm**2]:
        here = tuple(slice(max(0, -o), max(0, n - max(0, o))) for o, n in zip(offset, inside.shape, strict=True))
        there = tuple(slice(max(0, o), max(0, n - max(0, -o))) for o, n in zip(offset, inside.shape, strict=True))
        differ = inside[here] != inside[there]
        found[here] |= differ
        found[there] |= differ
    return near


def doubted_components(mask: npt.NDArray[np.bool_], delta: Volume, limit: float) -> npt.NDArray[np.bool_]:
    """The components of a baseline's region that are believed wrong as a whole, bool (X, Y, Z).

    Those over which the mean of Δ̂ exceeds the limit: a stray component in healthy brain is a mistake from its middle to
    its rim, and its voxels, each a little doubted, are judged together. None where the others would be left with less
    than `KEPT` of the volume believed in, Σ(1 − Δ̂) over the region; so the only component always stays. mask: bool
    (X, Y, Z), 26-connected; delta: float32 (X, Y, Z) in [0, 1]. A limit of 1 doubts nothing.
    """
    none = np.zeros(mask.shape, bool)
    if limit >= 1.0:
        return none
    components, count = label_components(mask, 26)
    if count < 2:
        return none
    sizes = component_sizes(components, count).astype(float)
    wrong = np.bincount(components[mask], delta[mask].astype(float), count + 1)[1:]
    doubted = wrong / sizes > limit
    believed = sizes - wrong
    if believed[~doubted].sum() < KEPT * believed.sum():
        return none
    return np.asarray(np.concatenate([[False], doubted])[components])
