"""Flip-and-decode against its numpy twin and against hand-made truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rediffinet.ext import flip_and_decode, reference

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
def forests(draw):
    """Label values and parents of 1 to 8 regions: chains, lone trees, brothers, all that lists parents first."""
    parents = [draw(st.integers(-1, k - 1)) for k in range(draw(st.integers(1, 8)))]
    values = draw(st.lists(st.integers(1, 255), min_size=len(parents), max_size=len(parents), unique=True))
    return tuple(values), tuple(parents)


@st.composite
def volumes(draw, regions=3):
    """Delta, baseline, thresholds and threads over dtypes, memory layouts and special values."""
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    seed = draw(st.integers(0, 2**32 - 1))
    layout = draw(st.sampled_from(["C", "F", "channels last", "strided", "reversed", "mixed"]))
    rng = np.random.default_rng(seed)
    full = (regions, *(2 * n for n in shape)) if layout == "strided" else (regions, *shape)
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
            *[st.floats(-2, 2, width=32) | st.sampled_from([0.0, -0.0, 0.5, np.inf, -np.inf, 1e-9, -1e-9, 7e4])]
            * regions
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


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_forest_equals_the_twin(data):
    values, parents = data.draw(forests())
    delta, baseline, thresholds, threads = data.draw(volumes(len(values)))
    ours = flip_and_decode(delta, baseline, thresholds, values, parents, threads=threads)
    twin = reference.flip_and_decode(delta, baseline, thresholds, values, parents)
    np.testing.assert_array_equal(ours.labels, twin.labels)
    np.testing.assert_array_equal(ours.voxels, twin.voxels)
    np.testing.assert_array_equal(ours.flipped, twin.flipped)


@settings(max_examples=100, deadline=None)
@given(forests(), st.integers(0, 2**32 - 1))
def test_any_forest_by_the_rule_itself(forest, seed):
    """Voxel by voxel in plain Python: the last region that has it, and whatever that lies in."""
    values, parents = forest
    rng = np.random.default_rng(seed)
    wrong, before = rng.random((2, len(values), 40)) < 0.4

    def winner(here):
        return max((k for k in range(len(values)) if here[k]), default=-1)

    def inside(k):
        return {k} | inside(parents[k]) if k >= 0 else set()

    ends = [(winner(before[:, v]), winner(before[:, v] ^ wrong[:, v])) for v in range(40)]
    shape = (len(values), 5, 2, 4)
    ours = flip_and_decode(
        wrong.reshape(shape).astype(np.float32), before.reshape(shape), [0.5] * len(values), values, parents
    )
    assert ours.labels.ravel().tolist() == [values[after] if after >= 0 else 0 for _, after in ends]
    for k in range(len(values)):
        assert ours.voxels[k] == sum(k in inside(after) for _, after in ends)
        assert ours.flipped[k] == sum((k in inside(was)) != (k in inside(after)) for was, after in ends)


@settings(max_examples=100, deadline=None)
@given(volumes())
def test_a_chain_is_nested_by_priority(volume):
    """What BraTS' three regions mean, written as set algebra rather than as painting."""
    delta, baseline, thresholds, _ = volume
    ours = flip_and_decode(delta, baseline, thresholds, VALUES)
    np.testing.assert_array_equal(ours.labels, flip_and_decode(delta, baseline, thresholds, VALUES, (-1, 0, 1)).labels)
    before = baseline != 0
    wt, tc, et = before ^ (delta.astype(np.float32) > np.asarray(thresholds, np.float32)[:, None, None, None])
    nested = np.stack([wt | tc | et, tc | et, et])
    np.testing.assert_array_equal(
        ours.labels, np.where(nested[2], 3, np.where(nested[1], 1, np.where(nested[0], 2, 0)))
    )
    nested_before = np.stack([before.any(axis=0), before[1] | before[2], before[2]])
    assert ours.voxels.tolist() == nested.sum(axis=(1, 2, 3)).tolist()
    assert ours.flipped.tolist() == (nested ^ nested_before).sum(axis=(1, 2, 3)).tolist()


def test_a_cavity_beside_the_tumour_by_hand():
    """WT, TC, ET and a region that is in none of them, over each other: what is painted later stays."""
    masks = np.array([[1, 1, 1, 0, 1], [0, 1, 1, 0, 0], [0, 0, 1, 0, 1], [0, 0, 1, 1, 0]], bool).reshape(4, 5, 1, 1)
    result = flip_and_decode(np.zeros(masks.shape, np.float32), masks, [0.5] * 4, (2, 1, 3, 4), (-1, 0, 1, -1))
    assert result.labels.ravel().tolist() == [2, 1, 4, 4, 3]
    assert result.voxels.tolist() == [3, 2, 1, 2]
    assert result.flipped.tolist() == [0, 0, 0, 0]


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
        (
            {"delta": np.zeros((0, 2, 2, 2), np.float32), "baseline": np.zeros((0, 2, 2, 2), bool)},
            ValueError,
            "R from 1",
        ),
        (
            {"delta": np.zeros((9, 2, 2, 2), np.float32), "baseline": np.zeros((9, 2, 2, 2), bool)},
            ValueError,
            "R from 1",
        ),
        ({"label_values": (2, 1)}, ValueError, "label values"),
        ({"parents": (-1, 0)}, ValueError, r"parents are \[-1, 0\]"),
        ({"parents": (-1, 2, 1)}, ValueError, "earlier"),
        ({"parents": (0, 0, 1)}, ValueError, "earlier"),
        ({"parents": (-2, 0, 1)}, ValueError, "earlier"),
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
