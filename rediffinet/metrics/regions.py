"""From two label maps to the masks of a task's regions, cropped to where either has a label."""

import numpy as np
import numpy.typing as npt

from rediffinet.errors import LabelError
from rediffinet.ext import joint_box
from rediffinet.metrics.masks import check_pair
from rediffinet.task import Task, check_values, regions_of

_Mask = npt.NDArray[np.bool_]
_Labels = npt.NDArray[np.integer]


def region_pairs(pred: _Labels, ref: _Labels, task: Task, margin: int = 0) -> list[tuple[_Mask, _Mask]]:
    """Masks (prediction, reference) of the regions in the joint box of two label maps, widened by a margin.

    Raises:
        LabelError: different shapes, values that are no integers or not the task's.
    """
    check_pair(pred, ref)
    for what, labels in (("prediction", pred), ("reference", ref)):
        if labels.dtype.kind not in "iub":
            message = (
                f"The {what} has {labels.dtype} labels.\nExpected integers; round or convert them on purpose first."
            )
            raise LabelError(message)
    box = joint_box(pred, ref, margin)
    pred, ref = pred[box], ref[box]
    for what, labels in (("prediction", pred), ("reference", ref)):
        _check_values(what, labels, task)
    return list(zip(regions_of(pred, task), regions_of(ref, task), strict=True))


def _check_values(what: str, labels: _Labels, task: Task) -> None:
    known = np.zeros(256, np.bool_)
    known[[0, *task.label_names]] = True
    as_bytes = labels.astype(np.uint8, copy=False)
    if known[as_bytes].all() and (labels.dtype in (np.uint8, np.bool_) or np.array_equal(as_bytes, labels)):
        return
    check_values(labels, task, f"The {what}")
