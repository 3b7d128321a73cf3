"""The convolution that works on one example as two, against torch's own."""

import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")

import torch
from torch import nn

from rediffinet.nets.convolution import ENOUGH, Convolution, with_fast_convolutions


def both(channels: int, stride: int, *, bias: bool) -> tuple[Convolution, nn.Conv3d]:
    torch.manual_seed(0)
    ours, theirs = Convolution(channels, 6, 3, stride, 1, bias=bias), nn.Conv3d(channels, 6, 3, stride, 1, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours.train(), theirs.train()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("shape", [(1, 5, 8, 7, 9), (1, 5, 6, 4, 4), (1, 5, 7, 8, 8), (2, 5, 8, 6, 6)])
@pytest.mark.parametrize(("stride", "bias"), [(1, False), (2, True)])
def test_values_and_gradients_are_those_of_torch(
    stride: int, bias: bool, shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    ours, theirs = both(shape[1], stride, bias=bias)
    x = torch.randn(shape).to(memory_format=layout)
    results = []
    for conv in (ours, theirs):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = conv(given)
        out.square().sum().backward()
        results.append((out, given.grad, *(parameter.grad for parameter in conv.parameters())))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_one_small_example_is_cut_in_two_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    plain = torch.nn.functional.conv3d
    monkeypatch.setattr(
        torch.nn.functional, "conv3d", lambda x, *rest, **more: batches.append(x.shape[0]) or plain(x, *rest, **more)
    )
    ours, _ = both(4, 1, bias=False)
    small, large = torch.zeros(1, 4, 8, 8, 8), torch.zeros(1, 4, 80, 80, 2)
    assert large[0, :, :, :, 0].numel() > ENOUGH
    for training, given in ((True, small), (True, large), (True, small.expand(2, -1, -1, -1, -1)), (False, small)):
        ours.train(training)(given)
    assert batches == [2, 1, 2, 1]


def test_replacing_keeps_the_parameters_and_leaves_others_alone() -> None:
    others = [nn.Conv3d(2, 2, 1), nn.Conv3d(2, 2, 3), nn.Conv3d(2, 2, 3, padding=1, groups=2), nn.Conv3d(2, 2, 5)]
    net = nn.Sequential(nn.Sequential(nn.Conv3d(3, 2, 3, 2, 1)), *others)
    weight, bias = net[0][0].weight, net[0][0].bias
    with_fast_convolutions(net)
    assert isinstance(net[0][0], Convolution) and net[0][0].weight is weight and net[0][0].bias is bias
    assert net[0][0].stride == (2, 2, 2) and net[0][0].padding == (1, 1, 1)
    assert [type(module) for module in net[1:]] == [nn.Conv3d] * len(others)
