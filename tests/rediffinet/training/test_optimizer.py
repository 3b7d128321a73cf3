"""Muon against torch's own on matrices and a singular value decomposition; everything else against torch's AdamW."""

import copy

import pytest
import torch
from torch import nn

from rediffinet.training.config import resolve_config
from rediffinet.training.optimizer import Muon, is_kernel, make_optimizer, orthogonalise

RATE, DECAY = 0.02, 0.01


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(4, 8, 3, padding=1, bias=False),
        nn.InstanceNorm3d(8, affine=True),
        nn.ConvTranspose3d(8, 6, 2, 2, bias=False),
        nn.Conv3d(6, 3, 1),
    )


def steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], count: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        image = torch.randn(1, 4, 6, 6, 6, generator=generator)
        loss = model(image).square().mean() + model(image).mean()
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("shape", [(8, 108), (96, 20), (16, 16)])
def test_singular_values_end_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalise(matrix) @ right.T
    values = turned.diagonal()
    assert ((values > 0.3) & (values < 1.3)).all() and values.mean() == pytest.approx(0.9, abs=0.15)
    torch.testing.assert_close(turned, torch.diag(values), atol=2e-4, rtol=0)


def test_a_zero_gradient_moves_nothing_but_by_decay(model: nn.Module) -> None:
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Muon(model.parameters(), lr=RATE, weight_decay=DECAY).step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old * (1 - RATE * DECAY))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_kernels_step_as_torchs_muon_steps_their_matrices() -> None:
    generator = torch.Generator().manual_seed(3)
    kernel = nn.Parameter(torch.randn(8, 4, 3, 3, 3, generator=generator))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    ours = Muon([kernel], lr=RATE, weight_decay=DECAY)
    theirs = torch.optim.Muon([matrix], lr=RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(kernel.shape, generator=generator)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1).clone()
        ours.step()
        theirs.step()
    moved = (kernel.detach().flatten(1) - matrix.detach()).abs().max()
    assert moved < 0.1 * RATE, "theirs iterates in bfloat16"


def test_all_but_the_wide_kernels_step_as_with_adamw(model: nn.Module) -> None:
    names = [name for name, parameter in model.named_parameters() if is_kernel(parameter)]
    assert names == ["0.weight", "2.weight"]
    for parameter in (model[0].weight, model[2].weight):
        parameter.requires_grad_(False)
    other = copy.deepcopy(model)
    steps(model, [Muon(model.parameters(), lr=RATE, weight_decay=DECAY)])
    steps(other, [torch.optim.AdamW(other.parameters(), lr=RATE, weight_decay=DECAY)])
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=lambda text, name=name: f"{name}: {text}")


def test_a_step_is_as_large_as_one_of_adamw(model: nn.Module) -> None:
    before = model[0].weight.detach().clone()
    steps(model, [Muon(model.parameters(), lr=RATE, weight_decay=0.0)], count=1)
    size = (model[0].weight.detach() - before).square().mean().sqrt()
    assert float(size) == pytest.approx(0.2 * RATE, rel=0.3)


def test_the_configuration_chooses(model: nn.Module) -> None:
    adamw = make_optimizer(resolve_config("unet", "tiny"), model)
    muon = make_optimizer(resolve_config("unet", "tiny", None, ("optimizer=muon", "learning_rate=0.5")), model)
    assert type(adamw) is torch.optim.AdamW and type(muon) is Muon
    assert muon.param_groups[0]["lr"] == 0.5
