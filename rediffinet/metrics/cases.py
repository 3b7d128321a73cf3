"""All scores of one case under one protocol."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rediffinet.ext import surface_distances
from rediffinet.metrics.lesionwise import LesionScores, score_lesions
from rediffinet.metrics.masks import Spacing, check_spacing, dice, hausdorff
from rediffinet.metrics.protocols import Protocol, find_protocol
from rediffinet.metrics.reducers import share_within, weighted_percentile
from rediffinet.metrics.regions import region_pairs
from rediffinet.task import DEFAULT_TASK, TASKS, Task, regions_of

_Mask = npt.NDArray[np.bool_]
Presence = Literal["both", "missed", "invented", "absent"]


@dataclass(frozen=True, slots=True)
class RegionScores:
    """Scores of one region. dice and hd95 are of the whole image, penalties of the protocol applied.

    presence: the region is in "both" maps, in the reference only ("missed"), in the prediction only ("invented"), or
    in neither ("absent"). hd95 is in mm, or in voxels where the protocol says so. surface_dice_1mm, surface_dice_2mm:
    share of both surfaces within 1 and 2 mm of the other, always in mm; 1 where the region is absent, 0 where it is
    missed or invented.
    """

    presence: Presence
    pred_voxels: int
    ref_voxels: int
    dice: float
    hd95: float
    surface_dice_1mm: float
    surface_dice_2mm: float
    lesions: LesionScores | None


def evaluate_case(
    pred_labels: npt.NDArray[np.integer],
    ref_labels: npt.NDArray[np.integer],
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
    protocol: str | None = None,
    *,
    task: Task = TASKS[DEFAULT_TASK],
    threads: int = 1,
) -> dict[str, RegionScores]:
    """Scores of the task's regions for two label maps (X, Y, Z) with its labels; by default WT, TC, ET of BraTS 2023.

    protocol: None for the task's own, which is brats2023-gli by default. The regions run in parallel.

    Extra memory: six masks, two int32 label arrays and a dilation of the joint box, per thread at most.

    Raises:
        LabelError: different shapes, values other than the task's, a spacing not above 0.
        ConfigError: an unknown protocol.

    >>> labels = np.zeros((20, 20, 20), np.uint8)
    >>> labels[4:12, 4:12, 4:12] = 2
    >>> scores = evaluate_case(np.where(labels, 3, 0), labels)
    >>> {region: (found.presence, found.dice) for region, found in scores.items()}
    {'WT': ('both', 1.0), 'TC': ('invented', 0.0), 'ET': ('invented', 0.0)}
    """
    rules = find_protocol(protocol, task)
    check_spacing(spacing_mm)
    pairs = region_pairs(pred_labels, ref_labels, task, rules.lesions.dilation if rules.lesions else 0)
    with ThreadPoolExecutor(threads) as pool:
        scores = list(pool.map(lambda pair: _score(pair[0], pair[1], spacing_mm, rules), pairs))
    return dict(zip(task.region_names, scores, strict=True))


def region_dice(
    pred_labels: npt.NDArray[np.integer], ref_labels: npt.NDArray[np.integer], task: Task = TASKS[DEFAULT_TASK]
) -> dict[str, float]:
    """Dice of each region of the task in two label maps (X, Y, Z), without other scores; 1 where it is in neither."""
    both = zip(regions_of(pred_labels, task), regions_of(ref_labels, task), strict=True)
    return dict(zip(task.region_names, (dice(pred, ref) for pred, ref in both), strict=True))


def _score(pred: _Mask, ref: _Mask, spacing_mm: Spacing, rules: Protocol) -> RegionScores:
    pred_voxels, ref_voxels = int(np.count_nonzero(pred)), int(np.count_nonzero(ref))
    presence = _presence(pred_voxels, ref_voxels)
    surfaces = surface_distances(pred, ref, spacing_mm)
    if rules.definition == "surface" and not rules.in_voxels:  # the same distances
        distance = weighted_percentile(surfaces, 95.0)
    else:
        distance = hausdorff(pred, ref, (1.0, 1.0, 1.0) if rules.in_voxels else spacing_mm, 95.0, rules.definition)
    return RegionScores(
        presence,
        pred_voxels,
        ref_voxels,
        dice(pred, ref),
        distance if np.isfinite(distance) else rules.penalty_mm,
        share_within(surfaces, 1.0),
        share_within(surfaces, 2.0),
        score_lesions(pred, ref, spacing_mm, rules.lesions, rules.penalty_mm, surfaces) if rules.lesions else None,
    )


def _presence(pred_voxels: int, ref_voxels: int) -> Presence:
    if pred_voxels:
        return "both" if ref_voxels else "invented"
    return "missed" if ref_voxels else "absent"
