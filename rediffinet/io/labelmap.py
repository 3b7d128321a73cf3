"""Label maps as they are stored: whole numbers, whatever type they were saved in."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import LabelError
from rediffinet.task import listed

ROUNDING = 1e-3
"""How far a value may lie from a whole number: a map that was stored as scaled integers comes back as 2.99998."""


def whole_labels(
    voxels: npt.NDArray[Any], where: str, expected: str = "whole numbers from 0 to 255"
) -> npt.NDArray[np.uint8]:
    """Voxels (…) of any real type → uint8, in the same memory order; what lies within 1e-3 of an integer is rounded.

    `where` names the map in errors, and `expected` what it should hold.

    Raises:
        LabelError: a value is no whole number, or not between 0 and 255.
    """
    if voxels.dtype == np.uint8:
        return voxels
    if voxels.dtype.kind not in "fiub":
        raise LabelError(f"{where} holds {voxels.dtype} values.\nExpected {expected}.")
    with np.errstate(invalid="ignore"):
        whole = np.rint(voxels) if voxels.dtype.kind == "f" else voxels
        wrong = ~((whole >= 0) & (whole <= 255))
        if voxels.dtype.kind == "f":
            wrong |= ~(np.abs(voxels - whole) <= ROUNDING)
        if wrong.any():
            message = (
                f"{where} holds the values {listed(np.unique(voxels))}.\n"
                f"Expected {expected}. This is no label map: {int(wrong.sum())} voxels, the first of them "
                f"{listed(voxels[wrong][:1])}, hold no whole number from 0 to 255."
            )
            raise LabelError(message)
        return whole.astype(np.uint8)
