"""From two label maps to the masks of the three regions, cropped to where either has a label."""

import numpy as np
import numpy.typing as npt

from rediffinet.errors import LabelError
from rediffinet.ext import joint_box
from rediffinet.labels import BRATS_2023
from rediffinet.metrics.masks import check_pair

_Mask = npt.NDArray[np.bool_]
_Labels = npt.NDArray[np.integer]


def region_pairs(pred: _Labels, ref: _Labels, margin: int = 0) -> list[tuple[_Mask, _Mask]]:
    """Masks (prediction, reference) of WT, TC, ET in the joint box of two BraTS-2023 label maps, widened by a margin.

    Raises:
        LabelError: different shapes, values that are no integers or not 0…3.
    """
    check_pair(pred, ref)
    for what, labels in (("prediction", pred), ("reference", ref)):
        _check_values(what, labels)
    box = joint_box(pred, ref, margin)
    pred, ref = pred[box], ref[box]
    tc_values = (BRATS_2023.ncr, BRATS_2023.et)
    tc_pred, tc_ref = ((labels == tc_values[0]) | (labels == tc_values[1]) for labels in (pred, ref))
    return [(pred != 0, ref != 0), (tc_pred, tc_ref), (pred == BRATS_2023.et, ref == BRATS_2023.et)]


def _check_values(what: str, labels: _Labels) -> None:
    if labels.dtype.kind not in "iub":
        message = f"The {what} has {labels.dtype} labels.\nExpected integers; round or convert them on purpose first."
        raise LabelError(message)
    if labels.size and (labels.min() < 0 or labels.max() > BRATS_2023.et):
        message = (
            f"The {what} has labels from {labels.min()} to {labels.max()}.\n"
            "Expected 0 to 3, as BraTS 2023 has them (NCR 1, ED 2, ET 3); convert ET = 4 to 3 first."
        )
        raise LabelError(message)
