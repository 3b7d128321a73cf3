"""Random windows and their augmentation."""

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from rediffinet.training.config import Augmentation
from rediffinet.training.sampling import augment_intensity, augment_space, cut, random_start, random_voxel, transplant

STILL = Augmentation(flip_axes=(), affine=0.0, gamma=0.0, gain=0.0, noise=0.0)
sizes = st.tuples(*[st.integers(1, 40)] * 3)


def changed(**values: object) -> Augmentation:
    return Augmentation.model_validate({**STILL.model_dump(), **values})


@settings(deadline=None, max_examples=200)
@given(shape=sizes, window=sizes, seed=st.integers(0, 10_000), data=st.data())
def test_the_window_holds_the_chosen_voxel(
    shape: tuple[int, int, int], window: tuple[int, int, int], seed: int, data: st.DataObject
) -> None:
    inside = np.array([data.draw(st.integers(0, size - 1)) for size in shape])
    start = random_start(np.random.default_rng(seed), shape, window, inside)
    for first, width, voxel, size in zip(start, window, inside, shape, strict=True):
        assert first <= voxel < first + width
        # as much of the volume as fits, and padding only where the window is larger
        assert min(0, size - width) <= first <= max(0, size - width)


def test_every_possible_start_is_drawn() -> None:
    rng = np.random.default_rng(0)
    free = {random_start(rng, (6, 3, 4), (4, 5, 4)) for _ in range(300)}
    assert free == {(x, y, 0) for x in range(3) for y in range(-2, 1)}
    held = {random_start(rng, (20, 3, 4), (4, 3, 4), np.array([1, 0, 0])) for _ in range(100)}
    assert held == {(0, 0, 0), (1, 0, 0)}


def test_random_voxel_is_uniform_over_the_mask() -> None:
    mask = np.zeros((5, 6, 7), bool)
    wanted = {(0, 0, 0), (4, 5, 6), (2, 3, 1)}
    for voxel in wanted:
        mask[voxel] = True
    rng = np.random.default_rng(1)
    drawn = [tuple(int(i) for i in random_voxel(rng, mask)) for _ in range(600)]  # type: ignore[union-attr]
    assert set(drawn) == wanted
    assert all(150 < drawn.count(voxel) < 250 for voxel in wanted)
    assert random_voxel(rng, np.zeros((3, 3, 3), bool)) is None


def test_cut_pads_with_the_fill() -> None:
    volume = np.arange(2 * 3 * 3 * 3, dtype=np.float16).reshape(2, 3, 3, 3)
    window = cut(volume, (-1, 0, 1), (3, 3, 3), -1.0)
    assert window.dtype == torch.float32
    expected = np.full((2, 3, 3, 3), -1.0)
    expected[:, 1:, :, :2] = volume[:, :2, :, 1:]
    np.testing.assert_array_equal(window.numpy(), expected)


def marked(window: tuple[int, int, int], voxel: tuple[int, int, int], radius: float = 3.0) -> tuple[Tensor, Tensor]:
    """An image (4, …) and masks (3, …) with the same ball in both, on a background of −1."""
    axes = np.meshgrid(*[np.arange(n) for n in window], indexing="ij")
    ball = sum((axis - centre) ** 2 for axis, centre in zip(axes, voxel, strict=True)) <= radius**2
    ball = torch.from_numpy(ball.astype(np.float32))
    return (2.0 * ball - 1.0).repeat(4, 1, 1, 1), ball.repeat(3, 1, 1, 1)


def centre(weights: Tensor) -> np.ndarray:
    """Centre of mass relative to the middle of the window, in voxels."""
    grids = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in weights.shape], indexing="ij")
    values = weights.numpy()
    return np.array([(grid * values).sum() / values.sum() for grid in grids])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_mirror_image_and_masks_along_their_axis_half_of_the_time(axis: int) -> None:
    image, masks = marked((16, 20, 24), (4, 5, 6))
    flipped = 0
    for seed in range(40):
        got, labels = augment_space(np.random.default_rng(seed), changed(flip_axes=(axis,)), image, masks, -1.0)
        mirrored = np.flip(masks.numpy(), axis + 1)
        if np.array_equal(labels.numpy(), mirrored):
            flipped += 1
            np.testing.assert_array_equal(got.numpy(), np.flip(image.numpy(), axis + 1))
        else:
            assert torch.equal(labels, masks) and torch.equal(got, image)
    assert 8 <= flipped <= 32


