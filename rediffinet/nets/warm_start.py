"""A refiner that starts from the weights of a trained U-Net of the same features, instead of at random.

The denoiser takes over the U-Net's encoder, decoder and head, the conditioning encoder a copy of its encoder. The sum
of their features is that of the U-Net, because the last norm of every block is halved in both; x_t and the prior, which
the U-Net has not seen, begin with weight zero, and so does the timestep. So before training the denoiser answers what
the U-Net answers, for any x_t and t; a residual one the mean of that and of the prior, in logits.
"""

from torch import Tensor, nn

from rediffinet.errors import ConfigError
from rediffinet.nets.refiner import Refiner
from rediffinet.nets.unet import UNet

State = dict[str, Tensor]


def warm_start(refiner: Refiner, net: nn.Module) -> None:
    """Copy the weights of a U-Net into the refiner, whose condition ends with the contrasts.

    Raises ConfigError when the two are not of one shape.
    """
    config = refiner.config
    if not isinstance(net, UNet) or net.config.stem_stride != 1:
        message = "warm_start: the baseline is no U-Net of stem_stride 1, so its weights do not fit a refiner"
        raise ConfigError(message)
    if net.config.features != config.features or config.head_features != config.features[0]:
        message = (
            f"warm_start: got refiner.features {config.features} and head_features {config.head_features}, expected "
            f"those of the baseline, {net.config.features} and {net.config.features[0]}"
        )
        raise ConfigError(message)
    given, own = net.state_dict(), refiner.state_dict()
    for level in range(len(config.features)):
        for encoder in ("conditioner", "denoiser.encoder"):
            _copy_block(own, f"{encoder}.blocks.{level}", given, f"down.{level}")
            for name in ("weight", "bias"):
                own[f"{encoder}.blocks.{level}.norm2.{name}"].mul_(0.5)
    for level in range(len(config.features) - 1):
        own[f"denoiser.up.{level}.up.weight"].copy_(given[f"up.{level}.transp_conv.conv.weight"])
        _copy_block(own, f"denoiser.up.{level}.block", given, f"up.{level}.conv_block")
    for name in ("weight", "bias"):
        own[f"denoiser.head.{name}"].copy_(given[f"heads.0.conv.conv.{name}"])
    if config.residual is not None:
        for name in ("head.weight", "head.bias", "prior.scale"):
            own[f"denoiser.{name}"].mul_(0.5)
    refiner.load_state_dict(own)


def _copy_block(own: State, to: str, given: State, source: str) -> None:
    _copy_last(own[f"{to}.conv1.weight"], given[f"{source}.conv1.conv.weight"])
    own[f"{to}.conv2.weight"].copy_(given[f"{source}.conv2.conv.weight"])
    for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
        own[f"{to}.{name}"].copy_(given[f"{source}.{name}"])
    for name in ("time.weight", "time.bias"):
        if f"{to}.{name}" in own:
            own[f"{to}.{name}"].zero_()


def _copy_last(weight: Tensor, given: Tensor) -> None:
    """The U-Net's input is the last of ours; all before it begins unseen."""
    new = weight.shape[1] - given.shape[1]
    assert new >= 0, "the first convolution has more inputs, no other has fewer"
    weight.zero_()
    weight[:, new:].copy_(given)
