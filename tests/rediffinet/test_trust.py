"""Warnings on results that should not be trusted: each on something that triggers it, and not on what should not."""

import numpy as np
import pytest

from rediffinet.method.normalise import brain_box, normalise
from rediffinet.phantom import make_phantom
from rediffinet.trust import (
    TrustSettings,
    check_core,
    check_disagreement,
    check_intensities,
    check_tumour,
    intensity_profile,
    profile_ranges,
)

PLAIN = TrustSettings()
MILLIMETRE = (1.0, 1.0, 1.0)

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


def codes(warnings: list) -> list[str]:
    return [warning.code for warning in warnings]


def cube(shape: tuple[int, int, int], *corners: tuple[int, int, int], side: int = 6) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for x, y, z in corners:
        mask[x : x + side, y : y + side, z : z + side] = True
    return mask


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    images = [make_phantom(3, index=index, shape=(64, 72, 56)).images for index in range(4)]
    return [normalise(image[(slice(None), *brain_box(image))]) for image in images]


def test_profile_is_quantiles_and_correlations() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(-0.9, 0.9, (4, 8, 8, 8)).astype(np.float32)
    image[1] = -image[0]
    profile = intensity_profile(image, -1.0, CONTRASTS)
    assert profile["t1n·t1c"] == pytest.approx(-1.0, abs=1e-5)
    assert profile["t2w p50"] == pytest.approx(float(np.median(image[2])), abs=1e-6)
    assert len(profile) == 4 * 3 + 6


def test_scans_like_those_of_training_pass_and_others_do_not(scans: list[np.ndarray]) -> None:
    ranges = profile_ranges([intensity_profile(scan, -1.0, CONTRASTS) for scan in scans])
    settings = TrustSettings(intensities=ranges)
    for scan in scans:
        assert check_intensities(scan, -1.0, settings, CONTRASTS) == []
    swapped = scans[0][[3, 1, 2, 0]]
    (warning,) = check_intensities(swapped, -1.0, settings, CONTRASTS)
    assert warning.code == "intensities-unlike-training" and "training had" in warning.message
    washed_out = np.where(scans[0] > -1.0, 2.0 * ((scans[0] + 1.0) / 2.0) ** 0.2 - 1.0, -1.0)
    assert codes(check_intensities(washed_out, -1.0, settings, CONTRASTS)) == ["intensities-unlike-training"]
    assert check_intensities(swapped, -1.0, PLAIN, CONTRASTS) == []  # nothing to compare with


def test_lesions_far_from_each_other() -> None:
    shape = (60, 60, 60)
    settings = TrustSettings(far_ml=0.2, far_mm=30.0)
    far = cube(shape, (5, 5, 5), (45, 45, 45))
    (warning,) = check_tumour(far, MILLIMETRE, settings)
    assert warning.code == "far-components"
    assert f"{40 * 3**0.5:.0f} mm apart" in warning.message
    assert check_tumour(cube(shape, (5, 5, 5), (15, 15, 15)), MILLIMETRE, settings) == []
    assert check_tumour(cube(shape, (5, 5, 5)), MILLIMETRE, settings) == []
    assert check_tumour(far, MILLIMETRE, TrustSettings(far_ml=0.3)) == []  # a cube has 0.216 ml
    assert codes(check_tumour(far, (0.7, 0.7, 0.7), TrustSettings(far_ml=0.05, far_mm=49.0))) == []
    assert check_tumour(np.zeros(shape, bool), MILLIMETRE, settings) == []


def test_tumour_that_leaves_the_images() -> None:
    shape = (30, 30, 30)
    assert codes(check_tumour(cube(shape, (24, 10, 10)), MILLIMETRE, PLAIN)) == ["tumour-at-edge"]
    assert check_tumour(cube(shape, (23, 10, 10)), MILLIMETRE, PLAIN) == []
    assert check_tumour(cube(shape, (26, 10, 10), side=4), MILLIMETRE, PLAIN) == []  # 16 voxels are below 20


def test_samples_that_disagree() -> None:
    settings = TrustSettings(disagreement=0.1)
    assert codes(check_disagreement(0.11, settings)) == ["samples-disagree"]
    assert check_disagreement(0.1, settings) == [] == check_disagreement(9.0, PLAIN)


@pytest.mark.parametrize(
    ("inside", "limit", "warned"),
    [(0.75, 0.8, ["core-unsure"]), (0.8125, 0.8, []), (0.25, None, []), (0.0, 0.8, ["core-unsure"])],
)
def test_a_core_that_the_baseline_doubts_is_told(inside: float, limit: float | None, warned: list[str]) -> None:
    core = cube((20, 20, 20), (5, 5, 5))
    probability = np.where(core, inside, 1.0).astype(np.float32)  # what lies outside the core has no say
    assert codes(check_core(core, probability, TrustSettings(core_confidence=limit))) == warned


def test_a_case_without_a_core_is_not_unsure_of_it() -> None:
    nothing = np.zeros((4, 4, 4), bool)
    assert check_core(nothing, nothing.astype(np.float32), TrustSettings(core_confidence=0.8)) == []
