"""What others would run on the same case, for `rediff bench`: torch as it is published or shipped.

published      Re-DiffiNet's protocol: ten steps of ten samples by a network of the paper's size, in every window
nnunet         nnU-Net v2's own predictor with its standard 3-D full-resolution network
monai          MONAI's sliding window over the bundle's own baseline network

Weights are random where the others' are not ours to ship: a call takes as long. A case that would take minutes or hours
is extrapolated from one window's calls, which is told.
"""

import contextlib
import io
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from rediffinet.clinic.bench import Measured, Turn
from rediffinet.errors import ConfigError
from rediffinet.io.cases import Case
from rediffinet.method.preprocessing import crop_box
from rediffinet.method.windows import plan_windows

STEPS, SAMPLES = 10, 10
"""Of the published protocol (Ren, Sharma et al., MIDL 2024)."""
OVERLAP = 0.5
PAPER_WINDOW = (128, 192, 128)
BASELINE_FEATURES = (64, 96, 128, 192, 256, 384, 512)
REFINER_FEATURES = (64, 64, 128, 256, 512)
NNUNET_PATCH = (128, 128, 128)
NNUNET_FEATURES = (32, 64, 128, 256, 320, 320)

Shape = tuple[int, int, int]


def published(case: Case, *, threads: int | None = None, window: Shape = PAPER_WINDOW, narrow: int = 1) -> Turn:
    """One window's baseline, conditioner and denoiser call, times the windows, steps and samples of a case.

    narrow: divides the networks' channels, for a trial.
    """
    from rediffinet.nets.config import RefinerConfig, UNetConfig
    from rediffinet.nets.refiner import ConditionerGraph, DenoiserGraph, Refiner
    from rediffinet.nets.unet import BaselineGraph, UNet

    _threads(threads)
    levels = tuple(features // narrow for features in REFINER_FEATURES)
    config = RefinerConfig(features=levels, head_features=levels[0], time_features=512 // narrow, window=window)
    unet = UNetConfig(features=tuple(features // narrow for features in BASELINE_FEATURES), window=window)
    torch.manual_seed(0)
    refiner = Refiner(config).eval()
    baseline = BaselineGraph(UNet(unet).eval(), mirror=False)
    conditioner, denoiser = ConditionerGraph(refiner), DenoiserGraph(refiner)
    windows = len(plan_windows(_brain(case), window, OVERLAP))
    image = torch.randn(1, 4, *window)
    condition = torch.randn(1, config.condition_channels, *window)
    x_t, one = torch.randn(1, 3, *window), torch.ones(1)

    @torch.inference_mode()
    def run() -> Measured:
        begun = time.perf_counter()
        baseline(image)
        between = time.perf_counter()
        # As published: the conditioning encoder is run in every step, beside the denoiser.
        denoiser(x_t, condition, 500 * one, 0.6 * one, 0.4 * one, list(conditioner(condition)))
        step = time.perf_counter() - between
        first = between - begun
        return Measured(windows * (first + STEPS * SAMPLES * step), stages={"baseline": windows * first})

    return run


def nnunet(case: Case, *, mirroring: bool, threads: int | None = None, patch: Shape = NNUNET_PATCH) -> Turn:
    """nnU-Net's predictor on one patch of the case, times its own number of patches. Raises ImportError without it."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    _threads(threads)
    torch.manual_seed(0)
    stages = len(NNUNET_FEATURES)
    network = PlainConvUNet(
        input_channels=4,
        n_stages=stages,
        features_per_stage=NNUNET_FEATURES,
        conv_op=torch.nn.Conv3d,
        kernel_sizes=3,
        strides=(1, *[2] * (stages - 1)),
        n_conv_per_stage=2,
        num_classes=3,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(
            OVERLAP, True, mirroring, False, torch.device("cpu"), verbose=False, allow_tqdm=False
        )
    predictor.network, predictor.list_of_parameters = network.eval(), [network.state_dict()]
    predictor.allowed_mirroring_axes = (0, 1, 2) if mirroring else None
    predictor.configuration_manager = SimpleNamespace(patch_size=list(patch))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
    padded = tuple(max(size, side) for size, side in zip(_brain(case), patch, strict=True))
    patches = len(predictor._internal_get_sliding_window_slicers(padded))
    image = torch.randn(4, *patch)

    def run() -> Measured:
        begun = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            predictor.predict_sliding_window_return_logits(image)
        return Measured(time.perf_counter() - begun, times=patches)

    return run


def monai(case: Case, *, bundle: str | None, threads: int | None = None) -> Turn:
    """MONAI's sliding window over the bundle's baseline graph in torch functions: same network, weights and overlap."""
    from monai.inferers.utils import sliding_window_inference

    from rediffinet.bundle import open_bundle
    from rediffinet.engines import open_engine
    from rediffinet.method.preprocessing import preprocess

    opened = open_bundle(bundle)
    recipe = opened.manifest.recipe
    settings = recipe.baseline
    if settings is None:
        raise ConfigError("the bundle's model has no baseline for MONAI to slide")
    engine = open_engine("torch", threads=threads)
    graph: Any = engine.load(opened.graph("baseline"))
    prepared = preprocess(case.images, case.spacing_mm, recipe.preprocessing)
    image = torch.from_numpy(prepared.image)[None]

    def network(window: torch.Tensor) -> torch.Tensor:
        outputs = {"probability": engine.empty((1, 3, *window.shape[2:]), "float32")}
        graph.run({"image": engine.upload(window.numpy())}, outputs)
        return torch.from_numpy(engine.download(outputs["probability"]))

    @torch.inference_mode()
    def run() -> Measured:
        begun = time.perf_counter()
        sliding_window_inference(image, settings.window, 1, network, overlap=settings.overlap, mode="gaussian")
        took = time.perf_counter() - begun
        return Measured(took, stages={"baseline": took})

    return run


def _threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _brain(case: Case) -> Shape:
    """Voxels of the box of the brain, which is what all of them crop to."""
    x, y, z = (part.stop - part.start for part in crop_box(np.asarray(case.images)))
    return x, y, z
