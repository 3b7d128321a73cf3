"""How sure a baseline must be of a core as a whole, so that its place is believed: fitted on cases it had not seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rediffinet.method.postprocess import confidence
from rediffinet.method.recipe import Decision, Recipe
from rediffinet.metrics import dice
from rediffinet.task import regions_of
from rediffinet.training.calibrate import Found, midway

POOR = 0.6
"""A core whose Dice is lower lies elsewhere, to a reader's eye."""


@dataclass(frozen=True)
class Core:
    """The core that was found in a held-out case. confidence: mean probability of the baseline over it; dice: of it."""

    fold: int
    confidence: float
    dice: float

    @property
    def poor(self) -> bool:
        """Whether a warning would have been right."""
        return self.dice < POOR


def cores(recipe: Recipe, cases: Iterable[Found], decisions: Mapping[int, Decision]) -> list[Core]:
    """Of every case in which a core was found, with the decision of its fold; none where the task has no core."""
    index = recipe.task.role("core")
    if index is None:
        return []
    seen = []
    for found in cases:
        decoded = found.decoded(recipe, decisions[found.fold])
        core, probability = decoded.regions[index], decoded.baseline_probability
        if core.any() and probability is not None:
            truth = regions_of(found.reference, recipe.task)[index]
            seen.append(Core(found.fold, confidence(core, probability[index]), dice(core, truth)))
    return seen


def choose_core_confidence(seen: Sequence[Core]) -> float | None:
    """The confidence below which to warn: it parts poor cores best from the others (Youden's index).

    Midway between the two cases that it parts; of limits that do equally well it is the lowest, and None, no warning,
    where no limit tells anything. Source: Youden 1950, Cancer 3(1), 32-35.
    """
    poor = [core.confidence for core in seen if core.poor]
    good = [core.confidence for core in seen if not core.poor]
    if not poor or not good:
        return None

    def index(limit: float) -> float:
        return _share_below(poor, limit) - _share_below(good, limit)

    best = max(midway([*poor, *good]), key=index, default=0.0)
    return best if index(best) > 0.0 else None


def held_out_warnings(seen: Sequence[Core]) -> dict[str, Any]:
    """What the limit of the other folds told of the cases of each fold: counts of cases."""
    limits = {
        fold: choose_core_confidence([core for core in seen if core.fold != fold])
        for fold in sorted({core.fold for core in seen})
    }
    warned = [core for core in seen if core.confidence < (limits[core.fold] or 0.0)]
    return {
        "poor_below_dice": POOR,
        "cases": len(seen),
        "poor": sum(core.poor for core in seen),
        "warned": len(warned),
        "warned_and_poor": sum(core.poor for core in warned),
        "limits": {str(fold): limit for fold, limit in limits.items()},
    }


def _share_below(values: Sequence[float], limit: float) -> float:
    return sum(value < limit for value in values) / len(values)
