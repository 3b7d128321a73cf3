"""What baselines say of cases whose patients they have not seen: the priors that refiners learn from."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rediffinet.errors import TrainingError
from rediffinet.files import write_atomically
from rediffinet.method.windows import slide
from rediffinet.nets.unet import BaselineGraph
from rediffinet.training.data import TrainingCase
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
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=run.config.autocast):
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
    """Predictions for every case by a baseline that has not seen its patient.

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
        path = cache / f"{case.name}-{_prediction_key(baseline, case)}.npy"
        if not path.exists():
            content = io.BytesIO()
            np.save(content, predict_probability(baseline, case, device))
            write_atomically(path, content.getvalue())
        predictions.append(np.load(path))
        if stage is not None:
            stage("out-of-fold predictions", index + 1, len(cases))
    return predictions


def _prediction_key(baseline: Run, case: TrainingCase) -> str:
    digest = hashlib.sha256(baseline.sha256.encode())
    digest.update(case.image.tobytes())
    return digest.hexdigest()[:16]
