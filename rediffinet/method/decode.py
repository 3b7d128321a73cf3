"""From probabilities and a discrepancy to the two label maps of a case, before and after refinement.

A model may work at another voxel size than the case. Then nothing hard is interpolated: what comes back to the case's
voxels are the soft baseline p and the soft flip r, and each is compared with 1/2 there. Where nothing is flipped r is
p, so that the baseline keeps the boundary it has between the coarse voxels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rediffinet.ext import flip_and_decode
from rediffinet.method.discrepancy import (
    doubted_components,
    near_boundary,
    refined_probability,
    wrong_probability,
)
from rediffinet.method.inference import Inferred
from rediffinet.method.postprocess import (
    dissolve_small_parts,
    enhancing_confidence,
    enhancing_to_core,
    remove_small_components,
)
from rediffinet.method.recipe import Decision, Recipe
from rediffinet.method.refine import Discrepancy, small_pieces, without_left_out
from rediffinet.method.resample import Spacing, resample, same_spacing
from rediffinet.method.windows import Shape
from rediffinet.task import Task, regions_of

Labels = npt.NDArray[np.uint8]
Regions = npt.NDArray[np.bool_]
Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decoded:
    """What was decided, on the crop: label maps uint8 (X, Y, Z) with their regions bool (R, X, Y, Z).

    baseline, baseline_regions, baseline_probability (float32): None for a model without a baseline. probability:
    float32 (R, X, Y, Z) after refinement. uncertainty: float32 (X, Y, Z), probability of a wrong label: by the refined
    probability, and where no flip reaches by the baseline's. left_out_voxels: of the baseline's tumour, flipped in
    whole components. removed_voxels, dissolved_voxels, unsure_voxels: how many voxels of the refined map postprocessing
    removed, how many in small parts it called what is around them, and how many of enhancing tumour it called core.
    enhancing_confidence: mean probability of the baseline over the enhancing tumour that it found (of the model itself,
    for one without a baseline), 1 where none was found or nothing tells.
    """

    labels: Labels
    regions: Regions
    baseline: Labels | None
    baseline_regions: Regions | None
    baseline_probability: Volume | None
    probability: Volume
    uncertainty: Volume
    left_out_voxels: int
    removed_voxels: int
    dissolved_voxels: int
    unsure_voxels: int
    enhancing_confidence: float


@dataclass(frozen=True)
class _Masks:
    """On the case's voxels: the baseline bool and soft, the label map after the flips, the refined probability.

    left_out: bool (X, Y, Z), where whole components of the baseline are flipped. reach: bool (X, Y, Z), where a flip of
    some region can be; None where it can be anywhere.
    """

    baseline: Regions
    prior: Volume
    labels: Labels
    probability: Volume
    left_out: npt.NDArray[np.bool_]
    reach: npt.NDArray[np.bool_] | None


def decode(
    recipe: Recipe,
    inferred: Inferred,
    *,
    spacing_mm: Spacing,
    shape: Shape,
    given: Regions | None = None,
    postprocess: bool,
) -> Decoded:
    """Flip what the recipe's decision flips, decode, postprocess both maps alike.

    spacing_mm, shape: of the case's crop, which is the grid of `inferred` where the spacings are the same. given: bool
    (3, X, Y, Z) on the crop, a mask made elsewhere that took the baseline's place; it is never postprocessed.
    """
    prior, found = _filled(inferred)
    decision = recipe.decision_for(given=given is not None)
    removed = dissolved = unsure = 0
    if decision.reach_mm is not None and postprocess and given is None:
        prior, found, removed = _without_small(recipe, decision, prior, found)
    if same_spacing(recipe.decided_mm, spacing_mm):
        masks = _masks(recipe, decision, prior, found, inferred.unsupported)
    else:
        masks = _resampled(recipe, decision, prior, found, inferred.unsupported, spacing_mm, shape, given)
    task = recipe.task
    labels = masks.labels
    baseline = None if inferred.probability is None else _labels(masks.baseline, task)
    confidence = 1.0
    if postprocess:
        whole = task.role("whole")
        limits = decision.small_components.model_dump()
        limits["whole"] = None if whole is None else task.regions[whole].labels
        labels, small = remove_small_components(labels, **limits)
        removed += small
        labels, dissolved = dissolve_small_parts(labels, task, decision.small_parts)
        if given is None:  # a mask made elsewhere is not ours to correct, and does not say how sure it is
            if baseline is None:
                confidence = enhancing_confidence(labels, masks.probability, task)
            else:
                baseline, _ = remove_small_components(baseline, **limits)
                baseline, _ = dissolve_small_parts(baseline, task, decision.small_parts)
                confidence = enhancing_confidence(baseline, masks.prior, task)
        kept = confidence  # one decision for both maps, but for components that only the baseline's has
        if baseline is not None and given is None and masks.left_out.any():
            kept = enhancing_confidence(np.where(masks.left_out, 0, baseline), masks.prior, task)
        if kept < decision.unsure_enhancement:
            labels, unsure = enhancing_to_core(labels, task)
        if baseline is not None and confidence < decision.unsure_enhancement:
            baseline = enhancing_to_core(baseline, task)[0]
    regions = regions_of(labels, task)
    if masks.reach is None:
        uncertainty = wrong_probability(regions, masks.probability)
    else:  # beyond the reach Δ̂ says little of held-out labels, and is there only where windows happen to lie
        uncertainty = wrong_probability(regions, masks.prior)
        reach = masks.reach
        uncertainty[reach] = wrong_probability(regions[:, reach], masks.probability[:, reach])
    if recipe.uncertainty is not None:
        uncertainty = recipe.uncertainty(uncertainty)
    return Decoded(
        labels=labels,
        regions=regions,
        baseline=baseline,
        baseline_regions=None if baseline is None else regions_of(baseline, task),
        baseline_probability=None if baseline is None else masks.prior,
        probability=masks.probability,
        uncertainty=uncertainty,
        left_out_voxels=int(np.count_nonzero(masks.left_out & recipe.whole(masks.baseline))),
        removed_voxels=removed,
        dissolved_voxels=dissolved,
        unsure_voxels=unsure,
        enhancing_confidence=confidence,
    )


def _filled(inferred: Inferred) -> tuple[Volume, Discrepancy]:
    """The probability and the discrepancy, with nothing in the place of what the model does not have."""
    prior, found = inferred.probability, inferred.found
    if prior is None:
        assert found is not None
        prior = np.zeros_like(found.delta)
    if found is None:
        shape = prior.shape[1:]
        found = Discrepancy(np.zeros_like(prior), np.zeros(shape, np.float32), np.zeros(shape, bool), 0)
    return prior, found


def _without_small(
    recipe: Recipe, decision: Decision, prior: Volume, found: Discrepancy
) -> tuple[Volume, Discrepancy, int]:
    """The baseline without the small components of its whole tumour, what was found of that, and their voxels."""
    assert recipe.baseline is not None, "a model that refines a baseline"
    gone = small_pieces(recipe, decision, recipe.mask(prior))
    if not gone.any():
        return prior, found, 0
    delta = np.where(gone, 1.0 - found.delta, found.delta)  # what doubted a piece agrees with its absence
    removed = int(np.count_nonzero(recipe.whole(gone)))
    return np.where(gone, _column(recipe.baseline.thresholds), prior), replace(found, delta=delta), removed


def _labels(mask: Regions, task: Task) -> Labels:
    """The regions painted in their order; what `flip_and_decode` makes of masks that nothing flips."""
    labels = np.zeros(mask.shape[1:], np.uint8)
    for inside, value in zip(mask, task.paint, strict=True):
        np.copyto(labels, np.uint8(value), where=inside)
    return labels


def _masks(
    recipe: Recipe,
    decision: Decision,
    prior: Volume,
    found: Discrepancy,
    unsupported: npt.NDArray[np.bool_] | None,
) -> _Masks:
    mask, task = recipe.mask(prior), recipe.task
    probability = refined_probability(mask, prior, found.delta, found.sampled)
    left_out = left_out_of(recipe, decision, mask, found, unsupported)
    near = _near(recipe, decision, mask, left_out)
    plain = decision.adding == decision.removing and near is None
    if plain and not left_out.any():  # one pass over Δ̂ flips and decodes
        labels = flip_and_decode(found.delta, mask, decision.adding, task.paint, task.parents).labels
    else:
        labels = _labels(mask ^ _flips(recipe, decision, mask, found.delta, near, left_out), task)
    return _Masks(mask, prior, labels, probability, left_out, None if near is None else np.asarray(near.any(axis=0)))


def left_out_of(
    recipe: Recipe,
    decision: Decision,
    mask: Regions,
    found: Discrepancy,
    unsupported: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.bool_]:
    """The components of the baseline's whole tumour that are flipped whole, bool (X, Y, Z) on the model's grid.

    Those that the refiner doubts (none for a task that names no whole tumour), and those that are not supported.
    """
    whole = recipe.task.role("whole")
    if whole is None:
        left_out = np.zeros(mask.shape[1:], bool)
    else:
        left_out = doubted_components(mask[whole], found.delta[whole], decision.whole_components)
    return left_out if unsupported is None else left_out | unsupported


def _near(recipe: Recipe, decision: Decision, mask: Regions, left_out: npt.NDArray[np.bool_]) -> Regions | None:
    """Where a flip of each region can be, bool (R, X, Y, Z); None where it can be anywhere."""
    if decision.reaches_mm is None:
        return None
    staying = without_left_out(recipe, mask, left_out) if left_out.any() else mask
    regions = zip(staying, decision.reaches_mm, strict=True)
    return np.stack([near_boundary(region, reach_mm, recipe.decided_mm) for region, reach_mm in regions])


def _flips(
    recipe: Recipe,
    decision: Decision,
    mask: Regions,
    delta: Volume,
    near: Regions | None,
    left_out: npt.NDArray[np.bool_],
) -> Regions:
    """What is flipped: a component left out in every region within, the rest where Δ̂ exceeds its threshold.

    near: see `_near`.
    """
    flips = delta > _limits(decision, mask)
    if near is not None:
        flips &= near
    if not left_out.any():
        return flips
    return np.where(left_out & _column(recipe.within_whole).astype(bool), mask, flips)


def _limits(decision: Decision, mask: Regions) -> Volume:
    """The threshold of every voxel, float32 of a shape that broadcasts to the mask's."""
    if decision.adding == decision.removing:
        return _column(decision.adding)
    return np.where(mask, _column(decision.removing), _column(decision.adding))


