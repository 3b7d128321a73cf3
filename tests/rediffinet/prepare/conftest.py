"""A phantom as scanners give it: a head, cut into anisotropic, oblique, shifted series with noise."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from rediffinet.io.geometry import Grid
from rediffinet.io.nifti import Image, new_header, write_nifti
from rediffinet.phantom import HeadPhantom, make_head_phantom

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
SPACINGS = {"t1n": (4.4, 1.1, 1.1), "t1c": (1.0, 1.0, 2.0), "t2w": (0.9, 0.9, 5.0), "t2f": (1.2, 4.0, 1.2)}


@dataclass(frozen=True, eq=False)
class Scanned:
    """Four series of one head, and for each where the head was moved to: world of the phantom → world of the series."""

    head: HeadPhantom
    images: dict[str, Image]
    moves: dict[str, np.ndarray]


def rigid(degrees: Any, millimetres: Any, centre: Any) -> np.ndarray:
    """A turn (rotation vector, degrees) about `centre`, then a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees)).as_matrix()
    matrix[:3, 3] = np.asarray(centre) - matrix[:3, :3] @ np.asarray(centre) + np.asarray(millimetres)
    return matrix


def slab(volume: np.ndarray, affine: np.ndarray, grid: Grid, move: np.ndarray) -> np.ndarray:
    """What a scanner with the voxels of `grid` sees of a volume that was moved: means over samples in thick voxels."""
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    times = np.where(spacing > 1.6, 5, 1)
    fine = grid.affine @ np.diag([*(1 / times), 1.0])
    fine[:3, 3] = (grid.affine @ [*(0.5 / times - 0.5), 1.0])[:3]
    way = np.linalg.inv(affine) @ np.linalg.inv(move) @ fine
    out = affine_transform(volume.astype(np.float32), way[:3, :3], way[:3, 3], tuple(grid.shape * times), order=1)
    (x, y, z), (a, b, c) = grid.shape, times
    return out.reshape(x, a, y, b, z, c).mean(axis=(1, 3, 5))


def scan(head: HeadPhantom, seed: int) -> Scanned:
    """Series in three planes, each tilted, shifted and, but for t1c, seen with the head somewhere else."""
    rng = np.random.default_rng(seed)
    extent = np.array(head.brain.shape) * np.linalg.norm(head.affine[:3, :3], axis=0)
    middle = (head.affine @ [*((np.array(head.brain.shape) - 1) / 2), 1.0])[:3]
    images, moves = {}, {}
    for image, contrast in zip(head.images, CONTRASTS, strict=True):
        spacing = np.array(SPACINGS[contrast])
        tilt = rigid(rng.normal(0, 6, 3), np.zeros(3), np.zeros(3))[:3, :3]
        shape = np.ceil((extent + 6) / spacing).astype(int)
        affine = np.eye(4)
        affine[:3, :3] = tilt @ np.diag([-1, -1, 1]) @ np.diag(spacing)
        affine[:3, 3] = middle + rng.normal(0, 3, 3) - affine[:3, :3] @ ((shape - 1) / 2)
        move = np.eye(4) if contrast == "t1c" else rigid(rng.normal(0, 4, 3), rng.normal(0, 5, 3), middle)
        grid = Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
        seen = slab(image, head.affine, grid, move)
        seen += rng.normal(0, 0.01 * seen.max(), seen.shape)
        voxels = np.clip(np.rint(seen), 0, None).astype(np.int16)
        images[contrast] = Image(Path(f"{contrast}.nii.gz"), contrast * 16, voxels, grid, new_header(affine))
        moves[contrast] = move
    return Scanned(head, images, moves)


@pytest.fixture(scope="session")
def head() -> HeadPhantom:
    """A head of a bit more than half the resolution, quick to make. Do not change it."""
    return make_head_phantom(4, (120, 120, 80), tumour="enhancing")


@pytest.fixture(scope="session")
def scanned(once: Callable[..., Path]) -> Scanned:
    """A head of three quarters the size of a head, which has less than half the voxels."""

    def make(folder: Path) -> None:
        head = make_head_phantom(4, (90, 90, 60), tumour="enhancing")
        head = replace(head, affine=np.diag([0.75, 0.75, 0.75, 1.0]) @ head.affine)
        (folder / "series").write_bytes(pickle.dumps(vars(scan(head, 11))))

    return Scanned(**pickle.loads((once("scanned", make) / "series").read_bytes()))


@pytest.fixture(scope="session")
def scanned_whole(head: HeadPhantom) -> Scanned:
    """For what depends on the size of a head: the network that finds the brain, and segmentation."""
    return scan(head, 11)


@pytest.fixture
def write_series() -> Callable[[Scanned, Path], dict[str, Path]]:
    """The series as NIfTI files with names of BraTS."""

    def write(scanned: Scanned, folder: Path) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths = {contrast: folder / f"P1-{contrast}.nii.gz" for contrast in scanned.images}
        for contrast, path in paths.items():
            volume = scanned.images[contrast]
            write_nifti(path, volume.voxels, volume.grid, dtype=np.int16)
        return paths

    return write
