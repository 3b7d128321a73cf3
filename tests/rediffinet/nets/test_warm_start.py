"""A refiner that begins with a U-Net's weights answers what the U-Net answers."""

import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch

from rediffinet.errors import ConfigError
from rediffinet.nets.config import RefinerConfig, UNetConfig
from rediffinet.nets.refiner import Refiner
from rediffinet.nets.unet import UNet
from rediffinet.nets.warm_start import warm_start

WINDOW = (16, 16, 16)


def make_unet(**changes: object) -> UNet:
    torch.manual_seed(1)
    net = UNet(UNetConfig(**{"features": (4, 6, 8), "window": WINDOW, **changes})).eval()
    for parameter in net.parameters():  # as after training: no two norms alike, no shift zero
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return net


def make_refiner(**changes: object) -> Refiner:
    sizes = {"features": (4, 6, 8), "head_features": 4, "time_features": 16, "window": WINDOW}
    return Refiner(RefinerConfig(**{**sizes, **changes})).eval()


@pytest.mark.parametrize("residual", [None, "segmentation", "discrepancy"])
def test_the_answer_before_training(residual: str | None) -> None:
    net, refiner = make_unet(), make_refiner(residual=residual)
    warm_start(refiner, net)
    torch.manual_seed(2)
    p, image = torch.rand(2, 3, *WINDOW).clamp(0.05, 0.95), torch.randn(2, 4, *WINDOW)
    with torch.inference_mode():
        expected = net(image)
        if residual is not None:
            expected = 0.5 * expected + 0.5 * torch.logit(p)
        if residual == "discrepancy":
            expected = torch.where(p > 0.5, -expected, expected)
        for x_t, t in ((torch.randn(2, 3, *WINDOW), 999.0), (torch.zeros(2, 3, *WINDOW), 5.0)):
            found = refiner(x_t, torch.cat([2 * p - 1, image], dim=1), torch.tensor([t, t]))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("unet", "refiner"),
    [({"stem_stride": 2}, {}), ({"features": (4, 8, 8)}, {}), ({}, {"head_features": 6})],
)
def test_networks_of_another_shape(unet: dict[str, object], refiner: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="warm_start"):
        warm_start(make_refiner(**refiner), make_unet(**unet))
