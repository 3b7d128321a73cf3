"""Gliomas: what is drawn (the plan), the mass effect on the anatomy, and the label map with soft edges.

Sizes follow the spread of expert labels in BraTS: whole tumour 5–200 ml, core and enhancing part any share of it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rediffinet.phantom.anatomy import BrainGrid, Head
from rediffinet.phantom.fields import Field, Shape, ramp, relu, smooth_noise
from rediffinet.phantom.tissues import Tissues

Tumour = Literal["random", "none", "enhancing", "solid", "tiny-enhancing", "non-enhancing"]
KINDS: tuple[Tumour, ...] = get_args(Tumour)
_SHARES = {"enhancing": 0.62, "solid": 0.10, "tiny-enhancing": 0.10, "non-enhancing": 0.18}


@dataclass(frozen=True)
class Lesion:
    """One lesion in mm of a full-size brain; volumes in mm³."""

    centre: tuple[float, float, float]
    whole: float
    core: float
    enhancing: float
    push: float
    """Mass effect: share by which tissue at the centre is pushed outwards, 0–0.45."""

    @property
    def core_radius(self) -> float:
        """Radius (mm) of a ball as large as the core."""
        return float((self.core * 0.75 / np.pi) ** (1 / 3))

    @property
    def whole_radius(self) -> float:
        """Radius (mm) of a ball as large as the whole tumour."""
        return float((self.whole * 0.75 / np.pi) ** (1 / 3))


@dataclass(frozen=True)
class Growth:
    """Tissues of all lesions (1 NCR, 2 ED, 3 ET) and the soft presence 0–1 of each kind, on the full grid.

    fluid: of what `parts.with_regions` carves out of them, whose labels are then a task's; None where there is none.
    """

    labels: NDArray[np.uint8]
    edema: Field
    necrosis: Field
    enhancing: Field
    fluid: Field | None = None


def _split(rng: np.random.Generator, kind: str, whole: float) -> tuple[float, float]:
    """Volumes of core and enhancing tissue for a whole-tumour volume."""
    core = whole * float(np.clip(rng.beta(2.0, 2.4), 0.06, 0.93))
    if kind == "enhancing":
        return core, min(core * float(np.clip(rng.beta(2.6, 2.6), 0.18, 0.90)), 80e3)
    if kind == "solid":
        core = min(core, 45e3)
        return core, core * float(rng.uniform(0.93, 1.0))
    if kind == "tiny-enhancing":
        return core, min(float(np.exp(rng.uniform(np.log(120), np.log(1500)))), 0.3 * core)
    return core, 0.0


def plan_lesions(rng: np.random.Generator, head: Head, tumour: Tumour) -> list[Lesion]:
    """Draw kind, number, places and sizes. Centres lie well inside the cerebrum, off the midline."""
    if tumour == "none":
        return []
    kind = tumour if tumour != "random" else str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    whole = float(np.clip(np.exp(rng.normal(np.log(90e3), 0.7)), 6e3, 210e3))
    shares = [1.0]
    if rng.random() < 0.28:
        shares = [0.8, 0.2] if rng.random() < 0.65 else [0.72, 0.18, 0.10]
    push = float(rng.uniform(0, 0.42)) if rng.random() < 0.75 else 0.0

    x, _, z = head.coords
    lesions: list[Lesion] = []
    where = [np.broadcast_to(a, head.grid.shape) for a in head.grid.axes()]
    for share in shares:
        core, enhancing = _split(rng, kind, whole * share)
        radius = (core * 0.75 / np.pi) ** (1 / 3)
        inside = min(8 + 0.55 * radius, 26.0)
        allowed = (head.cerebrum > inside) & (np.abs(x) > min(9 + 0.6 * radius, 30.0)) & (z > -36)
        gap = (whole * share * 0.75 / np.pi) ** (1 / 3)
        for other in lesions:  # a satellite is apart from the others, and mostly in the same hemisphere
            r2 = sum((w - c) ** 2 for w, c in zip(where, other.centre, strict=True))
            apart = allowed & (r2 > (0.75 * (other.whole_radius + gap)) ** 2)
            near = apart & (np.sign(where[0]) == np.sign(other.centre[0]))
            allowed = near if near.any() and rng.random() < 0.75 else apart
        places = np.flatnonzero(allowed)
        if len(places) == 0:
            continue
        at = places[rng.integers(len(places))]
        centre = tuple(float(w.flat[at]) for w in where)
        lesions.append(Lesion((centre[0], centre[1], centre[2]), whole * share, core, enhancing, push))
    return lesions


def push_aside(coords: tuple[Field, Field, Field], head: Head, lesions: list[Lesion]) -> tuple[Field, Field, Field]:
    """Coordinates of the tissue that a growing mass has moved to each voxel; the hull stays where it is."""
    axes = [np.broadcast_to(a, head.grid.shape) for a in head.grid.axes()]
    moved = list(coords)
    for lesion in lesions:
        rel = [a - c for a, c in zip(axes, lesion.centre, strict=True)]
        r2 = rel[0] ** 2 + rel[1] ** 2 + rel[2] ** 2
        reach = 1.25 * lesion.core_radius + 8
        pull = lesion.push * np.exp(-r2 / np.float32(reach**2)) * np.clip(head.depth / 14, 0, 1)
        moved = [m - (r * pull).astype(np.float32) for m, r in zip(moved, rel, strict=True)]
    return moved[0], moved[1], moved[2]


def _threshold(field: Field, candidates: NDArray[np.bool_], count: float) -> float:
    """Value below which `count` candidate voxels lie: a level set of a wanted volume."""
    values = field[candidates]
    k = int(np.clip(round(count), 1, values.size - 1))
    return float(np.partition(values, k)[k])


def _window(grid: BrainGrid, centre: tuple[float, float, float], reach_mm: float) -> tuple[slice, slice, slice]:
    slices = []
    for axis, c, n in zip(grid.axes(), centre, grid.shape, strict=True):
        hit = np.flatnonzero(np.abs(axis.ravel() - c) <= reach_mm)
        slices.append(slice(int(hit[0]), min(int(hit[-1]) + 1, n)))
    return slices[0], slices[1], slices[2]


def _irregular_radius(rng: np.random.Generator, rel: list[Field], shape: Shape, size: float, scale: float) -> Field:
    """Distance from a centre (mm) in a randomly tilted, lobed ellipsoid metric of mean radius `size`."""
    tilt = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    stretch = np.exp(rng.normal(0, 0.22, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    metric = (tilt * stretch**2) @ tilt.T
    r2 = sum(np.float32(metric[i, j]) * rel[i] * rel[j] for i in range(3) for j in range(3))
    radius = np.sqrt(np.asarray(r2, np.float32))
    lobes = smooth_noise(rng, shape, max(0.75 * size, 6) * scale)
    bumps = smooth_noise(rng, shape, max(0.28 * size, 3.5) * scale)
    far = radius + np.float32(0.20 * size) * lobes + np.float32(0.07 * size + 0.4) * bumps
    return np.asarray(far, np.float32)


def grow(rng: np.random.Generator, grid: BrainGrid, tissues: Tissues, lesions: list[Lesion]) -> Growth:
    """Grow every lesion in the anatomy: a lobed core, a rim of uneven thickness, edema that follows white matter."""
    labels = np.zeros(grid.shape, np.uint8)
    soft = {name: np.zeros(grid.shape, np.float32) for name in ("edema", "necrosis", "enhancing")}
    voxels = grid.scale**3
    for lesion in lesions:
        win = _window(grid, lesion.centre, 1.75 * lesion.whole_radius + 12)
        rel = [a - np.float32(c) for a, c in zip(grid.axes(), lesion.centre, strict=True)]
        rel = [rel[0][win[0]], rel[1][:, win[1]], rel[2][:, :, win[2]]]
        shape: Shape = tissues.hull[win].shape
        tissue = (tissues.hull[win] > 0.8) & (tissues.ventricles[win] < 0.4)
        across = relu(-tissues.midline[win] * np.float32(np.sign(lesion.centre[0])))

        r_core = lesion.core_radius
        far = _irregular_radius(rng, rel, shape, r_core, grid.scale)
        far += 0.6 * relu(across)
        far -= 1.5 * np.clip(tissues.pia[win], -2, 4)  # the core displaces cortex, but fluid less readily
        far -= np.float32(_threshold(far, tissue, lesion.core * voxels))
        core = tissue & (far < 0)

        # infiltration: runs along white matter, stops at cortex, fluid and (outside the callosum) the midline
        r_whole = lesion.whole_radius
        spread = far + np.float32(0.16 * r_whole) * smooth_noise(rng, shape, 0.55 * r_whole * grid.scale)
        spread += np.float32(0.10 * r_whole) * smooth_noise(rng, shape, 8 * grid.scale)
        spread += smooth_noise(rng, shape, 3.5 * grid.scale)
        barrier = 9 * (tissues.grey[win] + 0.5 * tissues.deep[win]) + 18 * tissues.csf[win] + 0.8 * across
        spread += barrier * np.clip(far / 4, 0, 1)
        spread -= np.float32(max(_threshold(np.where(core, -np.inf, spread), tissue, lesion.whole * voxels), 1.0))
        whole = core | (tissue & (spread < 0))

        necrotic, depth = _necrosis(rng, grid, lesion, core, far)
        here = np.where(core, np.where(necrotic, 1, 3), np.where(whole, 2, 0)).astype(np.uint8)
        labels[win] = _merge(labels[win], here)

        edge = float(rng.uniform(2.5, 7.0))
        inside = ramp(-far, max(1.4, 1.0 / grid.scale))
        dead = ramp(depth, max(1.6, 1.2 / grid.scale)) if lesion.enhancing > 0 else np.ones(shape, np.float32)
        fluid = ramp(0.3 - tissues.pia[win], 1.4) * (1 - inside)  # water in a sulcus stays water
        parts = {
            "edema": np.maximum(ramp(-spread, edge), inside) * (1 - fluid),
            "necrosis": inside * dead,
            "enhancing": inside * (1 - dead),
        }
        for name, part in parts.items():
            part *= 1 - tissues.ventricles[win]
            np.maximum(soft[name][win], part, out=soft[name][win])
    return Growth(labels, soft["edema"], soft["necrosis"], soft["enhancing"])


def _necrosis(
    rng: np.random.Generator, grid: BrainGrid, lesion: Lesion, core: NDArray[np.bool_], far: Field
) -> tuple[NDArray[np.bool_], Field]:
    """Non-enhancing part of the core and the signed depth (mm) into it; the rest of the core enhances."""
    shape: Shape = far.shape
    patch = smooth_noise(rng, shape, max(0.5 * lesion.core_radius, 4) * grid.scale)
    grain = smooth_noise(rng, shape, 3.5 * grid.scale)
    share = lesion.enhancing / lesion.core
    if share == 0:
        return core, -far
    if share < 0.12:  # nodules, not a rim
        depth = 3 * patch + 0.7 * grain - 0.1 * far
    else:
        uneven = np.float32(0.14 * lesion.core_radius)
        depth = -far + uneven * patch + 0.6 * grain
    dead = core.sum() * (1 - share)
    if dead < 1:
        return np.zeros_like(core), np.full(shape, -9, np.float32)
    depth = -depth
    depth -= np.float32(_threshold(depth, core, dead))
    depth = -depth
    return core & (depth > 0), np.asarray(depth, np.float32)


def _merge(old: NDArray[np.uint8], new: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where lesions overlap, ET wins over NCR and NCR over ED."""
    rank = np.array([0, 2, 1, 3], np.uint8)
    return np.where(rank[new] > rank[old], new, old).astype(np.uint8)
