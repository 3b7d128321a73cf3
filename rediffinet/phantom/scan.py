"""From tissues to scanner units: contrast of each sequence, texture, bias field, resolution, Rician noise, gain.

All values are relative to white matter. The spreads enclose the medians of NCR, ED and ET over white matter measured
in BraTS cases: edema 1.2–2.5 on t2f and t2w, a rim of 1.1–1.9 on t1c, a core of 0.45–0.9 on t1n and t1c.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rediffinet.phantom.anatomy import BrainGrid
from rediffinet.phantom.fields import Field, blur, smooth_noise, thick_slices
from rediffinet.phantom.lesions import Growth
from rediffinet.phantom.tissues import Tissues

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@dataclass(frozen=True)
class Contrast:
    """Signal of each tissue over white matter, and how the sequence was acquired."""

    grey: float
    deep: float
    csf: float
    vessel: float
    edema: float
    necrosis: float
    enhancing: float
    texture: float
    gamma: float
    bias: float
    noise: float
    blur: float
    slice_mm: float
    gain: float


def draw_contrasts(rng: np.random.Generator) -> dict[str, Contrast]:
    """One scanner and one patient: the four sequences share how fluid-like edema and necrosis are."""

    def between(low: float, high: float, at: float | None = None) -> float:
        """Uniform, or near position `at` of the range when the value goes along with another one."""
        t = rng.random() if at is None else float(np.clip(at + rng.normal(0, 0.15), 0, 1))
        return float(low + (high - low) * t)

    wet, fluid, uptake = rng.random(3)
    thin = rng.random() < 0.45  # a 3-D acquisition or not

    def build(**tissue: float) -> Contrast:
        slice_mm = 1.0 if thin or rng.random() < 0.35 else float(rng.integers(2, 6))
        return Contrast(
            **tissue,
            gamma=between(0.93, 1.08),
            bias=between(0.02, 0.10),
            noise=between(0.012, 0.05),
            blur=between(0.25, 0.75),
            slice_mm=slice_mm,
            gain=float(np.exp(rng.uniform(np.log(120), np.log(1200)))),
        )

    grey = rng.random()
    return {
        "t1n": build(
            grey=between(0.72, 0.86, grey), deep=between(0.80, 0.92), csf=between(0.28, 0.55), vessel=between(0.5, 1.1),
            edema=between(0.92, 0.76, wet), necrosis=between(0.86, 0.48, fluid), enhancing=between(0.70, 0.94),
            texture=0.02,
        ),
        "t1c": build(
            grey=between(0.76, 0.90, grey), deep=between(0.84, 0.95), csf=between(0.3, 0.55), vessel=between(1.7, 3.2),
            edema=between(0.94, 0.74, wet), necrosis=between(0.88, 0.44, fluid), enhancing=between(1.12, 1.8, uptake),
            texture=0.03,
        ),
        "t2w": build(
            grey=between(1.14, 1.36), deep=between(1.0, 1.15), csf=between(2.3, 3.8), vessel=between(0.5, 1.6),
            edema=between(1.4, 2.3, wet), necrosis=between(1.6, 3.3, fluid), enhancing=between(1.45, 2.4, wet),
            texture=0.055,
        ),
        "t2f": build(
            grey=between(1.08, 1.30), deep=between(1.0, 1.15), csf=between(0.18, 0.5), vessel=between(0.5, 1.0),
            edema=between(1.35, 2.35, wet), necrosis=between(1.25, 2.3, 0.7 * wet + 0.3 * (1 - fluid)),
            enhancing=between(1.35, 2.5, wet), texture=0.045,
        ),
    }  # fmt: skip


@dataclass(frozen=True)
class Textures:
    """Unevenness that all sequences of one patient share, about unit variance."""

    parenchyma: Field
    tumour: Field
    fine: Field


def draw_textures(rng: np.random.Generator, grid: BrainGrid) -> Textures:
    """Draw the unevenness of one patient's tissue, at scales of 12, 9 and 3.2 mm."""
    return Textures(
        smooth_noise(rng, grid.shape, 12 * grid.scale),
        smooth_noise(rng, grid.shape, 9 * grid.scale),
        smooth_noise(rng, grid.shape, 3.2 * grid.scale),
    )


def acquire(
    rng: np.random.Generator, grid: BrainGrid, contrast: Contrast, tissues: Tissues, growth: Growth, textures: Textures
) -> NDArray[np.float32]:
    """One image of the box in whole scanner units: at least 1 in the brain and exactly 0 outside."""
    c = contrast
    image = 1 + np.float32(c.texture) * (textures.parenchyma + 0.5 * textures.fine)
    for part, value in ((tissues.grey, c.grey), (tissues.deep, c.deep), (tissues.csf, c.csf)):
        image += np.float32(value - 1) * part
    image += tissues.vessels * (np.float32(c.vessel) - image)
    if growth.labels.any():
        uneven = 1 + 0.16 * textures.tumour + 0.05 * textures.fine
        image += growth.edema * (1 + (c.edema - 1) * uneven - image)
        uneven = 1 + 0.10 * textures.tumour + 0.08 * textures.fine
        image += growth.necrosis * (c.necrosis * uneven - image)
        rim = c.enhancing * (1 + 0.07 * textures.tumour + 0.14 * textures.fine)
        image += growth.enhancing * (rim - image)
    if growth.fluid is not None:
        image += growth.fluid * (np.float32(c.csf) - image)

    image += tissues.rind * (np.float32(0.3) - image)
    image = np.maximum(image, np.float32(0.03)) ** np.float32(c.gamma)
    image = thick_slices(blur(np.asarray(image, np.float32), c.blur), round(c.slice_mm * grid.scale))
    image *= np.exp(np.float32(c.bias) * smooth_noise(rng, grid.shape, 70 * grid.scale))

    grain = [blur(rng.standard_normal(grid.shape, dtype=np.float32), 0.55) for _ in range(2)]
    sigma = np.float32(c.noise / grain[0].std())
    image = np.hypot(image + sigma * grain[0], sigma * grain[1])
    image = np.rint(np.clip(image * np.float32(c.gain), 1, 32767))
    return np.asarray(np.where(tissues.hull > 0, image, 0), np.float32)
