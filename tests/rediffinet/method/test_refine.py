"""Where the discrepancy is sampled, and the sampling loop against its closed form on the toy bundle."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rediffinet.bundle import open_bundle
from rediffinet.engines import open_engine
from rediffinet.errors import MissingExtraError
from rediffinet.method.noise import window_noise
from rediffinet.method.recipe import RefinerSettings
from rediffinet.method.refine import Sampler, refinement_windows, sample_discrepancy, undecided
from rediffinet.method.schedule import cumulative_alphas, linear_betas, respace

WINDOW = (10, 8, 12)


def settings_of(**changes: Any) -> RefinerSettings:
    values = {"window": WINDOW, "overlap": 0.25, "margin": 2, "unsure": 0.1, "condition": "probability"}
    return RefinerSettings(**{**values, **changes})


def cover(shape: tuple[int, int, int], starts: list[tuple[int, int, int]]) -> np.ndarray:
    reached = np.zeros(shape, bool)
    for start in starts:
        reached[tuple(slice(max(0, s), s + w) for s, w in zip(start, WINDOW, strict=True))] = True
    return reached


# --- which windows ---


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 30), st.integers(3, 30), st.integers(3, 30)),
    margin=st.integers(0, 9),
    overlap=st.floats(0, 0.8),
    count=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_windows_hold_every_unsure_voxel_and_stay_inside(
    shape: tuple[int, int, int], margin: int, overlap: float, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0, 0.1, (3, *shape)).astype(np.float32) * 0.99
    for _ in range(count):
        probability[(rng.integers(3), *(rng.integers(n) for n in shape))] = 0.11
    unsure = (probability > 0.1).any(axis=0)
    starts = refinement_windows(unsure, settings_of(margin=margin, overlap=overlap))
    assert cover(shape, starts)[unsure].all()
    assert len(set(starts)) == len(starts)
    for start in starts:
        assert unsure[tuple(slice(max(0, s), s + w) for s, w in zip(start, WINDOW, strict=True))].any()
        for s, w, n in zip(start, WINDOW, shape, strict=True):
            if n >= w:
                assert 0 <= s <= n - w  # real neighbours, never padding
            else:
                assert s == -((w - n) // 2)


@settings(max_examples=60, deadline=None)
@given(margin=st.integers(0, 5), overlap=st.floats(0, 0.8), count=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_every_voxel_has_a_window_that_sees_what_is_around_it(
    margin: int, overlap: float, count: int, seed: int
) -> None:
    """By the margin, or half of what neighbours share; up to the edge of the crop at most."""
    shape = (31, 24, 27)
    where = np.zeros(shape, bool)
    rng = np.random.default_rng(seed)
    for _ in range(count):
        where[tuple(rng.integers(n) for n in shape)] = True
    starts = refinement_windows(where, settings_of(margin=margin, overlap=overlap))
    around = [min(margin, (w - max(1, int(w * (1 - overlap)))) // 2) for w in WINDOW]

    def sees(start: tuple[int, int, int], voxel: np.ndarray) -> bool:
        low = [s <= max(0, v - d) for s, v, d in zip(start, voxel, around, strict=True)]
        high = [s + w >= min(n, v + 1 + d) for s, v, d, w, n in zip(start, voxel, around, WINDOW, shape, strict=True)]
        return all(low + high)

    assert all(any(sees(start, voxel) for start in starts) for voxel in np.argwhere(where))


@pytest.mark.parametrize("at", [(15, 15, 15), (0, 0, 0), (29, 29, 29), (0, 15, 29)])
def test_one_unsure_voxel_is_one_window_with_the_voxel_as_central_as_the_edge_allows(at: tuple[int, int, int]) -> None:
    where = np.zeros((30, 30, 30), bool)
    where[at] = True
    (start,) = refinement_windows(where, settings_of())
    for s, w, p in zip(start, WINDOW, at, strict=True):
        wanted = min(max(p - w // 2, 0), 30 - w)
        assert abs(s - wanted) <= 1


def test_two_far_places_cost_two_windows_not_those_of_the_box_around_both() -> None:
    where = np.zeros((40, 40, 40), bool)
    where[3, 3, 3] = where[36, 36, 36] = True
    assert len(refinement_windows(where, settings_of())) == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_between_two_far_places_on_a_line_there_is_no_window(axis: int) -> None:
    where = np.zeros((40, 40, 40), bool)
    for at in (3, 36):
        voxel = [20, 20, 20]
        voxel[axis] = at
        where[tuple(voxel)] = True
    assert len(refinement_windows(where, settings_of())) == 2


def test_nothing_unsure_is_no_window() -> None:
    assert refinement_windows(np.zeros((20, 20, 20), bool), settings_of()) == []


@pytest.mark.parametrize("sure", [1.0, 0.7])
def test_without_a_reach_doubt_decides_where_to_look(make_toy_bundle: Any, sure: float) -> None:
    recipe = open_bundle(make_toy_bundle(refiner={"unsure": 0.1, "sure": sure}).path).manifest.recipe
    probability = np.random.default_rng(8).uniform(0, 1, (3, 9, 8, 7)).astype(np.float32)
    expected = ((probability > 0.1) & (probability <= sure)).any(axis=0)
    assert np.array_equal(undecided(recipe, probability), expected)
    assert np.array_equal(undecided(recipe, probability, recipe.decision), expected)


@pytest.mark.parametrize("whole_components", [1.0, 0.6])
@pytest.mark.parametrize(("postprocess", "reach_mm"), [(True, 2.0), (False, 2.0), (True, (2.0, 3.0, 1.0))])
def test_with_a_reach_what_can_be_flipped_decides(
    make_toy_bundle: Any, whole_components: float, postprocess: bool, reach_mm: float | tuple[float, ...]
) -> None:
    """Against distances by SciPy. A small component has no say where postprocessing takes it out first."""
    small = {"connectivity": 26, "min_voxels": 9, "min_fraction": 0.0}
    changes = {"reach_mm": reach_mm, "small_components": small, "whole_components": whole_components}
    recipe = open_bundle(make_toy_bundle(decision=changes).path).manifest.recipe
    probability = np.full((3, 30, 20, 20), 0.4, np.float32)
    probability[0, 3:15, 3:15, 3:15] = probability[1, 5:12, 5:12, 5:12] = 0.9
    probability[0, 25:27, 16:18, 16:18] = 0.9  # eight voxels
    mask = probability > 0.5
    if postprocess:
        mask[:, 20:] = False
    expected = np.zeros((30, 20, 20), bool)
    for region, mm in zip(mask, np.broadcast_to(reach_mm, 3), strict=True):
        if region.any():
            inside, outside = ndimage.distance_transform_edt(region), ndimage.distance_transform_edt(~region)
            expected |= np.maximum(inside, outside) <= mm
            if whole_components < 1.0:
                expected |= region
    found = undecided(recipe, probability, recipe.decision, postprocess=postprocess)
    assert np.array_equal(found, expected)
    assert expected[25, 16, 16] == (not postprocess)
    left_out = np.zeros(mask.shape[1:], bool)
    left_out[20:] = True
    without = undecided(recipe, probability, recipe.decision, postprocess=postprocess, left_out=left_out)
    assert np.array_equal(without, np.where(left_out, False, expected)), "nothing of what goes whole can be flipped"


# --- the loop ---


@pytest.fixture(scope="module")
def noisy(make_toy_bundle: Any) -> Any:
    """The toy bundle with a denoiser that reads x_t and t, and a signal scale that is not 1."""
    return make_toy_bundle(noise=0.4, time=(0.002, -0.001, 0.0005), signal_scale=0.3)


@pytest.fixture(params=["onnxruntime", "torch"])
def make_sampler(request: pytest.FixtureRequest, noisy: Any) -> Any:
    try:
        engine = open_engine(request.param, threads=1)
    except MissingExtraError as error:
        pytest.skip(f"engine not installed here: {error}")
    bundle = open_bundle(noisy.path)
    conditioner, denoiser = (engine.load(bundle.graph(name)) for name in ("conditioner", "denoiser"))
    with engine:
        yield lambda steps: Sampler(engine, conditioner, denoiser, respace(ALPHA_BAR, steps))


ALPHA_BAR = cumulative_alphas(linear_betas())


def chain(formula: Any, condition: np.ndarray, x_T: np.ndarray, steps: int) -> np.ndarray:
    """DDIM with σ = 0 in its first form (Song et al. 2021, eq. 12), in float64."""
    timesteps = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    x_t = np.float64(x_T)
    for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        a, a_prev = ALPHA_BAR[t], 1.0 if after is None else ALPHA_BAR[after]
        x0 = formula.x0(condition, x_t, t)
        signal = formula.signal_scale * (2 * x0 - 1)
        noise = (x_t - math.sqrt(a) * signal) / math.sqrt(1 - a)
        x_t = math.sqrt(a_prev) * signal + math.sqrt(1 - a_prev) * noise
    return x0


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (2, 3), (5, 2)])
def test_sampling_a_window_is_the_closed_form(make_sampler: Any, noisy: Any, steps: int, samples: int) -> None:
    rng = np.random.default_rng(4)
    condition = rng.uniform(-1, 1, (7, *WINDOW)).astype(np.float32)
    noises = [rng.normal(size=(3, *WINDOW)).astype(np.float32) for _ in range(samples)]
    expected = np.stack([chain(noisy.formula, condition, noise, steps) for noise in noises])
    sampler = make_sampler(steps)
    for _ in range(2):  # a second window finds nothing left of the first
        assert np.allclose(sampler.window(condition, noises), expected, atol=2e-5)
        sampler.window(-condition, noises[:1])


def test_a_window_draws_the_noise_of_its_own_place(make_sampler: Any, noisy: Any) -> None:
    """The same window in another order, or without the others, gives the same bytes; another seed or name does not."""
    recipe = open_bundle(noisy.path).manifest.recipe
    rng = np.random.default_rng(5)
    image = rng.uniform(-1, 1, (4, 20, 8, 12)).astype(np.float32)
    probability = rng.uniform(0, 1, (3, 20, 8, 12)).astype(np.float32)
    one, other = (0, 0, 0), (10, 0, 0)

    def sample(starts: list[tuple[int, int, int]], key: tuple[int, str] = (0, "X")) -> np.ndarray:
        return sample_discrepancy(make_sampler(2), recipe, image, probability, starts, key=key, samples=2).delta

    both = sample([one, other])
    assert np.array_equal(both, sample([other, one]))
    assert np.array_equal(both[:, :10], sample([one])[:, :10])
    assert not sample([one])[:, 10:].any()
    assert not np.allclose(both, sample([one, other], (1, "X")))
    assert not np.allclose(both, sample([one, other], (0, "Y")))
    condition = np.concatenate([2 * probability - 1, image])[:, :10]
    noises = [window_noise(0, "X", one, k, (3, *WINDOW)) for k in range(2)]
    expected = np.mean([chain(noisy.formula, condition, noise, 2) for noise in noises], axis=0)
    assert np.allclose(both[:, :10], expected, atol=2e-5)


class Recorder:
    """Stands in for the sampler: keeps what it was given, finds nothing."""

    def __init__(self) -> None:
        self.given: list[tuple[np.ndarray, list[np.ndarray]]] = []

    def window(self, condition: np.ndarray, noises: list[np.ndarray]) -> np.ndarray:
        self.given.append((condition, noises))
        return np.zeros((len(noises), 3, *WINDOW), np.float32)


@pytest.mark.parametrize("kind", ["probability", "mask"])
def test_the_condition_is_the_prior_then_the_images_and_background_outside(make_toy_bundle: Any, kind: str) -> None:
    toy = make_toy_bundle(
        refiner={"condition": kind}, normalisation={"background": -3.0}, baseline={"thresholds": (0.3, 0.5, 0.7)}
    )
    recipe = open_bundle(toy.path).manifest.recipe
    rng = np.random.default_rng(6)
    image = rng.uniform(-1, 1, (4, 6, 8, 12)).astype(np.float32)
    probability = rng.uniform(0, 1, (3, 6, 8, 12)).astype(np.float32)
    recorder, seen = Recorder(), []
    found = sample_discrepancy(
        recorder,
        recipe,
        image,
        probability,
        [(-2, 0, 0)],
        key=(0, "X"),
        samples=3,
        done=lambda done, of: seen.append((done, of)),
    )
    ((condition, noises),) = recorder.given
    prior = (
        probability
        if kind == "probability"
        else np.stack([p > t for p, t in zip(probability, (0.3, 0.5, 0.7), strict=True)])
    )
    assert np.allclose(condition[:3, 2:8], 2.0 * prior - 1.0)
    assert np.array_equal(condition[3:, 2:8], image)
    assert (condition[:3, [0, 1, 8, 9]] == -1).all()
    assert (condition[3:, [0, 1, 8, 9]] == -3).all()
    assert condition.dtype == np.float32
    assert len(noises) == 3
    assert len({noise.tobytes() for noise in noises}) == 3
    assert (found.windows, seen) == (1, [(1, 1)])
    assert found.sampled.all()


class Slanted:
    """Stands in for the sampler: finds the prior, weighted by the distance from the left, plus the noise."""

    def window(self, condition: np.ndarray, noises: list[np.ndarray]) -> np.ndarray:
        slope = np.linspace(0.0, 1.0, WINDOW[0], dtype=np.float32)[:, None, None]
        return np.stack([condition[:3] * slope + noise for noise in noises])


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_every_second_sample_is_drawn_in_the_mirrored_window(make_toy_bundle: Any, samples: int) -> None:
    rng = np.random.default_rng(7)
    image = rng.uniform(-1, 1, (4, *WINDOW)).astype(np.float32)
    probability = rng.uniform(0, 1, (3, *WINDOW)).astype(np.float32)
    slope = np.linspace(0.0, 1.0, WINDOW[0])[:, None, None]
    found = {}
    for mirror in (False, True):
        recipe = open_bundle(make_toy_bundle(diffusion={"mirror": mirror}).path).manifest.recipe
        found[mirror] = sample_discrepancy(
            Slanted(), recipe, image, probability, [(0, 0, 0)], key=(0, "X"), samples=samples
        )
        noises = [window_noise(0, "X", (0, 0, 0), k, (3, *WINDOW)) for k in range(samples)]
        slopes = [slope[::-1] if mirror and k % 2 else slope for k in range(samples)]
        each = np.stack([(2 * probability - 1) * at + noise for at, noise in zip(slopes, noises, strict=True)])
        assert np.allclose(found[mirror].delta, each.mean(axis=0), atol=1e-5)
        assert np.allclose(found[mirror].disagreement, each.std(axis=0).mean(axis=0), atol=1e-5)
    assert np.array_equal(found[False].delta, found[True].delta) == (samples == 1)


def test_without_windows_nothing_is_found(toy_bundle: Any) -> None:
    recorder = Recorder()
    image, probability = np.zeros((4, 6, 7, 8), np.float32), np.zeros((3, 6, 7, 8), np.float32)
    found = sample_discrepancy(
        recorder,
        open_bundle(toy_bundle.path).manifest.recipe,
        image,
        probability,
        [],
        key=(0, "X"),
        samples=1,
    )
    assert not recorder.given
    assert not found.delta.any()
    assert not found.disagreement.any()
    assert not found.sampled.any()
    assert found.delta.shape == (3, 6, 7, 8)
