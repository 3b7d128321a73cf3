"""What becomes of a probability and a discrepancy, on the same voxels and on finer ones."""

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from rediffinet.bundle import open_bundle
from rediffinet.method.decode import decode
from rediffinet.method.inference import Inferred
from rediffinet.method.recipe import Recipe
from rediffinet.method.refine import Discrepancy

SHAPE = (10, 9, 8)
FINE = (20, 18, 16)
ONE = (1.0, 1.0, 1.0)
TWO = (2.0, 2.0, 2.0)


@pytest.fixture
def recipe_of(make_toy_bundle: Any) -> Any:
    """recipe_of(model, flip thresholds, baseline thresholds) at 2 mm."""

    def make(
        model: str = "rediffinet", flip: tuple[float, ...] = (0.5,) * 3, at: tuple[float, ...] = (0.5,) * 3
    ) -> Recipe:
        changes: dict[str, Any] = {"spacing_mm": TWO}
        if model != "unet":
            changes["decision"] = {"thresholds": flip}
        if model != "diff-unet":
            changes["baseline"] = {"thresholds": at}
        return open_bundle(make_toy_bundle(model=model, **changes).path).manifest.recipe

    return make


def smooth(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A soft field over [0, 1] with structures of a few voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(3, *shape)), (0, 1.5, 1.5, 1.5))
    return (1 / (1 + np.exp(-4 * noise / noise.std()))).astype(np.float32)


def found(delta: np.ndarray, sampled: np.ndarray | None = None) -> Discrepancy:
    reached = np.ones(delta.shape[1:], bool) if sampled is None else sampled
    return Discrepancy(delta * reached, np.zeros(delta.shape[1:], np.float32), reached, 1)


def up(values: np.ndarray) -> np.ndarray:
    """Twice as many voxels per axis: SciPy's linear interpolation between centres."""
    grown = [ndimage.zoom(v.astype(np.float64), 2, order=1, mode="nearest", grid_mode=True) for v in values]
    return np.stack(grown)


def labels_of(regions: np.ndarray) -> np.ndarray:
    wt, tc, et = regions
    return np.select([et, tc, wt], [3, 1, 2], 0)


def test_without_flips_both_maps_are_the_interpolated_probability(recipe_of: Any) -> None:
    p = smooth(0)
    done = decode(recipe_of(), Inferred(p, found(np.zeros_like(p))), spacing_mm=ONE, shape=FINE, postprocess=False)
    expected = up(p) > 0.5
    clear = (abs(up(p) - 0.5) > 1e-5).all(axis=0)
    assert np.array_equal(done.labels[clear], labels_of(expected)[clear])
    assert np.array_equal(done.baseline, done.labels)
    # the boundary is finer than the coarse voxels
    blocky = (p > 0.5).repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    assert (blocky != expected).any()


def test_a_flip_is_the_soft_flip(recipe_of: Any) -> None:
    p, delta = smooth(1), smooth(2)
    flip = (0.6, 0.5, 0.4)
    done = decode(recipe_of(flip=flip), Inferred(p, found(delta)), spacing_mm=ONE, shape=FINE, postprocess=False)
    f = delta > np.reshape(flip, (3, 1, 1, 1))
    r = up(abs(p.astype(np.float64) - f))
    clear = (abs(r - 0.5) > 1e-5).all(axis=0)
    assert np.array_equal(done.labels[clear], labels_of(r > 0.5)[clear])
    assert (done.labels != done.baseline).any()
    p_on_fine = up(p)
    clear = (abs(p_on_fine - 0.5) > 1e-5).all(axis=0)
    assert np.array_equal(done.baseline[clear], labels_of(p_on_fine > 0.5)[clear])


