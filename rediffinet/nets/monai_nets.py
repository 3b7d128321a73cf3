"""MONAI's segmentation networks in the baseline's place, by name."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rediffinet.errors import ConfigError
from rediffinet.nets.config import UNetConfig
from rediffinet.nets.unet import UNet

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "SwinUNETR": {"feature_size": 24},
    "AttentionUnet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
    "VNet": {},
    "BasicUNetPlusPlus": {"features": (16, 16, 32, 64, 128, 16)},
    "SegResNet": {"init_filters": 16, "dropout_prob": 0.0},
}
"""Constructor arguments unless the configuration's `options` say otherwise."""


class FirstOutput(nn.Module):
    """A network that answers with a list (BasicUNetPlusPlus) → its first entry, the full-resolution logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, C, X, Y, Z) → logits (N, R, X, Y, Z)."""
        result = self.net(image)
        return torch.as_tensor(result[0] if isinstance(result, list | tuple) else result)


def build_baseline(config: UNetConfig, in_channels: int = 4, out_channels: int = 3) -> nn.Module:
    """The baseline of a configuration: contrasts (N, C, X, Y, Z) → logits of the regions (N, R, X, Y, Z).

    Raises ConfigError for an unknown network (the message lists what exists) or options it does not take.
    """
    if config.network == "unet":
        return UNet(config, in_channels, out_channels)
    if config.network not in DEFAULTS:
        message = f"unet.network: got '{config.network}', expected one of unet, {', '.join(DEFAULTS)}"
        raise ConfigError(message)
    import monai.networks.nets as nets

    maker = getattr(nets, config.network)
    arguments = {"spatial_dims": 3, "in_channels": in_channels, "out_channels": out_channels}
    arguments |= {**DEFAULTS[config.network], **config.options}
    try:
        inspect.signature(maker).bind(**arguments)
        net = maker(**arguments)
    except (TypeError, ValueError) as error:
        message = f"unet.options of {config.network}: {error}; got {config.options}"
        raise ConfigError(message) from None
    return FirstOutput(net)
