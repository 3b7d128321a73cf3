"""From a case's images to the arrays of a model: cropped to the brain, normalised, at the model's voxel size.

One way for segmenting, training, calibration and the export's checks. The way back is in rediffinet.method.decode,
which brings what the model said to the crop's own voxels, and the box, which says where the crop lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.method.normalise import Box, Normalisation, brain_box, normalise
from rediffinet.method.resample import Spacing, resample, resampled_shape, same_spacing
from rediffinet.method.windows import Shape
from rediffinet.task import Task

Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a task become arrays of a model; runs with the same can work on the same arrays."""

    task: Task
    normalisation: Normalisation
    spacing_mm: Spacing


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A preprocessed case: `box` of its volume was cropped, `crop` is that, normalised; `image` is on the model's grid.

    crop float32 (C, x, y, z) with voxels of spacing_mm; image float32 (C, X, Y, Z) with voxels of model_mm.
    """

    box: Box
    spacing_mm: Spacing
    model_mm: Spacing
    crop: Volume
    image: Volume

    @property
    def shape(self) -> Shape:
        """Voxels of the crop."""
        return (self.crop.shape[1], self.crop.shape[2], self.crop.shape[3])

    def to_model(self, volume: Volume) -> Volume:
        """A volume (K, x, y, z) on the crop → on the model's grid."""
        return to_spacing(volume, self.spacing_mm, self.model_mm)

    def at(self, wanted_mm: Spacing) -> Volume:
        """The image for a stage that works at another voxel size than the model, (C, X', Y', Z')."""
        if same_spacing(wanted_mm, self.model_mm):
            return self.image
        return to_spacing(self.crop, self.spacing_mm, wanted_mm)


def preprocess(
    images: Volume,
    spacing_mm: Spacing,
    how: Preprocessing,
    held: npt.NDArray[np.bool_] | None = None,
    missing: Sequence[str] = (),
) -> Preprocessed:
    """Preprocess the images (C, X, Y, Z) of a case with voxels of that size.

    held: bool (X, Y, Z), what must not be cut off besides the brain, such as a mask made elsewhere. missing: contrasts
    of which there is no image. Raises CaseError for images that hold no brain or a contrast that cannot be normalised.
    """
    box = crop_box(images, held)
    crop = normalise(images[(slice(None), *box)], how.normalisation, how.task.contrasts, missing)
    return Preprocessed(box, spacing_mm, how.spacing_mm, crop, to_spacing(crop, spacing_mm, how.spacing_mm))


def crop_box(images: Volume, held: npt.NDArray[np.bool_] | None = None) -> Box:
    """What of a case (C, X, Y, Z) is worked on: the box of the brain, and of what is held besides; see `preprocess`."""
    box = brain_box(images)
    if held is not None and held.any():
        kept = held.copy()
        kept[box] = True
        box = brain_box(kept[None].astype(np.float32))
    return box


def to_spacing(volume: Volume, spacing_mm: Spacing, wanted_mm: Spacing) -> Volume:
    """A volume (K, X, Y, Z) at another voxel size; itself where the two are too close to be worth it."""
    if same_spacing(spacing_mm, wanted_mm):
        return volume
    shape = resampled_shape((volume.shape[1], volume.shape[2], volume.shape[3]), spacing_mm, wanted_mm)
    return resample(volume, spacing_mm, wanted_mm, shape)


def regrid(volume: Volume, spacing_mm: Spacing, wanted_mm: Spacing, like: npt.NDArray[Any]) -> Volume:
    """A volume (K, X, Y, Z) of one stage on the grid of another, that of `like` (…, X', Y', Z')."""
    if same_spacing(spacing_mm, wanted_mm):
        return volume
    return resample(volume, spacing_mm, wanted_mm, (like.shape[-3], like.shape[-2], like.shape[-1]))
