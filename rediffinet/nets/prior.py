"""Networks that correct what the baseline says, instead of predicting the target from nothing."""

from typing import Literal

import torch
from torch import Tensor, nn

from rediffinet.nets.config import UNetConfig
from rediffinet.nets.unet import UNet

SUREST = 0.02
"""How sure the baseline is taken to be at most: a correction must be able to overrule it."""


class PriorLogits(nn.Module):
    """Condition (N, C, …), whose first R channels are 2p − 1, and a correction (N, R, …) → logits of the target.

    The correction is added to s · logit p, s learnt per region; where the target is the discrepancy the sum changes
    sign inside the mask p > 1/2. So a network that corrects nothing says what the baseline doubts, and flips nothing;
    it never has to learn that a discrepancy is the exclusive or of the mask and the truth.
    """

    def __init__(self, target: Literal["segmentation", "discrepancy"], regions: int = 3) -> None:
        super().__init__()
        self.target = target
        self.scale = nn.Parameter(torch.ones(regions))

    def forward(self, condition: Tensor, correction: Tensor) -> Tensor:
        """See the class."""
        signed = condition[:, : len(self.scale)]
        p = ((signed + 1.0) / 2.0).clamp(SUREST, 1.0 - SUREST)
        logits = self.scale[:, None, None, None] * (torch.log(p) - torch.log(1.0 - p)) + correction
        return torch.where(signed > 0.0, -logits, logits) if self.target == "discrepancy" else logits


class Corrector(nn.Module):
    """A U-Net that sees the condition (N, C, …) and corrects the baseline's answer in it → logits (N, R, …).

    It begins by correcting nothing.
    """

    def __init__(self, config: UNetConfig, condition_channels: int, regions: int) -> None:
        super().__init__()
        assert config.residual is not None, "a U-Net that predicts from nothing is a UNet"
        self.net = UNet(config, condition_channels, regions)
        self.prior = PriorLogits(config.residual, regions)
        for parameter in self.net.heads.parameters():
            nn.init.zeros_(parameter)

    def forward(self, condition: Tensor) -> Tensor:
        """See the class."""
        return torch.as_tensor(self.prior(condition, self.net(condition)))
