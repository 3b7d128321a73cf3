"""Brain extraction from a T1-weighted image without torch: deepbet's two networks on any of the engines.

The steps and numbers are those of deepbet 1.0.2 (Fisch et al. 2024): a rough mask of the whole field of view at 128³
gives a box, a fine mask of that box at 256³ is what counts; nearest voxels on the way in and out. The image is
brought upright at 1 mm before, and the fine mask back by its probabilities.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rediffinet.engines import Engine
from rediffinet.errors import CaseError
from rediffinet.ext import component_sizes, label_components
from rediffinet.prepare.brain_bundle import BrainBundle

BOX_SIZE = 128
MASK_SIZE = 256
MARGIN = 0.1
LEAST_IN_A_SLICE = 0.02
MEAN, SPREAD = 0.449, 0.226
PERCENTILES = (0.005, 0.995)

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class BrainMask:
    """The brain, bool (X, Y, Z), filled and in one piece; left_out: share of what was found that hangs elsewhere."""

    mask: Mask
    left_out: float


def extract_brain(image: Volume, bundle: BrainBundle, engine: Engine) -> BrainMask:
    """The brain of a T1-weighted image (X, Y, Z) with skull, stored left, posterior, superior, voxels of about 1 mm.

    Raises CaseError when there is none to be found.
    """
    ras = np.nan_to_num(image[::-1, ::-1])  # what the networks were trained on
    small = _nearest(ras, (BOX_SIZE,) * 3)
    low, high = (float(value) for value in np.quantile(small, PERCENTILES))
    if not low < high:
        raise CaseError("No brain was found: the image is constant.\nExpected a T1-weighted image of a head.")
    rough = engine.load(bundle.graph("box"))(image=network_input(small, BOX_SIZE, low, high))["tissue"][0, 1] > 0.5
    box = _box(_largest(rough)[0], (ras.shape[0], ras.shape[1], ras.shape[2]))
    fine = engine.load(bundle.graph("mask"))(image=network_input(ras[box], MASK_SIZE, low, high))["tissue"][0, 1]
    found = np.zeros(ras.shape, bool)
    inside = found[box]
    inside[:] = _nearest(fine, (inside.shape[0], inside.shape[1], inside.shape[2])) > 0.5
    brain, left_out = _largest(found)
    return BrainMask(np.ascontiguousarray(_filled(brain)[::-1, ::-1]), left_out)


def network_input(image: Volume, size: int, low: float, high: float) -> Volume:
    """An image (X, Y, Z) as the networks take it: (1, 1, size, size, size), clipped to low … high, standardised."""
    cube = (_nearest(image, (size,) * 3).astype(np.float32) - np.float32(low)) / np.float32(high - low)
    np.clip(cube, 0.0, 1.0, out=cube)
    mean, spread = float(cube.mean(dtype=float)), float(cube.std(dtype=float, ddof=1))
    return np.asarray(SPREAD * (cube - mean) / max(spread, 1e-6) + MEAN, np.float32)[None, None]


def _nearest(volume: npt.NDArray[np.float32], shape: tuple[int, ...]) -> Volume:
    """The voxel under the centre of each voxel of a grid of `shape` over the same extent."""
    index = [
        np.minimum((np.arange(wanted) + 0.5) * size / wanted, size - 1).astype(int)
        for wanted, size in zip(shape, volume.shape, strict=True)
    ]
    return np.asarray(volume[np.ix_(*index)], np.float32)


def _largest(mask: Mask) -> tuple[Mask, float]:
    """The largest component, and the share of the mask that is not in it."""
    labels, count = label_components(mask, 6)
    if count == 0:
        message = "No brain was found in the image.\nExpected a T1-weighted image of a head; or give `brain_mask=FILE`."
        raise CaseError(message)
    sizes = component_sizes(labels, count)
    return labels == int(np.argmax(sizes)) + 1, float(1 - sizes.max() / sizes.sum())


def _filled(mask: Mask) -> Mask:
    """The mask with its holes: all that the outside does not reach by faces."""
    padded = np.pad(~mask, 1, constant_values=True)
    labels, _ = label_components(padded, 6)
    return np.asarray(labels[1:-1, 1:-1, 1:-1] != labels[0, 0, 0], bool)


def _box(rough: Mask, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    """The slices of `shape` in which more than a fiftieth is brain, widened by a tenth on each side."""
    box = []
    for axis in range(3):
        share = rough.mean(axis=tuple(other for other in range(3) if other != axis))
        held = np.flatnonzero(share > LEAST_IN_A_SLICE)
        if held.size == 0:
            message = "No brain was found in the image: what looks like one is too small.\nGive `brain_mask=FILE`."
            raise CaseError(message)
        scale = shape[axis] / rough.shape[axis]
        centre = round(scale * (held[-1] + 1 + held[0]) / 2)
        size = round(scale * (1 + 2 * MARGIN) * (held[-1] + 1 - held[0]))
        box.append(slice(max(0, int(centre - size / 2)), min(shape[axis], int(centre + size / 2))))
    return box[0], box[1], box[2]
