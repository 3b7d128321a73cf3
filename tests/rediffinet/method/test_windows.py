"""Windows cover a volume, and blending is a weighted mean; oracles are SciPy and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal.windows import gaussian

from rediffinet.errors import ConfigError
from rediffinet.method.windows import (
    Blend,
    axis_starts,
    extract,
    gaussian_importance,
    overlap_slices,
    plan_windows,
    slide,
)


@given(size=st.integers(1, 90), window=st.integers(1, 40), overlap=st.floats(0, 0.95))
def test_starts_cover_the_axis_and_overlap_enough(size: int, window: int, overlap: float) -> None:
    starts = axis_starts(size, window, overlap)
    covered = set().union(*(range(start, start + window) for start in starts))
    assert covered >= set(range(size))
    assert starts == sorted(set(starts))
    if size >= window:
        assert starts[0] == 0
        assert starts[-1] == size - window
        steps = np.diff(starts)
        assert (steps <= max(1, window * (1 - overlap) + 1e-9)).all()
        assert steps.size == 0 or steps.max() - steps.min() <= 1  # evenly spread


@pytest.mark.parametrize(("size", "window", "start"), [(4, 10, -3), (5, 10, -2), (9, 10, 0), (10, 10, 0)])
def test_a_window_longer_than_the_axis_is_centred_on_it(size: int, window: int, start: int) -> None:
    assert axis_starts(size, window, 0.5) == [start]


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 1.5])
def test_impossible_overlaps(overlap: float) -> None:
    with pytest.raises(ConfigError, match="window overlap: got"):
        axis_starts(10, 4, overlap)


def test_plan_is_the_product_of_the_axes_in_c_order() -> None:
    starts = plan_windows((20, 5, 12), (8, 8, 8), 0.25)
    assert starts == sorted(starts)
    assert starts == [(x, -1, z) for x in (0, 6, 12) for z in (0, 4)]


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 3, 1), (-2, 0, 3), (-1, -1, -1), (4, 5, 6)])
def test_extract_is_a_cut_of_the_padded_volume(start: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(0).normal(size=(2, 6, 7, 8)).astype(np.float32)
    window = (4, 5, 6)
    padded = np.stack(
        [np.pad(channel, 9, constant_values=value) for channel, value in zip(volume, (5, -7), strict=True)]
    )
    x, y, z = (slice(9 + s, 9 + s + w) for s, w in zip(start, window, strict=True))
    got = extract(volume, start, window, (5.0, -7.0))
    assert np.array_equal(got, padded[:, x, y, z])
    assert got.flags.c_contiguous
    assert got.dtype == volume.dtype


def test_overlap_slices_name_the_same_voxels_on_both_sides() -> None:
    volume, window = overlap_slices((6, 7, 8), (-2, 3, 5), (4, 4, 4))
    assert volume == (slice(0, 2), slice(3, 7), slice(5, 8))
    assert window == (slice(2, 4), slice(0, 4), slice(0, 3))


def test_importance_is_scipys_gaussian_with_a_floor() -> None:
    shape = (16, 9, 20)
    x, y, z = (gaussian(n, std=n / 8) for n in shape)
    expected = np.maximum(np.einsum("i,j,k->ijk", x, y, z), 1e-3)
    assert np.allclose(gaussian_importance(shape), expected, rtol=1e-5)


def test_blend_is_the_weighted_mean_of_the_windows() -> None:
    rng = np.random.default_rng(1)
    shape, window = (7, 8, 6), (4, 5, 6)
    starts = [(-1, 0, 0), (2, 1, 0), (3, 3, 0), (2, 2, -2)]
    values = [rng.normal(size=(2, *window)).astype(np.float32) for _ in starts]
    blend = Blend(2, shape, window)
    for start, value in zip(starts, values, strict=True):
        blend.add(start, value)

    weight = gaussian_importance(window)
    above, below = np.zeros((2, *shape)), np.zeros(shape)
    for start, value in zip(starts, values, strict=True):
        for at in np.ndindex(window):
            place = tuple(np.add(at, start))
            if all(0 <= p < n for p, n in zip(place, shape, strict=True)):
                above[(slice(None), *place)] += weight[at] * value[(slice(None), *at)]
                below[place] += weight[at]
    reached = below > 0
    assert np.array_equal(blend.covered, reached)
    assert not reached.all()
    mean = blend.mean()
    assert np.allclose(mean[:, reached], above[:, reached] / below[reached], atol=1e-6)
    assert (mean[:, ~reached] == 0).all()


@pytest.mark.parametrize("shape", [(17, 13, 11), (5, 13, 4), (3, 3, 3)])
def test_sliding_a_pointwise_function_gives_the_function(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(2).normal(size=(2, *shape)).astype(np.float32)
    seen: list[tuple[int, int]] = []
    shapes = set()

    def predict(window: np.ndarray) -> np.ndarray:
        shapes.add(window.shape)
        return np.stack([window[:, 0] * 2, window[:, 1] ** 2, window[:, 0] - window[:, 1]], axis=1)

    got = slide(volume, (8, 6, 5), 0.5, predict, 3, -1.0, lambda done, of: seen.append((done, of)))
    assert np.allclose(got, [volume[0] * 2, volume[1] ** 2, volume[0] - volume[1]], atol=1e-5)
    assert shapes == {(1, 2, 8, 6, 5)}
    assert seen == [(i + 1, len(seen)) for i in range(len(seen))]


@pytest.mark.parametrize(
    ("size", "spare", "expected"),
    [(10, 0, [0]), (11, 0, [0, 1]), (11, 1, [0]), (12, 1, [1]), (13, 1, [0, 3]), (13, 2, [1]), (9, 3, [0])],
)
def test_what_little_sticks_out_is_spared_a_window(size: int, spare: int, expected: list[int]) -> None:
    assert axis_starts(size, 10, 0.5, spare) == expected


def test_what_is_spared_gets_what_its_neighbours_got() -> None:
    volume = np.random.default_rng(3).normal(size=(1, 10, 7, 6)).astype(np.float32)
    got = slide(volume, (8, 6, 6), 0.5, lambda window: window, 1, 0.0, spare=1)
    expected = np.pad(volume[:, 1:9, 0:6], [(0, 0), (1, 1), (0, 1), (0, 0)], mode="edge")
    assert np.allclose(got, expected, atol=1e-6)
