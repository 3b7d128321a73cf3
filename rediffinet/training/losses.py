"""The compound loss of the paper: Dice + binary cross-entropy (+ mean squared error for the discrepancy).

Every loss of a batch is the mean of the losses of its examples, the Dice loss too. So the gradient of a batch is the
mean of those of its parts, wherever they are computed: in micro-batches one after the other, or in several processes.
"""

import torch
from torch import Tensor
from torch.nn import functional


def dice_loss(probability: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − soft Dice, averaged over examples and regions. Both (N, R, …) float32."""
    axes = list(range(2, probability.ndim))
    overlap = (probability * target).sum(axes)
    total = probability.sum(axes) + target.sum(axes)
    return (1.0 - (2.0 * overlap + smooth) / (total + smooth)).mean()


def compound_loss(logits: Tensor, target: Tensor, *, squared_error: bool, mask: Tensor | None = None) -> Tensor:
    """Dice + BCE, + MSE of the probabilities when asked. All (N, R, …) float32.

    mask: (N, R, …) of 0 and 1, for a target that is a discrepancy to it: the Dice loss is then of the flipped result
    |mask − Δ̂| against |mask − Δ|. Dice of the discrepancy itself rewards flipping everything in doubt.
    """
    probability = torch.sigmoid(logits)
    answer, wanted = probability, target
    if mask is not None:
        answer, wanted = (mask - probability).abs(), (mask - target).abs()
    loss = dice_loss(answer, wanted) + functional.binary_cross_entropy_with_logits(logits, target)
    return loss + functional.mse_loss(probability, target) if squared_error else loss


def deep_supervision_loss(logits: Tensor | list[Tensor], target: Tensor, *, squared_error: bool = False) -> Tensor:
    """Compound loss at every resolution given, halving the weight per level; targets by nearest neighbour."""
    levels = logits if isinstance(logits, list) else [logits]
    weights = [0.5**i for i in range(len(levels))]
    targets = [functional.interpolate(target, level.shape[2:], mode="nearest") for level in levels]
    losses = [
        weight * compound_loss(level.float(), small, squared_error=squared_error)
        for weight, level, small in zip(weights, levels, targets, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)