def test_of_a_hard_mask_it_is_equation_5(recipe_of: Any) -> None:
    """On voxels whose neighbours agree, where interpolation has nothing to say."""
    mask, delta = smooth(3) > 0.5, (smooth(4) > 0.5).astype(np.float32)
    done = decode(
        recipe_of(),
        Inferred(mask.astype(np.float32), found(delta)),
        spacing_mm=ONE,
        shape=FINE,
        postprocess=False,
    )
    refined = mask ^ (delta > 0.5)
    for region, name in enumerate(("WT", "TC", "ET")):
        same = ndimage.maximum_filter(refined[region], 3) == ndimage.minimum_filter(refined[region], 3)
        inner = same.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        big = refined[region].repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
        inside = done.probability[region] > 0.5
        assert inner.any(), name
        assert np.array_equal(inside[inner], big[inner]), name


@pytest.mark.parametrize("model", ["ua-diffusion-concat", "diff-unet"])
def test_a_predicted_segmentation_has_its_own_boundary(recipe_of: Any, model: str) -> None:
    p, x0 = smooth(5), smooth(6)
    mask = (p > 0.5) if model != "diff-unet" else np.zeros(p.shape, bool)
    sampled = np.zeros(SHAPE, bool)
    sampled[:6] = True
    if model == "diff-unet":
        sampled[:] = True
    inferred = Inferred(None if model == "diff-unet" else p, found(abs(mask - x0), sampled))
    done = decode(recipe_of(model), inferred, spacing_mm=ONE, shape=FINE, postprocess=False)
    r = up(np.where(sampled, x0, p))
    clear = (abs(r - 0.5) > 1e-5).all(axis=0)
    assert np.array_equal(done.labels[clear], labels_of(r > 0.5)[clear])
    assert (done.baseline is None) == (model == "diff-unet")


def test_thresholds_other_than_a_half_move_both_boundaries_alike(recipe_of: Any) -> None:
    """Where nothing is flipped the refined map is the baseline, whatever the baseline's threshold is."""
    p = smooth(7)
    at = (0.3, 0.5, 0.8)
    inferred = Inferred(p, found(np.zeros_like(p)))
    done = decode(recipe_of(at=at), inferred, spacing_mm=ONE, shape=FINE, postprocess=False)
    assert np.array_equal(done.labels, done.baseline)
    coarse = decode(recipe_of(at=at), inferred, spacing_mm=TWO, shape=SHAPE, postprocess=False)
    assert np.array_equal(coarse.labels, labels_of(p > np.reshape(at, (3, 1, 1, 1))))
    # voxels in the middle of a coarse plateau decide as the coarse ones do
    share = (done.labels == coarse.labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)).mean()
    assert share > 0.8


def test_a_given_mask_stays_to_the_voxel_where_nothing_is_flipped(recipe_of: Any) -> None:
    rng = np.random.default_rng(8)
    given = rng.random((3, *FINE)) > 0.5  # detail that no coarse voxel can hold
    given[1] &= given[0]
    given[2] &= given[1]
    coarse = given.reshape(3, 10, 2, 9, 2, 8, 2).mean(axis=(2, 4, 6)).astype(np.float32)
    delta = np.zeros_like(coarse)
    delta[:, 2, 4, 4] = 1.0
    done = decode(
        recipe_of(), Inferred(coarse, found(delta)), spacing_mm=ONE, shape=FINE, given=given, postprocess=True
    )
    assert np.array_equal(done.baseline, labels_of(given))
    changed = np.argwhere(done.labels != done.baseline)
    assert len(changed)
    assert (changed.min(axis=0) >= (3, 7, 7)).all() and (changed.max(axis=0) <= (6, 10, 10)).all()


def test_doubt_is_interpolated_and_the_probability_agrees_with_the_labels(recipe_of: Any) -> None:
    p, delta = smooth(9), 0.8 * smooth(10)
    done = decode(recipe_of(), Inferred(p, found(delta)), spacing_mm=ONE, shape=FINE, postprocess=False)
    mask = p > 0.5
    refined = abs(mask - delta.astype(np.float64))
    doubt = up(np.minimum(refined, 1 - refined))
    assert np.allclose(np.minimum(done.probability, 1 - done.probability), doubt, atol=1e-5)
    member = done.regions
    wrong = np.where(member, 1 - done.probability, done.probability).max(axis=0)
    assert np.allclose(done.uncertainty, wrong, atol=1e-6)
    nested = (done.probability[0] > 0.5) == member[0]
    assert done.uncertainty[nested].max() <= 1.0 and done.uncertainty.min() >= 0.0


