"""The seam through which images come and label maps go: NIfTI is one form, DICOM a folder beside it.

A form of images is a reader and a `Source`. The reader takes a case's folder and returns a `Read`, from which
`load_case` makes the checked case; the case keeps the source (small: no voxels), and a result asks it to store its maps
in the same form.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rediffinet.io.checks import CaseWarning
from rediffinet.io.geometry import Grid


@dataclass(frozen=True)
class SourceImage:
    """Where a contrast came from: file, SHA-256 of the file, and shape and spacing in mm as stored.

    For a series of files: its folder, and the hash of their hashes.
    """

    contrast: str
    path: str
    sha256: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Map:
    """A map to store: voxels (X, Y, Z), or (C, X, Y, Z), on the grid of the source and of the type to store.

    labels: name of each value of a label map, in the order to tell them; empty for a map of real numbers.
    """

    voxels: npt.NDArray[Any]
    description: str = ""
    labels: Mapping[int, str] = field(default_factory=dict)


class Source(Protocol):
    """Where a case came from, and the form in which maps go back there. It can be pickled."""

    @property
    def grid(self) -> Grid:
        """The grid on which the images were stored."""

    @property
    def provenance(self) -> tuple[SourceImage, ...]:
        """One entry per contrast, in the order of the channels; none for images that were in memory."""

    def write_like(self, content: Map) -> dict[str, bytes]:
        """The map as files, keyed by the ending that each adds to a name, `.nii.gz` for one.

        A form that cannot hold the map (DICOM and probabilities) gives the one of NIfTI. Raises OutputError when the
        map is not on the grid.
        """


@dataclass(frozen=True, eq=False)
class Read:
    """What a reader found in a case: images float32 (C, X, Y, Z), canonical and C-contiguous, not yet checked."""

    name: str
    images: npt.NDArray[np.float32]
    source: Source
    warnings: tuple[CaseWarning, ...] = ()
