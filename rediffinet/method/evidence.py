"""Separate lesions that rest on one contrast: those that the baseline no longer finds when it is taken away.

A true lesion shows in several contrasts; what a shading, a thick slice or an image that ends within the brain makes of
healthy tissue shows in one. So a lesion apart from the largest is asked about again without each contrast in turn. It
is flipped whole where it does not stand, a discrepancy beyond the reach of a refiner that corrects boundaries.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rediffinet.ext import component_sizes, label_components
from rediffinet.method.recipe import Recipe, whole_of
from rediffinet.method.refine import small_pieces

Mask = npt.NDArray[np.bool_]
Volume = npt.NDArray[np.float32]


def unsupported_components(recipe: Recipe, probability: Volume, without: Callable[[int], Volume]) -> Mask:
    """The lesions of a baseline that do not stand by `recipe.decision.evidence`, bool (X, Y, Z).

    probability: float32 (R, X, Y, Z) of the baseline. without(contrast) → the same without the contrast of that index;
    it is asked where there are lesions to be asked about alone. The largest component of the whole tumour always
    stands, and small ones are left to `decision.small_components`.
    """
    evidence = recipe.decision.evidence
    if evidence is None:
        return np.zeros(probability.shape[1:], bool)
    mask = recipe.mask(probability)
    found = recipe.whole(mask & ~small_pieces(recipe, recipe.decision, mask))
    components, count = label_components(found, 26)
    if count < 2:
        return np.zeros(found.shape, bool)
    sizes = component_sizes(components, count)
    inside = components[found]
    fallen = np.zeros(count + 1, bool)
    for contrast in evidence.without:
        left = without(recipe.task.contrasts.index(contrast))[whole_of(recipe.task)].max(axis=0)
        means = np.bincount(inside, left[found].astype(float), count + 1)[1:] / sizes
        fallen[1:] |= means < evidence.least
    fallen[1 + int(np.argmax(sizes))] = False
    return np.asarray(fallen[components])
