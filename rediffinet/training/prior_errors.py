"""Errors that a baseline could have made, put into its answer: a refiner must meet more than those it really made."""

import numpy as np
import torch
from torch import Tensor

from rediffinet.training.sampling import random_voxel


def jittered(rng: np.random.Generator, soft: Tensor) -> Tensor:
    """A prediction (R, …) that is more or less certain, larger or smaller: its logits scaled and shifted."""
    logit = torch.logit(soft, eps=1e-4)
    return torch.sigmoid(float(rng.uniform(0.7, 1.5)) * logit + float(rng.uniform(-0.7, 0.7)))


def gone_wrong(rng: np.random.Generator, soft: Tensor) -> Tensor:
    """A prediction (R, …) that found nothing, or found the tumour in its mirror image as well: errors of far reach."""
    return torch.zeros_like(soft) if rng.random() < 0.5 else torch.maximum(soft, soft.flip(1))


def lost_part(rng: np.random.Generator, soft: Tensor, whole: slice) -> Tensor:
    """A prediction (R, …) that ends at a plane through what it found of the whole tumour: nothing is seen beyond."""
    voxel = random_voxel(rng, soft[whole].amax(0).numpy() > 0.5)
    if voxel is None:
        return soft
    normal = rng.standard_normal(3)
    grids = np.meshgrid(*map(np.arange, soft.shape[1:]), indexing="ij", sparse=True)
    beyond = sum(slope * (grid - at) for slope, grid, at in zip(normal, grids, voxel, strict=True)) > 0.0
    return soft.masked_fill(torch.from_numpy(np.asarray(beyond)), 0.0)


def false_part(rng: np.random.Generator, soft: Tensor, other: Tensor, brain: Tensor) -> Tensor:
    """A prediction (R, …) with what was found in another case besides, on either side, within the brain (…)."""
    return torch.maximum(soft, (other.flip(1) if rng.random() < 0.5 else other) * brain)
