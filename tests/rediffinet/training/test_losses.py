"""Losses against closed forms and MONAI."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")

import torch
from torch import Tensor

from rediffinet.training.losses import compound_loss, deep_supervision_loss, dice_loss


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (2, 3, 8, 6, 4)).astype(np.float32)
    target = (rng.random((2, 3, 8, 6, 4)) < np.array([0.5, 0.3, 0.0]).reshape(1, 3, 1, 1, 1)).astype(np.float32)
    return torch.from_numpy(logits), torch.from_numpy(target)


def test_dice_closed_form() -> None:
    target = torch.zeros(1, 3, 4, 4, 4)
    target[:, 0, :2] = 1.0  # 32 voxels; half of them found, and no others
    target[:, 1] = 1.0  # 64 voxels, all found
    probability = torch.zeros_like(target)
    probability[:, 0, :1] = 1.0
    probability[:, 1] = 1.0
    expected = 1.0 - ((2 * 16 + 1) / (16 + 32 + 1) + 1.0 + 1.0) / 3.0
    assert dice_loss(probability, target).item() == pytest.approx(expected, abs=1e-6)


def test_dice_is_monais(pair: tuple[Tensor, Tensor]) -> None:
    losses = pytest.importorskip("monai.losses", reason="MONAI is the oracle (extra 'train')")
    logits, target = pair
    oracle = losses.DiceLoss(sigmoid=True, batch=False, smooth_nr=1.0, smooth_dr=1.0)
    assert dice_loss(torch.sigmoid(logits), target).item() == pytest.approx(oracle(logits, target).item(), abs=1e-6)


@pytest.mark.parametrize("squared_error", [False, True])
def test_compound_is_dice_and_cross_entropy_and_squared_error(pair: tuple[Tensor, Tensor], squared_error: bool) -> None:
    logits, target = pair
    z, y = logits.numpy().astype(np.float64), target.numpy().astype(np.float64)
    p = 1 / (1 + np.exp(-z))
    axes = (2, 3, 4)
    dice = np.mean(1 - (2 * (p * y).sum(axes) + 1) / (p.sum(axes) + y.sum(axes) + 1))
    entropy = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    expected = dice + entropy + (np.mean((p - y) ** 2) if squared_error else 0.0)
    assert compound_loss(logits, target, squared_error=squared_error).item() == pytest.approx(expected, rel=1e-5)


def test_dice_of_the_flipped_result(pair: tuple[Tensor, Tensor]) -> None:
    """With a mask a discrepancy costs what the segmentation it leads to costs."""
    logits, truth = pair
    mask = (torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    flipped = torch.where(mask > 0, -logits, logits)
    found = compound_loss(flipped, (mask - truth).abs(), squared_error=True, mask=mask)
    assert found.item() == pytest.approx(compound_loss(logits, truth, squared_error=True).item(), abs=1e-6)


def test_a_perfect_answer_costs_nothing_even_for_an_empty_region(pair: tuple[Tensor, Tensor]) -> None:
    _, target = pair
    assert not target[:, 2].any()
    assert compound_loss(40.0 * (2 * target - 1), target, squared_error=True).item() == pytest.approx(0.0, abs=1e-6)


def test_deep_supervision_weighs_levels_by_halves(pair: tuple[Tensor, Tensor]) -> None:
    logits, target = pair
    half = torch.randn(2, 3, 4, 3, 2)
    expected = (
        compound_loss(logits, target, squared_error=False)
        + 0.5 * compound_loss(half, target[:, :, ::2, ::2, ::2], squared_error=False)
    ) / 1.5
    torch.testing.assert_close(deep_supervision_loss([logits, half], target), expected)
    torch.testing.assert_close(
        deep_supervision_loss(logits, target), compound_loss(logits, target, squared_error=False)
    )


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.full((1, 3, 32, 32, 32), 1.0, dtype=torch.bfloat16)
    target = torch.ones(1, 3, 32, 32, 32)
    exact = deep_supervision_loss(logits.float(), target)
    torch.testing.assert_close(deep_supervision_loss(logits, target), exact)


@pytest.mark.parametrize("squared_error", [False, True])
def test_the_loss_of_a_batch_is_the_mean_of_its_examples(pair: tuple[Tensor, Tensor], squared_error: bool) -> None:
    """What lets micro-batches and processes share a batch."""
    logits, target = pair
    levels = [logits, torch.randn(2, 3, 4, 3, 2)]
    whole = deep_supervision_loss(levels, target, squared_error=squared_error)
    alone = [
        deep_supervision_loss([level[i : i + 1] for level in levels], target[i : i + 1], squared_error=squared_error)
        for i in range(2)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean(), rtol=1e-6, atol=1e-7)


def test_the_loss_of_one_example_is_bit_for_bit_what_it_was_when_dice_summed_over_the_batch() -> None:
    """Runs with batches of one that were started before go on as they were."""
    torch.manual_seed(1)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        p = torch.rand(1, 3, 24, 17, 30).contiguous(memory_format=layout).requires_grad_()
        y = (torch.rand(1, 3, 24, 17, 30) < 0.2).float().contiguous(memory_format=layout)
        axes = (0, 2, 3, 4)
        before = (1 - (2 * (p * y).sum(axes) + 1) / (p.sum(axes) + y.sum(axes) + 1)).mean()
        now = dice_loss(p, y)
        assert torch.equal(now, before)
        assert torch.equal(torch.autograd.grad(now, p)[0], torch.autograd.grad(before, p)[0])
