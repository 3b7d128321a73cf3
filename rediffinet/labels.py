"""Tumour regions and the integer label schemas that encode them.

The three overlapping regions, in the order used everywhere: WT (whole tumour), TC (tumour core), ET (enhancing
tumour), with ET ⊂ TC ⊂ WT. A schema names the integers a file holds: BraTS-2023 writes ET = 3, BraTS ≤ 2022 wrote
ET = 4 (facts: the challenge data descriptions of those years).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

REGIONS = ("WT", "TC", "ET")
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@dataclass(frozen=True)
class LabelSchema:
    """Integer values of one labelling convention."""

    name: str
    ncr: int
    ed: int
    et: int

    @property
    def values(self) -> tuple[int, int, int]:
        """Label of a voxel that is in WT only, in TC but not ET, in ET: the decoding order of the flip."""
        return (self.ed, self.ncr, self.et)


BRATS_2023 = LabelSchema("brats2023", ncr=1, ed=2, et=3)
BRATS_2021 = LabelSchema("brats2021", ncr=1, ed=2, et=4)
SCHEMAS = {schema.name: schema for schema in (BRATS_2023, BRATS_2021)}


def labels_to_regions(labels: npt.NDArray[np.integer], schema: LabelSchema = BRATS_2023) -> npt.NDArray[np.bool_]:
    """Label map (X, Y, Z) → boolean regions (3, X, Y, Z): WT, TC, ET. Values outside the schema are background."""
    et = labels == schema.et
    tc = et | (labels == schema.ncr)
    return np.stack([tc | (labels == schema.ed), tc, et])
