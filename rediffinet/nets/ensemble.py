"""Several networks that were trained alike, as one: its answer is the mean of their logits.

Of the diffusion models every member has its own conditioner. Their features travel side by side in the channels of one
tensor per level, so that an ensemble has the same graphs, with the same names, as one network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rediffinet.nets.refiner import Refiner


class MeanNet(nn.ModuleList):
    """Networks of the same inputs and outputs → the mean of their logits, in evaluation mode."""

    def forward(self, x: Tensor) -> Tensor:
        """Whatever a member takes → the mean of what the members give."""
        return torch.stack([member(x) for member in self]).mean(0)


class _Encoders(nn.ModuleList):
    def forward(self, condition: Tensor) -> list[Tensor]:
        found = [member(condition) for member in self]
        return [torch.cat(level, dim=1) for level in zip(*found, strict=True)]


class _Denoisers(nn.ModuleList):
    def forward(self, x_t: Tensor, condition: Tensor, features: list[Tensor], t: Tensor) -> Tensor:
        parts = [level.chunk(len(self), dim=1) for level in features]
        logits = [member(x_t, condition, [part[index] for part in parts], t) for index, member in enumerate(self)]
        return torch.stack(logits).mean(0)


class RefinerEnsemble(Refiner):
    """Refiners of one configuration; of a step they predict one x0, the sigmoid of the mean of their logits."""

    def __init__(self, members: Sequence[Refiner]) -> None:
        nn.Module.__init__(self)
        self.config = members[0].config
        self.conditioner = _Encoders([member.conditioner for member in members])
        self.denoiser = _Denoisers([member.denoiser for member in members])
        self._members = len(members)

    @property
    def members(self) -> int:
        """See Refiner."""
        return self._members


def as_one(networks: Sequence[nn.Module]) -> nn.Module:
    """The network itself when there is one, else their ensemble."""
    if len(networks) == 1:
        return networks[0]
    refiners = [network for network in networks if isinstance(network, Refiner)]
    return RefinerEnsemble(refiners) if refiners else MeanNet(networks)
