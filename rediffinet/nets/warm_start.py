"""A refiner that starts from the weights of a trained U-Net of the same features, instead of at random.

The denoiser takes over the U-Net's encoder, decoder and head, the conditioning encoder a copy of its encoder. The sum
of their features is that of the U-Net, because the last norm of every block is halved in both; x_t and the prior, which
the U-Net has not seen, begin with weight zero, and so does the timestep. So before training the denoiser answers what
the U-Net answers, for any x_t and t; a residual one the mean of that and of the prior, in logits.
"""

import torch
from torch import Tensor, nn

from rediffinet.errors import ConfigError
from rediffinet.labels import CONTRASTS
from rediffinet.nets.refiner import Block, Encoder, Refiner
from rediffinet.nets.unet import UNet


def warm_start(refiner: Refiner, net: nn.Module) -> None:
    """Copy the weights of a U-Net into the refiner, whose condition ends with the four contrasts.

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
    encoders, denoiser = (refiner.conditioner, refiner.denoiser.encoder), refiner.denoiser
    with torch.no_grad():
        for encoder in encoders:
            assert isinstance(encoder, Encoder)
            for block, given in zip(encoder.blocks, net.down, strict=True):
                _copy(block, given)
                block.norm2.weight.mul_(0.5)
                block.norm2.bias.mul_(0.5)
        for block, given in zip(denoiser.up, net.up, strict=True):
            block.up.weight.copy_(given.transp_conv.conv.weight)
            _copy(block.block, given.conv_block)
        head = net.heads[0].conv.conv
        denoiser.head.weight.copy_(head.weight)
        denoiser.head.bias.copy_(head.bias)
        if denoiser.prior is not None:
            for parameter in (denoiser.head.weight, denoiser.head.bias, denoiser.prior.scale):
                parameter.mul_(0.5)


def _copy(block: Block, given: nn.Module) -> None:
    _copy_last(block.conv1.weight, given.conv1.conv.weight)
    block.conv2.weight.copy_(given.conv2.conv.weight)
    for ours, theirs in ((block.norm1, given.norm1), (block.norm2, given.norm2)):
        ours.weight.copy_(theirs.weight)
        ours.bias.copy_(theirs.bias)
    if block.time is not None:
        nn.init.zeros_(block.time.weight)
        nn.init.zeros_(block.time.bias)


def _copy_last(weight: Tensor, given: Tensor) -> None:
    """The U-Net's input is the last of ours; all before it begins unseen."""
    new = weight.shape[1] - given.shape[1]
    assert new == 0 or given.shape[1] == len(CONTRASTS), "only the first convolution has more inputs"
    weight.zero_()
    weight[:, new:].copy_(given)
