"""Would a true second lesion stand by the evidence that the default bundle asks for? Tumours put into other heads tell.

    python benchmarks/evidence.py --study STUDY --data brats/ [--cache FOLDER] [--volumes 4,10,25] [--folds 0,1]

STUDY is a finished `rediff crossval`. Into every held-out head, at a place at random apart from its own tumour, goes
the tumour of another held-out case of that fold, shrunk to the volume in ml, with a rim of its surroundings that fades
(CarveMix, Zhang et al. 2021, arXiv 2108.06883, at test time). The baseline that has seen neither looks for it with all
contrasts, and without each. Prints for every volume how many were found (as a component of whole tumour apart from the
largest, that survives the rules on small ones), and how many of these stand.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from rediffinet.ext import label_components
from rediffinet.method.evidence import unsupported_components
from rediffinet.method.recipe import Evidence, Recipe, SmallComponents
from rediffinet.method.refine import small_pieces
from rediffinet.training.crossval import Finished, finished, reopen
from rediffinet.training.data import TrainingCase, load_training_case
from rediffinet.training.out_of_fold import lacking, predict_probability

RIM = 2
APART = 5
WITHOUT = ("t1n", "t1c", "t2w")
SMALL = SmallComponents(min_fraction=0.1)


class Planted(NamedTuple):
    """A head with a second lesion, and where that is, bool (X, Y, Z)."""

    case: TrainingCase
    lesion: npt.NDArray[np.bool_]


def plant(
    rng: np.random.Generator, host: TrainingCase, donor: TrainingCase, voxels: float, fill: float
) -> Planted | None:
    """The donor's tumour, of about so many voxels, apart from the host's own; None where it finds no place."""
    tumour = np.asarray(donor.regions[0] > 0)
    box = tuple(slice(max(0, int(at.min()) - 6), int(at.max()) + 7) for at in np.nonzero(tumour))
    zoom = min(1.0, (voxels / tumour.sum()) ** (1 / 3))
    small = ndimage.zoom(tumour[box].astype(float), zoom, order=1) > 0.5
    patch = np.stack([ndimage.zoom(one[box].astype(np.float32), zoom, order=1) for one in donor.image])
    brain = np.asarray((host.image != fill).any(axis=0))
    free = ndimage.binary_erosion(brain, iterations=2) & ~ndimage.binary_dilation(host.regions[0] > 0, iterations=APART)
    soft = ndimage.uniform_filter(ndimage.binary_dilation(small, iterations=RIM).astype(np.float32), 3)
    spans = [whole - part + 1 for whole, part in zip(free.shape, small.shape, strict=True)]
    for _ in range(3000):
        start = [int(rng.integers(max(1, span))) for span in spans]
        at = tuple(slice(first, first + size) for first, size in zip(start, small.shape, strict=True))
        if free[at].shape == small.shape and small.any() and free[at][small].all():
            image = host.image.astype(np.float32)
            weight = soft * brain[at] * (patch != fill).any(axis=0)
            image[(slice(None), *at)] += weight * (patch - image[(slice(None), *at)])
            lesion = np.zeros(free.shape, bool)
            lesion[at] = small
            return Planted(replace(host, image=image.astype(np.float16)), lesion)
    return None


def stands(recipe: Recipe, piece: Finished, planted: Planted) -> bool | None:
    """Whether the planted lesion stands; None where it is not found as a lesion of its own."""
    background = piece.baseline.config.normalisation.background
    probability = predict_probability(piece.baseline, planted.case).astype(np.float32)
    mask = recipe.mask(probability)
    components, _ = label_components(recipe.whole(mask & ~small_pieces(recipe, recipe.decision, mask)))
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    here = np.bincount(components[planted.lesion], minlength=len(sizes))
    here[0] = 0
    index = int(here.argmax())
    if 2 * here[index] < planted.lesion.sum() or index == int(sizes.argmax()):
        return None
    fallen = unsupported_components(
        recipe,
        probability,
        lambda contrast: predict_probability(piece.baseline, lacking(planted.case, contrast, background)).astype(
            np.float32
        ),
    )
    return not fallen[components == index].any()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--model", default="discrepancy-unet")
    parser.add_argument("--volumes", default="4,10,25")
    parser.add_argument("--folds")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.study is None or given.data is None:
        print("no study: give --study, of `rediff crossval`, and --data, what it was made of")
        return
    study = reopen(given.study, [given.data], cache=given.cache)
    if given.folds is not None:
        study = replace(study, only=tuple(int(fold) for fold in given.folds.split(",")))
    volumes = [float(volume) for volume in given.volumes.split(",")]
    told: dict[float, list[bool | None]] = {volume: [] for volume in volumes}
    rng = np.random.default_rng(given.seed)
    for piece in finished(study, given.model, 0):
        how = piece.baseline.config.preprocessing
        evidence = Evidence(without=WITHOUT)
        recipe = piece.recipe.with_decision(
            piece.recipe.decision.changed(small_components=SMALL, evidence=evidence)
        ).model_copy(update={"refiner": None, "spacing_mm": how.spacing_mm})
        cases = [load_training_case(one.folder, how, study.cache) for one in piece.held_out if one.folder is not None]
        for host in cases:
            for volume in volumes:
                donor = [one for one in cases if one is not host][int(rng.integers(len(cases) - 1))]
                voxels = volume * 1000.0 / float(np.prod(how.spacing_mm))
                planted = plant(rng, host, donor, voxels, how.normalisation.background)
                if planted is not None:
                    told[volume].append(stands(recipe, piece, planted))
                    print(host.name, donor.name, f"{volume:g} ml", told[volume][-1], flush=True)
    for volume, answers in told.items():
        found = [answer for answer in answers if answer is not None]
        print(f"{volume:g} ml: planted {len(answers)}, found apart {len(found)}, of which {sum(found)} stand")


if __name__ == "__main__":
    main()
