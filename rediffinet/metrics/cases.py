"""All scores of one case under one protocol."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rediffinet.labels import REGIONS
from rediffinet.metrics.lesionwise import LesionScores, score_lesions
from rediffinet.metrics.masks import Spacing, check_spacing, dice, hausdorff
from rediffinet.metrics.protocols import Protocol, find_protocol
from rediffinet.metrics.regions import region_pairs

_Mask = npt.NDArray[np.bool_]
Presence = Literal["both", "missed", "invented", "absent"]


@dataclass(frozen=True, slots=True)
class RegionScores:
    """Scores of one region. dice and hd95 are of the whole image, penalties of the protocol applied.

    presence: the region is in "both" maps, in the reference only ("missed"), in the prediction only ("invented"), or
    in neither ("absent"). hd95 is in mm, or in voxels where the protocol says so.
    """

    presence: Presence
    pred_voxels: int
    ref_voxels: int
    dice: float
    hd95: float
    lesions: LesionScores | None


def evaluate_case(
    pred_labels: npt.NDArray[np.integer],
    ref_labels: npt.NDArray[np.integer],
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
    protocol: str = "brats2023-gli",
    *,
    threads: int = 1,
) -> dict[str, RegionScores]:
    """Scores of WT, TC and ET for two label maps (X, Y, Z) with BraTS-2023 labels; the regions run in parallel.

    Extra memory: six masks, two int32 label arrays and a dilation of the joint box, per thread at most.

    Raises:
        LabelError: different shapes, values other than 0…3, a spacing not above 0.
        ConfigError: an unknown protocol.
    """
    rules = find_protocol(protocol)
    check_spacing(spacing_mm)
    pairs = region_pairs(pred_labels, ref_labels, rules.lesions.dilation if rules.lesions else 0)
    with ThreadPoolExecutor(threads) as pool:
        scores = list(pool.map(lambda pair: _score(pair[0], pair[1], spacing_mm, rules), pairs))
    return dict(zip(REGIONS, scores, strict=True))


def _score(pred: _Mask, ref: _Mask, spacing_mm: Spacing, rules: Protocol) -> RegionScores:
    pred_voxels, ref_voxels = int(np.count_nonzero(pred)), int(np.count_nonzero(ref))
    presence = _presence(pred_voxels, ref_voxels)
    distance = hausdorff(pred, ref, (1.0, 1.0, 1.0) if rules.in_voxels else spacing_mm, 95.0, rules.definition)
    return RegionScores(
        presence,
        pred_voxels,
        ref_voxels,
        dice(pred, ref),
        distance if np.isfinite(distance) else rules.penalty_mm,
        score_lesions(pred, ref, spacing_mm, rules.lesions, rules.penalty_mm) if rules.lesions else None,
    )


def _presence(pred_voxels: int, ref_voxels: int) -> Presence:
    if pred_voxels:
        return "both" if ref_voxels else "invented"
    return "missed" if ref_voxels else "absent"
