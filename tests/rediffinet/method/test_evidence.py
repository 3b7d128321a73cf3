"""Lesions that rest on one contrast, against means over SciPy's components."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage

from rediffinet.bundle import open_bundle
from rediffinet.method.evidence import unsupported_components
from rediffinet.method.recipe import Recipe


@pytest.fixture(scope="module")
def recipe(make_toy_bundle: Any) -> Recipe:
    """Every component counts, and every contrast but t2f is taken away."""
    decision = {
        "small_components": {"min_voxels": 3, "min_fraction": 0.0},
        "evidence": {"without": ["t1n", "t1c", "t2w"], "least": 0.5},
    }
    return open_bundle(make_toy_bundle(decision=decision).path).manifest.recipe


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), density=st.floats(0.01, 0.3))
def test_what_falls_are_components_whose_mean_does_without_some_contrast(
    recipe: Recipe, seed: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    probability = np.where(rng.random((3, 14, 12, 10)) < density, 0.9, 0.1).astype(np.float32)
    left = rng.random((4, 3, 14, 12, 10), np.float32)
    components, count = ndimage.label(probability[0] > 0.5, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(np.ones_like(components), components, range(1, count + 1))
    expected = np.zeros(components.shape, bool)
    kept = [index for index in range(count) if sizes[index] >= 3]
    largest = int(np.argmax(sizes)) if count else -1
    for index in kept:
        inside = components == index + 1
        means = [left[contrast, 0][inside].mean(dtype=float) for contrast in range(3)]
        if index != largest and min(means) < 0.5:
            expected |= inside
    asked: list[int] = []

    def without(contrast: int) -> np.ndarray:
        asked.append(contrast)
        return left[contrast]

    assert np.array_equal(unsupported_components(recipe, probability, without), expected)
    assert asked == ([0, 1, 2] if len(kept) > 1 else []), "one lesion is not asked about"


def test_a_decision_without_evidence_asks_nothing(make_toy_bundle: Any) -> None:
    plain = open_bundle(make_toy_bundle().path).manifest.recipe
    probability = np.zeros((3, 9, 9, 9), np.float32)
    probability[0, 1:4, 1:4, 1:4] = probability[0, 6:8, 6:8, 6:8] = 0.9
    assert not unsupported_components(plain, probability, lambda _: pytest.fail("asked")).any()


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"without": ["flair"]}, "got flair, expected contrasts of t1n, t1c, t2w, t2f"),
        ({"without": []}, "at least 1"),
        ({"without": ["t1n"], "least": 1.5}, "less than or equal to 1"),
    ],
)
def test_evidence_that_cannot_be_asked_for_is_refused(recipe: Recipe, evidence: dict[str, Any], said: str) -> None:
    values = recipe.model_dump()
    values["decision"]["evidence"] = evidence
    with pytest.raises(ValidationError, match=said):
        Recipe.model_validate(values)
