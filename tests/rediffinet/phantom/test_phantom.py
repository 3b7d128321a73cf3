"""Phantoms: deterministic, BraTS geometry and labels, contrast relations of real gliomas."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from rediffinet.errors import ConfigError
from rediffinet.phantom import Phantom, make_phantom

SMALL = (96, 96, 80)
TINY = (40, 48, 36)
T1N, T1C, T2W, T2F = range(4)
NCR, ED, ET = 1, 2, 3


@pytest.fixture(scope="module")
def enhancing() -> list[Phantom]:
    return [make_phantom(seed, SMALL, tumour="enhancing") for seed in range(4)]


@pytest.fixture(scope="module")
def many() -> list[Phantom]:
    return [make_phantom(11, TINY, index=index) for index in range(36)]


def brain(phantom: Phantom) -> np.ndarray:
    return phantom.images[T1N] > 0


def white_matter(phantom: Phantom) -> np.ndarray:
    """Bright on t1n, deep in the brain and away from the tumour: found without the generator's own maps."""
    inside = ndimage.binary_erosion(brain(phantom), iterations=5)
    inside &= ~ndimage.binary_dilation(phantom.labels > 0, iterations=4)
    t1n = phantom.images[T1N]
    return inside & (t1n > np.percentile(t1n[inside], 60)) & (t1n < np.percentile(t1n[inside], 95))


def median(phantom: Phantom, contrast: int, mask: np.ndarray) -> float:
    return float(np.median(phantom.images[contrast][mask]))


def test_same_seed_and_index_give_the_same_bytes() -> None:
    first, again = (make_phantom(5, TINY, index=3) for _ in range(2))
    assert first.images.tobytes() == again.images.tobytes()
    assert first.labels.tobytes() == again.labels.tobytes()


@pytest.mark.parametrize(("seed", "index"), [(6, 3), (5, 4), (3, 5)])
def test_other_seed_or_index_gives_another_case(seed: int, index: int) -> None:
    one, other = make_phantom(5, TINY, index=3), make_phantom(seed, TINY, index=index)
    assert not np.array_equal(one.images, other.images)


def test_arrays_have_the_documented_form(enhancing: list[Phantom]) -> None:
    for phantom in enhancing:
        assert phantom.images.shape == (4, *SMALL)
        assert phantom.images.dtype == np.float32
        assert phantom.labels.shape == SMALL
        assert phantom.labels.dtype == np.uint8
        assert set(np.unique(phantom.labels)) <= {0, NCR, ED, ET}
        assert np.array_equal(phantom.images, np.rint(phantom.images))
        assert phantom.images.max() <= np.iinfo(np.int16).max
        expected = np.array([[-1, 0, 0, 0], [0, -1, 0, SMALL[1] - 1], [0, 0, 1, 0], [0, 0, 0, 1]])
        assert np.array_equal(phantom.affine, expected)


def test_background_is_zero_and_the_brain_one_solid_piece(enhancing: list[Phantom]) -> None:
    for phantom in enhancing:
        mask = brain(phantom)
        for image in phantom.images:
            assert np.array_equal(image > 0, mask)
            assert (image[~mask] == 0).all()
        sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        assert sizes.max() > 0.99 * mask.sum()
        assert 0.15 < mask.mean() < 0.45
        assert not np.any(mask[[0, -1]]) and not np.any(mask[:, [0, -1]])


def test_tumour_lies_in_the_brain(many: list[Phantom]) -> None:
    for phantom in many:
        assert (phantom.labels > 0).any()
        assert brain(phantom)[phantom.labels > 0].all()


def test_healthy_tissue_orders_as_in_mri() -> None:
    for seed in range(3):
        phantom = make_phantom(seed, SMALL, tumour="none")
        assert not phantom.labels.any()
        white = white_matter(phantom)
        deep = ndimage.binary_erosion(brain(phantom), iterations=5)
        t2w = phantom.images[T2W]
        fluid = deep & (t2w > 0.5 * (t2w[deep].max() + median(phantom, T2W, white)))
        assert fluid.sum() > 50  # ventricles and sulci
        assert median(phantom, T1N, fluid) < 0.8 * median(phantom, T1N, white)
        assert median(phantom, T2F, fluid) < 0.8 * median(phantom, T2F, white)


