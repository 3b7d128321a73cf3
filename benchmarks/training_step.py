"""Training steps of one example on a CPU: our convolution against torch's own.

    python benchmarks/training_step.py [--preset tiny-2mm] [--windows 48,64,48 72,88,72] [--threads 1] [--repeats 5]

Forward and backward of the baseline, channels-last, without torch.compile. The two networks have the same weights;
their steps take turns; times, their ratio and how far the losses are apart are printed as Markdown.
"""

import argparse
import copy
from functools import partial

import torch
from timing import describe, interleaved, ratio, table
from torch import Tensor, nn

from rediffinet.nets.convolution import Convolution
from rediffinet.nets.replace import replace_modules
from rediffinet.nets.unet import UNet
from rediffinet.training.config import resolve_config
from rediffinet.training.losses import deep_supervision_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny-2mm")
    parser.add_argument("--windows", nargs="+", default=["48,64,48", "72,88,72"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = resolve_config("unet", given.preset)
    torch.manual_seed(0)
    ours = UNet(config.unet).to(memory_format=torch.channels_last_3d).train()
    plain = replace_modules(copy.deepcopy(ours), plain_convolution)
    print(f"{describe(['torch'])}; {given.threads} thread(s), features {config.unet.features}\n")
    rows = []
    for text in given.windows:
        window = tuple(int(side) for side in text.split(","))
        image = torch.randn(1, 4, *window).contiguous(memory_format=torch.channels_last_3d)
        regions = (torch.rand(1, 3, *window) > 0.9).float()
        run = {"torch": partial(step, plain, image, regions), "ours": partial(step, ours, image, regions)}
        apart = abs(run["torch"]() - run["ours"]())
        took = interleaved(run, given.repeats)
        rows.append(
            [
                text,
                f"{took['torch'].median:.0f}",
                f"{took['ours'].median:.0f}",
                ratio(took["torch"], took["ours"]),
                f"{apart:.0e}",
            ]
        )
    print(table(["window", "torch's convolution, ms", "ours, ms", "ratio of medians / minima", "losses apart"], rows))


def step(net: nn.Module, image: Tensor, regions: Tensor) -> float:
    """Forward and backward; returns the loss."""
    loss = deep_supervision_loss(net(image), regions)
    loss.backward()
    return float(loss.detach())


def plain_convolution(conv: nn.Module) -> nn.Conv3d | None:
    """torch's own convolution of the same weights in the place of ours."""
    if not isinstance(conv, Convolution):
        return None
    plain = nn.Conv3d(conv.in_channels, conv.out_channels, 3, conv.stride, 1, bias=conv.bias is not None)
    plain.weight, plain.bias = conv.weight, conv.bias
    return plain


if __name__ == "__main__":
    main()
