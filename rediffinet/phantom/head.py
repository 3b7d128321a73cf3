"""A phantom with what a scanner sees around the brain: fluid, skull, fat, skin and noise in the air."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rediffinet.phantom.anatomy import BOX_MM
from rediffinet.phantom.case import BRATS_SHAPE, make_phantom
from rediffinet.phantom.fields import Field, Shape, blur, smooth_noise, streams
from rediffinet.phantom.lesions import Tumour

SMOOTHING_MM = 8.0
SHELLS = {"fluid": 0.40, "bone": 0.17, "scalp": 0.03}
"""Level of the blurred brain down to which each layer reaches: 2, 8 and 15 mm beyond a flat surface."""
SIGNALS = {
    "t1n": {"fluid": 0.25, "bone": 0.12, "scalp": 1.25},
    "t1c": {"fluid": 0.30, "bone": 0.14, "scalp": 1.30},
    "t2w": {"fluid": 1.70, "bone": 0.10, "scalp": 0.80},
    "t2f": {"fluid": 0.20, "bone": 0.10, "scalp": 0.75},
}
"""Of the layers, over the mean of the brain in the same contrast."""
AIR = 0.02
MARGIN_MM = 24.0


@dataclass(frozen=True, eq=False)
class HeadPhantom:
    """A synthetic head, LPS storage.

    images: float32 (4, X, Y, Z) in the order of the keys of `SIGNALS`; brain: bool (X, Y, Z); labels: uint8 (X, Y, Z)
    as those of `Phantom`; affine: (4, 4) float64, voxels of 1 mm, or larger ones where the volume is smaller: a head
    has the size of a head.
    """

    name: str
    images: NDArray[np.float32]
    brain: NDArray[np.bool_]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]


def make_head_phantom(
    seed: int, shape: Shape = BRATS_SHAPE, *, index: int = 0, tumour: Tumour = "random"
) -> HeadPhantom:
    """The phantom of the same arguments, in a volume that is `MARGIN_MM` larger on each side, with a head around.

    Raises ConfigError as `make_phantom` does.
    """
    phantom = make_phantom(seed, shape, index=index, tumour=tumour)
    scale = min(1.0, *(0.97 * n / mm for n, mm in zip(shape, BOX_MM, strict=True)))  # voxels per mm
    margin = round(MARGIN_MM * scale)
    around = [(margin, margin)] * 3
    images = np.pad(phantom.images, [(0, 0), *around])
    brain = np.asarray((images > 0).any(axis=0), np.bool_)
    depth = blur(np.asarray(brain, np.float32), SMOOTHING_MM * scale)
    rng, *noises = streams(seed, index, 1 + len(images))
    skin = smooth_noise(rng, brain.shape, 12.0 * scale)
    for image, contrast, noise in zip(images, SIGNALS.values(), noises, strict=True):
        _surround(image, brain, depth, contrast, skin, noise)
    affine = np.diag([*np.full(3, 1 / scale), 1.0]) @ phantom.affine
    affine[:3, 3] -= margin * affine[:3, :3].sum(axis=1)
    return HeadPhantom(phantom.name, images, brain, np.pad(phantom.labels, around), affine)


def _surround(
    image: Field,
    brain: NDArray[np.bool_],
    depth: Field,
    signal: dict[str, float],
    skin: Field,
    rng: np.random.Generator,
) -> None:
    """Paint the layers outside in, then noise; the brain keeps its values."""
    level = float(image[brain].mean())
    head = np.zeros_like(image)
    for layer, reach in reversed(SHELLS.items()):
        head[depth > reach] = signal[layer] * level
    head *= 1 + np.float32(0.08) * skin
    noise = rng.standard_normal((2, *image.shape), np.float32)
    noisy = np.hypot(head + AIR * level * noise[0], AIR * level * noise[1])
    np.copyto(image, np.rint(noisy), where=~brain)