def test_several_axes_flip_independently() -> None:
    image, masks = marked((16, 20, 24), (4, 5, 6))
    places = set()
    for seed in range(80):
        _, labels = augment_space(np.random.default_rng(seed), changed(flip_axes=(0, 1, 2)), image, masks, -1.0)
        places.add(tuple(np.sign(centre(labels[0])).astype(int)))
    assert len(places) == 8


@pytest.mark.parametrize("seed", range(12))
def test_rotation_and_scaling_keep_image_and_masks_together(seed: int) -> None:
    window, voxel = (48, 64, 40), (33, 22, 27)  # sides differ: a rotation in normalised coordinates would shear
    image, masks = marked(window, voxel)
    rule = changed(affine=1.0, rotation_degrees=20.0, scaling=0.2)
    turned, labels = augment_space(np.random.default_rng(seed), rule, image, masks, -1.0)
    assert set(torch.unique(labels).tolist()) == {0.0, 1.0}
    before, after = centre(masks[0]), centre(turned[0] + 1.0)
    np.testing.assert_allclose(centre(labels[0]), after, atol=0.5)  # the mask is cut at whole voxels
    # the ball moves as a rigid turn about the third axis and one scale would move it
    scale = after[2] / before[2]
    assert 0.8 - 0.02 <= scale <= 1.2 + 0.02
    assert np.hypot(*after[:2]) / np.hypot(*before[:2]) == pytest.approx(scale, abs=0.02)
    angle = math.degrees(math.atan2(after[1], after[0]) - math.atan2(before[1], before[0]))
    assert abs((angle + 180) % 360 - 180) <= 20.5
    # and grows with the scale, in all directions alike
    assert float(labels[0].sum() / masks[0].sum()) == pytest.approx(scale**3, rel=0.25)
    extent = [int(labels[0].any(dim=d1).any(dim=d2).sum()) for d1, d2 in ((2, 1), (2, 0), (1, 0))]
    assert max(extent) - min(extent) <= 2


def test_rotation_goes_both_ways_and_scaling_too() -> None:
    image, masks = marked((48, 64, 40), (33, 22, 27))
    rule = changed(affine=1.0, rotation_degrees=20.0, scaling=0.2)
    after = [centre(augment_space(np.random.default_rng(seed), rule, image, masks, -1.0)[1][0]) for seed in range(12)]
    before = centre(masks[0])
    turns = [before[0] * place[1] - before[1] * place[0] for place in after]
    assert min(turns) < 0 < max(turns)
    assert min(place[2] for place in after) < before[2] < max(place[2] for place in after)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rotation_about_an_axis_leaves_that_coordinate(axis: int) -> None:
    image, masks = marked((48, 48, 48), (33, 18, 29))
    rule = changed(affine=1.0, rotation_axes=(axis,), rotation_degrees=25.0, scaling=0.0)
    before, others = centre(masks[0]), [other for other in range(3) if other != axis]
    turns = []
    for seed in range(8):
        after = centre(augment_space(np.random.default_rng(seed), rule, image, masks, -1.0)[0][0] + 1.0)
        assert after[axis] == pytest.approx(before[axis], abs=0.1)
        assert np.hypot(*after[others]) == pytest.approx(np.hypot(*before[others]), rel=0.02)
        turns.append(math.degrees(np.arctan2(*after[others]) - np.arctan2(*before[others])))
    assert min(turns) < 0 < max(turns) and max(map(abs, turns)) <= 25.5


def test_rotation_about_all_axes_is_rigid() -> None:
    image, masks = marked((48, 48, 48), (33, 18, 29))
    rule = changed(affine=1.0, rotation_axes=(0, 1, 2), rotation_degrees=25.0, scaling=0.0)
    before, moves = centre(masks[0]), []
    for seed in range(6):
        after = centre(augment_space(np.random.default_rng(seed), rule, image, masks, -1.0)[0][0] + 1.0)
        assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before), rel=0.02)
        moves.append(np.abs(after - before))
    assert (np.max(moves, axis=0) > 1.0).all()


