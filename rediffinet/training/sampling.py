"""Random windows and their augmentation: every draw is keyed by (seed, step, slot), so a resumed run repeats it."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rediffinet.training.config import Augmentation
from rediffinet.windows import Shape, Start, extract


def random_start(
    rng: np.random.Generator, shape: Shape, window: Shape, inside: npt.NDArray[np.integer] | None = None
) -> Start:
    """A uniform window start; with `inside` (a voxel), one of those whose window holds it.

    Along an axis shorter than the window the window hangs over, at random.
    """
    start = []
    for axis, (size, width) in enumerate(zip(shape, window, strict=True)):
        low, high = min(0, size - width), max(0, size - width)
        if inside is not None and size > width:
            low, high = max(low, int(inside[axis]) - width + 1), min(high, int(inside[axis]))
        start.append(int(rng.integers(low, high + 1)))
    return (start[0], start[1], start[2])


def random_voxel(rng: np.random.Generator, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.integer] | None:
    """A uniform voxel of a mask (X, Y, Z), or None when it is empty."""
    flat = np.flatnonzero(mask)
    return np.array(np.unravel_index(flat[rng.integers(len(flat))], mask.shape)) if len(flat) else None


def cut(volume: npt.NDArray[np.generic], start: Start, window: Shape, fill: float) -> Tensor:
    """A window of a (C, X, Y, Z) volume as a float32 tensor (C, *window)."""
    return torch.from_numpy(extract(volume, start, window, fill).astype(np.float32))


def _rotation_and_scale(rng: np.random.Generator, settings: Augmentation, window: Shape) -> Tensor:
    """Sampling matrix (1, 3, 4) of affine_grid: a rotation about the third axis and one scale, in voxels."""
    angle = math.radians(rng.uniform(-settings.rotation_degrees, settings.rotation_degrees))
    scale = 1.0 + rng.uniform(-settings.scaling, settings.scaling)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    voxel = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0 / scale]])
    size = np.array(window, dtype=float)
    normalised = voxel * size[None, :] / size[:, None]
    # affine_grid orders coordinates z, y, x
    matrix = np.concatenate([normalised[::-1, ::-1], np.zeros((3, 1))], axis=1)
    return torch.from_numpy(matrix.astype(np.float32))[None]


def augment_space(
    rng: np.random.Generator, settings: Augmentation, image: Tensor, masks: Tensor, fill: float
) -> tuple[Tensor, Tensor]:
    """Rotate, scale and flip image (C, …) and masks (R, …) together."""
    if settings.affine and rng.random() < settings.affine:
        window = (image.shape[1], image.shape[2], image.shape[3])
        grid = functional.affine_grid(_rotation_and_scale(rng, settings, window), [1, 1, *window], align_corners=False)
        image = functional.grid_sample((image - fill)[None], grid, mode="bilinear", align_corners=False)[0] + fill
        masks = functional.grid_sample(masks[None], grid, mode="nearest", align_corners=False)[0]
    axes = [axis + 1 for axis in settings.flip_axes if rng.random() < 0.5]
    return (image.flip(axes), masks.flip(axes)) if axes else (image, masks)


def augment_intensity(
    rng: np.random.Generator, settings: Augmentation, image: Tensor, limits: tuple[float, float], fill: float
) -> Tensor:
    """Gamma, gain and offset, noise, dropped contrast: per contrast, inside the brain, within the recipe's range."""
    low, high = limits
    brain = (image != fill).any(0)
    unit = (image - low) / (high - low)
    for contrast in unit:
        if rng.random() < settings.gamma:
            contrast.clamp_(0.0, 1.0).pow_(float(np.exp(rng.uniform(-0.35, 0.35))))
        if rng.random() < settings.gain:
            contrast.mul_(float(rng.uniform(0.85, 1.15))).add_(float(rng.uniform(-0.08, 0.08)))
        if rng.random() < settings.noise:
            noise = torch.from_numpy(rng.standard_normal(contrast.shape, dtype=np.float32))
            contrast.add_(noise, alpha=float(rng.uniform(0.0, 0.06)))
        if settings.drop_contrast and rng.random() < settings.drop_contrast:
            contrast.zero_()
    changed = unit.clamp_(0.0, 1.0) * (high - low) + low
    return torch.where(brain[None], changed, fill)
