"""Evaluation protocols: which definitions a published number stands for."""

from dataclasses import dataclass
from typing import Literal

from rediffinet.errors import ConfigError

PENALTY_MM = 374.0
"""HD95 of a region that is in one of the two label maps only: the diagonal of 240 × 240 × 155 mm, rounded down, plus
one; the BraTS-2023 value (337 and 373 circulate for other years)."""


@dataclass(frozen=True, slots=True)
class LesionRules:
    """Parameters of the lesion-wise scores."""

    dilation: int
    """Steps of the 18-neighbour element by which reference lesions are joined and predictions matched."""
    left_out_voxels: int
    """Reference lesions of up to this size do not count."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """Definitions of one protocol. Both empty: Dice 1, HD95 0; one empty: Dice 0, HD95 penalty_mm."""

    name: str
    source: str
    definition: Literal["surface", "max", "pooled"]
    in_voxels: bool = False
    """HD95 counts voxels, whatever the spacing."""
    lesions: LesionRules | None = None
    penalty_mm: float = PENALTY_MM

    def describe(self) -> str:
        """One line that belongs under every table of its numbers."""
        unit = "voxels" if self.in_voxels else "mm"
        lesions = ""
        if self.lesions:
            lesions = (
                f"; lesion-wise: dilation {self.lesions.dilation}, ≤ {self.lesions.left_out_voxels} voxels left out"
            )
        return (
            f"protocol {self.name} ({self.source}); HD95 definition: {self.definition}, in {unit}; "
            f"missed or invented region: Dice 0, HD95 {self.penalty_mm:g}; absent in both: Dice 1, HD95 0{lesions}"
        )


def _brats_2023(task: str, dilation: int, left_out_voxels: int) -> Protocol:
    return Protocol(
        f"brats2023-{task}",
        f"BraTS-2023 {task.upper()}",
        "surface",
        lesions=LesionRules(dilation, left_out_voxels),
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _brats_2023("gli", dilation=3, left_out_voxels=50),
        _brats_2023("ssa", dilation=3, left_out_voxels=50),
        _brats_2023("ped", dilation=3, left_out_voxels=50),
        _brats_2023("men", dilation=1, left_out_voxels=50),
        _brats_2023("met", dilation=1, left_out_voxels=2),
        Protocol("legacy", "whole-image scores of BraTS-2023 and before", "surface"),
        Protocol("paper", "Re-DiffiNet paper: MedPy HD95 without spacing", "pooled", in_voxels=True),
    )
}

_ALIASES = {"brats2023": "brats2023-gli"}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name ("brats2023" is the glioma task).

    Raises:
        ConfigError: no such protocol.
    """
    protocol = PROTOCOLS.get(_ALIASES.get(name, name))
    if protocol is None:
        message = f"There is no protocol {name!r}.\nExpected one of {', '.join([*_ALIASES, *PROTOCOLS])}."
        raise ConfigError(message)
    return protocol
