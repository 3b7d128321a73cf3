"""MONAI's networks in the baseline's place."""

import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")
pytest.importorskip("monai", reason="the networks are MONAI's (extra 'train')")

import torch

from rediffinet.errors import ConfigError
from rediffinet.nets.config import UNetConfig
from rediffinet.nets.monai_nets import DEFAULTS, build_baseline
from rediffinet.nets.unet import UNet

SMALL = {
    "SwinUNETR": {"feature_size": 12},
    "AttentionUnet": {"channels": (4, 8, 8), "strides": (2, 2)},
    "BasicUNetPlusPlus": {"features": (4, 4, 8, 8, 8, 4)},
    "SegResNet": {"init_filters": 8},
}


@pytest.mark.parametrize(
    "name", [name if name != "VNet" else pytest.param(name, marks=pytest.mark.slow) for name in DEFAULTS]
)
def test_each_gives_logits_of_the_window(name: str) -> None:
    config = UNetConfig(network=name, options=SMALL.get(name, {}), window=(32, 64, 32))
    net = build_baseline(config)
    for training in (True, False):
        with torch.no_grad():
            assert net.train(training)(torch.randn(1, 4, 32, 64, 32)).shape == (1, 3, 32, 64, 32)


def test_ours_is_the_default() -> None:
    assert isinstance(build_baseline(UNetConfig(features=(4, 8))), UNet)


def test_an_unknown_network_is_answered_with_what_exists() -> None:
    with pytest.raises(ConfigError, match="got 'UNETTR', expected one of unet, SwinUNETR, AttentionUnet"):
        build_baseline(UNetConfig(network="UNETTR"))


def test_options_it_does_not_take() -> None:
    with pytest.raises(ConfigError, match="SegResNet.*init_filter"):
        build_baseline(UNetConfig(network="SegResNet", options={"init_filter": 8}))
