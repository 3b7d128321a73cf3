"""A baseline made by any other program: a label map on the case's grid, refined instead of the bundle's own."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rediffinet.bundle import file_sha256
from rediffinet.errors import CaseError, LabelError
from rediffinet.io.cases import EXPECTED_LABELS, Case, load_labels, recognise_schema
from rediffinet.io.geometry import to_canonical
from rediffinet.io.labelmap import whole_labels
from rediffinet.io.naming import printable
from rediffinet.labels import labels_to_regions

ENDINGS = tuple(f"{middle}.nii{packed}" for middle in ("-baseline", "-seg", "_seg", "") for packed in (".gz", ""))
"""How a mask of case X may be named in a folder of masks, after the X."""


@dataclass(frozen=True, eq=False)
class BaselineMask:
    """Regions bool (3, X, Y, Z), WT, TC, ET in canonical orientation, and the file they come from, if any.

    load_seconds: what reading took.
    """

    regions: npt.NDArray[np.bool_]
    path: str | None = None
    sha256: str | None = None
    load_seconds: float = 0.0


def read_baseline_mask(path: Path, case: Case) -> BaselineMask:
    """Read a label map of BraTS 2023 or of the years before.

    Raises CaseError when it cannot be read, LabelError when it is not on the case's grid or holds other values.
    """
    started = time.perf_counter()
    labels, schema = load_labels(path, case.grid)
    regions, digest = labels_to_regions(labels, schema), file_sha256(path)
    return BaselineMask(regions, printable(str(path)), digest, time.perf_counter() - started)


def mask_from_labels(labels: npt.NDArray[np.integer], case: Case) -> BaselineMask:
    """A label map in memory, on the grid that the case was stored on.

    Raises LabelError when the shape or the values are others.
    """
    if labels.shape != case.grid.shape:
        message = (
            f"The baseline's labels have shape {labels.shape}, case {case.name} has {case.grid.shape}.\n"
            "Expected a label map on the grid of the images as they are stored."
        )
        raise LabelError(message)
    where = "The baseline's label map"
    whole = whole_labels(labels, where, EXPECTED_LABELS)
    return BaselineMask(labels_to_regions(to_canonical(whole, case.grid), recognise_schema(whole, where)))


def find_mask(path: Path, name: str) -> Path:
    """The mask of the case `name`: the file itself, or the one in a folder of masks that is named after the case.

    Raises CaseError when a folder holds none, or more than one.
    """
    if not path.is_dir():
        return path
    names = [f"{name}{ending}" for ending in ENDINGS]
    found = [path / file for file in names if (path / file).is_file()]
    if len(found) == 1:
        return found[0]
    message = (
        f"{path} holds {', '.join(file.name for file in found) or 'no mask'} of case {name}.\n"
        f"Expected one of {', '.join(names[::2])} (or .nii)."
    )
    raise CaseError(message)
