"""Flip-and-decode against its numpy twin and against hand-made truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rediffinet.ext import flip_and_decode, flip_masks, reference

VALUES = (2, 1, 3)  # BraTS-2023: WT only, TC but not ET, ET


def one_voxel(delta, baseline, thresholds=(0.5, 0.5, 0.5)):
    result = flip_and_decode(
        np.array(delta, np.float32).reshape(3, 1, 1, 1),
        np.array(baseline, bool).reshape(3, 1, 1, 1),
        thresholds,
        VALUES,
    )
    return int(result.labels[0, 0, 0]), result.voxels.tolist(), result.flipped.tolist()


@pytest.mark.parametrize(
    ("delta", "baseline", "expected"),
    [
        ((0, 0, 0), (0, 0, 0), (0, [0, 0, 0], [0, 0, 0])),
        ((0, 0, 0), (1, 0, 0), (2, [1, 0, 0], [0, 0, 0])),
        ((0, 0, 0), (1, 1, 1), (3, [1, 1, 1], [0, 0, 0])),
        ((0, 0, 1), (1, 1, 1), (1, [1, 1, 0], [0, 0, 1])),
        ((1, 1, 1), (1, 1, 1), (0, [0, 0, 0], [1, 1, 1])),
        ((0, 0, 1), (0, 0, 0), (3, [1, 1, 1], [1, 1, 1])),  # an ET voxel is in TC and WT too
        ((1, 0, 0), (1, 1, 0), (1, [1, 1, 0], [0, 0, 0])),  # WT is flipped off, but TC keeps it
        ((0, 0, 0), (0, 0, 1), (3, [1, 1, 1], [0, 0, 0])),  # the baseline is decoded by the same rule
        ((0.5, 0.5, 0.5), (1, 1, 1), (3, [1, 1, 1], [0, 0, 0])),  # at the threshold is not above it
        ((np.nan, np.nan, np.nan), (1, 1, 0), (1, [1, 1, 0], [0, 0, 0])),
    ],
)
def test_one_voxel_by_hand(delta, baseline, expected):
    assert one_voxel(delta, baseline) == expected


@st.composite
def volumes(draw):
    """Delta, baseline, thresholds and threads over dtypes, memory layouts and special values."""
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    seed = draw(st.integers(0, 2**32 - 1))
    layout = draw(st.sampled_from(["C", "F", "channels last", "strided", "reversed", "mixed"]))
    rng = np.random.default_rng(seed)
    full = (3, *(2 * n for n in shape)) if layout == "strided" else (3, *shape)
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 6e-8, -6e-8, 65504], np.float32)
    delta = np.where(rng.random(full) < 0.3, rng.choice(special, full), rng.normal(0.5, 0.5, full)).astype(dtype)
    baseline = rng.integers(0, 3, full).astype(np.uint8) if draw(st.booleans()) else rng.random(full) < 0.5
    arrays = {
        "C": lambda a: a,
        "F": lambda a: np.ascontiguousarray(a.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1),
        "channels last": lambda a: np.ascontiguousarray(np.moveaxis(a, 0, -1)).transpose(3, 0, 1, 2),
        "strided": lambda a: a[:, ::2, 1::2, ::2],
        "reversed": lambda a: a[::-1, :, ::-1, ::-1],
        "mixed": lambda a: np.asfortranarray(a) if a.dtype == delta.dtype else a,
    }[layout]
    thresholds = draw(
        st.tuples(
            *[st.floats(-2, 2, width=32) | st.sampled_from([0.0, -0.0, 0.5, np.inf, -np.inf, 1e-9, -1e-9, 7e4])] * 3
        )
    )
    return arrays(delta), arrays(baseline), thresholds, draw(st.integers(1, 4))


@settings(max_examples=300, deadline=None)
@given(volumes())
def test_equals_the_twin(volume):
    delta, baseline, thresholds, threads = volume
    ours = flip_and_decode(delta, baseline, thresholds, VALUES, threads=threads)
    twin = reference.flip_and_decode(delta, baseline, thresholds, VALUES)
    np.testing.assert_array_equal(ours.labels, twin.labels)
    np.testing.assert_array_equal(ours.voxels, twin.voxels)
    np.testing.assert_array_equal(ours.flipped, twin.flipped)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("fortran", [False, True])
def test_counts_over_many_blocks(dtype, fortran):
    rng = np.random.default_rng(3)
    delta = rng.random((3, 41, 37, 53)).astype(dtype)
    baseline = rng.random((3, 41, 37, 53)) < 0.4
    if fortran:
        delta, baseline = (
            np.ascontiguousarray(a.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1) for a in (delta, baseline)
        )
    ours = flip_and_decode(delta, baseline, (0.9, 0.8, 0.7), (2, 1, 4), threads=3)
    labels = ours.labels
    assert labels.flags.f_contiguous == fortran
    assert ours.voxels.tolist() == [np.isin(labels, v).sum() for v in ((1, 2, 4), (1, 4), (4,))]
    np.testing.assert_array_equal(labels, reference.flip_and_decode(delta, baseline, (0.9, 0.8, 0.7), (2, 1, 4)).labels)


def test_read_only_and_empty_volumes():
    delta, baseline = np.zeros((3, 2, 2, 2), np.float32), np.ones((3, 2, 2, 2), bool)
    delta.flags.writeable = baseline.flags.writeable = False
    assert (flip_and_decode(delta, baseline, (0.5,) * 3, VALUES).labels == 3).all()
    empty = flip_and_decode(delta[:, :0], baseline[:, :0], (0.5,) * 3, VALUES)
    assert empty.labels.shape == (0, 2, 2)
    assert empty.voxels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"delta": np.zeros((3, 2, 2, 2))}, TypeError, "float64"),
        ({"baseline": np.zeros((3, 2, 2, 2), np.int32)}, TypeError, "int32"),
        ({"baseline": np.zeros((3, 2, 2, 3), bool)}, ValueError, r"\(3, 2, 2, 3\)"),
        ({"delta": np.zeros((2, 2, 2, 2), np.float32)}, ValueError, r"\(2, 2, 2, 2\)"),
        ({"thresholds": (0.5, 0.5)}, ValueError, "thresholds"),
        ({"thresholds": (0.5, np.nan, 0.5)}, ValueError, "thresholds"),
        ({"label_values": (2, 2, 3)}, ValueError, "label values"),
        ({"label_values": (2, 1, 256)}, ValueError, "label values"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_bad_input(changes, error, words):
    arguments = {
        "delta": np.zeros((3, 2, 2, 2), np.float32),
        "baseline": np.zeros((3, 2, 2, 2), bool),
        "thresholds": (0.5, 0.5, 0.5),
        "label_values": VALUES,
        "threads": 1,
    } | changes
    with pytest.raises(error, match=words):
        flip_and_decode(**arguments)


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=4, max_side=6), elements=st.integers(0, 1)), st.integers(0, 99))
def test_flip_masks_is_eq_5(baseline, seed):
    delta = np.random.default_rng(seed).random(baseline.shape) < 0.5
    expected = np.abs(baseline.astype(int) - delta.astype(int))
    refined = flip_masks(baseline, delta)
    assert refined.dtype == np.uint8
    np.testing.assert_array_equal(refined, expected)
    np.testing.assert_array_equal(flip_masks(np.asfortranarray(baseline), delta), expected)
    np.testing.assert_array_equal(flip_masks(baseline[::-1], delta[::-1]), expected[::-1])
    np.testing.assert_array_equal(reference.flip_masks(baseline, delta), expected)


def test_flip_masks_bad_input():
    with pytest.raises(TypeError, match="float32"):
        flip_masks(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        flip_masks(np.zeros((2, 2), bool), np.zeros((2, 3), bool))
