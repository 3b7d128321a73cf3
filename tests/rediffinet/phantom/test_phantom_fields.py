"""Numpy building blocks of the phantoms against scipy and closed forms."""

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.phantom import fields


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_resample_is_corner_aligned_trilinear() -> None:
    field = rng().standard_normal((7, 5, 9)).astype(np.float32)
    shape = (13, 11, 20)
    at = np.meshgrid(*(np.linspace(0, n - 1, m) for n, m in zip(field.shape, shape, strict=True)), indexing="ij")
    assert np.allclose(fields.resample(field, shape), ndimage.map_coordinates(field, at, order=1), atol=1e-5)


def test_sample_is_trilinear_and_clamps() -> None:
    field = rng().standard_normal((8, 9, 7)).astype(np.float32)
    at = [rng(k).uniform(-2, 10, (6, 5, 4)).astype(np.float32) for k in range(3)]
    inside = [np.clip(a, 0, n - 1.001) for a, n in zip(at, field.shape, strict=True)]
    assert np.allclose(fields.sample(field, at), ndimage.map_coordinates(field, inside, order=1), atol=1e-4)


@pytest.mark.parametrize("sigma", [0.55, (1.3, 0.0, 0.7)])
def test_blur_is_a_truncated_gaussian(sigma: float | tuple[float, float, float]) -> None:
    field = rng().standard_normal((12, 11, 10)).astype(np.float32)
    expected = field
    for axis, s in enumerate([sigma] * 3 if isinstance(sigma, float) else sigma):
        if s:
            expected = ndimage.gaussian_filter1d(expected, s, axis=axis, mode="nearest", radius=max(1, round(2.3 * s)))
    assert np.allclose(fields.blur(field, sigma), expected, atol=1e-5)


@pytest.mark.parametrize("spacing", [0.7, 3.0, 6.5])
def test_smooth_noise_has_unit_variance_and_its_scale(spacing: float) -> None:
    shape = (48, 40, 44)
    samples = np.stack([fields.smooth_noise(rng(seed), shape, spacing) for seed in range(12)])
    assert samples.dtype == np.float32
    assert abs(samples.mean()) < 0.15
    assert 0.85 < samples.std() < 1.15
    step = np.sqrt(np.mean(np.diff(samples, axis=1) ** 2))
    assert step < 1.9 / spacing  # neighbours are alike in proportion to the knots


def test_thick_slices_average_blocks() -> None:
    field = rng().standard_normal((3, 4, 12)).astype(np.float32)
    thick = fields.thick_slices(field, 3)
    assert thick.shape == field.shape
    assert np.allclose(thick[:, :, 0], field[:, :, :3].mean(axis=2), atol=1e-6)
    assert np.allclose(thick[:, :, -1], field[:, :, -3:].mean(axis=2), atol=1e-6)
    assert fields.thick_slices(field, 1) is field


def test_streams_are_independent_and_repeatable() -> None:
    draws = {(s, i): tuple(g.random() for g in fields.streams(s, i, 3)) for s in range(3) for i in range(3)}
    assert len({value for draw in draws.values() for value in draw}) == 27
    assert draws[1, 2] == tuple(g.random() for g in fields.streams(1, 2, 3))


def test_ramp_and_relu() -> None:
    x = np.array([-2, -0.5, 0, 0.25, 3], np.float32)
    assert np.allclose(fields.ramp(x, 2.0), [0, 0.25, 0.5, 0.625, 1])
    assert np.allclose(fields.relu(x), [0, 0, 0, 0.25, 3])
