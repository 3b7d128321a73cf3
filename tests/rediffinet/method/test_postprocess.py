"""Small components, against scipy.ndimage."""

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.method.postprocess import (
    dissolve_small_parts,
    enhancing_confidence,
    enhancing_to_core,
    remove_small_components,
)
from rediffinet.task import TASKS


def blobs() -> np.ndarray:
    """Components of 60, 18 and 4 voxels, and one of 2 that touches the 4 at a corner."""
    labels = np.zeros((16, 14, 12), np.uint8)
    labels[1:5, 1:4, 1:6] = 2
    labels[2, 2, 2:4] = (1, 3)
    labels[8:11, 8:10, 1:4] = 1
    labels[12, 12, 5:9] = 3
    labels[13, 13, 9:11] = 2
    return labels


@pytest.mark.parametrize(
    ("connectivity", "min_voxels", "min_fraction", "left"),
    [
        (26, 0, 0.0, {60, 18, 6}),
        (26, 6, 0.0, {60, 18, 6}),
        (6, 6, 0.0, {60, 18}),
        (6, 3, 0.0, {60, 18, 4}),
        (26, 0, 0.3, {60, 18}),
        (26, 0, 0.31, {60}),
        (26, 18, 0.05, {60, 18}),
        (26, 61, 0.0, set()),
    ],
)
def test_limits(connectivity: int, min_voxels: int, min_fraction: float, left: set[int]) -> None:
    labels = blobs()
    before = labels.copy()
    kept, removed = remove_small_components(
        labels, connectivity=connectivity, min_voxels=min_voxels, min_fraction=min_fraction
    )
    structure = ndimage.generate_binary_structure(3, {6: 1, 26: 3}[connectivity])
    components, _ = ndimage.label(kept > 0, structure)
    assert set(np.bincount(components.ravel())[1:].tolist()) == left
    assert np.array_equal(kept[kept > 0], before[kept > 0])
    assert removed == np.count_nonzero(before) - np.count_nonzero(kept)
    assert np.array_equal(labels, before)  # the input is not touched
    assert kept.dtype == np.uint8


def test_components_are_of_the_whole_tumour_not_of_each_label() -> None:
    labels = np.zeros((6, 6, 6), np.uint8)
    labels[1:4, 1, 1] = (2, 1, 2)
    assert remove_small_components(labels, connectivity=6, min_voxels=3, min_fraction=0.0)[1] == 0


def test_an_empty_map_stays_empty() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    kept, removed = remove_small_components(empty, connectivity=26, min_voxels=50, min_fraction=0.5)
    assert not kept.any()
    assert removed == 0


@pytest.mark.parametrize("name", ["glioma-2023", "glioma-2021", "glioma-post-2024"])
def test_enhancing_tumour_as_a_whole(name: str) -> None:
    task = TASKS[name]
    ed, ncr, et = task.paint[:3]
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0], labels[1], labels[2, :2] = ed, ncr, et
    probability = np.zeros((len(task.regions), 4, 4, 4), np.float32)
    probability[2] = np.linspace(0, 1, 64, dtype=np.float32).reshape(4, 4, 4)
    assert enhancing_confidence(labels, probability, task) == pytest.approx(np.mean(np.arange(32, 40) / 63))
    called, voxels = enhancing_to_core(labels, task)
    assert voxels == 8 and (called[2, :2] == ncr).all() and not (called == et).any()
    assert np.array_equal(called[:2], labels[:2]) and not called[3].any()
    assert enhancing_confidence(called, probability, task) == 1.0, "nothing is called, nothing is doubted"
    assert enhancing_to_core(called, task)[1] == 0


@pytest.mark.parametrize("name", ["glioma-2023", "glioma-post-2024", "meningioma-2023"])
@pytest.mark.parametrize("least", [0, 8, 40])
def test_small_parts_are_called_what_is_around_them(name: str, least: int) -> None:
    """Against SciPy, region by region: its largest part stays, and all that are not small."""
    task = TASKS[name]
    rng = np.random.default_rng(3)
    labels = np.zeros((40, 36, 32), np.uint8)
    labels[4:36, 4:32, 4:28] = task.paint[0]
    for index, parent in enumerate(task.parents):
        for size in (1, 2, 3, 4, 7):
            if parent >= 0:
                at = tuple(int(rng.integers(5, 20)) for _ in range(3))
                labels[tuple(slice(a, a + size) for a in at)] = task.paint[index]
    found, changed = dissolve_small_parts(labels, task, least)
    assert changed == np.count_nonzero(found != labels) and (changed > 0) == (least > 1)
    assert np.array_equal(found > 0, labels > 0)
    expected = labels.copy()
    for index in range(len(task.parents) - 1, -1, -1):
        if task.parents[index] < 0:
            continue
        parts, count = ndimage.label(np.isin(expected, task.regions[index].labels), np.ones((3, 3, 3)))
        sizes = [int((parts == part).sum()) for part in range(1, count + 1)]
        for part, size in enumerate(sizes, 1):
            if size < least and part - 1 != int(np.argmax(sizes)):
                expected[parts == part] = task.paint[task.parents[index]]
    assert np.array_equal(found, expected)


def test_the_only_part_of_a_region_stays_however_small() -> None:
    task = TASKS["glioma-2023"]
    labels = np.full((9, 9, 9), 2, np.uint8)
    labels[4, 4, 4] = 3
    assert np.array_equal(dissolve_small_parts(labels, task, 50)[0], labels)
    labels[7, 7, 7] = 3
    found, changed = dissolve_small_parts(labels, task, 50)
    assert changed == 1 and found[4, 4, 4] == 3 and found[7, 7, 7] == 2
