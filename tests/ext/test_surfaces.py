"""Surface distances against brute force, scipy's distance transform and DeepMind's surface-distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rediffinet.ext import directions, joint_box, reference, surface_distances, surfel_areas


def blobs(rng, shape, level=0.0, smooth=1.5):
    return ndimage.gaussian_filter(rng.normal(size=shape), smooth) > level * 0.1


def same(ours, theirs):
    """The same elements, in whatever order."""
    for side in ("a", "b"):
        names = ("a_to_b", "a_areas") if side == "a" else ("b_to_a", "b_areas")
        mine, other = (np.stack([getattr(d, name) for name in names]).round(9) for d in (ours, theirs))
        np.testing.assert_allclose(mine[:, np.lexsort(mine)], other[:, np.lexsort(other)], atol=1e-8)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.sampled_from([0.3, 0.9375, 1.0, 2.5, 6.0])] * 3),
    st.sampled_from(["surfels", "voxels"]),
    st.sampled_from(["C", "F", "mixed", "strided"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_equals_brute_force(shape, spacing, elements, layout, density_a, density_b, threads, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(shape) < density_a**3, rng.random(shape) < density_b**3
    if layout == "F":
        a, b = np.asfortranarray(a), np.asfortranarray(b).astype(np.uint8) * 7
    elif layout == "mixed":
        a = np.asfortranarray(a).astype(np.float32) * 200
    elif layout == "strided":
        a, b = (np.repeat(m, 2, axis=2)[:, :, ::2] for m in (a, b))
    ours = surface_distances(a, b, spacing, elements=elements, threads=threads)
    same(ours, reference.surface_distances(a, b, spacing, elements=elements))


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.sampled_from(["surfels", "voxels"]),
    st.floats(0, 30),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_distances_are_exact_beyond_what_is_enough(shape, elements, enough, every, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(shape) < rng.random() ** 6, rng.random(shape) < rng.random() ** 6
    exact = surface_distances(a, b, elements=elements)
    for direction, expected in zip(directions(a, b, elements=elements), (exact.a_to_b, exact.b_to_a), strict=True):
        assert len(direction) == len(direction.areas) == len(expected)
        np.testing.assert_array_equal(direction.distances(), expected)
        found, expected = direction.distances(enough, every), expected[::every]
        far = expected > enough
        np.testing.assert_array_equal(found[far], expected[far])
        assert (found[~far] >= expected[~far]).all()
        assert (found[~far] <= enough).all()


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 1.25, 3.0), (4.0, 1.0, 0.25)])
@pytest.mark.parametrize("shape", [(90, 20, 33), (12, 75, 150), (9, 10, 600)])
def test_far_apart_equals_the_distance_transform(shape, spacing):
    """Sparse specks: most of the search goes through blocks, rows longer than a word and a word of blocks."""
    rng = np.random.default_rng(5)
    a, b = rng.random(shape) < 2e-3, rng.random(shape) < 1e-4
    a[: shape[0] // 2], b[shape[0] // 2 :] = False, False
    b[0, 0, 0] = True
    for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b))):
        ours = surface_distances(left, right, spacing, elements="voxels", threads=2)
        for mask, other, distances in ((a, b, ours.a_to_b), (b, a, ours.b_to_a)):
            expected = ndimage.distance_transform_edt(~other, sampling=spacing)[mask]  # specks are all border
            np.testing.assert_allclose(np.sort(distances), np.sort(expected), rtol=1e-12)


def test_area_table_equals_deepmind():
    lookup_tables = pytest.importorskip("surface_distance.lookup_tables", reason="the oracle is not installed")
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()  # the weight of corner 4x + 2y + z
    theirs = [sum(int(kernel[bit]) for bit in range(8) if code >> bit & 1) for code in range(256)]
    for spacing in [(1.0, 1.0, 1.0), (0.5, 1.3, 4.0), (3.0, 0.7, 0.7)]:
        table = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        np.testing.assert_allclose(surfel_areas(spacing), table[theirs], atol=1e-12)


def test_areas_in_closed_form():
    areas = surfel_areas((1.0, 2.0, 3.0))
    assert areas[0] == areas[255] == 0
    assert areas[0b00001111] == pytest.approx(6.0)  # x = 0 inside: the plane between, 2 mm × 3 mm
    assert areas[0b00110011] == pytest.approx(3.0)  # y = 0 inside
    assert areas[0b01010101] == pytest.approx(2.0)  # z = 0 inside
    assert surfel_areas((1.0, 1.0, 1.0))[1] == pytest.approx(np.sqrt(3) / 8)  # a corner, three half edges
    np.testing.assert_allclose(areas, areas[::-1])  # in and out swapped


@pytest.mark.parametrize("seed", range(4))
def test_equals_deepmind(seed):
    oracle = pytest.importorskip("surface_distance", reason="the oracle is not installed")
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.4, 3, 3))
    a, b = blobs(rng, (30, 41, 26), 0.5), blobs(rng, (30, 41, 26), 0.9)
    ours = surface_distances(b, a, spacing)
    theirs = oracle.compute_surface_distances(a, b, spacing)
    np.testing.assert_allclose(np.sort(ours.b_to_a), theirs["distances_gt_to_pred"])
    np.testing.assert_allclose(np.sort(ours.a_to_b), theirs["distances_pred_to_gt"])
    for mine, other in ((ours.b_areas, "surfel_areas_gt"), (ours.a_areas, "surfel_areas_pred")):
        np.testing.assert_allclose(np.sort(mine), np.sort(theirs[other]))


def test_empty_masks():
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    both = surface_distances(empty, empty)
    assert both.a_to_b.shape == both.b_areas.shape == (0,)
    one = surface_distances(full, empty, elements="voxels")
    assert len(one.a_to_b) == 60 - 1 * 2 * 3
    assert np.isinf(one.a_to_b).all()
    assert one.b_to_a.shape == (0,)
    assert surface_distances(empty[:0], full[:0]).a_to_b.shape == (0,)


def test_the_image_edge_is_a_surface():
    full = np.ones((3, 3, 3), bool)
    inner = np.zeros((3, 3, 3), bool)
    inner[1, 1, 1] = True
    assert len(surface_distances(full, inner, elements="voxels").a_to_b) == 26
    assert surface_distances(full, full).a_areas.sum() == pytest.approx(
        6 * 4 + 12 * 2 * np.sqrt(0.5) + 8 * np.sqrt(3) / 8  # flat parts, bevelled edges, cut corners
    )


def test_joint_box():
    a, b = np.zeros((9, 8, 70), np.uint8), np.zeros((9, 8, 70), np.uint8)
    assert joint_box(a, b) == (slice(0, 0),) * 3
    a[2, 3, 4] = b[5, 1, 66] = 1
    for left, right in ((a, b), (np.asfortranarray(a), np.asfortranarray(b)), (a.astype(float), b)):
        assert joint_box(left, right) == (slice(2, 6), slice(1, 4), slice(4, 67))
        assert joint_box(left, right, margin=4) == (slice(0, 9), slice(0, 8), slice(0, 70))


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 11), st.integers(1, 20), st.integers(1, 40)), st.integers(0, 2), st.integers(0, 99))
def test_joint_box_of_a_few_voxels_in_planes_of_any_size(shape, count, seed):
    rng = np.random.default_rng(seed)
    a, b = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for mask in (a, b):
        mask.flat[rng.integers(0, mask.size, count)] = rng.integers(1, 256)
    found = np.argwhere(a | b)
    expected = zip(found.min(axis=0), found.max(axis=0) + 1, strict=True) if len(found) else [(0, 0)] * 3
    assert joint_box(a, b) == tuple(slice(*side) for side in expected)
    assert joint_box(np.asfortranarray(a), np.asfortranarray(b)) == joint_box(a, b)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"b": np.zeros((2, 2, 3), bool)}, r"\(2, 2, 3\)"),
        ({"spacing_mm": (1, 0, 1)}, "spacing"),
        ({"spacing_mm": (1, -1, 1)}, "spacing"),
        ({"spacing_mm": (1, np.nan, 1)}, "spacing"),
        ({"spacing_mm": (1, 1)}, "spacing"),
        ({"threads": 0}, "threads"),
    ],
)
def test_bad_input(changes, words):
    arguments = {"a": np.ones((2, 2, 2), bool), "b": np.ones((2, 2, 2), bool), "spacing_mm": (1, 1, 1)} | changes
    with pytest.raises(ValueError, match=words):
        surface_distances(**arguments)
