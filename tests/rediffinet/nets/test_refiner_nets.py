"""The discrepancy denoiser and its conditioning encoder."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch", reason="the networks need torch (extra 'train')")

import torch
from torch import Tensor, nn

from rediffinet.nets.config import RefinerConfig
from rediffinet.nets.refiner import Block, ConditionerGraph, DenoiserGraph, Refiner, TimeEmbedding
from rediffinet.training.config import resolve_config

CONFIG = RefinerConfig(features=(4, 8, 8), head_features=6, time_features=16, window=(16, 16, 24), signal_scale=0.3)


@pytest.fixture
def net() -> Refiner:
    torch.manual_seed(1)
    return Refiner(CONFIG).eval()


@pytest.fixture
def given() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "x_t": torch.randn(2, 3, 16, 16, 24, generator=generator),
        "condition": torch.randn(2, 7, 16, 16, 24, generator=generator),
        "t": torch.tensor([999.0, 30.0]),
    }


@pytest.mark.parametrize("head_features", [4, 6])
def test_logits_cover_the_window(given: dict[str, Tensor], head_features: int) -> None:
    net = Refiner(CONFIG.model_copy(update={"head_features": head_features}))
    assert net(**given).shape == (2, 3, 16, 16, 24)


@pytest.mark.parametrize("target", ["discrepancy", "segmentation"])
def test_a_residual_network_starts_at_what_the_baseline_says(given: dict[str, Tensor], target: str) -> None:
    net = Refiner(CONFIG.model_copy(update={"residual": target}))
    p = torch.rand(2, 3, 16, 16, 24, generator=torch.Generator().manual_seed(3))
    condition = torch.cat([2 * p - 1, given["condition"][:, 3:]], dim=1)
    said = torch.sigmoid(net(given["x_t"], condition, given["t"]))
    expected = torch.minimum(p, 1 - p) if target == "discrepancy" else p
    torch.testing.assert_close(said, expected.clamp(0.02, 0.98), rtol=0, atol=1e-5)
    assert not (said > 0.5).any() or target == "segmentation"  # no flip


def test_a_correction_of_a_discrepancy_is_one_of_the_segmentation(given: dict[str, Tensor]) -> None:
    """With the same weights |mask − Δ̂| is the segmentation of the network that predicts it."""
    torch.manual_seed(4)
    one = Refiner(CONFIG.model_copy(update={"residual": "discrepancy"}))
    other = Refiner(CONFIG.model_copy(update={"residual": "segmentation"}))
    nn.init.normal_(one.denoiser.head.weight)
    other.load_state_dict(one.state_dict())
    condition = given["condition"].clamp(-1, 1)
    mask = (condition[:, :3] > 0).float()
    delta, segmentation = (torch.sigmoid(net(given["x_t"], condition, given["t"])) for net in (one, other))
    torch.testing.assert_close((mask - delta).abs(), segmentation, rtol=0, atol=1e-5)


def test_logits_depend_on_every_channel_of_noise_and_condition(net: Refiner, given: dict[str, Tensor]) -> None:
    x_t, condition = given["x_t"].requires_grad_(), given["condition"].requires_grad_()
    net(x_t, condition, given["t"]).square().sum().backward()
    for gradient, channels in ((x_t.grad, 3), (condition.grad, 7)):
        assert gradient is not None
        assert (gradient.abs().amax(dim=(2, 3, 4)) > 0).all() and gradient.shape[1] == channels


def test_denoiser_itself_sees_the_condition(net: Refiner, given: dict[str, Tensor]) -> None:
    features = [f.detach() for f in net.conditioner(given["condition"])]
    one = net.denoiser(given["x_t"], given["condition"], features, given["t"])
    other = net.denoiser(given["x_t"], given["condition"] + 1.0 * (given["condition"] > 0), features, given["t"])
    assert not torch.allclose(one, other)


def test_logits_depend_on_the_features_of_every_scale(net: Refiner, given: dict[str, Tensor]) -> None:
    features = [f.detach().requires_grad_() for f in net.conditioner(given["condition"])]
    assert [tuple(f.shape) for f in features] == [(2, 4, 16, 16, 24), (2, 8, 8, 8, 12), (2, 8, 4, 4, 6)]
    net.denoiser(given["x_t"], given["condition"], features, given["t"]).square().sum().backward()
    assert all((feature.grad.abs().amax(dim=(1, 2, 3, 4)) > 0).all() for feature in features)


def test_features_are_added_to_the_denoisers_own(net: Refiner, given: dict[str, Tensor]) -> None:
    stacked = torch.cat([given["x_t"], given["condition"]], dim=1)
    time = net.denoiser.time(given["t"])
    plain = net.denoiser.encoder(stacked, time)
    first = torch.randn_like(plain[0])
    zeros = [torch.zeros_like(level) for level in plain]
    added = net.denoiser.encoder(stacked, time, [first, *zeros[1:]])
    torch.testing.assert_close(added[0], plain[0] + first)
    assert not torch.allclose(added[1], plain[1])  # the next block sees the sum
    for level, same in zip(net.denoiser.encoder(stacked, time, zeros), plain, strict=True):
        torch.testing.assert_close(level, same)


def test_logits_depend_on_the_timestep_of_each_example(net: Refiner, given: dict[str, Tensor]) -> None:
    together = net(**given)
    alone = [net(given["x_t"][i : i + 1], given["condition"][i : i + 1], given["t"][i : i + 1]) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    swapped = net(given["x_t"], given["condition"], given["t"].flip(0))
    assert (swapped - together).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-3


def test_timestep_enters_every_block_of_the_denoiser(net: Refiner, given: dict[str, Tensor]) -> None:
    net(**given).square().sum().backward()
    blocks = [module for module in net.denoiser.modules() if isinstance(module, Block)]
    assert len(blocks) == 3 + 2 + 1
    for block in blocks:
        assert block.time is not None and block.time.weight.grad.abs().max() > 0


def test_conditioning_features_see_neither_noise_nor_timestep(net: Refiner, given: dict[str, Tensor]) -> None:
    seen: list[list[Tensor]] = []
    arguments: list[tuple[Tensor, ...]] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...], features: list[Tensor]) -> None:
        arguments.append(given)
        seen.append(features)

    net.conditioner.register_forward_hook(keep)
    net(**given)
    net(torch.randn_like(given["x_t"]), given["condition"], torch.tensor([3.0, 500.0]))
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one, other)
    assert all(len(args) == 1 and args[0] is given["condition"] for args in arguments)
    assert all(block.time is None for block in net.conditioner.modules() if isinstance(block, Block))


def test_conditioner_has_the_shape_of_the_denoisers_encoder(net: Refiner) -> None:
    def kernels(encoder: nn.Module) -> list[tuple[int, ...]]:
        return [tuple(m.weight.shape) for m in encoder.modules() if isinstance(m, nn.Conv3d)]

    copy, original = kernels(net.conditioner), kernels(net.denoiser.encoder)
    assert copy[1:] == original[1:]
    assert (copy[0][1], original[0][1]) == (7, 10)


def test_every_weight_learns(net: Refiner, given: dict[str, Tensor]) -> None:
    net.train()(**given).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


def test_is_strided_down_and_transposed_up(net: Refiner) -> None:
    modules = list(net.denoiser.modules())
    assert sum(isinstance(m, nn.ConvTranspose3d) and m.stride == (2, 2, 2) for m in modules) == 2
    assert sum(isinstance(m, nn.Conv3d) and m.stride == (2, 2, 2) for m in modules) == 2
    assert any(isinstance(m, nn.InstanceNorm3d) for m in modules)
    assert {m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)} == {0.01}


@pytest.mark.parametrize("width", [8, 9])
def test_timestep_is_embedded_as_sinusoids(width: int) -> None:
    embedding = TimeEmbedding(width)
    got: list[Tensor] = []
    embedding.mlp.register_forward_pre_hook(lambda _, args: got.append(args[0]))
    t = np.array([0.0, 1.0, 999.0])
    assert embedding(torch.tensor(t)).shape == (3, width)
    angles = t[:, None] / 10000.0 ** (np.arange(4) / 4)[None]
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=2e-4)  # float32 angles up to 999


def test_graphs_hold_the_ddim_update(net: Refiner, given: dict[str, Tensor]) -> None:
    condition, x_t = given["condition"], given["x_t"]
    c0, c1 = torch.tensor([0.6, -0.1]), torch.tensor([0.5, 1.0])
    with torch.inference_mode():
        features = ConditionerGraph(net)(condition)
        x_prev, x0 = DenoiserGraph(net)(x_t, condition, given["t"], c0, c1, list(features))
        logits = net(**given).numpy()
    delta = 1.0 / (1.0 + np.exp(-logits))
    np.testing.assert_allclose(x0.numpy(), delta, atol=1e-6)
    shape = (2, 1, 1, 1, 1)
    signal = 0.3 * (2.0 * delta - 1.0)
    expected = c0.numpy().reshape(shape) * signal + c1.numpy().reshape(shape) * x_t.numpy()
    np.testing.assert_allclose(x_prev.numpy(), expected, atol=1e-5)


def test_paper_preset_has_the_published_widths() -> None:
    config = resolve_config("rediffinet", "paper").refiner
    widths, head, time = [64, 64, 128, 256, 512], 64, config.time_features
    assert (*config.features, config.head_features) == (64, 64, 128, 256, 512, 64)
    assert config.window == (128, 192, 128) and config.train_steps == 1000
    with torch.device("meta"):
        net = Refiner(config)
        window = (1, 3, *config.window)
        logits = net(torch.empty(window), torch.empty(1, 7, *config.window), torch.empty(1))
        features = net.conditioner(torch.empty(1, 7, *config.window))
    assert logits.shape == window
    assert [f.shape[1] for f in features] == widths
    assert tuple(features[-1].shape[2:]) == (8, 12, 8)
    # convolutions without bias, two norms, and a linear layer time → scale and shift in each block of the denoiser
    block = lambda i, o: 27 * i * o + 27 * o * o + 4 * o  # noqa: E731
    timed = lambda i, o: block(i, o) + (time + 1) * 2 * o  # noqa: E731
    conditioner = sum(block(i, o) for i, o in pairwise([7, *widths]))
    encoder = sum(timed(i, o) for i, o in pairwise([10, *widths]))
    decoder = sum(8 * deep * fine + timed(2 * fine, fine) for fine, deep in pairwise(widths))
    rest = 2 * (time + 1) * time + 3 * head + 3
    assert sum(p.numel() for p in net.parameters()) == conditioner + encoder + decoder + rest


def test_a_corrector_begins_with_what_the_baseline_says() -> None:
    from rediffinet.method.models import MODELS
    from rediffinet.nets.config import UNetConfig
    from rediffinet.nets.graphs import build_network
    from rediffinet.task import TASKS

    config = UNetConfig(features=(4, 8), window=(16, 16, 16), residual="discrepancy")
    net = build_network(MODELS["discrepancy-unet"], config, TASKS["glioma-post-2024"]).eval()
    p = torch.rand(1, 4, 16, 16, 16) * 0.9 + 0.05
    condition = torch.cat([2 * p - 1, torch.randn(1, 4, 16, 16, 16)], dim=1)
    with torch.inference_mode():
        delta = torch.sigmoid(net(condition))
    assert torch.allclose(delta, torch.minimum(p, 1 - p), atol=1e-5)
