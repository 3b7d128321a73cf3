"""Intensity normalisation and the brain crop: from a case's images to what the networks take."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rediffinet.errors import CaseError
from rediffinet.ext import joint_box

Box = tuple[slice, slice, slice]


class Normalisation(BaseModel):
    """Recipe of the normalisation, as the bundle manifest holds it.

    Per contrast, over its own voxels > 0; every other voxel becomes `background`.

    zscore-percentile (Re-DiffiNet §2.3): z-score, clip to two percentiles, rescale linearly to `range`. The percentiles
    move with the z-score and the rescaling undoes it, so the z-score is a change of unit only and is not computed.
    zscore: clip to two percentiles, subtract the mean and divide by the standard deviation of what is left, clip to
    `range`. Healthy brain then has much the same value in every case, however bright its brightest voxels are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["zscore-percentile", "zscore"] = "zscore-percentile"
    lower_percentile: float = Field(default=0.5, ge=0, le=100)
    upper_percentile: float = Field(default=99.5, ge=0, le=100)
    range: tuple[float, float] = (-1.0, 1.0)
    background: float = -1.0

    @model_validator(mode="after")
    def _ordered(self) -> "Normalisation":
        if self.lower_percentile >= self.upper_percentile:
            raise ValueError("lower_percentile must be below upper_percentile")
        if self.range[0] >= self.range[1]:
            raise ValueError("range must be (low, high) with low < high")
        return self


def brain_mask(images: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Voxels of images (C, X, Y, Z) where any contrast is > 0: boolean (X, Y, Z)."""
    mask: npt.NDArray[np.bool_] = images[0] > 0
    for image in images[1:]:
        mask |= image > 0
    return mask


def brain_box(images: npt.NDArray[np.float32], margin: int = 0) -> Box:
    """Smallest box that holds the brain mask, widened by `margin` voxels where the volume allows.

    Raises:
        CaseError: no voxel of any contrast is > 0.
    """
    mask = brain_mask(images)
    if not mask.any():
        message = (
            "The images hold no brain: no voxel of any contrast is above 0.\n"
            "Expected skull-stripped images with a background of 0 and positive intensities in the brain."
        )
        raise CaseError(message)
    return joint_box(mask, mask, margin)


def normalise(
    images: npt.NDArray[np.float32],
    recipe: Normalisation | None = None,
    contrasts: Sequence[str] = (),
    missing: Sequence[str] = (),
) -> npt.NDArray[np.float32]:
    """Images (C, X, Y, Z) in scanner units → float32 (C, X, Y, Z) within `recipe.range`.

    The result is the same for a whole volume and for any crop of it that holds the brain. contrasts: their names, for
    the error. missing: those of which there is no image; they are background everywhere, as training drops them.

    Raises:
        CaseError: a contrast has no voxel > 0, or one intensity fills the span between the percentiles.
    """
    recipe = recipe or Normalisation()
    out = np.empty(images.shape, np.float32)

    def one(channel: int) -> None:
        name = contrasts[channel] if contrasts else f"channel {channel}"
        if name in missing:
            out[channel] = recipe.background
        else:
            _normalise_contrast(images[channel], recipe, name, out[channel])

    with ThreadPoolExecutor(2) as pool:  # more would hold more copies of an image at a time
        list(pool.map(one, range(len(images))))
    return out


def _normalise_contrast(
    image: npt.NDArray[np.float32], recipe: Normalisation, name: str, out: npt.NDArray[np.float32]
) -> None:
    brain = image > 0
    intensities = image[brain]
    if intensities.size == 0:
        raise CaseError(f"Contrast {name} holds no brain: none of its voxels is above 0.")
    lower, upper = _percentiles(intensities, recipe.lower_percentile, recipe.upper_percentile)
    if not lower < upper:
        message = (
            f"Contrast {name} cannot be normalised: its {recipe.lower_percentile}th and {recipe.upper_percentile}th "
            f"percentiles over the brain are both {lower:g}.\nExpected an image with more than one intensity."
        )
        raise CaseError(message)
    low, high = recipe.range
    np.clip(image, np.float32(lower), np.float32(upper), out=out)
    if recipe.method == "zscore":
        clipped = out[brain]
        origin, level, scale = float(clipped.mean(dtype=float)), 0.0, 1.0 / float(clipped.std(dtype=float))
    else:
        origin, level, scale = lower, low, (high - low) / (upper - lower)
    out -= np.float32(origin)
    out *= np.float32(scale)
    out += np.float32(level)
    np.clip(out, np.float32(low), np.float32(high), out=out)  # the last rounding may step over an end
    np.copyto(out, np.float32(recipe.background), where=~brain)


def _percentiles(intensities: npt.NDArray[np.float32], lower: float, upper: float) -> tuple[float, float]:
    low, high = np.percentile(intensities, (lower, upper), overwrite_input=True)
    return float(low), float(high)
