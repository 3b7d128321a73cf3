"""Connected components against scipy.ndimage.label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from rediffinet.ext import component_boxes, component_sizes, dilate, label_components, reference

STRUCTURES = {6: 1, 18: 2, 26: 3}


def scipy_labels(mask, connectivity):
    """Labels of scipy, numbered by their first voxel in C order."""
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, STRUCTURES[connectivity]))
    values, first = np.unique(labels, return_index=True)
    order = values[np.argsort(first)]
    numbers = np.zeros(count + 1, int)
    numbers[order[order > 0]] = np.arange(1, count + 1)
    return numbers[labels], count


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.floats(0, 1),
    st.sampled_from([6, 18, 26]),
    st.sampled_from(["C", "F", "strided"]),
    st.sampled_from([bool, np.uint8, np.float32]),
    st.integers(0, 2**32 - 1),
)
def test_equals_scipy(shape, density, connectivity, layout, dtype, seed):
    mask = (np.random.default_rng(seed).random(shape) < density).astype(dtype) * dtype(2)
    mask = {"C": mask, "F": np.asfortranarray(mask), "strided": np.repeat(mask, 2, axis=2)[:, :, ::2]}[layout]
    labels, count = label_components(mask, connectivity)
    expected, expected_count = scipy_labels(mask, connectivity)
    assert count == expected_count
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(
        component_sizes(labels, count), np.bincount(expected.ravel(), minlength=count + 1)[1:]
    )


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_the_twin_equals_scipy(connectivity):
    mask = np.random.default_rng(1).random((9, 8, 7)) < 0.2
    labels, count = reference.label_components(mask, connectivity)
    expected, expected_count = scipy_labels(mask, connectivity)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)
    assert reference.component_sizes(labels, count).tolist() == component_sizes(labels, count).tolist()


def test_a_snake_is_one_component():
    """A path that the union-find meets from both ends: every row's run joins late."""
    mask = np.zeros((3, 41, 40), bool)
    mask[1, ::2] = True
    mask[1, 1::4, -1] = True
    mask[1, 3::4, 0] = True
    for m in (mask, np.asfortranarray(mask)):
        assert label_components(m, 6)[1] == 1


@pytest.mark.parametrize(
    ("step", "counts"),
    [
        ((0, 0, 1), (1, 1, 1)),
        ((0, 1, -1), (2, 1, 1)),
        ((1, -1, 0), (2, 1, 1)),
        ((1, -1, 1), (2, 2, 1)),
        ((0, 0, 2), (2, 2, 2)),
    ],
)
def test_neighbourhoods(step, counts):
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = mask[tuple(2 + s for s in step)] = True
    assert tuple(label_components(mask, c)[1] for c in (6, 18, 26)) == counts


def test_full_size_noise():
    """Long rows, many runs: the run table grows."""
    mask = np.random.default_rng(0).random((40, 50, 301)) < 0.08
    labels, count = label_components(mask, 26)
    expected, expected_count = scipy_labels(mask, 26)
    assert count == expected_count
    np.testing.assert_array_equal(labels, expected)


def test_empty():
    labels, count = label_components(np.zeros((4, 0, 3), bool))
    assert (labels.shape, count) == ((4, 0, 3), 0)
    assert label_components(np.zeros((4, 5, 3), bool))[1] == 0
    assert component_sizes(np.zeros((4, 5, 3), np.int32), 0).tolist() == []


def test_bad_input():
    with pytest.raises(ValueError, match="connectivity is 8"):
        label_components(np.zeros((2, 2, 2), bool), 8)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        label_components(np.zeros((2, 2), bool))
    with pytest.raises(TypeError, match="int64"):
        component_sizes(np.zeros((2, 2, 2), np.int64), 1)
    with pytest.raises(ValueError, match="a label is 7"):
        component_sizes(np.full((2, 2, 2), 7, np.int32), 3)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_dilate_equals_scipy(shape, iterations, fortran, seed):
    mask = (np.random.default_rng(seed).random(shape) < 0.05).astype(np.uint8) * 3
    mask = np.asfortranarray(mask) if fortran else mask
    element = ndimage.generate_binary_structure(3, 2)
    expected = ndimage.binary_dilation(mask, element, iterations=iterations) if iterations else mask != 0
    grown = dilate(mask, iterations)
    assert grown.dtype == np.uint8
    np.testing.assert_array_equal(grown, expected)
    np.testing.assert_array_equal(reference.dilate(mask, iterations), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_component_boxes_equal_scipy(order):
    mask = np.asarray(np.random.default_rng(2).random((11, 12, 13)) < 0.1, order=order)
    labels, count = label_components(mask, 6)
    expected = [[(s.start, s.stop) for s in box] for box in ndimage.find_objects(labels)]
    assert component_boxes(labels, count).tolist() == np.array(expected).tolist()
    assert reference.component_boxes(labels, count).tolist() == np.array(expected).tolist()
    assert component_boxes(labels, count + 1)[-1].tolist() == [[0, 0]] * 3
