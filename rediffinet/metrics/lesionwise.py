"""Lesion-wise scores of BraTS-2023: every reference lesion counts alike, and every prediction that hits none counts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError
from rediffinet.ext import (
    SurfaceDistances,
    component_boxes,
    component_sizes,
    dilate,
    joint_box,
    label_components,
    surface_distances,
)
from rediffinet.metrics.masks import Spacing, check_spacing
from rediffinet.metrics.protocols import find_protocol
from rediffinet.metrics.reducers import weighted_percentile
from rediffinet.metrics.regions import region_pairs
from rediffinet.task import DEFAULT_TASK, TASKS, LesionRules, Task

_Mask = npt.NDArray[np.bool_]
_Labels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LesionScores:
    """Scores of one region: dice and hd95 (mm) averaged over kept lesions and false positives; counts of lesions.

    tp, fn: reference lesions that were hit and missed, of those kept. fp: predicted components that hit no lesion.
    """

    dice: float
    hd95: float
    tp: int
    fp: int
    fn: int


def lesionwise(
    pred_labels: npt.NDArray[np.integer],
    ref_labels: npt.NDArray[np.integer],
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
    protocol: str | None = None,
    *,
    task: Task = TASKS[DEFAULT_TASK],
) -> dict[str, LesionScores]:
    """Lesion-wise scores of the task's regions for two label maps (X, Y, Z) with its labels; by default BraTS 2023.

    protocol: None for the task's own, which is brats2023-gli by default.

    Per region: reference lesions are the 26-connected pieces that touch once dilated; a predicted 26-connected
    component matches each lesion whose dilation it touches; a lesion scores the Dice and the HD95 ("surface") between
    itself and all that matched it. Lesions that are too small are left out, though what hits them is no false
    positive. A missed lesion has Dice 0 and HD95 374 mm, and so has each false positive, of any size; a region with
    nothing to average has Dice 1 and HD95 0. Source: rules of the BraTS-2023 challenge metrics, see docs/metrics.md.

    Raises:
        LabelError: different shapes, values other than the task's, a spacing not above 0.
        ConfigError: an unknown protocol, or one without lesion-wise scores.
    """
    chosen = find_protocol(protocol, task)
    rules, penalty = chosen.lesions, chosen.penalty_mm
    if rules is None:
        raise ConfigError(f"The protocol {chosen.name!r} has no lesion-wise scores.\nExpected one of brats2023-….")
    check_spacing(spacing_mm)
    pairs = region_pairs(pred_labels, ref_labels, task, rules.dilation)
    return {
        region: score_lesions(pred, ref, spacing_mm, rules, penalty)
        for region, (pred, ref) in zip(task.region_names, pairs, strict=True)
    }


def score_lesions(
    pred: _Mask,
    ref: _Mask,
    spacing_mm: Spacing,
    rules: LesionRules,
    penalty_mm: float,
    surfaces: SurfaceDistances | None = None,
) -> LesionScores:
    """Lesion-wise scores of two masks of one region; work and memory stay in boxes around what is there.

    surfaces: the distances of the two masks, where they are known; a lone lesion that all found voxels belong to has
    them too.
    """
    box = joint_box(pred, ref, rules.dilation)
    pred, ref = pred[box], ref[box]
    components, component_count = label_components(pred, 26)
    # Dilation spreads from every voxel alike: a joined lesion dilated alone is its own piece of the dilated whole.
    reach, lesion_count = label_components(dilate(ref, rules.dilation), 26)
    touching = _pairs(reach[pred], components[pred], component_count)
    false_positives = component_count - len(np.unique(touching[:, 1]))
    lesions = reach * ref
    sizes = component_sizes(lesions, lesion_count)
    boxes_found, boxes_own = component_boxes(components, component_count), component_boxes(lesions, lesion_count)

    total_dice, total_hd95, hit, missed = 0.0, penalty_mm * false_positives, 0, 0
    for lesion in np.flatnonzero(sizes > rules.left_out_voxels) + 1:
        matched = touching[touching[:, 0] == lesion, 1]
        if not len(matched):
            missed += 1
            total_hd95 += penalty_mm
            continue
        hit += 1
        around = _union([boxes_own[lesion - 1], *boxes_found[matched - 1]])
        own, found = lesions[around] == lesion, _is_any(components[around], matched)
        overlap, total = np.count_nonzero(own & found), np.count_nonzero(own) + np.count_nonzero(found)
        total_dice += 2.0 * overlap / total
        everything = lesion_count == 1 and len(matched) == component_count
        distances = surfaces if surfaces and everything else surface_distances(found, own, spacing_mm)
        total_hd95 += weighted_percentile(distances, 95.0)
    counted = hit + missed + false_positives
    if not counted:
        return LesionScores(1.0, 0.0, 0, 0, 0)
    return LesionScores(total_dice / counted, total_hd95 / counted, hit, false_positives, missed)


def _pairs(reach: _Labels, components: _Labels, component_count: int) -> npt.NDArray[np.int64]:
    """Lesion and component numbers (n, 2) that share a voxel, both given at the predicted voxels."""
    keys = np.unique(reach.astype(np.int64) * (component_count + 1) + components)
    lesion, component = np.divmod(keys, component_count + 1)
    return np.stack([lesion, component], axis=1)[lesion > 0]


def _union(boxes: list[npt.NDArray[np.intp]]) -> tuple[slice, slice, slice]:
    stacked = np.stack(boxes)
    x, y, z = (slice(int(stacked[:, k, 0].min()), int(stacked[:, k, 1].max())) for k in range(3))
    return x, y, z


def _is_any(components: _Labels, numbers: npt.NDArray[np.int64]) -> _Mask:
    if len(numbers) == 1:
        alone: _Mask = components == numbers[0]
        return alone
    wanted = np.zeros(int(components.max()) + 1, np.bool_)
    wanted[numbers] = True
    return wanted[components]