def test_a_finer_model_than_the_case(recipe_of: Any) -> None:
    """Coming back to coarser voxels is an area mean."""
    p = smooth(11, FINE)
    recipe = recipe_of().model_copy(update={"spacing_mm": ONE})
    done = decode(recipe, Inferred(p, found(np.zeros_like(p))), spacing_mm=TWO, shape=SHAPE, postprocess=False)
    mean = p.astype(np.float64).reshape(3, 10, 2, 9, 2, 8, 2).mean(axis=(2, 4, 6))
    clear = (abs(mean - 0.5) > 1e-5).all(axis=0)
    assert np.array_equal(done.labels[clear], labels_of(mean > 0.5)[clear])


def test_a_baseline_alone_is_both_maps(recipe_of: Any) -> None:
    p = smooth(12)
    for spacing, shape in ((ONE, FINE), (TWO, SHAPE)):
        done = decode(recipe_of("unet"), Inferred(p, None), spacing_mm=spacing, shape=shape, postprocess=False)
        assert np.array_equal(done.labels, done.baseline)
        assert done.labels.any()


@pytest.mark.parametrize("fine", [False, True])
def test_enhancing_tumour_that_the_baseline_doubts_as_a_whole_is_core(recipe_of: Any, fine: bool) -> None:
    p, delta = smooth(1), smooth(2)
    spacing_mm, shape = (ONE, FINE) if fine else (TWO, SHAPE)
    soft = up(p)[2] if fine else p[2]

    def done(
        limit: float, *, given: np.ndarray | None = None, postprocess: bool = True, model: str = "rediffinet"
    ) -> Any:
        recipe = recipe_of(model)
        decision = recipe.decision.changed(unsure_enhancement=limit)
        inferred = Inferred(p if model == "rediffinet" else None, found(delta))
        return decode(
            recipe.with_decision(decision),
            inferred,
            spacing_mm=spacing_mm,
            shape=shape,
            given=given,
            postprocess=postprocess,
        )

    kept = done(0.0)
    sure = soft[kept.baseline == 3].mean()
    assert kept.enhancing_confidence == pytest.approx(sure, abs=1e-5)
    assert np.array_equal(done(sure - 1e-4).labels, kept.labels) and kept.unsure_voxels == 0
    called = done(sure + 1e-4)  # one decision for both maps
    assert np.array_equal(called.labels, np.where(kept.labels == 3, 1, kept.labels))
    assert np.array_equal(called.baseline, np.where(kept.baseline == 3, 1, kept.baseline))
    assert called.unsure_voxels == (kept.labels == 3).sum() > 0
    assert np.array_equal(called.regions[:2], kept.regions[:2]) and not called.regions[2].any()
    assert np.array_equal(done(1.0, postprocess=False).labels, kept.labels)
    # a mask made elsewhere does not say how sure it is
    assert done(1.0, given=kept.baseline_regions).regions[2].any()
    # without a baseline it is the model's own probability
    alone = done(0.0, model="diff-unet")
    mean = alone.probability[2][alone.labels == 3].mean()
    assert done(mean + 1e-4, model="diff-unet").unsure_voxels > 0 == done(mean - 1e-4, model="diff-unet").unsure_voxels


