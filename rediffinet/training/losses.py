"""The compound loss of the paper: Dice + binary cross-entropy (+ mean squared error for the discrepancy).

Every loss of a batch is the mean of the losses of its examples, the Dice loss too. So the gradient of a batch is the
mean of those of its parts, wherever they are computed: in micro-batches one after the other, or in several processes.
"""

import torch
from torch import Tensor
from torch.nn import functional


def dice_loss(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − soft Dice, averaged over examples and regions. Both (N, 3, …) float32."""
    axes = list(range(2, probability.ndim))
    overlap = (probability * target).sum(axes)
    total = probability.sum(axes) + target.sum(axes)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean()


CELL = 4
"""Side in voxels of the cells in which `far_error_loss` measures distance."""
REACH = 3
"""Cells from the boundary at which an error has its full weight."""


def far_error_loss(probability: Tensor, target: Tensor, smooth: float = 100.0) -> Tensor:
    """Squared error weighted by the distance from the target's boundary, in target volumes. Both (N, 3, …) float32.

    The weight is 0 in the cells of 4³ voxels that the boundary crosses and rises to 1 three cells away, inside and
    outside: what HD95 counts and Dice hardly sees. After the one-sided loss of Karimi and Salcudean (2019, arXiv
    1904.10030), with distances in cells, which cost a hundredth of a step.
    """
    axes = list(range(2, target.ndim))
    weight = _cells_away(target) / REACH
    errors = (weight * (probability - target).square()).sum(axes)
    return (errors / (target.sum(axes) + smooth)).mean()


@torch.no_grad()
def _cells_away(target: Tensor) -> Tensor:
    """Distance of every voxel from the boundary of a mask of 0 and 1, in whole cells, REACH at most; either side."""
    free = []
    for side in (target, 1.0 - target):
        cells = functional.max_pool3d(side, CELL, ceil_mode=True)
        free.append(1.0 - cells)
        for _ in range(REACH - 1):
            cells = functional.max_pool3d(cells, 3, 1, 1)
            free.append(1.0 - cells)
    return functional.interpolate(torch.stack(free).sum(0), target.shape[2:], mode="nearest")


def compound_loss(
    logits: Tensor, target: Tensor, *, squared_error: bool, mask: Tensor | None = None, far_errors: float = 0.0
) -> Tensor:
    """Dice + BCE, + MSE of the probabilities when asked, + far_errors · `far_error_loss`. All (N, 3, …) float32.

    mask: (N, 3, …) of 0 and 1, for a target that is a discrepancy to it: the Dice loss and that of far errors are then
    of the flipped result |mask − Δ̂| against |mask − Δ|. Dice of the discrepancy itself rewards flipping everything in
    doubt.
    """
    probability = torch.sigmoid(logits)
    answer, wanted = probability, target
    if mask is not None:
        answer, wanted = (mask - probability).abs(), (mask - target).abs()
    loss = dice_loss(answer, wanted) + functional.binary_cross_entropy_with_logits(logits, target)
    if far_errors:
        loss = loss + far_errors * far_error_loss(answer, wanted)
    return loss + functional.mse_loss(probability, target) if squared_error else loss


def deep_supervision_loss(
    logits: Tensor | list[Tensor], target: Tensor, *, squared_error: bool = False, far_errors: float = 0.0
) -> Tensor:
    """Compound loss at every resolution given, halving the weight per level; targets by nearest neighbour.

    far_errors: at the finest resolution alone.
    """
    levels = logits if isinstance(logits, list) else [logits]
    weights = [0.5**i for i in range(len(levels))]
    targets = [functional.interpolate(target, level.shape[2:], mode="nearest") for level in levels]
    losses = [
        weight
        * compound_loss(level.float(), small, squared_error=squared_error, far_errors=0.0 if index else far_errors)
        for index, (weight, level, small) in enumerate(zip(weights, levels, targets, strict=True))
    ]
    return torch.stack(losses).sum() / sum(weights)
