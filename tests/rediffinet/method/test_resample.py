"""Change of voxel size against SciPy's grid mode, an integral, and the place of things in millimetres."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rediffinet.method.resample import axis_weights, resample, resampled_shape, same_spacing

ONE = (1.0, 1.0, 1.0)
TWO = (2.0, 2.0, 2.0)


def mean_over(values: np.ndarray, start: float, end: float) -> float:
    """Mean of a row of voxels, each of length 1, over [start, end]: the integral of a step function."""
    edges = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values) + 1)
    start, end = min(start, len(values) - 1), min(end, len(values))
    return float((np.interp(end, at, edges) - np.interp(start, at, edges)) / (end - start))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 30), ratio=st.floats(1.01, 5.0), seed=st.integers(0, 2**32 - 1))
def test_down_is_the_mean_of_what_the_coarse_voxel_covers(size: int, ratio: float, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=size)
    wanted = int(np.ceil(size / ratio))
    got = axis_weights(size, ratio, wanted) @ values.astype(np.float32)
    expected = [mean_over(values, i * ratio, (i + 1) * ratio) for i in range(wanted)]
    assert np.allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize(("size", "wanted"), [(10, 20), (10, 16), (7, 21), (1, 4), (12, 13), (9, 9)])
def test_up_is_scipys_linear_interpolation_between_voxel_centres(size: int, wanted: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    expected = ndimage.zoom(values, wanted / size, order=1, mode="nearest", grid_mode=True)
    assert np.allclose(axis_weights(size, size / wanted, wanted) @ values.astype(np.float32), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 12)] * 3), lead=st.sampled_from([(), (4,)]), seed=st.integers(0, 2**32 - 1))
def test_half_the_size_has_the_bits_of_the_matrices(shape: tuple, lead: tuple, seed: int) -> None:
    volume = np.random.default_rng(seed).normal(size=(*lead, *shape)).astype(np.float32)
    got = resample(volume, ONE, TWO, resampled_shape(shape, ONE, TWO))
    expected = volume
    for axis in (-3, -2, -1):
        weights = axis_weights(volume.shape[axis], 2.0, -(-volume.shape[axis] // 2))
        expected = np.moveaxis(weights @ np.moveaxis(expected, axis, -2), -2, axis)
    assert np.array_equal(got, expected) and got.flags.c_contiguous and got.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 40), ratio=st.floats(0.2, 5.0), extra=st.integers(0, 3))
def test_every_row_is_a_mean(size: int, ratio: float, extra: int) -> None:
    weights = axis_weights(size, ratio, int(np.ceil(size / ratio)) + extra)
    assert np.allclose(weights.sum(axis=1), 1.0, atol=1e-5)
    assert (weights >= 0).all()
    assert weights.dtype == np.float32


@pytest.mark.parametrize(
    ("spacing", "other"), [(ONE, TWO), (TWO, ONE), ((0.9, 1.1, 1.2), ONE), (ONE, (0.7, 2.0, 1.3)), ((1, 1, 1.24), TWO)]
)
def test_three_axes_are_one_axis_after_the_other(spacing: tuple, other: tuple) -> None:
    volume = np.random.default_rng(0).normal(size=(2, 9, 8, 11)).astype(np.float32)
    shape = resampled_shape(volume.shape[1:], spacing, other)
    got = resample(volume, spacing, other, shape)
    matrices = [axis_weights(n, b / a, w) for n, a, b, w in zip((9, 8, 11), spacing, other, shape, strict=True)]
    assert np.allclose(got, np.einsum("cxyz,ax,by,dz->cabd", volume, *matrices), atol=1e-5)
    assert got.dtype == np.float32 and got.flags.c_contiguous and got.shape == (2, *shape)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 200), spacing=st.floats(0.5, 2.0), wanted=st.floats(0.5, 2.0))
def test_the_coarse_grid_covers_the_volume_and_no_voxel_more(size: int, spacing: float, wanted: float) -> None:
    count = resampled_shape((size, 1, 1), (spacing, 1, 1), (wanted, 1, 1))[0]
    assert count * wanted >= size * spacing - 1e-4
    assert (count - 1) * wanted < size * spacing or count == 1


@pytest.mark.parametrize("other", [TWO, (0.5, 0.5, 0.5), (1.6, 1.25, 0.8)])
def test_nothing_moves(other: tuple[float, float, float]) -> None:
    """The centre of mass of a blob, measured from the volume's outer edge in mm, is the same there and back again."""
    places = np.stack(np.indices((40, 44, 36))) + 0.5
    centre = np.array((19.3, 23.1, 17.8)).reshape(3, 1, 1, 1)
    blob = np.exp(-((places - centre) ** 2).sum(axis=0) / (2 * 3.0**2))

    def centre_mm(volume: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
        at = (np.stack(np.indices(volume.shape)) + 0.5) * np.reshape(spacing, (3, 1, 1, 1))
        return np.asarray((at * volume).sum(axis=(1, 2, 3)) / volume.sum())

    there = resample(blob, ONE, other, resampled_shape(blob.shape, ONE, other))
    back = resample(there, other, ONE, blob.shape)
    assert np.allclose(centre_mm(there, other), centre.ravel(), atol=0.02)
    assert np.allclose(centre_mm(back, ONE), centre.ravel(), atol=0.02)


def test_a_symmetric_block_stays_symmetric() -> None:
    block = np.zeros((8, 8, 8), np.float32)
    block[3:5, 3:5, 3:5] = 1
    up = resample(block, TWO, ONE, (16, 16, 16))
    for axis in range(3):
        assert np.array_equal(up, np.flip(up, axis))
    assert np.array_equal(up > 0.5, up > 0.4999)  # 1/2 itself is not met
    half = resample(np.pad(np.ones((4, 8, 8), np.float32), ((0, 4), (0, 0), (0, 0))), TWO, ONE, (16, 16, 16))
    assert (half[:8] > 0.5).all() and (half[8:] < 0.5).all()  # a plane between voxels stays where it is


def test_down_of_nearest_up_is_the_original() -> None:
    volume = np.random.default_rng(1).normal(size=(3, 6, 7, 5)).astype(np.float32)
    doubled = volume.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    assert np.allclose(resample(doubled, ONE, TWO, (6, 7, 5)), volume, atol=1e-6)
    # and with an odd edge, the last coarse voxel has what there is of it
    assert np.allclose(resample(doubled[:, :-1], ONE, TWO, (6, 7, 5)), volume, atol=1e-6)


def test_bools_and_halves_are_taken() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[:2] = True
    assert resample(mask.astype(np.float16), ONE, TWO, (2, 2, 2))[0].min() == 1.0


def test_what_counts_as_the_same() -> None:
    assert same_spacing(ONE, (1.0, 0.995, 1.009))
    assert not same_spacing(ONE, (1.0, 1.0, 1.02))
