"""What baselines say of cases whose patients they have not seen: the priors that refiners learn from."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rediffinet.errors import TrainingError
from rediffinet.files import write_atomically
from rediffinet.io.cases import load_case
from rediffinet.io.masks import read_baseline_mask
from rediffinet.method.preprocessing import Preprocessing, preprocess, regrid, to_spacing
from rediffinet.method.resample import Spacing, same_spacing
from rediffinet.method.windows import slide
from rediffinet.nets.unet import BaselineGraph
from rediffinet.training.data import TrainingCase, load_training_case
from rediffinet.training.precision import autocast
from rediffinet.training.run import Run

CPU = torch.device("cpu")
Probability = npt.NDArray[np.float16]
"""Of the regions, (R, X, Y, Z)."""
Stage = Callable[[str, int, int], None]
"""(what, done, of): progress of the preparations."""


def predict_probability(run: Run, case: TrainingCase, device: torch.device = CPU) -> Probability:
    """The baseline's blended probabilities of a case, float16 (3, X, Y, Z)."""
    graph = BaselineGraph(run.model, mirror=run.config.mirror).eval().to(device)

    def predict(window: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode(), autocast(run.config.autocast, device):
            return np.asarray(graph(torch.from_numpy(window).to(device)).float().cpu().numpy())

    image = case.image.astype(np.float32)
    config = run.config
    return slide(
        image, config.unet.window, config.overlap, predict, len(case.regions), config.normalisation.background
    ).astype(np.float16)


def out_of_fold(
    cases: Sequence[TrainingCase],
    baselines: Sequence[Run],
    cache: Path,
    stage: Stage | None = None,
    device: torch.device = CPU,
) -> list[Probability]:
    """Predictions for every case by a baseline that has not seen its patient, on the case's grid.

    Cached in `cache`, one file a case, keyed by the baseline's hash and the image's. Raises TrainingError when a case
    was seen by all baselines: a refiner trained on such predictions would meet too few errors to learn from.
    """
    chosen = [next((b for b in baselines if case.patient not in b.seen_patients), None) for case in cases]
    seen = [case.name for case, baseline in zip(cases, chosen, strict=True) if baseline is None]
    if seen:
        message = (
            f"{len(seen)} training cases were seen by every baseline given: {', '.join(seen)}.\n"
            "The refiner learns from out-of-fold predictions: train one baseline per fold on the same data (`folds=N`, "
            "`fold=0` to N − 1) and give each with `baseline`."
        )
        raise TrainingError(message)
    cache.mkdir(parents=True, exist_ok=True)
    predictions = []
    for index, (case, baseline) in enumerate(zip(cases, chosen, strict=True)):
        assert baseline is not None
        predictions.append(predict(baseline, case, cache, device))
        if stage is not None:
            stage("out-of-fold predictions", index + 1, len(cases))
    return predictions


def predict(
    run: Run, case: TrainingCase, cache: Path, device: torch.device = CPU, missing: int | None = None
) -> Probability:
    """What a baseline says of a case, with the contrast of that index taken away, on the case's grid.

    A baseline that looks at other voxels than the case has reads the case anew. What it says is cached on its own grid.
    """
    seen = case
    if not same_spacing(case.spacing_mm, run.config.spacing_mm):
        assert case.folder is not None, "a case that was read from a folder"
        seen = load_training_case(case.folder, run.config.preprocessing, cache)
    if missing is not None:
        seen = lacking(seen, missing, run.config.normalisation.background)
    path = cache / f"{case.name}-{_prediction_key(run, seen)}.npy"
    if not path.exists():
        content = io.BytesIO()
        np.save(content, predict_probability(run, seen, device))
        write_atomically(path, content.getvalue())
    return regrid(np.load(path), run.config.spacing_mm, case.spacing_mm, case.image).astype(np.float16, copy=False)


@dataclass(frozen=True)
class Prior:
    """What a program said of a case that it had not seen: float16 (R, X, Y, Z) in [0, 1].

    missing: index of the contrast that it did not get, None when it had all. given: made by another program than the
    baseline that the refiner will run on.
    """

    probability: Probability
    missing: int | None = None
    given: bool = False


def collect_priors(
    cases: Sequence[TrainingCase],
    baselines: Sequence[Run],
    cache: Path,
    *,
    missing: bool = False,
    masks: Path | None = None,
    stage: Stage | None = None,
    device: torch.device = CPU,
) -> list[list[Prior]]:
    """All that is known of every case from programs that had not seen it: of every baseline that has not, of each with
    one contrast missing where asked for, and a label map of another program, `CASE*.nii[.gz]` in the folder `masks`.

    Cached and raising as `out_of_fold` does; LabelError or CaseError for a mask that does not fit its case.
    """
    found: list[list[Prior]] = []
    for index, case in enumerate(cases):
        unseen = [run for run in baselines if case.patient not in run.seen_patients]
        priors = [Prior(out_of_fold([case], [run], cache, device=device)[0]) for run in unseen or baselines]
        if missing:
            priors += [
                Prior(predict(run, case, cache, device, contrast), missing=contrast)
                for contrast in range(len(case.image))
                for run in unseen
            ]
        if masks is not None and (given := given_mask(case, masks, baselines[0].config.preprocessing)) is not None:
            priors.append(Prior(given.at(case), given=True))
        found.append(priors)
        if stage is not None:
            stage("out-of-fold predictions", index + 1, len(cases))
    return found


@dataclass(frozen=True)
class GivenMask:
    """What another program said of a case: bool (R, x, y, z) on the brain crop, at the case's own voxels."""

    regions: npt.NDArray[np.bool_]
    spacing_mm: Spacing

    def at(self, case: TrainingCase) -> Probability:
        """On the grid of the networks, as the share of each voxel that a region fills."""
        return to_spacing(self.regions.astype(np.float32), self.spacing_mm, case.spacing_mm).astype(np.float16)


def lacking(case: TrainingCase, contrast: int, background: float) -> TrainingCase:
    """The case without the contrast of that index: an image that is background everywhere."""
    image = np.array(case.image)
    image[contrast] = np.float16(background)
    return replace(case, image=image)


def given_mask(case: TrainingCase, masks: Path, how: Preprocessing) -> GivenMask | None:
    """The label map `CASE*.nii[.gz]` in the folder `masks`; None where there is none."""
    paths = sorted(path for path in masks.glob(f"{case.name}*") if path.name.endswith((".nii", ".nii.gz")))
    if not paths or case.folder is None:
        return None
    original = load_case(case.folder, task=how.task)
    regions = read_baseline_mask(paths[0], original, how.task).regions
    prepared = preprocess(original.images, original.spacing_mm, how)
    return GivenMask(regions[(slice(None), *prepared.box)], original.spacing_mm)


def _prediction_key(baseline: Run, case: TrainingCase) -> str:
    digest = hashlib.sha256(baseline.sha256.encode())
    digest.update(case.image.tobytes())
    return digest.hexdigest()[:16]