def test_rotation_brings_background_into_the_corners() -> None:
    image = torch.full((4, 24, 24, 16), 0.5)
    turned, _ = augment_space(
        np.random.default_rng(3), changed(affine=1.0, rotation_degrees=40.0), image, torch.ones(3, 24, 24, 16), -1.0
    )
    assert turned.min() == -1.0 and turned.max() == pytest.approx(0.5)


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 5.0)])
def test_intensities_stay_in_range_and_background_stays_background(limits: tuple[float, float]) -> None:
    low, high = limits
    image = torch.rand(4, 12, 12, 12, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    image[:, :4] = low
    image[0, 4:6] = low  # background of one contrast, brain of the others
    original = image.clone()
    rule = changed(gamma=1.0, gain=1.0, noise=1.0)
    for seed in range(10):
        got = augment_intensity(np.random.default_rng(seed), rule, image, limits, low)
        assert got.min() >= low and got.max() <= high
        assert (got[:, :4] == low).all()
        assert not torch.equal(got[:, 4:], original[:, 4:])
    assert torch.equal(image, original)  # the case in memory is not touched


def test_gamma_keeps_the_order_and_the_ends_of_the_range() -> None:
    ramp = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4).repeat(4, 1, 1, 1)
    got = augment_intensity(np.random.default_rng(0), changed(gamma=1.0), ramp, (-1.0, 1.0), -5.0)
    for contrast in got:
        flat = contrast.flatten()
        assert (flat.diff() > 0).all() and flat[0] == -1.0 and flat[-1] == pytest.approx(1.0)
    assert len({float(contrast[2, 2, 2]) for contrast in got}) == 4  # each contrast its own


def test_a_dropped_contrast_is_empty_and_the_others_stay() -> None:
    image = torch.rand(4, 6, 6, 6)
    seen = set()
    for seed in range(30):
        got = augment_intensity(np.random.default_rng(seed), changed(drop_contrast=0.5), image, (-1.0, 1.0), -1.0)
        for channel in range(4):
            dropped = bool((got[channel] == -1.0).all())
            seen.add((channel, dropped))
            if not dropped:
                torch.testing.assert_close(got[channel], image[channel])
    assert len(seen) == 8


def test_the_strength_of_a_bias_field_is_the_deviation_of_its_logarithm() -> None:
    image = torch.full((4, 9, 9, 9), 0.2)
    for strength in (0.05, 0.2):
        rule = changed(bias_field=1.0, bias_strength=strength)
        got = [augment_intensity(np.random.default_rng(seed), rule, image, (0.0, 5.0), -1.0) for seed in range(40)]
        corners = torch.stack(got)[..., ::8, ::8, ::8]  # at the nodes of the field, where nothing is interpolated
        assert float(torch.log(corners / 0.2).std()) == pytest.approx(strength, rel=0.1)


def test_thick_slices_blur_along_one_axis_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    profile = torch.rand(24, generator=generator)
    axes_seen = set()
    for seed in range(12):
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = 24
            image = profile.reshape(shape).expand(24, 24, 24).repeat(4, 1, 1, 1)
            rule = changed(thick_slices=1.0)
            got = augment_intensity(np.random.default_rng(seed), rule, image, (-1.0, 1.0), -2.0)
            for channel, contrast in enumerate(got):
                if torch.allclose(contrast, image[channel], atol=1e-5):
                    continue  # the slices are along another axis, along which nothing changes
                axes_seen.add((channel, axis))
                rough, smooth = (float(c.diff(dim=axis).abs().mean()) for c in (image[channel], contrast))
                assert smooth < 0.8 * rough
    assert axes_seen == {(channel, axis) for channel in range(4) for axis in range(3)}


