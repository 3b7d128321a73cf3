"""The picture, pixel by pixel, for a label map made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from rediffinet.io.preview import BAR, BASELINE_COLOUR, REFINED_COLOUR, lesion_centre, render_preview, shading
from rediffinet.segmenter import Result, Segmenter

SHAPE = (20, 26, 16)
X, Y, Z = 9, 14, 6  # where the planes must go


def labels(low: tuple[int, int, int], high: tuple[int, int, int], core: tuple[int, int, int]) -> np.ndarray:
    """A box of edema, in it a core of necrosis around one enhancing voxel."""
    out = np.zeros(SHAPE, np.uint8)
    out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 2
    out[tuple(slice(c - 1, c + 2) for c in core)] = 1
    out[core] = 3
    return out


@pytest.fixture
def result(toy_bundle: Any, toy_case: Any) -> Result:
    """A result with arrays of our own; the largest cross-sections of its lesion are through (X, Y, Z)."""
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        made = segmenter.segment(toy_case)
    image = np.full((4, *SHAPE), -1, np.float32)
    refined = labels((6, 10, 4), (13, 19, 9), (8, 13, 6))
    for at in ((X, Y, 9), (X, Y, 3), (X, 9, Z), (5, Y, Z)):  # one voxel more in each plane through the point
        refined[at] = 2
    return replace(
        made,
        crop_image=image,
        crop_labels=refined,
        crop_baseline=labels((4, 9, 5), (11, 17, 10), (8, 13, 6)),
        crop_probability=np.zeros((3, *SHAPE), np.float32),
        crop_uncertainty=np.zeros(SHAPE, np.float32),
    )


def tiles(picture: Image.Image) -> list[list[np.ndarray]]:
    """The nine tiles by row and column, cut at the documented layout: twofold, a bar above each row."""
    pixels = np.asarray(picture)
    sizes = [(SHAPE[0], SHAPE[1]), (SHAPE[0], SHAPE[2]), (SHAPE[1], SHAPE[2])]  # width, height of each plane
    height = 2 * max(h for _, h in sizes)
    rows = []
    for row in range(3):
        top, left, tile = BAR + row * (height + BAR), 0, []
        for w, h in sizes:
            tile.append(pixels[top : top + 2 * h, left : left + 2 * w])
            left += 2 * w
        rows.append(tile)
    return rows


def planes(volume: np.ndarray) -> list[np.ndarray]:
    """Axial, coronal, sagittal as a radiologist sees them, element by element from an LPS volume."""
    nx, ny, nz = SHAPE
    axial = [[volume[x, y, Z] for x in range(nx)] for y in range(ny)]
    coronal = [[volume[x, Y, nz - 1 - row] for x in range(nx)] for row in range(nz)]
    sagittal = [[volume[X, y, nz - 1 - row] for y in range(ny)] for row in range(nz)]
    return [np.array(plane) for plane in (axial, coronal, sagittal)]


def outline(mask: np.ndarray) -> np.ndarray:
    big = np.kron(mask, np.ones((2, 2))).astype(bool)
    return big & ~ndimage.binary_erosion(big)


def contours(label_map: np.ndarray) -> np.ndarray:
    return outline(label_map > 0) | outline((label_map == 1) | (label_map == 3))


def coloured(tile: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (tile == colour).all(axis=-1)


def test_size_and_mode(result: Result) -> None:
    picture = render_preview(result)
    assert picture.mode == "RGB"
    assert picture.size == (2 * (20 + 20 + 26), 3 * 2 * 26 + 4 * BAR)


def test_outlines_are_on_the_edge_of_the_labels(result: Result) -> None:
    for row in tiles(render_preview(result)):
        for tile, refined, baseline in zip(row, planes(result.crop_labels), planes(result.crop_baseline), strict=True):
            on_top = contours(refined)
            assert np.array_equal(coloured(tile, REFINED_COLOUR), on_top)
            assert np.array_equal(coloured(tile, BASELINE_COLOUR), contours(baseline) & ~on_top)
            assert (contours(baseline) & ~on_top).any()


@pytest.mark.parametrize(("row", "channel"), [(0, 1), (1, 3)])
def test_left_is_right_and_up_is_front_or_top(result: Result, row: int, channel: int) -> None:
    """One bright voxel per plane, at the patient's left, front and top: LPS indices 18, 1 and 14."""
    image = result.crop_image.copy()
    for at in ((18, 1, Z), (18, Y, 14), (X, 1, 14)):
        image[(channel, *at)] = 1
    axial, coronal, sagittal = (
        {tuple(at) for at in np.argwhere((tile == 255).all(axis=-1)) // 2}
        for tile in tiles(render_preview(replace(result, crop_image=image)))[row]
    )
    assert axial == {(1, 18)}  # row, column: front at the top, the patient's left on the right
    assert coronal == {(1, 18)}
    assert sagittal == {(1, 1)}  # front on the left
    others = [r for r in range(2) if r != row]
    assert not any((tile == 255).all(axis=-1).any() for r in others for tile in tiles(render_preview(result))[r])


def test_uncertainty_is_brighter_where_larger(result: Result) -> None:
    wrong = np.zeros(SHAPE, np.float32)
    wrong[:, 0, :] = np.linspace(0, 0.5, SHAPE[0])[:, None]
    axial = tiles(render_preview(replace(result, crop_uncertainty=wrong)))[2][0]
    brightness = axial[0, ::2].astype(int).sum(axis=-1)
    assert brightness[0] == 0
    assert brightness[-1] > 500
    assert (np.diff(axial[0, ::2, 0].astype(int)) > 0).all()


def test_planes_go_through_the_largest_lesion() -> None:
    many = np.zeros((30, 20, 20), np.uint8)
    many[2:4, 2:4, 2:4] = 3
    many[20:25, 10:13, 5:8] = 2
    many[22, 9:15, 6] = 1
    assert lesion_centre(many) == (22, 10, 6)
    assert lesion_centre(np.zeros((30, 20, 10), np.uint8)) == (15, 10, 5)


def test_a_lesion_that_the_refinement_removed_is_still_shown(result: Result) -> None:
    removed = replace(result, crop_labels=np.zeros(SHAPE, np.uint8))
    axial = tiles(render_preview(removed))[0][0]
    assert not coloured(axial, REFINED_COLOUR).any()
    assert coloured(axial, BASELINE_COLOUR).any()


def test_without_any_lesion_there_is_a_picture_without_outlines(result: Result) -> None:
    none = np.zeros(SHAPE, np.uint8)
    for row in tiles(render_preview(replace(result, crop_labels=none, crop_baseline=none))):
        for tile in row:
            assert not coloured(tile, REFINED_COLOUR).any()
            assert not coloured(tile, BASELINE_COLOUR).any()


def test_without_a_baseline_there_is_one_outline(result: Result) -> None:
    alone = replace(result, crop_baseline=None)
    for row in tiles(render_preview(alone)):
        for tile, labels_ in zip(row, planes(result.crop_labels), strict=True):
            assert np.array_equal(coloured(tile, REFINED_COLOUR), contours(labels_))
            assert not coloured(tile, BASELINE_COLOUR).any()


def test_around_the_brain_is_black_and_a_single_bright_voxel_takes_no_contrast() -> None:
    image = np.zeros((20, 20, 20), np.float32)  # zero lies in the middle of normalised intensities
    image[2:18, 2:18, 2:18] = np.random.default_rng(0).normal(0.0, 1.0, (16, 16, 16))
    image[5, 5, 5] = 1000.0
    grey = shading(image)(image)
    around = np.ones(image.shape, bool)
    around[2:18, 2:18, 2:18] = False
    assert not grey[around].any()
    assert 110 < np.median(grey[~around]) < 145 and grey[5, 5, 5] == 255
