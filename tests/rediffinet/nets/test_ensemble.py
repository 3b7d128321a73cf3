"""An ensemble against its members, called one after the other."""

import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch

from rediffinet.nets.config import RefinerConfig, UNetConfig
from rediffinet.nets.ensemble import as_one
from rediffinet.nets.refiner import ConditionerGraph, DenoiserGraph, Refiner
from rediffinet.nets.unet import UNet

WINDOW = (8, 8, 16)


def test_unets_answer_the_mean_of_their_logits() -> None:
    torch.manual_seed(0)
    members = [UNet(UNetConfig(features=(4, 8), window=WINDOW)).eval() for _ in range(3)]
    image = torch.randn(2, 4, *WINDOW)
    with torch.inference_mode():
        expected = sum(member(image) for member in members) / 3
        torch.testing.assert_close(as_one(members)(image), expected)
    assert as_one(members[:1]) is members[0]


def test_refiners_predict_one_x0_and_keep_the_names_of_their_graphs() -> None:
    torch.manual_seed(0)
    config = RefinerConfig(features=(4, 8), head_features=4, time_features=16, window=WINDOW, signal_scale=0.5)
    members = [Refiner(config).eval() for _ in range(2)]
    one = as_one(members)
    assert isinstance(one, Refiner)
    condition, x_t = torch.randn(2, 7, *WINDOW), torch.randn(2, 3, *WINDOW)
    t, c0, c1 = torch.tensor([999.0, 3.0]), torch.tensor([0.7, 0.1]), torch.tensor([0.3, 0.9])
    with torch.inference_mode():
        logits = sum(member(x_t, condition, t) for member in members) / 2
        features = ConditionerGraph(one)(condition)
        x_prev, x0 = DenoiserGraph(one)(x_t, condition, t, c0, c1, list(features))
    assert [feature.shape[1] for feature in features] == [8, 16]
    torch.testing.assert_close(x0, torch.sigmoid(logits))
    signal = 0.5 * (2 * torch.sigmoid(logits) - 1)
    torch.testing.assert_close(x_prev, c0[:, None, None, None, None] * signal + c1[:, None, None, None, None] * x_t)
