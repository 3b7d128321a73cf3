"""Evaluation protocols: which definitions a published number stands for."""

from dataclasses import dataclass
from typing import Literal

from rediffinet.errors import ConfigError
from rediffinet.task import DEFAULT_TASK, TASKS, LesionRules, Task

PENALTY_MM = 374.0
"""HD95 of a region that is in one of the two label maps only: the diagonal of 240 × 240 × 155 mm, rounded down, plus
one; the BraTS-2023 value (337 and 373 circulate for other years)."""


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


def _of_rules(rules: LesionRules, source: str) -> Protocol:
    return Protocol(rules.protocol, source, "surface", lesions=rules, penalty_mm=rules.penalty_mm)


_LESIONWISE = {task.lesions.protocol: task.lesions for task in TASKS.values() if task.lesions}
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        *(_of_rules(rules, f"BraTS-2023 {name[-3:].upper()}") for name, rules in _LESIONWISE.items()),
        Protocol("legacy", "whole-image scores of BraTS-2023 and before", "surface"),
        Protocol("paper", "Re-DiffiNet paper: MedPy HD95 without spacing", "pooled", in_voxels=True),
    )
}
"""The lesion-wise ones have the parameters of the shipped tasks."""

_ALIASES = {"brats2023": "brats2023-gli"}


def find_protocol(name: str | None = None, task: Task | None = None) -> Protocol:
    """The protocol of that name ("brats2023" is the glioma task), or, without a name, that of the task.

    A task without lesion-wise parameters has the protocol "legacy".

    Raises:
        ConfigError: no such protocol; a task whose protocol has a known name and other parameters.
    """
    own = (task or TASKS[DEFAULT_TASK]).lesions
    if name is None and own is None:
        return PROTOCOLS["legacy"]
    if own is not None and name in (None, own.protocol):
        known = PROTOCOLS.get(own.protocol, _of_rules(own, f"task {task.name}" if task else ""))
        if known.lesions != own:
            message = (
                f"The lesion-wise protocol of the task is named {own.protocol!r}, which has other parameters: "
                f"{known.describe()}.\nGive it another name."
            )
            raise ConfigError(message)
        return known
    protocol = PROTOCOLS.get(_ALIASES.get(str(name), str(name)))
    if protocol is None:
        message = f"There is no protocol {name!r}.\nExpected one of {', '.join([*_ALIASES, *PROTOCOLS])}."
        raise ConfigError(message)
    return protocol


def task_of_protocol(name: str) -> Task:
    """The shipped task that a protocol was made for; the default one for a protocol of any tumour."""
    for task in TASKS.values():
        if task.lesions and task.lesions.protocol == _ALIASES.get(name, name):
            return task
    return TASKS[DEFAULT_TASK]
