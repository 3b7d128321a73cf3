"""The baseline U-Net."""

from itertools import pairwise

import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch
from torch import nn

from rediffinet.nets.config import UNetConfig
from rediffinet.nets.unet import BaselineGraph, UNet
from rediffinet.training.config import resolve_config


def of_type(net: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("features", [(4, 8), (4, 8, 8)])
@pytest.mark.parametrize("training", [True, False])
def test_logits_cover_the_window(stem_stride: int, features: tuple[int, ...], training: bool) -> None:
    net = UNet(UNetConfig(features=features, stem_stride=stem_stride)).train(training)
    assert net(torch.randn(2, 4, 16, 32, 24)).shape == (2, 3, 16, 32, 24)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_deep_supervision_gives_three_levels_in_training_and_one_otherwise(stem_stride: int) -> None:
    net = UNet(UNetConfig(features=(4, 4, 8, 8), stem_stride=stem_stride, deep_supervision=True))
    image = torch.randn(1, 4, 32, 48, 32)
    shapes = [tuple(level.shape) for level in net.train()(image)]
    factors = (1, 2 * stem_stride, 4 * stem_stride)
    assert shapes == [(1, 3, 32 // f, 48 // f, 32 // f) for f in factors]
    assert net.eval()(image).shape == (1, 3, 32, 48, 32)


def test_finest_level_is_the_same_with_and_without_the_other_heads() -> None:
    net = UNet(UNetConfig(features=(4, 4, 8), deep_supervision=True))
    image = torch.randn(1, 4, 16, 16, 16)
    torch.testing.assert_close(net.train()(image)[0], net.eval()(image))


def test_two_levels_have_one_head() -> None:
    net = UNet(UNetConfig(features=(4, 8), deep_supervision=True)).train()
    assert isinstance(net(torch.randn(1, 4, 16, 16, 16)), torch.Tensor)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_is_strided_down_transposed_up_with_instance_norm_and_leaky_relu(stem_stride: int) -> None:
    net = UNet(UNetConfig(features=(4, 8, 8, 16), stem_stride=stem_stride))
    strided = [conv for conv in of_type(net, nn.Conv3d) if conv.stride == (2, 2, 2)]
    assert len(strided) == 3 + (stem_stride == 2)
    transposed = of_type(net, nn.ConvTranspose3d)
    assert len(transposed) == 3 and all(conv.stride == (2, 2, 2) for conv in transposed)
    norms = of_type(net, nn.InstanceNorm3d)
    assert len(norms) == 2 * 4 + 2 * 3 and all(norm.affine for norm in norms)
    assert {act.negative_slope for act in of_type(net, nn.LeakyReLU)} == {0.01}
    for other in (nn.MaxPool3d, nn.AvgPool3d, nn.BatchNorm3d, nn.ReLU, nn.Upsample, nn.Dropout):
        assert not of_type(net, other)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_every_weight_learns(stem_stride: int) -> None:
    net = UNet(UNetConfig(features=(4, 8, 8, 8), stem_stride=stem_stride, deep_supervision=True)).train()
    sum(level.square().sum() for level in net(torch.randn(1, 4, 32, 32, 32))).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


def test_logits_see_every_contrast() -> None:
    net = UNet(UNetConfig(features=(4, 8))).eval()
    image = torch.randn(1, 4, 16, 16, 16, requires_grad=True)
    net(image).square().sum().backward()
    assert (image.grad.abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_graph_gives_probabilities() -> None:
    net = UNet(UNetConfig(features=(4, 8), deep_supervision=True)).eval()
    image = 10 * torch.randn(2, 4, 16, 16, 16)
    probability = BaselineGraph(net)(image)
    torch.testing.assert_close(probability, 1 / (1 + torch.exp(-net(image))))
    assert probability.min() >= 0 and probability.max() <= 1


def test_paper_preset_has_the_published_widths() -> None:
    config = resolve_config("unet", "paper").unet
    widths = [64, 96, 128, 192, 256, 384, 512]
    with torch.device("meta"):
        net = UNet(config).train()
        levels = net(torch.empty(1, 4, *config.window))
    assert config.window == (128, 192, 128)
    assert [tuple(level.shape) for level in levels] == [(1, 3, 128 // f, 192 // f, 128 // f) for f in (1, 2, 4)]
    # two 3³ convolutions without bias and two norms a block; 2³ transposed ones; 1³ heads with bias on three levels
    block = lambda i, o: 27 * i * o + 27 * o * o + 4 * o  # noqa: E731
    down = sum(block(i, o) for i, o in pairwise([4, *widths]))
    up = sum(8 * deep * fine + block(2 * fine, fine) for fine, deep in pairwise(widths))
    heads = sum(3 * width + 3 for width in widths[:3])
    assert sum(parameter.numel() for parameter in net.parameters()) == down + up + heads
