"""The layout-keeping instance norm against torch's own."""

import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")

import torch
from torch import nn

from rediffinet.nets.norm import InstanceNorm, with_fast_norms


def pair(channels: int) -> tuple[InstanceNorm, nn.InstanceNorm3d]:
    ours, theirs = InstanceNorm(channels), nn.InstanceNorm3d(channels, affine=True)
    with torch.no_grad():
        ours.weight.uniform_(-2, 2)
        ours.bias.uniform_(-2, 2)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_values_and_gradients_are_those_of_torch(layout: torch.memory_format, offset: float) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(5)
    x = (torch.randn(2, 5, 7, 6, 9) * 3 + offset).to(memory_format=layout)
    grad = torch.randn(2, 5, 7, 6, 9)
    results = []
    for norm in (ours, theirs):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = norm(given)
        out.backward(grad)
        results.append((out, given.grad, norm.weight.grad, norm.bias.grad))
    tolerance = 1e-4 if offset == 0.0 else 2e-3  # float32 holds 300 + x to 3e-5 of x
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


def test_the_layout_stays() -> None:
    x = torch.randn(2, 8, 6, 6, 6).to(memory_format=torch.channels_last_3d)
    assert InstanceNorm(8).train()(x).is_contiguous(memory_format=torch.channels_last_3d)


def test_bfloat16_in_bfloat16_out_with_moments_in_float32() -> None:
    x = (torch.randn(1, 2, 8, 8, 8) + 100).bfloat16()
    out = InstanceNorm(2).train()(x)
    assert out.dtype == torch.bfloat16
    expected = nn.InstanceNorm3d(2)(x.float())
    torch.testing.assert_close(out.float(), expected, rtol=2e-2, atol=2e-2)


def test_replacing_keeps_the_parameters_and_leaves_others_alone() -> None:
    net = nn.Sequential(nn.Sequential(nn.InstanceNorm3d(3, affine=True)), nn.InstanceNorm3d(3), nn.BatchNorm3d(3))
    before = net[0][0].weight
    with_fast_norms(net)
    assert isinstance(net[0][0], InstanceNorm) and net[0][0].weight is before
    assert type(net[1]) is nn.InstanceNorm3d and type(net[2]) is nn.BatchNorm3d
