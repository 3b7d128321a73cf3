"""Tissues of a brain: partial volumes of grey matter, fluid, deep nuclei and vessels; the rest is white matter.

Cortex covers every fold and the hull, so grey matter is what lies near the pia, white matter what lies far from it.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rediffinet.phantom.anatomy import BrainGrid, Head, deep_grey_depth, folds, sylvian_distance, ventricle_depth
from rediffinet.phantom.fields import Field, blur, ramp, relu, resample, smooth_noise

Coords = tuple[Field, Field, Field]


@dataclass(frozen=True)
class Tissues:
    """Partial volumes 0–1 and distances (mm) on the full grid of the box."""

    hull: Field
    """Depth below the brain surface in mm; the brain is where it is positive."""
    pia: Field
    """Distance to the nearest brain surface or sulcus, mm; negative in CSF."""
    csf: Field
    grey: Field
    deep: Field
    vessels: Field
    ventricles: Field
    rind: Field
    """Remains of skull and dura at the surface after skull-stripping: dark on every sequence."""
    midline: Field
    """Signed distance to the plane between the hemispheres, mm."""


@dataclass(frozen=True)
class _Parts:
    """What the tissues are made from, on the full grid (mm)."""

    cerebrum: Field
    cerebellum: Field
    stem: Field
    fold: Field
    midline: Field

    def full(self, field: Field) -> Field:
        """A field of the coarse grid on the full one."""
        return resample(np.ascontiguousarray(field, np.float32), self.fold.shape)

    @cached_property
    def hull(self) -> Field:
        """Depth below the surface of the brain, mm."""
        return np.maximum(np.maximum(self.cerebrum, self.cerebellum), self.stem)

    @cached_property
    def cerebral(self) -> Field:
        """1 in the cerebrum, 0 in cerebellum and brain stem."""
        return ramp(self.cerebrum - np.maximum(self.cerebellum, self.stem), 1.5)


def _pia(rng: np.random.Generator, head: Head, inner: Coords, parts: _Parts, atrophy: float) -> Iterator[Field]:
    """Distance (mm, negative in fluid) to the hull and to each kind of fold, on the full grid."""
    x, y, z = inner
    shape, per_mm = head.grid.shape, head.grid.scale
    hull, cerebrum, elsewhere = parts.hull, parts.cerebrum, 40 * (1 - parts.cerebral)

    rim = 0.9 * smooth_noise(rng, shape, 9 * per_mm) + 1.4 * atrophy - 0.8
    yield hull - relu(parts.full(rim))

    # cortical sulci: wider at the surface, ending at their own depth; small ones end half-way
    reach = parts.full(20 + 6 * smooth_noise(rng, shape, 22 * per_mm))
    opening = (0.25 + 1.0 * atrophy) * (1 + relu(1 - hull / 5)) * ramp(13.5 - hull, 27)
    yield np.hypot(parts.fold, relu(hull - reach)) - opening + elsewhere
    twig = parts.full(folds(rng, head, 4.6, 0.4))
    yield np.hypot(twig, relu(hull - 0.5 * reach)) - 0.6 * opening + elsewhere

    # between the hemispheres, down to the callosum and the core of the brain
    core = parts.full(34 * relu(1 - _core_radius(y, z)))
    yield np.hypot(parts.midline, core) - np.float32(0.3 + 0.8 * atrophy) + elsewhere
    wobble = 2.5 * smooth_noise(rng, shape, 11 * per_mm)
    yield parts.full(sylvian_distance(np.abs(x), y, z, wobble)) - np.float32(0.4 + 1.2 * atrophy)

    # a gap between two parts of the brain exists where both are
    below = relu(-1 - cerebrum)
    yield np.hypot((parts.cerebellum - cerebrum) * np.float32(0.5), below) - np.float32(0.6)
    below = below + parts.full(relu(z + 22))
    yield np.hypot((parts.stem - cerebrum) * np.float32(0.5), below) - np.float32(1.2 + atrophy)


def _core_radius(y: Field, z: Field) -> Field:
    """1 on the outline, in the midplane, of callosum and brain core, where the hemispheres are joined."""
    return np.sqrt(((y + 5) / 45) ** 2 + ((z + 9) / 33) ** 2)


def _vessels(rng: np.random.Generator, head: Head, inner: Coords, parts: _Parts, ventricles: Field, mm: float) -> Field:
    """What contrast agent brightens: vessels on the cortex and in sulci, falx, sagittal sinus, choroid plexus.

    A vessel is where two sheets cross; `mm` is the size of a voxel.
    """
    _, y, z = inner
    hull = parts.hull
    width = np.float32(2 * max(0.75, 0.6 * mm) ** 2)
    crossing = parts.full(folds(rng, head, 9.0, 0.5))
    cortical = np.exp(-(np.minimum(relu(hull - 1), np.abs(parts.fold)) ** 2 + crossing**2) / width)
    cortical *= parts.cerebral * np.clip(1.3 - hull / 26, 0, 1)
    falx = 0.45 * np.exp(-(parts.midline**2) / width) * parts.full(ramp(_core_radius(y, z) - 1, 0.15)) * parts.cerebral
    sinus = np.exp(-(parts.midline**2 + (hull - 2.5) ** 2) / 9) * parts.full(ramp(np.maximum(z - 10, -y - 45), 25))
    clumps = ramp(smooth_noise(rng, head.grid.shape, 6 * head.grid.scale) - 1.5, 1.0) * ramp(-12 - y, 10)
    plexus = 0.7 * ventricles * parts.full(clumps)
    every = np.maximum(np.maximum(0.9 * cortical, falx), np.maximum(sinus, plexus))
    return np.minimum(blur(np.asarray(every, np.float32), 0.4), 1)


def make_tissues(rng: np.random.Generator, head: Head, grid: BrainGrid, inner: Coords) -> Tissues:
    """Fill the hull with tissues. `inner` are the coordinates of the inside, moved by the mass effect of lesions."""
    atrophy = float(rng.beta(2, 3))
    cortex_mm = float(rng.uniform(2.7, 3.6))
    coarse, per_mm = head.grid.shape, head.grid.scale
    midline = inner[0] + 1.3 * smooth_noise(rng, coarse, 12 * per_mm)
    sources = (head.cerebrum, head.cerebellum, head.stem, folds(rng, head, 6.0, 0.6), midline)
    parts = _Parts(*(resample(np.ascontiguousarray(s, np.float32), grid.shape) for s in sources))
    pia = functools.reduce(np.minimum, _pia(rng, head, inner, parts, atrophy))

    soft = max(1.1, 0.9 / grid.scale)
    size = 0.8 + 1.0 * atrophy + 0.15 * float(rng.standard_normal())
    ventricles = ramp(parts.full(ventricle_depth(inner, size)), soft)
    csf = np.maximum(1 - ramp(pia, soft), ventricles)
    grey = (1 - ramp(pia - np.float32(cortex_mm), 2.0 * soft)) * parts.cerebral

    # folia of the cerebellum: thin concentric leaves of grey matter around a white core
    x, y, z = head.coords
    leaf = np.sqrt((x * 0.45) ** 2 + (y + 28) ** 2 + (z + 44) ** 2) + 2.2 * smooth_noise(rng, coarse, 8 * per_mm)
    leaves = np.cos(parts.full(leaf) * np.float32(2 * np.pi / 4.2))
    folia = ramp(parts.cerebellum - np.maximum(parts.stem, parts.cerebrum), 2.0)
    folia *= 1 - ramp(np.minimum(parts.cerebellum, pia) - 13, 5)
    grey = np.maximum(grey, folia * (0.75 + 0.15 * leaves))
    csf = np.maximum(csf, folia * relu(leaves - 0.55) * np.float32(0.1 + 0.35 * atrophy))
    grey = np.minimum(grey, 1 - csf)
    deep = parts.full(ramp(deep_grey_depth(inner), 1.6 * soft)) * (1 - csf) * (1 - grey)

    vessels = _vessels(rng, head, inner, parts, ventricles, 1 / grid.scale)
    rind = ramp(1.4 - parts.hull, 1.6) * parts.full(np.clip(smooth_noise(rng, coarse, 7 * per_mm) + 0.35, 0, 1))
    made = (parts.hull, pia, csf, grey, deep, vessels, ventricles, rind, parts.midline)
    return Tissues(*(np.asarray(a, np.float32) for a in made))
