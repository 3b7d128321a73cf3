"""What a model finds on held-out cases that it is asked about anew: as its bundle asks, with a mask made elsewhere in
the baseline's place, or without a contrast.

Each case goes through the runs of the fold that had not seen it, as in rediffinet.training.crossval; nothing of it is
kept on disk, because only a calibration asks for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rediffinet.errors import TrainingError
from rediffinet.method.evidence import unsupported_components
from rediffinet.method.inference import Inferred, find_discrepancy, plan_sampling
from rediffinet.method.recipe import Recipe
from rediffinet.training.calibrate import Found
from rediffinet.training.crossval import Finished
from rediffinet.training.data import TrainingCase
from rediffinet.training.memory import open_in_memory
from rediffinet.training.out_of_fold import GivenMask, Stage, given_mask, lacking, predict


@dataclass(frozen=True)
class _Meeting:
    """A case as the refiner is shown it, what stands in the baseline's place, and the mask that this was.

    left_out: lesions that are flipped whole, bool (X, Y, Z); None where nothing was asked.
    """

    shown: TrainingCase
    prior: npt.NDArray[np.floating]
    given: GivenMask | None = None
    left_out: npt.NDArray[np.bool_] | None = None


def found_again(
    pieces: Sequence[Finished], found: Sequence[Found], recipe: Recipe, stage: Stage | None = None
) -> list[Found]:
    """What is found in the windows that a bundle of that recipe runs: where its decision can flip, if that is known.

    found: the held-out cases with what their baseline says of them and what the evidence does not support; what was
    found of them before is not looked at.
    """
    known = {one.case.name: one.inferred for one in found}

    def meet(piece: Finished, case: TrainingCase) -> _Meeting:
        probability = known[case.name].probability
        assert probability is not None, "a model that refines a baseline"
        return _Meeting(case, probability, left_out=known[case.name].unsupported)

    return _found(pieces, recipe, meet, "refinement", stage)


def found_with_masks(
    pieces: Sequence[Finished], masks: Path, recipe: Recipe, stage: Stage | None = None
) -> list[Found]:
    """What is found on the held-out cases of which the folder `masks` has a label map, that in the baseline's place.

    Raises TrainingError when it has none of any; LabelError or CaseError for a map that does not fit its case.
    """

    def meet(piece: Finished, case: TrainingCase) -> _Meeting | None:
        given = given_mask(case, masks, piece.baseline.config.preprocessing)
        return None if given is None else _Meeting(case, given.at(case), given)

    found = _found(pieces, recipe, meet, "other programs' masks", stage)
    if not found:
        message = f"{masks} holds a label map of none of the held-out cases, expected files `CASE*.nii[.gz]`"
        raise TrainingError(message)
    return found


def found_without(pieces: Sequence[Finished], contrast: int, recipe: Recipe, stage: Stage | None = None) -> list[Found]:
    """What is found on the held-out cases when baseline and refiner do not get the contrast of that index."""

    def meet(piece: Finished, case: TrainingCase) -> _Meeting:
        prior = predict(piece.baseline, case, piece.predictions, missing=contrast)
        return _Meeting(lacking(case, contrast, piece.run.config.normalisation.background), prior)

    return _found(pieces, recipe, meet, f"without {recipe.task.contrasts[contrast]}", stage)


def weigh_evidence(
    pieces: Sequence[Finished], found: Sequence[Found], recipe: Recipe, stage: Stage | None = None
) -> list[Found]:
    """What `gather` found on the held-out cases, with the lesions that the evidence does not support."""
    owners = [piece for piece in pieces for _ in piece.held_out]
    weighed = []
    for done, (piece, one) in enumerate(zip(owners, found, strict=True), 1):
        probability = one.inferred.probability
        assert probability is not None, "a model that refines a baseline"

        def without(contrast: int, piece: Finished = piece, one: Found = one) -> npt.NDArray[np.float32]:
            return predict(piece.baseline, one.case, piece.predictions, missing=contrast).astype(np.float32)

        unsupported = unsupported_components(recipe, probability, without)
        weighed.append(replace(one, inferred=replace(one.inferred, unsupported=unsupported)))
        if stage is not None:
            stage("evidence", done, len(owners))
    return weighed


def _found(
    pieces: Sequence[Finished],
    recipe: Recipe,
    meet: Callable[[Finished, TrainingCase], _Meeting | None],
    what: str,
    stage: Stage | None,
) -> list[Found]:
    found = []
    total = sum(len(piece.held_out) for piece in pieces)
    done = 0
    for piece in pieces:
        loaded = open_in_memory(piece.run, piece.baseline)._replace(recipe=recipe)
        plan = plan_sampling(recipe)
        with loaded.engine:
            for case in piece.held_out:
                done += 1
                if (met := meet(piece, case)) is None:
                    continue
                image, probability = met.shown.image.astype(np.float32), met.prior.astype(np.float32, copy=False)
                discrepancy = find_discrepancy(
                    loaded,
                    image,
                    probability,
                    plan,
                    case.name,
                    decision=recipe.decision,
                    postprocess=met.given is None,
                    left_out=met.left_out,
                )
                inferred = Inferred(probability, discrepancy, met.left_out)
                found.append(piece.found(case, inferred, None if met.given is None else met.given.regions))
                if stage is not None:
                    stage(what, done, total)
    return found