def test_a_contrast_is_cut_off_at_one_end_of_the_brain() -> None:
    image = torch.rand(4, 40, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    image[:, :6] = image[:, -4:] = image[:, :, :2] = -1.0
    brain = (image != -1.0).any(0)
    ends = set()
    for seed in range(40):
        got = augment_intensity(np.random.default_rng(seed), changed(cut_off=1.0), image, (-1.0, 1.0), -1.0)
        for before, after in zip(image, got, strict=True):
            changed_voxels = torch.nonzero((after - before).abs() > 1e-5)
            first, last = changed_voxels.min(0).values, changed_voxels.max(0).values + 1
            box = torch.tensor([[6, 2, 0], [36, 40, 40]])
            narrow = [axis for axis in range(3) if int(last[axis] - first[axis]) < int(box[1, axis] - box[0, axis]) - 1]
            assert len(narrow) == 1
            axis = narrow[0]
            length = int(box[1, axis] - box[0, axis])
            assert 1 <= int(last[axis] - first[axis]) <= round(length / 4)
            at_start = int(first[axis]) == int(box[0, axis])
            assert at_start or int(last[axis]) == int(box[1, axis])
            value = after[tuple(changed_voxels[0])]
            assert float(value) == -1.0 or float(value) == pytest.approx(float(before[brain].min()), abs=1e-5)
            ends.add((axis, at_start, float(value) == -1.0))
    assert len(ends) == 12
    empty = torch.full((4, 8, 8, 8), -1.0)
    got = augment_intensity(np.random.default_rng(0), changed(cut_off=1.0), empty, (-1.0, 1.0), -1.0)
    assert torch.equal(got, empty)


def test_a_transplanted_tumour_comes_with_its_rim_and_its_masks() -> None:
    image, masks = marked((40, 40, 40), (20, 22, 18), radius=5.0)
    donor = (image * 0.5 + 2.0, masks)  # 2.5 in the tumour, 1.5 around it
    host_image, host_masks = torch.zeros(4, 40, 40, 40), torch.zeros(3, 40, 40, 40)
    host_image[:, :4] = -1.0
    host_masks[0, 8:12, 8:12, 8:12] = 1.0
    host_masks[0, 20, 22, 18] = 1.0
    host = (host_image.clone(), host_masks.clone())
    rims = set()
    own = masks[0].numpy() == 0
    inside, away = ~ndimage.binary_dilation(own), ndimage.distance_transform_cdt(own)
    for seed in range(60):
        got, labels = transplant(np.random.default_rng(seed), donor, host, -1.0)
        assert (got[:, inside] == donor[0][:, inside]).all()
        assert torch.equal(labels[:, ~own], masks[:, ~own])
        assert torch.equal(labels[:, own], host_masks[:, own]), "the host's own tumour stays"
        assert (got[:, :4] == -1.0).all(), "nothing outside the brain"
        rims.add(int(away[(got[0] != host_image[0]).numpy()].max()))
    assert rims == {2, 3, 4, 5, 6}
    assert torch.equal(host[0], host_image) and torch.equal(host[1], host_masks), "the case in memory is not touched"
    healthy = (donor[0], torch.zeros_like(masks))
    assert transplant(np.random.default_rng(0), healthy, host, -1.0) is host


def test_a_standardised_contrast_keeps_its_mean_and_deviation_whatever_is_done_to_it() -> None:
    image = torch.randn(4, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    image[:, :4] = 0.0
    brain = image[0] != 0.0
    rule = changed(gamma=1.0, gain=1.0, bias_field=1.0, blur=0.5, noise=0.5)
    for seed in range(6):
        got = augment_intensity(np.random.default_rng(seed), rule, image, (-4.0, 6.0), 0.0, standardised=True)
        assert (got[:, ~brain] == 0.0).all()
        for before, after in zip(image, got, strict=True):
            assert not torch.equal(before, after)
            torch.testing.assert_close(after[brain].mean(), before[brain].mean(), atol=2e-2, rtol=0)
            torch.testing.assert_close(after[brain].std(), before[brain].std(), atol=2e-2, rtol=0)
    dropped = augment_intensity(
        np.random.default_rng(0), changed(drop_contrast=1.0), image, (-4.0, 6.0), 0.0, standardised=True
    )
    assert dropped.abs().max() < 1e-5, "a contrast that is not there is all background"
    empty = augment_intensity(
        np.random.default_rng(0), rule, torch.zeros_like(image), (-4.0, 6.0), 0.0, standardised=True
    )
    assert (empty == 0.0).all(), "a window without brain"


def test_nothing_changes_when_all_is_off() -> None:
    image, masks = marked((8, 8, 8), (4, 4, 4))
    rng = np.random.default_rng(0)
    got, labels = augment_space(rng, STILL, image, masks, -1.0)
    torch.testing.assert_close(augment_intensity(rng, STILL, got, (-1.0, 1.0), -1.0), image)
    assert torch.equal(labels, masks)