def two_lesions(doubt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p and Δ̂ at 2 mm with two lesions, ET in both, of which the smaller is doubted throughout; and where that is."""
    p = np.full((3, 20, 12, 12), 0.02, np.float32)
    first, second = np.zeros((2, 20, 12, 12), bool)
    first[2:8, 2:10, 2:10] = second[12:17, 3:9, 3:9] = True
    p[0, first | second] = 0.98
    p[1:, 3:7, 3:9, 3:9] = 0.96
    p[1:, 13:16, 4:8, 4:8] = 0.6
    return p, np.where(second, doubt, 0.01).astype(np.float32) * np.ones((3, 1, 1, 1), np.float32), second


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("model", ["rediffinet", "ua-diffusion-concat"])
def test_a_component_that_is_doubted_as_a_whole_is_left_out(recipe_of: Any, fine: bool, model: str) -> None:
    p, delta, second = two_lesions(0.3)
    spacing_mm, shape = (ONE, (40, 24, 24)) if fine else (TWO, (20, 12, 12))
    near = np.kron(second, np.ones((2, 2, 2), bool)) if fine else second

    def done(limit: float, *, doubt: np.ndarray = delta, min_enhancing: float = 0.0, given: Any = None) -> Any:
        recipe = recipe_of(model, flip=(0.5, 0.5, 1.0))  # ET is never flipped voxel by voxel
        recipe = recipe.with_decision(recipe.decision.changed(whole_components=limit, unsure_enhancement=min_enhancing))
        inferred = Inferred(p, found(doubt))
        return decode(recipe, inferred, spacing_mm=spacing_mm, shape=shape, given=given, postprocess=True)

    plain, whole = done(1.0), done(0.2)
    assert np.array_equal(whole.baseline, plain.baseline) and whole.baseline[near].any()
    assert plain.left_out_voxels == 0 and done(0.35).left_out_voxels == 0
    assert not whole.labels[near].any() and whole.left_out_voxels == np.count_nonzero(whole.baseline[near])
    assert np.array_equal(whole.labels[~near], plain.labels[~near])
    assert (whole.uncertainty[near].max() > 0.5) == (plain.uncertainty[near].max() < 0.5), "what goes is not sure to"
    # a lesion in both that is doubted stays
    assert done(0.2, doubt=np.full_like(delta, 0.3)).left_out_voxels == 0
    # the enhancing tumour of the one that stays is surer than that of both
    called = done(0.2, min_enhancing=plain.enhancing_confidence + 1e-3)
    assert not (called.baseline == 3).any() and (called.labels == 3).any()
    # a mask made elsewhere is refined alike
    regions = np.stack([plain.baseline > 0, np.isin(plain.baseline, (1, 3)), plain.baseline == 3])
    assert not done(0.2, given=regions).labels[near].any()


@pytest.mark.parametrize("fine", [False, True])
def test_adding_and_removing_have_thresholds_of_their_own(recipe_of: Any, fine: bool) -> None:
    p, delta = smooth(1), smooth(2)
    spacing_mm, shape = (ONE, FINE) if fine else (TWO, SHAPE)
    recipe = recipe_of()

    def done(**limits: tuple[float, ...]) -> Any:
        changed = recipe.with_decision(recipe.decision.changed(**limits))
        return decode(changed, Inferred(p, found(delta)), spacing_mm=spacing_mm, shape=shape, postprocess=False)

    never = (1.0,) * 3
    both = done()
    added, removed = done(removing=never), done(adding=never)
    assert (added.regions[0] >= both.baseline_regions[0]).all(), "nothing of the whole tumour goes"
    assert (added.regions[0] & ~both.baseline_regions[0]).any() and (
        both.baseline_regions[0] & ~removed.regions[0]
    ).any()
    if not fine:
        mask = p > 0.5
        flips = delta > np.where(mask, 0.7, 0.3)
        assert np.array_equal(done(adding=(0.3,) * 3, removing=(0.7,) * 3).labels, labels_of(mask ^ flips))


def test_a_given_mask_has_a_decision_of_its_own(recipe_of: Any) -> None:
    p, delta = smooth(1), smooth(2)
    recipe = recipe_of()
    given = p > 0.5
    unflipped = recipe.decision.changed(thresholds=(1.0,) * 3)
    both = recipe.model_copy(update={"given": unflipped})

    def labels(of: Recipe, mask: np.ndarray | None) -> np.ndarray:
        done = decode(of, Inferred(p, found(delta)), spacing_mm=TWO, shape=SHAPE, given=mask, postprocess=False)
        return done.labels

    assert np.array_equal(labels(both, given), labels_of(given)), "nothing of it is flipped"
    assert np.array_equal(labels(both, None), labels(recipe, None)), "the own baseline is decided as before"
    assert np.array_equal(labels(recipe, given), labels(recipe.with_decision(recipe.decision), given))
    assert not np.array_equal(labels(recipe, given), labels_of(given))


def test_flips_reach_no_farther_than_allowed(recipe_of: Any) -> None:
    """A slab of tumour, and Δ̂ that doubts every voxel: what changes is the rim, on both sides."""
    recipe = recipe_of().model_copy(update={"spacing_mm": ONE})
    recipe = recipe.with_decision(recipe.decision.changed(reach_mm=2.0, small_components={"min_voxels": 0}))
    p = np.full((3, 12, 10, 10), 0.1, np.float32)
    p[0, :6] = 0.9  # of core and enhancing tumour there is none, so nothing of them can be near
    done = decode(
        recipe, Inferred(p, found(np.full_like(p, 0.8))), spacing_mm=ONE, shape=p.shape[1:], postprocess=False
    )
    whole = done.labels > 0
    assert whole[:4].all() and not whole[4:6].any() and whole[6:8].all() and not whole[8:].any()
    assert not done.regions[1:].any()


def test_every_region_has_a_reach_of_its_own(recipe_of: Any) -> None:
    """The slab is of all three regions; each loses and gains a rim as wide as its own reach."""
    recipe = recipe_of().model_copy(update={"spacing_mm": ONE})
    decision = recipe.decision.changed(reach_mm=(1.0, 2.0, 4.0), small_components={"min_voxels": 0})
    recipe = recipe.with_decision(decision)
    p = np.full((3, 16, 10, 10), 0.1, np.float32)
    p[:, :8] = 0.9
    delta = np.where(p > 0.5, np.float32(0.8), np.float32(0.1))  # each only shrinks, so that none hides another
    done = decode(recipe, Inferred(p, found(delta)), spacing_mm=ONE, shape=p.shape[1:], postprocess=False)
    for region, reach in zip(done.regions, (1, 2, 4), strict=True):
        assert region[: 8 - reach].all() and not region[8 - reach :].any()
    assert "within 1, 2, 4 mm" in decision.described()
    with pytest.raises(ValueError, match="reach_mm has 2 distances for 3 regions"):
        decision.changed(reach_mm=(1.0, 2.0))


def test_small_parts_are_dissolved_in_both_maps_and_counted(recipe_of: Any) -> None:
    recipe = recipe_of().model_copy(update={"spacing_mm": ONE})
    recipe = recipe.with_decision(recipe.decision.changed(small_parts=9, small_components={"min_voxels": 0}))
    p = np.full((3, 14, 14, 14), 0.1, np.float32)
    p[0, 2:12, 2:12, 2:12] = p[1:, 3:7, 3:7, 3:7] = p[1:, 9:11, 9:11, 9:11] = 0.9
    inferred = Inferred(p, found(np.zeros_like(p)))
    done = decode(recipe, inferred, spacing_mm=ONE, shape=p.shape[1:], postprocess=True)
    assert done.dissolved_voxels == 8 and done.removed_voxels == 0
    for labels in (done.labels, done.baseline):
        assert (labels[3:7, 3:7, 3:7] == 3).all() and (labels[9:11, 9:11, 9:11] == 2).all()
    raw = decode(recipe, inferred, spacing_mm=ONE, shape=p.shape[1:], postprocess=False)
    assert raw.dissolved_voxels == 0 and (raw.labels[9:11, 9:11, 9:11] == 3).all()


@pytest.mark.parametrize("fine", [False, True])
def test_beyond_the_reach_the_uncertainty_is_the_baselines_wherever_windows_were(recipe_of: Any, fine: bool) -> None:
    """A slab of tumour; windows that hold no more than the reach, and windows that hold everything, say the same."""
    recipe = recipe_of() if fine else recipe_of().model_copy(update={"spacing_mm": ONE})
    reach = 4.0 if fine else 2.0  # two of the model's voxels
    recipe = recipe.with_decision(recipe.decision.changed(reach_mm=reach, small_components={"min_voxels": 0}))
    p = np.full((3, 12, 10, 10), 0.1, np.float32)
    p[0, :6] = 0.8
    delta = np.full_like(p, 0.4)
    near = np.zeros(p.shape[1:], bool)
    near[4:8] = True
    shape = tuple(2 * n for n in p.shape[1:]) if fine else p.shape[1:]
    of = {
        name: decode(recipe, Inferred(p, found(delta, where)), spacing_mm=ONE, shape=shape, postprocess=False)
        for name, where in (("near", near), ("everywhere", np.ones_like(near)))
    }
    assert np.array_equal(of["near"].labels, of["everywhere"].labels)
    for one in of.values():
        along = one.uncertainty[:, 8, 8]
        if fine:  # without the voxels at both ends of the reach, which are interpolated
            assert one.uncertainty.shape[0] == 24
            along = np.delete(along, [8, 15])[::2]
        np.testing.assert_allclose(along[:4], 0.2, atol=1e-6)
        np.testing.assert_allclose(along[4:7], 0.4, atol=1e-6)
        np.testing.assert_allclose(along[8:], 0.1, atol=1e-6)


@pytest.mark.parametrize("doubted", [0.1, 0.9])
def test_a_piece_too_small_stays_away_however_it_is_flipped(recipe_of: Any, doubted: float) -> None:
    """A false piece just under the limit, whose rim Δ̂ would make larger than it."""
    recipe = recipe_of().model_copy(update={"spacing_mm": ONE})
    limits = {"min_voxels": 30, "min_fraction": 0.0}
    p = np.full((3, 24, 12, 12), 0.1, np.float32)
    p[0, :8] = 0.9
    p[0, 15:18, 4:7, 4:7] = 0.9  # 27 voxels
    delta = np.zeros_like(p)
    delta[0, 13:20, 2:9, 2:9] = 0.8
    delta[0, 15:18, 4:7, 4:7] = doubted
    answers = {}
    for reach in (None, 2.0):
        own = recipe.with_decision(recipe.decision.changed(reach_mm=reach, small_components=limits))
        answers[reach] = decode(own, Inferred(p, found(delta)), spacing_mm=ONE, shape=p.shape[1:], postprocess=True)
    assert answers[None].labels[13:].any(), "without a reach it grows over the limit"
    assert not answers[2.0].labels[13:].any() and not answers[2.0].baseline[13:].any()
    assert answers[2.0].removed_voxels == 27
    np.testing.assert_array_equal(answers[2.0].labels[:13], answers[None].labels[:13])


@pytest.mark.parametrize("fine", [False, True])
def test_of_a_lesion_that_is_left_out_no_rim_stays(recipe_of: Any, fine: bool) -> None:
    """Two lesions that Δ̂ would make larger by a rim; the second is left out, with the rim, the first is as without."""
    recipe = recipe_of() if fine else recipe_of().model_copy(update={"spacing_mm": ONE})
    recipe = recipe.with_decision(recipe.decision.changed(reach_mm=2.0, small_components={"min_voxels": 0}))
    p = np.full((3, 24, 12, 12), 0.1, np.float32)
    p[0, 3:9, 3:9, 3:9] = 0.9
    second = np.zeros(p.shape[1:], bool)
    second[16:20, 4:8, 4:8] = True
    p[0, second] = 0.9
    delta = np.where(p > 0.5, 0.1, 0.8).astype(np.float32)
    delta[1:] = 0.0
    shape = tuple(2 * n for n in p.shape[1:]) if fine else p.shape[1:]

    def whole(unsupported: np.ndarray | None, probability: np.ndarray = p) -> np.ndarray:
        inferred = Inferred(probability, found(delta), unsupported)
        return decode(recipe, inferred, spacing_mm=ONE, shape=shape, postprocess=True).labels > 0

    half = shape[0] // 2
    assert np.count_nonzero(whole(None)[half:]) > np.count_nonzero(second) * (8 if fine else 1), "it grows"
    assert not whole(second)[half:].any()
    np.testing.assert_array_equal(whole(second)[:half], whole(None)[:half])
