"""The one resampling, against SciPy and closed forms."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from rediffinet.prepare.space import Space, covered, resample, upright_space

pytest.importorskip("SimpleITK", reason="needs the extra [prepare]")


def oblique(seed: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Space:
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(rng.normal(0, 1, 3)).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = rng.normal(0, 20, 3)
    return Space(shape, affine)


def turn(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians([degrees, -degrees / 2, degrees / 3])).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def test_an_oblique_grid_moved_rigidly_against_scipy() -> None:
    source = oblique(1, (20, 24, 18), (1.1, 0.9, 1.3))
    voxels = np.random.default_rng(2).normal(size=source.shape)
    onto = Space((15, 16, 17), source.affine @ turn(8, (2.2, 1.4, 0.7)))
    move = turn(5, (1.0, -2.0, 0.5))
    way = np.linalg.inv(source.affine) @ move @ onto.affine
    expected = affine_transform(voxels, way[:3, :3], way[:3, 3], onto.shape, order=1, mode="nearest")
    inside = np.moveaxis(np.indices(onto.shape), 0, -1) @ way[:3, :3].T + way[:3, 3]
    inner = ((inside >= 0) & (inside <= np.array(source.shape) - 1)).all(axis=-1)
    found = resample(voxels, source.affine, onto, move)
    assert inner.mean() > 0.2
    assert np.abs(found - expected)[inner].max() < 1e-4


@pytest.mark.parametrize("seed", range(5))
def test_a_linear_field_stays_itself_on_any_grid(seed: int) -> None:
    """Linear interpolation and the mean over a voxel both keep it, so every voxel's place is checked by its value."""
    source = oblique(seed, (40, 44, 36), (1.0, 1.0, 1.0))
    slope = np.random.default_rng(seed).normal(size=3)

    def field(space: Space, move: np.ndarray) -> np.ndarray:
        index = np.moveaxis(np.indices(space.shape), 0, -1)
        world = index @ (move @ space.affine)[:3, :3].T + (move @ space.affine)[:3, 3]
        return world @ slope

    move = turn(3, (1, 2, -1))
    onto = Space((6, 7, 3), np.linalg.inv(move) @ source.affine @ turn(10, (14, 12, 10)) @ np.diag([0.8, 1.3, 4.7, 1]))
    found = resample(field(source, np.eye(4)), source.affine, onto, move)
    assert covered(source, onto, move).all()
    assert np.abs(found - field(onto, move)).max() < 1e-2


def test_a_thick_slice_holds_the_mean_of_what_lies_in_it() -> None:
    voxels = np.zeros((8, 8, 20), np.float32)
    voxels[:, :, 10] = 1.0
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[2, 3] = 2.0  # the first slice is voxels 0 to 4
    found = resample(voxels, np.eye(4), Space((8, 8, 4), affine))
    assert np.allclose(found[:, :, 2], 0.2, atol=1e-5)
    assert np.allclose(found[:, :, [0, 1, 3]], 0.0, atol=1e-5)


def test_the_upright_grid_holds_all_corners_and_no_more_than_a_voxel_besides() -> None:
    source = oblique(7, (30, 40, 10), (0.9, 0.9, 5.0))
    field = upright_space(source.corners)
    assert np.array_equal(field.affine[:3, :3], np.diag([-1.0, -1.0, 1.0]))
    low, high = field.corners.min(axis=0), field.corners.max(axis=0)
    assert (low <= source.corners.min(axis=0) + 1e-6).all()
    assert (high >= source.corners.max(axis=0) - 1e-6).all()
    assert (high - low - np.ptp(source.corners, axis=0) < 1 + 1e-6).all()