def test_regions_relate_to_white_matter_as_in_gliomas(enhancing: list[Phantom]) -> None:
    for phantom in enhancing:
        white = white_matter(phantom)
        necrosis, edema, rim = (phantom.labels == value for value in (NCR, ED, ET))
        assert min(necrosis.sum(), edema.sum(), rim.sum()) > 30
        assert median(phantom, T2F, edema) > 1.15 * median(phantom, T2F, white)
        assert median(phantom, T2W, edema) > 1.15 * median(phantom, T2W, white)
        assert median(phantom, T1N, edema) < median(phantom, T1N, white)
        assert median(phantom, T1N, necrosis) < 0.95 * median(phantom, T1N, white)
        for other in (necrosis, edema, white):
            assert median(phantom, T1C, rim) > median(phantom, T1C, other)


def test_rim_encloses_the_necrosis(enhancing: list[Phantom]) -> None:
    """Most of what touches necrosis from outside is enhancing tissue; gaps in the rim are allowed."""
    for phantom in enhancing:
        necrosis = phantom.labels == NCR
        shell = ndimage.binary_dilation(necrosis) & ~necrosis
        assert (phantom.labels[shell] == ET).mean() > 0.5


def test_edema_spares_cortex_and_fluid(enhancing: list[Phantom]) -> None:
    """Edema follows white matter: around the lesions it is rarer at the surface of the brain than deeper."""
    surface, deep = [], []
    for phantom in enhancing:
        edema = phantom.labels == ED
        depth = ndimage.distance_transform_edt(brain(phantom))
        near = ndimage.binary_dilation(phantom.labels > 0, iterations=4) & brain(phantom)
        surface.append(edema[near & (depth <= 1.5)])
        deep.append(edema[near & (depth > 1.5)])
    assert np.concatenate(surface).mean() < 0.7 * np.concatenate(deep).mean()


def test_series_is_varied(many: list[Phantom]) -> None:
    without = [p for p in many if not (p.labels == ET).any()]
    assert 2 <= len(without) <= len(many) // 2
    volumes = np.array([(p.labels > 0).sum() / brain(p).sum() for p in many])
    assert volumes.max() > 6 * volumes.min()
    assert volumes.max() < 0.25
    several = 0
    for phantom in many:
        whole = ndimage.binary_closing(phantom.labels > 0, iterations=2)
        sizes = np.bincount(ndimage.label(whole, np.ones((3, 3, 3)))[0].ravel())[1:]
        several += int((sizes > 0.05 * sizes.sum()).sum() > 1)
    assert several >= 2
    sides = [np.argwhere(p.labels > 0)[:, 0].mean() < TINY[0] / 2 for p in many]
    assert 0.2 < np.mean(sides) < 0.8


@pytest.mark.parametrize("kind", ["enhancing", "solid", "tiny-enhancing", "non-enhancing"])
def test_kind_decides_the_share_of_enhancing_tissue(kind: str) -> None:
    labels = make_phantom(2, SMALL, tumour=kind).labels  # type: ignore[arg-type]
    core = ((labels == NCR) | (labels == ET)).sum()
    share = (labels == ET).sum() / core
    low, high = {"enhancing": (0.1, 0.95), "solid": (0.9, 1), "tiny-enhancing": (1e-9, 0.35), "non-enhancing": (0, 0)}[
        kind
    ]
    assert low <= share <= high


@pytest.mark.slow
def test_full_size_brain_measures_like_real_ones(real_data: Path) -> None:
    sizes = []
    for file in sorted(real_data.glob("*/*-t1n.nii.gz"))[:8]:
        mask = np.asarray(nib.load(file).dataobj) > 0
        sizes.append([mask.sum(), *(np.ptp(np.flatnonzero(mask.any(axis=a))) for a in ((1, 2), (0, 2), (0, 1)))])
    low, high = np.min(sizes, axis=0) * 0.85, np.max(sizes, axis=0) * 1.15
    mask = brain(make_phantom(0))
    size = [mask.sum(), *(np.ptp(np.flatnonzero(mask.any(axis=a))) for a in ((1, 2), (0, 2), (0, 1)))]
    assert (low <= size).all() and (size <= high).all()


@pytest.mark.parametrize(
    ("seed", "shape", "tumour", "words"),
    [
        (-1, TINY, "random", "seed"),
        (0, (16, 96, 80), "random", "too small"),
        (0, TINY, "meningioma", "non-enhancing"),
    ],
)
def test_bad_requests_are_config_errors(seed: int, shape: tuple[int, int, int], tumour: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_phantom(seed, shape, tumour=tumour)  # type: ignore[arg-type]
