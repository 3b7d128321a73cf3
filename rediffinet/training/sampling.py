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


def _smooth_field(rng: np.random.Generator, channels: int, coarse: int, window: Shape) -> Tensor:
    """Standard normal values on a coarse³ grid, interpolated to (channels, *window)."""
    values = rng.standard_normal((1, channels, coarse, coarse, coarse), dtype=np.float32)
    return functional.interpolate(torch.from_numpy(values), window, mode="trilinear", align_corners=True)[0]


def _displacement(rng: np.random.Generator, voxels: float, window: Shape) -> Tensor:
    """A smooth random displacement of that many voxels (standard deviation), in grid units (1, *window, 3)."""
    field = _smooth_field(rng, 3, 5, window).permute(1, 2, 3, 0)
    # grids hold z, y, x in [−1, 1]
    return (field * (2.0 * voxels / torch.tensor(window[::-1], dtype=torch.float32)))[None]


def augment_space(
    rng: np.random.Generator, settings: Augmentation, image: Tensor, masks: Tensor, fill: float
) -> tuple[Tensor, Tensor]:
    """Rotate, scale, deform and flip image (C, …) and masks (R, …) together."""
    window = (image.shape[1], image.shape[2], image.shape[3])
    grid = None
    if settings.affine and rng.random() < settings.affine:
        grid = functional.affine_grid(_rotation_and_scale(rng, settings, window), [1, 1, *window], align_corners=False)
    if settings.elastic and rng.random() < settings.elastic:
        if grid is None:
            grid = functional.affine_grid(torch.eye(3, 4)[None], [1, 1, *window], align_corners=False)
        grid = grid + _displacement(rng, settings.elastic_voxels, window)
    if grid is not None:
        image = functional.grid_sample((image - fill)[None], grid, mode="bilinear", align_corners=False)[0] + fill
        masks = functional.grid_sample(masks[None], grid, mode="nearest", align_corners=False)[0]
    axes = [axis + 1 for axis in settings.flip_axes if rng.random() < 0.5]
    return (image.flip(axes), masks.flip(axes)) if axes else (image, masks)


def _coarser(contrast: Tensor, factor: float) -> Tensor:
    """A contrast as if scanned with voxels `factor` times as long, on its own grid."""
    size = [max(2, round(side / factor)) for side in contrast.shape]
    low = functional.interpolate(contrast[None, None], size, mode="area")
    return functional.interpolate(low, list(contrast.shape), mode="trilinear", align_corners=False)[0, 0]


def augment_intensity(
    rng: np.random.Generator,
    settings: Augmentation,
    image: Tensor,
    limits: tuple[float, float],
    fill: float,
    *,
    standardised: bool = False,
) -> Tensor:
    """Gamma, gain and offset, bias field, blur, noise, dropped contrast.

    Per contrast, inside the brain, within the recipe's range. standardised: the recipe gives every contrast the same
    mean and deviation, so what the changes do to them is taken back.
    """
    low, high = limits
    brain = (image != fill).any(0)
    unit = (image - low) / (high - low)
    for contrast in unit:
        before = contrast[brain]
        if rng.random() < settings.gamma:
            contrast.clamp_(0.0, 1.0).pow_(float(np.exp(rng.uniform(-0.35, 0.35))))
        if rng.random() < settings.gain:
            contrast.mul_(float(rng.uniform(0.85, 1.15))).add_(float(rng.uniform(-0.08, 0.08)))
        if settings.bias_field and rng.random() < settings.bias_field:
            shape = (contrast.shape[0], contrast.shape[1], contrast.shape[2])
            contrast.mul_(torch.exp(0.15 * _smooth_field(rng, 1, 3, shape)[0]))
        if settings.blur and rng.random() < settings.blur:
            contrast.copy_(_coarser(contrast, float(rng.uniform(1.2, 2.0))))
        if rng.random() < settings.noise:
            noise = torch.from_numpy(rng.standard_normal(contrast.shape, dtype=np.float32))
            contrast.add_(noise, alpha=float(rng.uniform(0.0, 0.06)))
        if standardised and len(before):
            after = contrast[brain]
            spread = after.std(correction=0).clamp_min(1e-6)
            contrast.sub_(after.mean()).mul_(before.std(correction=0) / spread).add_(before.mean())
        if settings.drop_contrast and rng.random() < settings.drop_contrast:
            contrast.fill_((fill - low) / (high - low))
    changed = unit.clamp_(0.0, 1.0) * (high - low) + low
    return torch.where(brain[None], changed, fill)
