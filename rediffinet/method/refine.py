"""Finding the discrepancy over a case: which windows, what is fed to them, and the loop on the engine's device."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rediffinet.engines.base import Buffer, Engine, Graph
from rediffinet.method.discrepancy import near_boundary
from rediffinet.method.models import as_discrepancy, build_condition
from rediffinet.method.noise import window_noise
from rediffinet.method.postprocess import remove_small_components
from rediffinet.method.recipe import Decision, Recipe, RefinerSettings
from rediffinet.method.sampling import ddim
from rediffinet.method.schedule import Schedule
from rediffinet.method.windows import Blend, Start, axis_starts, extract

Volume = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Done = Callable[[int, int], None]


@dataclass(frozen=True)
class Discrepancy:
    """What was found, on the crop.

    delta: float32 (R, X, Y, Z), mean Δ̂x0 over samples (a predicted segmentation x̂0 counts as |U − x̂0|); 0 where no
    window was. disagreement: float32 (X, Y, Z), standard deviation over samples, mean of the regions. sampled: bool
    (X, Y, Z), where windows were.
    """

    delta: Volume
    disagreement: Volume
    sampled: Mask
    windows: int


def undecided(
    recipe: Recipe,
    probability: Volume,
    decision: Decision | None = None,
    *,
    postprocess: bool = True,
    left_out: Mask | None = None,
) -> Mask:
    """Voxels of which refinement may say something, bool (X, Y, Z): some region has p > unsure (and p ≤ sure).

    With a decision that flips near the baseline's boundary alone, those that it can flip, of a baseline that is
    postprocessed or not. left_out: bool (X, Y, Z), lesions that are flipped whole whatever is found there.
    """
    settings = recipe.refiner
    assert settings is not None, f"model '{recipe.kind.name}' has no refiner"
    if decision is None or decision.reaches_mm is None:
        doubted = probability > settings.unsure
        if settings.sure < 1.0:
            doubted &= probability <= settings.sure
        return np.asarray(doubted.any(axis=0))
    mask = recipe.mask(probability)
    if postprocess:
        mask &= ~small_pieces(recipe, decision, mask)
    if left_out is not None:
        mask = without_left_out(recipe, mask, left_out)
    where = np.zeros(mask.shape[1:], bool)
    for region, reach_mm in zip(mask, decision.reaches_mm, strict=True):
        where |= near_boundary(region, reach_mm, recipe.decided_mm)
        if decision.whole_components < 1.0:  # which are judged from their middle to their rim
            where |= region
    return where


def small_pieces(recipe: Recipe, decision: Decision, mask: Mask) -> Mask:
    """What of the baseline's regions (R, X, Y, Z) is in components of its whole tumour that are small by the decision.

    They are taken out before what is near the boundary is flipped, or they could grow.
    """
    whole = recipe.whole(mask).astype(np.uint8)
    kept, removed = remove_small_components(whole, **decision.small_components.model_dump())
    if not removed:
        return np.zeros_like(mask)
    within = np.array(recipe.within_whole).reshape(-1, 1, 1, 1)
    return np.asarray((kept != whole) & within & mask)


def without_left_out(recipe: Recipe, mask: Mask, left_out: Mask) -> Mask:
    """The baseline's regions (R, X, Y, Z) without the lesions (X, Y, Z) that are flipped whole.

    What is near the boundary of the rest alone is flipped: the rim that such a lesion might grow by would stay behind.
    """
    return np.asarray(mask & ~(left_out & np.array(recipe.within_whole).reshape(-1, 1, 1, 1)))


def refinement_windows(where: Mask, settings: RefinerSettings) -> list[Start]:
    """Starts of windows that hold every voxel of `where`, each at least one of them; in C order.

    Axis by axis: slabs over the extent of the voxels, grown by the margin, then each slab's own extent along the next
    axis, so that a tumour of any outline has few. Neighbours share at least `overlap` of a window along their axis.
    """
    return [(x, y, z) for x, y, z in _tiled(where, settings, 0)]


def _tiled(where: Mask, settings: RefinerSettings, axis: int) -> list[tuple[int, ...]]:
    """What the windows' starts are from that axis on."""
    if axis == 3:
        return [()] if where.any() else []
    size, width = where.shape[axis], settings.window[axis]
    occupied = np.flatnonzero(where.any(axis=tuple(a for a in range(3) if a != axis)))
    if not occupied.size:
        return []
    first, last = int(occupied[0]) - settings.margin, int(occupied[-1]) + 1 + settings.margin
    first, last = _widened(max(0, first), min(size, last), size, width)
    starts = [first + start for start in axis_starts(last - first, width, settings.overlap)]
    halves = [(one + width + other) // 2 for one, other in pairwise(starts)]  # of what two neighbours share
    found = []
    for start, low, high in zip(starts, (0, *halves), (*halves, size), strict=True):
        slab = np.zeros_like(where)
        inside = (slice(None),) * axis + (slice(low, high),)
        slab[inside] = where[inside]
        found += [(start, *rest) for rest in _tiled(slab, settings, axis + 1)]
    return found


def _widened(first: int, last: int, size: int, width: int) -> tuple[int, int]:
    """Widen first:last to a window's width where the volume allows: real neighbours, not padding."""
    missing = min(size, width) - (last - first)
    if missing <= 0:
        return first, last
    first = min(max(0, first - missing // 2), size - min(size, width))
    return first, first + min(size, width)


class WindowModel(Protocol):
    """What finds x0, a discrepancy or a segmentation, in a window."""

    def window(self, condition: Volume, noises: list[Volume]) -> Volume:
        """Condition (C, x, y, z) and one noise (R, x, y, z) per sample → x̂0 of every sample (K, R, x, y, z)."""


class Corrector:
    """The discrepancy graph of a U-Net, which takes no noise: one call, one sample."""

    def __init__(self, engine: Engine, graph: Graph) -> None:
        self._engine = engine
        self._graph = graph
        (delta,) = graph.spec.outputs
        self._delta = engine.empty((1, *(int(size) for size in delta.shape[1:])), "float32")

    def window(self, condition: Volume, noises: list[Volume]) -> Volume:
        """See WindowModel."""
        self._graph.run({"condition": self._engine.upload(condition[None])}, {"delta": self._delta})
        return self._engine.download(self._delta)


class Sampler:
    """The conditioner and denoiser graphs with their device buffers, one per call: calls may run in parallel."""

    def __init__(self, engine: Engine, conditioner: Graph, denoiser: Graph, schedule: Schedule) -> None:
        self._engine = engine
        self._conditioner = conditioner
        self._denoiser = denoiser
        self._schedule = schedule
        self._features = {
            tensor.name: engine.empty([1, *(int(size) for size in tensor.shape[1:])], tensor.dtype)
            for tensor in conditioner.spec.outputs
        }
        x_t = next(tensor for tensor in denoiser.spec.inputs if tensor.name == "x_t")
        self._shape = (1, *(int(size) for size in x_t.shape[1:]))
        self._state = [engine.empty(self._shape, "float32") for _ in range(2)]
        self._x0 = engine.empty(self._shape, "float32")
        self._scalars: dict[float, Buffer] = {}

    def _scalar(self, value: float) -> Buffer:
        if value not in self._scalars:
            self._scalars[value] = self._engine.upload(np.array([value], np.float32))
        return self._scalars[value]

    def window(self, condition: Volume, noises: list[Volume]) -> Volume:
        """See WindowModel."""
        given = self._engine.upload(condition[None])
        self._conditioner.run({"condition": given}, self._features)

        def step(x_t: Buffer, t: int, c0: float, c1: float) -> tuple[Buffer, Buffer]:
            x_prev = self._state[1] if x_t is self._state[0] else self._state[0]
            inputs = {
                "x_t": x_t,
                "condition": given,
                "t": self._scalar(float(t)),
                "c0": self._scalar(c0),
                "c1": self._scalar(c1),
                **self._features,
            }
            self._denoiser.run(inputs, {"x_prev": x_prev, "x0": self._x0})
            return x_prev, self._x0

        return np.stack(
            [self._engine.download(ddim(step, self._engine.upload(noise[None]), self._schedule))[0] for noise in noises]
        )


def sample_discrepancy(
    model: WindowModel,
    recipe: Recipe,
    image: Volume,
    probability: Volume,
    starts: list[Start],
    *,
    key: tuple[int, str],
    samples: int,
    done: Done | None = None,
) -> Discrepancy:
    """Run every window and blend.

    image (C, X, Y, Z) and probability (R, X, Y, Z) on the crop, the latter 0 for a model without a baseline; `key`
    (seed, case name) fixes the noise together with each window's start, so that it depends on neither engine, order
    nor batch. samples: how many noises a window gets, 0 for a model that takes none.
    """
    kind, settings = recipe.kind, recipe.refiner
    assert settings is not None, f"model '{kind.name}' has no refiner"
    shape = (image.shape[1], image.shape[2], image.shape[3])
    mask = recipe.mask(probability)
    prior = probability if settings.condition == "probability" else mask.astype(np.float32)
    tumour = recipe.whole(mask)
    regions, several = len(recipe.task.regions), samples > 1
    blend = Blend(regions + several, shape, settings.window)
    mirror = recipe.diffusion is not None and recipe.diffusion.mirror
    for index, start in enumerate(starts):
        given = condition_at(recipe, image, prior, tumour, start)
        noises = [window_noise(*key, start, k, (regions, *settings.window)) for k in range(samples)]
        found = _samples(model, given, noises, mirror=mirror)
        values = found.mean(axis=0)
        if several:
            values = np.concatenate([values, found.std(axis=0).mean(axis=0, keepdims=True)])
        blend.add(start, values)
        if done is not None:
            done(index + 1, len(starts))
    blended = blend.mean()
    delta = as_discrepancy(kind, blended[:regions], mask)
    if kind.target == "segmentation":  # where no window was, |U − 0| is no finding
        delta = np.where(blend.covered, delta, np.float32(0.0))
    disagreement = blended[-1] if several else np.zeros(shape, np.float32)
    return Discrepancy(delta, disagreement, blend.covered, len(starts))


def condition_at(recipe: Recipe, image: Volume, prior: Volume, tumour: Mask, start: Start) -> Volume:
    """The condition of the window at `start`, float32 (C, x, y, z): no tumour and background outside the crop.

    image, prior and tumour on the crop: see `build_condition`.
    """
    assert recipe.refiner is not None, f"model '{recipe.kind.name}' has no refiner"
    window = recipe.refiner.window
    return build_condition(
        recipe.kind,
        extract(image, start, window, recipe.background),
        extract(prior, start, window, 0.0),
        extract(tumour[None], start, window, False)[0],
        recipe.background,
    )


def _samples(model: WindowModel, condition: Volume, noises: list[Volume], *, mirror: bool) -> Volume:
    """x̂0 of every noise (K, R, x, y, z); with `mirror` every second one by way of the mirrored window."""
    if not mirror or len(noises) < 2:
        return model.window(condition, noises)
    straight = model.window(condition, noises[::2])
    turned = model.window(_mirrored(condition), [_mirrored(noise) for noise in noises[1::2]])
    return np.concatenate([straight, _mirrored(turned)])


def _mirrored(volume: Volume) -> Volume:
    """(…, X, Y, Z) with left and right exchanged."""
    return np.ascontiguousarray(volume[..., ::-1, :, :])
