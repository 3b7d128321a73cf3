"""Windows over a volume: where they start, how their results are blended."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError

Start = tuple[int, int, int]
Shape = tuple[int, int, int]
Volume = npt.NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)


def axis_starts(size: int, window: int, overlap: float, spare: int = 0) -> list[int]:
    """Evenly spread window starts along one axis so that neighbours share at least `overlap` of a window.

    An axis shorter than the window gets one start, possibly negative: the window is centred on the axis and what hangs
    over is padding. So does one that is longer by up to `spare` voxels at either end, which no window holds then.
    """
    if not 0.0 <= overlap < 1.0:
        message = f"window overlap: got {overlap}, expected a fraction from 0 up to but not including 1"
        raise ConfigError(message)
    if size <= window:
        return [-((window - size) // 2)]
    if size <= window + 2 * spare:
        return [(size - window) // 2]
    stride = max(1, int(window * (1.0 - overlap)))
    count = -(-(size - window) // stride) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def plan_windows(shape: Shape, window: Shape, overlap: float, spare: int = 0) -> list[Start]:
    """Window starts that cover a volume of `shape`, in C order, but for what is spared (`axis_starts`)."""
    axes = [axis_starts(s, w, overlap, spare) for s, w in zip(shape, window, strict=True)]
    return [(x, y, z) for x, y, z in product(*axes)]


def overlap_slices(shape: Sequence[int], start: Start, window: Shape) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """(slices of the volume, slices of the window) where a window that may hang over meets the volume."""
    low = [max(0, s) for s in start]
    high = [min(n, s + w) for n, s, w in zip(shape, start, window, strict=True)]
    volume = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return volume, tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))


def extract(
    volume: npt.NDArray[Scalar], start: Start, window: Shape, fill: float | Sequence[float]
) -> npt.NDArray[Scalar]:
    """The window at `start` of a (C, X, Y, Z) volume, contiguous.

    Where it hangs over the edge it holds `fill`: one value, or one per channel.
    """
    source, target = overlap_slices(volume.shape[1:], start, window)
    if all(s.stop - s.start == w for s, w in zip(target, window, strict=True)):
        return np.ascontiguousarray(volume[(slice(None), *source)])
    out = np.empty((volume.shape[0], *window), dtype=volume.dtype)
    out[:] = np.reshape(fill, (-1, 1, 1, 1))
    out[(slice(None), *target)] = volume[(slice(None), *source)]
    return out


def gaussian_importance(window: Shape, sigma: float = 0.125, floor: float = 1e-3) -> Volume:
    """Separable Gaussian weight of a window, float32, 1 at the centre and never under `floor`.

    sigma is in window lengths (0.125, as nnU-Net and MONAI do).
    """
    profiles = [np.exp(-0.5 * (((np.arange(n) - (n - 1) / 2) / (sigma * n)) ** 2)) for n in window]
    weight = profiles[0][:, None, None] * profiles[1][None, :, None] * profiles[2][None, None, :]
    return np.asarray(np.maximum(weight, floor), dtype=np.float32)


class Blend:
    """Weighted sum of overlapping windows over a (C, X, Y, Z) volume."""

    def __init__(self, channels: int, shape: Shape, window: Shape) -> None:
        self._sum = np.zeros((channels, *shape), np.float32)
        self._weight = np.zeros(shape, np.float32)
        self._importance = gaussian_importance(window)
        self._window = window

    def add(self, start: Start, values: Volume) -> None:
        """Add one window's values (C, x, y, z)."""
        target, source = overlap_slices(self._weight.shape, start, self._window)
        weight = self._importance[source]
        self._sum[(slice(None), *target)] += values[(slice(None), *source)] * weight
        self._weight[target] += weight

    @property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Voxels that at least one window reached, bool (X, Y, Z)."""
        return self._weight > 0

    def mean(self) -> Volume:
        """The weighted mean, float32 (C, X, Y, Z); 0 where no window was added."""
        return np.divide(self._sum, self._weight, out=self._sum, where=self.covered)


def slide(
    volume: Volume,
    window: Shape,
    overlap: float,
    predict: Callable[[Volume], Volume],
    channels: int,
    fill: float,
    done: Callable[[int, int], None] | None = None,
    spare: int = 0,
) -> Volume:
    """Apply `predict` ((1, C, window) → (1, channels, window)) over a volume and blend. `done(i, n)` after each.

    Up to `spare` voxels at either end of an axis that would need windows of their own get what their neighbours got.
    """
    shape = (volume.shape[1], volume.shape[2], volume.shape[3])
    starts = plan_windows(shape, window, overlap, spare)
    blend = Blend(channels, shape, window)
    for i, start in enumerate(starts):
        blend.add(start, predict(extract(volume, start, window, fill)[None])[0])
        if done is not None:
            done(i + 1, len(starts))
    found = blend.mean()
    for axis, width in enumerate(window):
        along = np.moveaxis(found, axis + 1, 0)
        first = max(0, min(start[axis] for start in starts))
        last = min(shape[axis], max(start[axis] for start in starts) + width) - 1
        along[:first], along[last + 1 :] = along[first], along[last]
    return found
