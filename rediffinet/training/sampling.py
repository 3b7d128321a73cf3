"""Random windows and their augmentation: every draw is keyed by (seed, step, slot), so a resumed run repeats it."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rediffinet.method.windows import Shape, Start, extract
from rediffinet.training.config import Augmentation


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


def rotation(axis: int, angle: float) -> npt.NDArray[np.float64]:
    """Rotation about one axis, in radians: (3, 3)."""
    matrix = np.eye(3)
    first, second = (other for other in range(3) if other != axis)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def _rotation_and_scale(rng: np.random.Generator, settings: Augmentation, window: Shape) -> Tensor:
    """Sampling matrix (1, 3, 4) of affine_grid: a rotation about each of the axes and one scale, in voxels."""
    voxel = np.eye(3)
    for axis in settings.rotation_axes:
        limit = settings.rotation_degrees
        voxel = voxel @ rotation(axis, math.radians(rng.uniform(-limit, limit)))
    voxel = voxel / (1.0 + rng.uniform(-settings.scaling, settings.scaling))
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


def _coarser(contrast: Tensor, factors: Sequence[float]) -> Tensor:
    """A contrast as if scanned with voxels `factors` times as long along each axis, on its own grid."""
    size = [max(2, round(side / factor)) for side, factor in zip(contrast.shape, factors, strict=True)]
    low = functional.interpolate(contrast[None, None], size, mode="area")
    return functional.interpolate(low, list(contrast.shape), mode="trilinear", align_corners=False)[0, 0]


def _cut_off(rng: np.random.Generator, contrast: Tensor, brain: Tensor, value: float) -> None:
    """Set a slab at one end of the brain to a value, up to a quarter of its length: a scan that covers part of it."""
    axis = int(rng.integers(3))
    occupied = torch.nonzero(brain)[:, axis]
    first, last = int(occupied.min()), int(occupied.max()) + 1
    width = max(1, round((last - first) * float(rng.uniform(0.0, 0.25))))
    start = first if rng.random() < 0.5 else last - width
    contrast.narrow(axis, start, width).fill_(value)


def augment_intensity(
    rng: np.random.Generator,
    settings: Augmentation,
    image: Tensor,
    limits: tuple[float, float],
    fill: float,
    *,
    standardised: bool = False,
) -> Tensor:
    """Gamma, gain and offset, bias field, blur, thick slices, noise, a contrast that is cut off or missing.

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
            contrast.mul_(torch.exp(settings.bias_strength * _smooth_field(rng, 1, 3, shape)[0]))
        if settings.blur and rng.random() < settings.blur:
            contrast.copy_(_coarser(contrast, [float(rng.uniform(1.2, 2.0))] * 3))
        if settings.thick_slices and rng.random() < settings.thick_slices:
            factors = [1.0, 1.0, 1.0]
            factors[int(rng.integers(3))] = float(rng.uniform(1.5, 3.5))
            contrast.copy_(_coarser(contrast, factors))
        if rng.random() < settings.noise:
            noise = torch.from_numpy(rng.standard_normal(contrast.shape, dtype=np.float32))
            contrast.add_(noise, alpha=float(rng.uniform(0.0, 0.06)))
        if standardised and len(before):
            after = contrast[brain]
            spread = after.std(correction=0).clamp_min(1e-6)
            contrast.sub_(after.mean()).mul_(before.std(correction=0) / spread).add_(before.mean())
        outside = (fill - low) / (high - low)
        if settings.cut_off and len(before) and rng.random() < settings.cut_off:
            _cut_off(rng, contrast, brain, float(before.min()) if rng.random() < 0.5 else outside)
        if settings.drop_contrast and rng.random() < settings.drop_contrast:
            contrast.fill_(outside)
    changed = unit.clamp_(0.0, 1.0) * (high - low) + low
    return torch.where(brain[None], changed, fill)


def transplant(
    rng: np.random.Generator,
    donor: tuple[Tensor, Tensor],
    host: tuple[Tensor, Tensor],
    fill: float,
    whole: slice = slice(0, 1),
) -> tuple[Tensor, Tensor]:
    """The tumour of one window, with a rim of what surrounds it, in the brain of another; both are (image, masks).

    masks (M, …), of which those in `whole` make the whole tumour. The rim is up to five voxels wide at random and fades
    over one; outside both brains nothing changes. A tumour in other healthy tissue than its own (CarveMix, Zhang et al.
    2021, arXiv 2108.06883). Returns new tensors, or `host` itself where the donor's window holds no tumour.
    """
    image, masks = donor
    tumour = masks[whole].amax(0, keepdim=True)
    if not bool(tumour.any()):
        return host
    region = (tumour > 0.5).float()[None]
    for _ in range(int(rng.integers(1, 6))):
        region = functional.max_pool3d(region, 3, 1, 1)
    both = ((image != fill).any(0) & (host[0] != fill).any(0)).float()
    inside = region[0] * both
    soft = functional.avg_pool3d(region, 3, 1, 1)[0] * both
    mixed = host[0] + soft * (image - host[0])
    return mixed, torch.where(inside > 0, masks, host[1])
