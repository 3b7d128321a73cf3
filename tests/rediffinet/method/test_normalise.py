"""Normalisation against the formula of the paper written out, and the brain box against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage, stats

from rediffinet.errors import CaseError
from rediffinet.method.normalise import Normalisation, brain_box, brain_mask, normalise


@pytest.fixture
def images():
    rng = np.random.default_rng(7)
    images = np.zeros((4, 20, 22, 24), np.float32)
    images[:, 3:15, 5:19, 2:20] = rng.gamma(4, 100, (4, 12, 14, 18))
    images[2, 3:9] = 0
    images[1, 0, 0, 0] = -40
    return images


def paper(image, recipe):
    """Re-DiffiNet §2.3, step by step in float64."""
    brain = image > 0
    scores = stats.zscore(image[brain].astype(np.float64))
    low, high = np.percentile(scores, (recipe.lower_percentile, recipe.upper_percentile))
    share = (np.clip(scores, low, high) - low) / (high - low)
    out = np.full(image.shape, recipe.background)
    out[brain] = recipe.range[0] + share * (recipe.range[1] - recipe.range[0])
    return out


@pytest.mark.parametrize(
    "recipe",
    [Normalisation(), Normalisation(lower_percentile=5, upper_percentile=90, range=(0, 1), background=0)],
    ids=["default", "other"],
)
def test_each_contrast_follows_the_paper(images, recipe):
    out = normalise(images, recipe)
    assert out.dtype == np.float32
    for image, result in zip(images, out, strict=True):
        np.testing.assert_allclose(result, paper(image, recipe), atol=2e-6)
        assert (result.min(), result.max()) == pytest.approx(recipe.range, abs=1e-6)


def test_a_plain_z_score_is_that_of_the_clipped_brain(images):
    recipe = Normalisation(method="zscore", lower_percentile=2, upper_percentile=97, range=(-1.5, 1.8), background=0)
    out = normalise(images, recipe)
    for image, result in zip(images, out, strict=True):
        brain = image > 0
        intensities = image[brain].astype(np.float64)
        clipped = np.clip(intensities, *np.percentile(intensities, (2, 97)))
        np.testing.assert_allclose(result[brain], np.clip(stats.zscore(clipped), -1.5, 1.8), atol=1e-5)
        assert (result[~brain] == 0).all()


BOTH = pytest.mark.parametrize(
    "recipe",
    [Normalisation(), Normalisation(method="zscore", range=(-4, 6), background=0)],
    ids=["zscore-percentile", "zscore"],
)


@BOTH
def test_the_crop_gives_the_same_values_as_the_whole(images, recipe):
    box = brain_box(images, margin=1)
    whole = normalise(images, recipe)[(slice(None), *box)]
    assert np.array_equal(whole, normalise(images[(slice(None), *box)], recipe))


@BOTH
def test_a_change_of_unit_changes_nothing(images, recipe):
    np.testing.assert_allclose(normalise(images * 37.5, recipe), normalise(images, recipe), atol=1e-5)


def test_the_input_is_left_as_it_was(images):
    before = images.copy()
    normalise(images)
    assert np.array_equal(images, before)


@given(
    hnp.arrays(np.float32, (4, 5, 6, 7), elements=st.sampled_from([0, 0, 0, 0, 0, -1, 3]), fill=st.just(0)),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_box_is_the_smallest_around_the_brain(images, margin):
    mask = (images > 0).any(axis=0)
    assert np.array_equal(brain_mask(images), mask)
    if not mask.any():
        with pytest.raises(CaseError, match="no brain"):
            brain_box(images, margin)
        return
    (tight,) = ndimage.find_objects(mask.astype(int))
    expected = tuple(
        slice(max(s.start - margin, 0), min(s.stop + margin, size)) for s, size in zip(tight, mask.shape, strict=True)
    )
    assert brain_box(images, margin) == expected


def test_the_recipe_goes_through_json_and_refuses_what_it_does_not_know():
    recipe = Normalisation(lower_percentile=1, upper_percentile=99)
    assert Normalisation.model_validate_json(recipe.model_dump_json()) == recipe
    with pytest.raises(ValidationError, match="Extra inputs"):
        Normalisation.model_validate({"gamma": 2})


@pytest.mark.parametrize(
    "wrong", [{"lower_percentile": 99.5}, {"range": (1, 1)}, {"upper_percentile": 101}, {"method": "minmax"}]
)
def test_a_recipe_out_of_order_is_refused(wrong):
    with pytest.raises(ValidationError):
        Normalisation(**wrong)


def test_a_contrast_without_brain_or_without_contrast_is_named(images):
    images[3] = 0
    with pytest.raises(CaseError, match="t2f holds no brain"):
        normalise(images, contrasts=("t1n", "t1c", "t2w", "t2f"))
    images[3, 5:9, 5:9, 5:9] = 12
    with pytest.raises(CaseError, match="t2f cannot be normalised.*both 12"):
        normalise(images, contrasts=("t1n", "t1c", "t2w", "t2f"))
