"""The same contrast twice, however it was saved: named, for files and arrays alike."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rediffinet.io.cases import Case, load_case
from rediffinet.method.normalise import brain_box, normalise
from rediffinet.phantom import Phantom, make_phantom
from rediffinet.trust import TrustSettings, check_intensities

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(1, (64, 72, 56), tumour="enhancing")


def quantised(image: np.ndarray) -> np.ndarray:
    return np.rint(255 * image / image.max())


def z_scored(image: np.ndarray) -> np.ndarray:
    brain = image > 0
    return np.where(brain, (image - image[brain].mean()) / image[brain].std() + 4, 0)


ONE_IMAGE = {
    "as it is": lambda image: image,
    "rescaled": lambda image: image * 1.5,
    "rescaled and rounded": lambda image: np.rint(image * 0.37),
    "very small": lambda image: image * 1e-6,
    "with an offset in the brain": lambda image: np.where(image > 0, image + 500, 0),
    "with an offset everywhere": lambda image: image + 100,
    "inverted in the brain": lambda image: np.where(image > 0, image.max() + 1 - image, 0),
    "in 256 grey values": quantised,
    "z-scored in the brain": z_scored,
    "with the noise of rounding": lambda image: np.where(image > 0, image + RNG.uniform(-0.5, 0.5, image.shape), 0),
    "clipped at its percentiles": lambda image: np.clip(image, 0, np.percentile(image[image > 0], 99.5)),
    "with a brain mask of its own": lambda image: np.where(np.roll(image, 1, 0) > 0, image, 0),
}
BOTH_WAYS = [("t1n", "t1c"), ("t1c", "t1n"), ("t2w", "t2f"), ("t2f", "t2w"), ("t1n", "t2f"), ("t1c", "t2w")]


def twice(phantom: Phantom, source: str, target: str, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The phantom's images with `target` replaced by what `change` makes of `source`."""
    images = phantom.images.astype(np.float32)
    images[CONTRASTS.index(target)] = change(images[CONTRASTS.index(source)].astype(np.float64))
    return images


def named(case: Case, source: str, target: str) -> bool:
    pair = " and ".join(sorted((source, target), key=CONTRASTS.index))
    found = [warning.message for warning in case.warnings if warning.code == "identical-contrasts"]
    return len(found) == 1 and found[0].startswith(f"{pair} are the same")


@pytest.mark.parametrize("change", ONE_IMAGE.values(), ids=ONE_IMAGE)
@pytest.mark.parametrize(("source", "target"), BOTH_WAYS[:4])
def test_one_image_for_two_contrasts_in_memory(phantom: Phantom, source: str, target: str, change: Callable) -> None:
    assert named(Case.from_arrays("X", twice(phantom, source, target, change), phantom.affine), source, target)


@pytest.mark.parametrize(("source", "target"), BOTH_WAYS)
@pytest.mark.parametrize("change", ["as it is", "rescaled", "z-scored in the brain"])
def test_one_image_for_two_contrasts_in_files(
    phantom: Phantom, tmp_path: Path, source: str, target: str, change: str
) -> None:
    for contrast, image in zip(CONTRASTS, twice(phantom, source, target, ONE_IMAGE[change]), strict=True):
        nib.save(nib.Nifti1Image(image, phantom.affine), tmp_path / f"X-{contrast}.nii.gz")
    path = tmp_path / f"X-{target}.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))  # other bytes, same image
    assert named(load_case(tmp_path), source, target)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3)))[1:3])
def test_one_image_saved_in_another_storage_order(phantom: Phantom, tmp_path: Path, axes: tuple[int, ...]) -> None:
    for contrast, image in zip(CONTRASTS, phantom.images, strict=True):
        nib.save(nib.Nifti1Image(image, phantom.affine), tmp_path / f"X-{contrast}.nii.gz")
    turned = phantom.affine.copy()
    turned[:, :3] = phantom.affine[:, axes]
    nib.save(nib.Nifti1Image(phantom.images[0].transpose(axes), turned), tmp_path / "X-t1c.nii.gz")
    assert named(load_case(tmp_path), "t1n", "t1c")


def test_one_image_stored_as_scaled_integers(phantom: Phantom, tmp_path: Path) -> None:
    for contrast, image in zip(CONTRASTS, phantom.images, strict=True):
        nib.save(nib.Nifti1Image(image, phantom.affine), tmp_path / f"X-{contrast}.nii.gz")
    scaled = nib.Nifti1Image(phantom.images[3] * 0.77, phantom.affine)
    scaled.set_data_dtype(np.uint8)
    nib.save(scaled, tmp_path / "X-t2w.nii.gz")
    assert named(load_case(tmp_path), "t2w", "t2f")


@pytest.mark.parametrize("index", range(3))
def test_four_contrasts_of_one_brain_are_not_one_image(index: int) -> None:
    phantom = make_phantom(2, (64, 72, 56), index=index)
    case = Case.from_arrays("X", phantom.images, phantom.affine)
    assert "identical-contrasts" not in [warning.code for warning in case.warnings]


def test_contrasts_of_real_examinations_are_not_one_image(real_data: Path) -> None:
    for folder in sorted(path for path in real_data.iterdir() if path.is_dir())[::9]:
        assert "identical-contrasts" not in [warning.code for warning in load_case(folder).warnings]


@pytest.mark.parametrize(("source", "target"), BOTH_WAYS[:4])
def test_limits_of_correlations_end_below_one(phantom: Phantom, source: str, target: str) -> None:
    """The ranges of the default bundle, whose margin alone reaches beyond 1 for these pairs."""
    ranges = {"t1n·t1c": (0.193, 0.909), "t2w·t2f": (-0.421, 0.718)}
    assert all(high + 0.3 * (high - low) > 1 for low, high in ranges.values())
    images = twice(phantom, source, target, ONE_IMAGE["rescaled"])
    scan = normalise(images[(slice(None), *brain_box(images))])
    (warning,) = check_intensities(scan, -1.0, TrustSettings(intensities=ranges), CONTRASTS)
    pair = "·".join(sorted((source, target), key=CONTRASTS.index))
    assert f"{pair} is 1.00, training had" in warning.message
