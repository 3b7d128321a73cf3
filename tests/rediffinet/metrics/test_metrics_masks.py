"""Mask metrics against closed forms, scipy, MONAI, MedPy and DeepMind's surface-distance."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rediffinet.errors import ConfigError, LabelError
from rediffinet.ext import SurfaceDistances, surface_distances
from rediffinet.metrics import average_surface_distance, dice, hausdorff, hd95, normalised_surface_dice
from rediffinet.metrics.reducers import weighted_percentile

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.25, 3.0)]


def blob_pair(seed, shape=(33, 28, 37)):
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    other = base + 0.5 * ndimage.gaussian_filter(rng.normal(size=shape), 3)
    return other > 0.03, base > 0.03


def degenerate_pairs():
    voxel, corner, slab, plate, block = (np.zeros((12, 11, 10), bool) for _ in range(5))
    voxel[4, 5, 6] = corner[0, 0, 0] = True
    slab[:, :, 3] = True
    plate[11] = True
    block[2:9, 3:8, 1:7] = True
    return {
        "one voxel each": (voxel, corner),
        "one voxel and a block": (voxel, block),
        "one slice thick": (slab, plate),
        "touching the edge": (plate, block),
        "everything": (np.ones_like(block), block),
        "equal": (block, block.copy()),
    }


PAIRS = {f"blobs {seed}": blob_pair(seed) for seed in range(4)} | degenerate_pairs()
BY_PAIR = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
BY_SPACING = pytest.mark.parametrize("spacing", SPACINGS, ids=str)


def border_distances(a, b, spacing):
    """Both directed distance sets of border voxels, by scipy."""
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (a, b)]
    maps = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
    return maps[1][borders[0]], maps[0][borders[1]]


@BY_PAIR
@BY_SPACING
def test_voxel_definitions_equal_scipy(pair, spacing):
    there, back = border_distances(*pair, spacing)
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hd95(*pair, spacing, "max") == pytest.approx(expected, abs=1e-9)
    assert hd95(*pair, spacing, "pooled") == pytest.approx(np.percentile(np.hstack([there, back]), 95), abs=1e-9)
    assert hausdorff(*pair, spacing, 100, "max") == pytest.approx(max(there.max(), back.max()))
    assert hausdorff(*pair, spacing, 50, "pooled") == pytest.approx(np.median(np.hstack([there, back])))


@BY_PAIR
def test_surface_dice_of_equal_masks_is_one(pair):
    """Exactly: the areas are summed in two orders, and what is beyond is nothing in both."""
    assert [normalised_surface_dice(mask, mask, 0.0) for mask in pair] == [1.0, 1.0]


@BY_PAIR
@BY_SPACING
def test_surface_definition_equals_deepmind(pair, spacing):
    oracle = pytest.importorskip("surface_distance", reason="the oracle surface-distance is not installed")
    a, b = pair
    with warnings.catch_warnings(action="ignore"):
        theirs = oracle.compute_surface_distances(b, a, spacing)
    for percent in (50, 95, 100):
        expected = oracle.compute_robust_hausdorff(theirs, percent)
        assert hausdorff(a, b, spacing, percent) == pytest.approx(expected, abs=1e-9)
    for tolerance in (0.0, 1.0, 2.5):
        expected = oracle.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert normalised_surface_dice(a, b, tolerance, spacing) == pytest.approx(expected, abs=1e-12)
    there, back = oracle.compute_average_surface_distance(theirs)
    areas = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    expected = np.average([there, back], weights=areas)
    assert average_surface_distance(a, b, spacing) == pytest.approx(expected)


@BY_PAIR
def test_max_definition_equals_monai(pair):
    torch = pytest.importorskip("torch", reason="MONAI is not installed")
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    for spacing in SPACINGS:
        a, b = (torch.from_numpy(mask)[None, None].float() for mask in pair)
        expected = metrics.compute_hausdorff_distance(a, b, True, percentile=95, spacing=spacing).item()
        assert hd95(*pair, spacing, "max") == pytest.approx(expected, abs=1e-4)


@BY_PAIR
def test_pooled_definition_equals_medpy(pair):
    medpy = pytest.importorskip("medpy.metric.binary", reason="the oracle MedPy is not installed")
    for spacing in SPACINGS:
        assert hd95(*pair, spacing, "pooled") == pytest.approx(medpy.hd95(*pair, spacing), abs=1e-9)


def test_one_far_voxel_moves_the_maximum_and_not_the_percentile():
    a, b = np.zeros((40, 20, 20), bool), np.zeros((40, 20, 20), bool)
    a[2:12, 5:15, 5:15] = b[2:12, 5:15, 5:15] = True
    a[39, 10, 10] = True
    assert hausdorff(a, b, definition="surface") == hausdorff(a, b, definition="max") == pytest.approx(28)
    assert hd95(a, b) == hd95(a, b, definition="max") == 0


@pytest.mark.parametrize("definition", ["surface", "max", "pooled"])
def test_shifted_blocks_in_closed_form(definition):
    a, b = np.zeros((40, 12, 12), bool), np.zeros((40, 12, 12), bool)
    a[:, 3:9, 3:9][4:10], b[:, 3:9, 3:9][24:30] = True, True
    assert hausdorff(a, b, (1.5, 1, 1), 100, definition) == pytest.approx(30.0)


def test_a_smaller_concentric_plate_in_closed_form():
    a, b = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    a[5:15], b[7:13] = True, True
    assert hausdorff(a, b, (3.0, 1.0, 1.0), 90, "surface") == pytest.approx(6.0)
    assert normalised_surface_dice(a, b, 6.0, (3.0, 1.0, 1.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("definition", ["surface", "max", "pooled"])
def test_empty_masks(definition):
    empty, full = np.zeros((5, 6, 7), bool), np.ones((5, 6, 7), bool)
    assert hd95(empty, empty, definition=definition) == 0
    assert hd95(full, empty, definition=definition) == np.inf
    assert hd95(empty, full, definition=definition) == np.inf


def test_empty_masks_of_the_other_metrics():
    empty, full = np.zeros((5, 6, 7), bool), np.ones((5, 6, 7), bool)
    assert (dice(empty, empty), dice(full, empty), dice(full, full)) == (1, 0, 1)
    assert (average_surface_distance(empty, empty), average_surface_distance(full, empty)) == (0, np.inf)
    assert (normalised_surface_dice(empty, empty, 1), normalised_surface_dice(empty, full, 1)) == (1, 0)


def test_dice_of_label_arrays():
    a, b = np.array([[[0, 1, 2, 3]]]), np.array([[[0.0, 0.0, 5.0, 1.0]]])
    assert dice(a, b) == pytest.approx(2 * 2 / (3 + 2))


@pytest.mark.parametrize("seed", range(6))
def test_weighted_percentile_of_many_elements_equals_sorting(seed):
    """Above a few thousand elements a histogram narrows the sort down; ties at the fraction must not matter."""
    rng = np.random.default_rng(seed)
    lengths = np.sqrt(rng.integers(0, 40 if seed % 2 else 4000, 9000))
    areas = rng.choice([0.2165, 0.7071, 1.0], 9000) if seed < 4 else np.ones(9000)
    order = np.lexsort((areas, lengths))
    for percent in (0, 5, 50, 95, 99.9, 100):
        share = np.cumsum(areas[order]) / np.sum(areas[order])
        expected = lengths[order][min(np.searchsorted(share, percent / 100), len(order) - 1)]
        distances = SurfaceDistances(lengths, np.zeros(3), areas, np.ones(3))
        assert weighted_percentile(distances, percent) == expected


@pytest.mark.parametrize("function", [dice, hd95, average_surface_distance])
def test_shapes_must_agree(function):
    with pytest.raises(LabelError, match=r"\(2, 2, 3\).*\n.*one shape"):
        function(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool))


@pytest.mark.parametrize("spacing", [(1, 1, 0), (1, -1, 1), (1, 1), (np.inf, 1, 1)])
def test_spacing_must_be_positive(spacing):
    with pytest.raises(LabelError, match="spacing"):
        hd95(np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), spacing)


def test_unknown_settings():
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ConfigError, match="surface, max, pooled"):
        hd95(mask, mask, definition="monai")
    with pytest.raises(ConfigError, match="percentile is 101"):
        hausdorff(mask, mask, percent=101)
    with pytest.raises(ConfigError, match="tolerance"):
        normalised_surface_dice(mask, mask, -1)


def of_all_distances(a, b, percent, spacing, definition):
    """The same from every distance."""
    if definition == "surface":
        return weighted_percentile(surface_distances(a, b, spacing), percent)
    found = surface_distances(a, b, spacing, elements="voxels")
    return max(np.percentile(lengths, percent) for lengths in (found.a_to_b, found.b_to_a))


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.sampled_from([0.3, 0.9375, 1.0, 2.5, 6.0])] * 3),
    st.sampled_from([0, 12.5, 50, 90, 95, 99.9, 100]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_equals_the_percentile_of_all_distances_to_the_bit(shape, spacing, percent, density_a, density_b, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(shape) < density_a**3, rng.random(shape) < density_b**3
    a.flat[0] = b.flat[-1] = True
    for definition in ("surface", "max"):
        expected = of_all_distances(a, b, percent, spacing, definition)
        assert hausdorff(a, b, spacing, percent, definition) == expected


def far_apart():
    """Blobs of which half are missing; a line and a point; a row of which every 16th element, the sample, is aside."""
    rng = np.random.default_rng(2)
    near = ndimage.gaussian_filter(rng.normal(size=(60, 50, 70)), 1.5) > 0.1
    far = near.copy()
    far[:40] = False
    line, point = np.zeros((1, 1, 400), bool), np.zeros((1, 1, 400), bool)
    line[..., :320] = point[..., 0] = True
    row = np.zeros((1600, 3, 9), bool)
    row[:, 1, 1] = True
    aside = row.copy()
    aside[::16, 1, 1], aside[::16, 1, 7] = False, True
    return {"blobs": (near, far), "the same": (near, near), "line": (line, point), "misleading": (aside, row)}


@pytest.mark.parametrize("name", ["blobs", "the same", "line", "misleading"])
@pytest.mark.parametrize("percent", [0, 50, 93, 1499.5 / 1599 * 100, 93.75, 95, 97, 100])
@pytest.mark.parametrize("definition", ["surface", "max"])
def test_the_sample_decides_nothing(name, percent, definition):
    a, b = far_apart()[name]
    expected = of_all_distances(a, b, percent, (1.0, 1.0, 1.0), definition)
    assert hausdorff(a, b, (1.0, 1.0, 1.0), percent, definition) == expected
    assert hausdorff(np.asfortranarray(b), np.asfortranarray(a), (1.0, 1.0, 1.0), percent, definition) == expected