def _resampled(
    recipe: Recipe,
    decision: Decision,
    prior: Volume,
    found: Discrepancy,
    unsupported: npt.NDArray[np.bool_] | None,
    spacing_mm: Spacing,
    shape: Shape,
    given: Regions | None,
) -> _Masks:
    """The masks on the case's voxels of what was found on the model's.

    r is |p − f| with f = 1 where Δ̂ exceeds its threshold, of which eq. 5 is the case of a hard p. A model that predicts
    the segmentation itself has a soft boundary of its own: there r is its x̂0, read as |U − Δ̂|. The refined
    probability is interpolated as the probability of a wrong label, which is small on both sides of a boundary.
    """

    def up(values: npt.NDArray[np.floating]) -> Volume:
        return resample(values, recipe.decided_mm, spacing_mm, shape)

    mask = recipe.mask(prior)
    soft = prior if recipe.baseline is None else _centred(prior, _column(recipe.baseline.thresholds))
    left_out = left_out_of(recipe, decision, mask, found, unsupported)
    near = _near(recipe, decision, mask, left_out)
    flips = _flips(recipe, decision, mask, found.delta, near, left_out)
    if recipe.kind.target == "discrepancy":
        refined = np.where(flips, 1.0 - soft, soft)
    else:
        wrong = _centred(found.delta, _limits(decision, mask))
        refined = np.where(found.sampled, np.where(mask, 1.0 - wrong, wrong), soft)
        within = _column(recipe.within_whole).astype(bool)
        refined = np.where(left_out & within & mask, 1.0 - soft, refined)
    probability = refined_probability(mask, prior, found.delta, found.sampled)
    inside = up(refined) > 0.5
    if given is not None:  # its own voxels are finer than the model's: they stay where no flip is near
        inside = np.where(up(flips.astype(np.float32)) > 0.0, inside, given)
    soft = up(soft)
    baseline = soft > 0.5 if given is None else given
    doubted = np.where(mask ^ flips, 1.0 - probability, probability)
    probability = up(doubted)  # of a wrong label; where the label is inside, what it is the opposite of
    np.subtract(1.0, probability, out=probability, where=inside)
    outside = up(left_out[None].astype(np.float32))[0] > 0.0 if left_out.any() else np.zeros(shape, bool)
    reach = None if near is None else up(np.asarray(near.any(axis=0))[None].astype(np.float32))[0] > 0.5
    return _Masks(baseline, soft, _labels(inside, recipe.task), probability, outside, reach)


def _column(values: Sequence[float]) -> Volume:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


def _centred(values: Volume, thresholds: Volume) -> Volume:
    """Values in [0, 1] stretched on both sides so that the threshold comes to 1/2; unchanged for thresholds of 1/2."""
    at = np.clip(thresholds, np.float32(1e-6), np.float32(1.0 - 1e-6))
    stretched = np.where(values < at, values / (2.0 * at), 0.5 + (values - at) / (2.0 * (1.0 - at)))
    return stretched.astype(np.float32, copy=False)
