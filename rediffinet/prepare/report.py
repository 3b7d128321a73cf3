"""What preparation did: `NAME-preparation.json`. With it a result finds the way back to the original series."""

from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rediffinet.errors import CaseError
from rediffinet.prepare.space import Affine, Space

SCHEMA: Literal["rediffinet-preparation/1"] = "rediffinet-preparation/1"
Matrix = tuple[tuple[float, float, float, float], ...]
Triple = tuple[int, int, int]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SpaceInfo(_Part):
    """A grid: voxels along each axis, and the affine from voxel indices to RAS+ millimetres."""

    shape: Triple
    affine: Matrix

    @classmethod
    def of(cls, space: Space) -> "SpaceInfo":
        """The same, in JSON's types."""
        return cls(shape=space.shape, affine=to_rows(space.affine))

    @property
    def space(self) -> Space:
        """The same, with an array."""
        return Space(self.shape, np.array(self.affine, np.float64))


class SeriesInfo(_Part):
    """One original image: where it came from, its grid, and how it lies to the reference.

    to_series: rigid matrix from the world of the prepared case to the world of this image. Similarities are normalised
    mutual information with the reference within the brain's surroundings, 1 to 2, None for the reference itself.
    coverage: share of the brain inside this image. head_overlap: Dice of what is not air, with the reference.
    """

    path: str
    sha256: str
    grid: SpaceInfo
    to_series: Matrix
    similarity_before: float | None = None
    similarity_after: float | None = None
    moved_mm: float = 0.0
    degrees: float = 0.0
    coverage: float = 1.0
    head_overlap: float | None = None


class BrainInfo(_Part):
    """Where the brain mask comes from. left_out: share of what the network called brain in other pieces.

    at_edge: share of the reference's outermost slices, in the direction where it is largest, that is brain.
    """

    source: Literal["network", "file", "given"]
    name: str
    sha256: str | None
    volume_ml: float
    left_out: float = 0.0
    at_edge: float = 0.0


class PreparationWarning(_Part):
    """Something that looks wrong: a code, a contrast where it is about one, and a sentence."""

    code: str
    contrast: str | None = None
    message: str


class Preparation(_Part):
    """Everything about one preparation; see docs/clinic.md.

    passed_through: the images were prepared already and are what they were; nothing else is filled in then.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["rediffinet-preparation/1"] = Field(default=SCHEMA, alias="schema")
    case: str
    rediffinet: str = Field(default_factory=lambda: version("rediffinet"))
    passed_through: bool = False
    reference: str
    space: SpaceInfo
    series: dict[str, SeriesInfo]
    brain: BrainInfo | None = None
    engine: str = ""
    registration: str = ""
    seconds: dict[str, float] = {}
    peak_rss_mb: float = 0.0
    warnings: list[PreparationWarning] = []
    outputs: dict[str, str] = {}

    def to_json(self) -> str:
        """JSON text with the documented key names."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def to_rows(matrix: Affine) -> Matrix:
    """A matrix (4, 4) as rows of numbers."""
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in matrix)


def find_preparation(folder: Path, case: str) -> Preparation | None:
    """The preparation of a case in its folder, None where there is none. Raises CaseError for a damaged file."""
    path = folder / f"{case}-preparation.json"
    if not path.is_file():
        return None
    try:
        return Preparation.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        message = f"{path} cannot be read ({error}).\nExpected what `rediff prepare` wrote; prepare the case again."
        raise CaseError(message) from None
