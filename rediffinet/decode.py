"""From probabilities and a discrepancy to the two label maps of a case, before and after refinement."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rediffinet.bundle import Bundle
from rediffinet.discrepancy import refined_probability, wrong_probability
from rediffinet.ext import flip_and_decode
from rediffinet.labels import labels_to_regions
from rediffinet.postprocess import remove_small_components
from rediffinet.refine import Discrepancy, mask_of

Labels = npt.NDArray[np.uint8]
Regions = npt.NDArray[np.bool_]
Volume = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decoded:
    """What was decided, on the crop: label maps uint8 (X, Y, Z) with their regions bool (3, X, Y, Z).

    probability: float32 (3, X, Y, Z) after refinement. uncertainty: float32 (X, Y, Z), probability of a wrong label.
    removed_voxels: how many voxels of the refined map postprocessing removed.
    """

    labels: Labels
    regions: Regions
    baseline: Labels
    baseline_regions: Regions
    probability: Volume
    uncertainty: Volume
    removed_voxels: int


def decode(bundle: Bundle, probability: Volume, found: Discrepancy, *, postprocess: bool) -> Decoded:
    """Flip where Δ̂ exceeds its threshold, decode by priority, remove small components of both maps alike."""
    manifest = bundle.manifest
    schema = manifest.label_schema
    mask = mask_of(bundle, probability)
    labels = flip_and_decode(found.delta, mask, manifest.refiner.thresholds, schema.values).labels
    baseline = flip_and_decode(np.zeros_like(found.delta), mask, (1.0, 1.0, 1.0), schema.values).labels
    removed = 0
    if postprocess:
        limits = manifest.postprocess.model_dump()
        labels, removed = remove_small_components(labels, **limits)
        baseline, _ = remove_small_components(baseline, **limits)
    refined = refined_probability(mask, probability, found.delta, found.sampled)
    regions = labels_to_regions(labels, schema)
    return Decoded(
        labels=labels,
        regions=regions,
        baseline=baseline,
        baseline_regions=labels_to_regions(baseline, schema),
        probability=refined,
        uncertainty=wrong_probability(regions, refined),
        removed_voxels=removed,
    )
