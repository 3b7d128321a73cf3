"""Small training windows, cut and changed on the device that trains: a step costs a GPU no time in waiting.

What a refiner has to learn is local: where the prior ends too early or too late, and what it should have been called.
So its windows are small and lie where the prior errs, ends or doubts, and now and then in healthy tissue. All cases
stay on the device with the priors; a window is one interpolation (turn, mirror, scale, cut) and a few operations on all
examples of a batch at once. An example depends on (seed, step, slot) alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rediffinet.method.noise import philox
from rediffinet.method.windows import Shape, overlap_slices
from rediffinet.training.config import Augmentation, TrainConfig, WindowSampling
from rediffinet.training.data import TrainingCase
from rediffinet.training.out_of_fold import Prior, Probability
from rediffinet.training.sampling import rotation

HARD = 6.0
"""How steeply a hardened prior goes from 0 to 1, as a mask of finer voxels does."""


@dataclass(frozen=True)
class _Stored:
    """A case on the device: image, regions, then the priors, in channels; and where windows may lie."""

    volume: Tensor
    priors: tuple[Prior, ...]
    centres: dict[str, npt.NDArray[np.int64]]


class WindowBatches:
    """Batches of windows from cases that live on a device.

    Of C contrasts and R regions: image float32 (B, C, *window), regions (B, R, *window) of 0 and 1,
    prior (B, R, *window) in [0, 1].
    """

    def __init__(
        self,
        config: TrainConfig,
        cases: Sequence[TrainingCase],
        priors: Sequence[Sequence[Prior]],
        device: torch.device,
    ) -> None:
        assert config.windows is not None
        self.config, self.settings, self.device = config, config.windows, device
        self.fill = float(np.float16(config.normalisation.background))
        self.window = config.network_window
        x, y, z = (width + 2 * math.ceil(0.25 * width) for width in self.window)
        self.source: Shape = (x, y, z)
        self.stored = [self._store(case, tuple(of), config.windows) for case, of in zip(cases, priors, strict=True)]
        self.contrasts, self.regions = len(config.task.contrasts), len(config.task.regions)

    def _store(self, case: TrainingCase, priors: tuple[Prior, ...], settings: WindowSampling) -> _Stored:
        parts = [case.image - np.float16(self.fill), case.regions.astype(np.float16), *(p.probability for p in priors)]
        volume = torch.from_numpy(np.concatenate(parts).astype(np.float16)).to(self.device)
        shown = next(prior.probability for prior in priors if prior.missing is None)
        return _Stored(volume, priors, _centres(case, shown))

    def draw(self, step: int, slots: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Image, regions and prior of the examples in these slots of a step."""
        rngs = [philox("window", self.config.seed, step, slot) for slot in slots]
        cut = torch.stack([self._cut(rng) for rng in rngs]).float()
        matrices = np.stack([self._matrix(rng) for rng in rngs]).astype(np.float32)
        theta = torch.from_numpy(matrices).to(self.device)
        grid = functional.affine_grid(theta, [len(slots), 1, *self.window], align_corners=False)
        turned = functional.grid_sample(cut, grid, mode="bilinear", align_corners=False)
        image, regions, prior = turned.split([self.contrasts, self.regions, self.regions], 1)
        brain = (image.abs().sum(1, keepdim=True) > 0.0).float()
        regions = (regions >= 0.5).float()
        image = self._intensities(image, brain, rngs)
        return image + self.fill, regions, self._errors(prior.clamp(0.0, 1.0), brain, rngs)

    def _cut(self, rng: np.random.Generator) -> Tensor:
        """One example before it is turned: contrasts, regions, one prior; a contrast that is missing is empty."""
        stored = self.stored[int(rng.integers(len(self.stored)))]
        voxel = _centre(rng, stored.centres, self.settings)
        starts: list[int] = []
        for voxel_at, width, source in zip(voxel, self.window, self.source, strict=True):
            jitter = int(rng.integers(-(width // 4), width // 4 + 1))
            starts.append(int(voxel_at) + jitter - source // 2)
        inside, target = overlap_slices(stored.volume.shape[1:], (starts[0], starts[1], starts[2]), self.source)
        chosen, missing = _choose_priors(rng, stored.priors, self.config.augmentation.drop_contrast, self.settings)
        first = self.contrasts + self.regions
        shown = [slice(first + self.regions * i, first + self.regions * (i + 1)) for i in chosen]
        parts = torch.cat([stored.volume[(channels, *inside)] for channels in (slice(0, first), *shown)])
        window = parts.new_zeros((len(parts), *self.source), dtype=torch.float32)
        window[(slice(None), *target)] = parts.float()
        known, priors = window.tensor_split([first])
        if missing is not None:
            known[missing] = 0.0
        return torch.cat([known, priors.unflatten(0, (len(chosen), self.regions)).mean(0)])

    def _matrix(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Sampling matrix (3, 4) of affine_grid: quarter turns and mirrors, then a small turn and scale."""
        settings = self.config.augmentation
        voxel = np.eye(3)
        if self.settings.quarter_turns:
            voxel = voxel[rng.permutation(3)]
        for axis in settings.flip_axes:
            if rng.random() < 0.5:
                voxel[:, axis] *= -1.0
        if rng.random() < settings.affine:
            for axis in settings.rotation_axes:
                angle = math.radians(rng.uniform(-settings.rotation_degrees, settings.rotation_degrees))
                voxel = voxel @ rotation(axis, angle)
            voxel = voxel / (1.0 + rng.uniform(-settings.scaling, settings.scaling))
        scaled = voxel * np.array(self.window, float)[None, :] / np.array(self.source, float)[:, None]
        return np.concatenate([scaled[::-1, ::-1], np.zeros((3, 1))], axis=1)  # affine_grid orders z, y, x

    def _normal(self, rng: np.random.Generator, *shape: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        return torch.randn(shape, generator=generator, device=self.device)

    def _intensities(self, image: Tensor, brain: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Gamma, gain and offset, bias field, blur and noise, each contrast by itself, within the recipe's range."""
        settings, (low, high) = self.config.augmentation, self.config.normalisation.range
        present = (image.abs().amax((2, 3, 4), keepdim=True) > 0.0).float()
        drawn = np.stack([_intensity_numbers(rng, self.contrasts, settings) for rng in rngs])
        gamma, gain, offset, noise, bias, blur = (
            torch.from_numpy(drawn).to(self.device)[..., None, None, None].unbind(1)
        )
        span = high - low
        unit = ((image - (low - self.fill)) / span).clamp(1e-4, 1.0)
        unit = unit.pow(gamma) * gain + offset
        if settings.bias_field:
            field = torch.stack([self._normal(rng, self.contrasts, 3, 3, 3) for rng in rngs])
            field = functional.interpolate(field, self.window, mode="trilinear", align_corners=True)
            unit = unit * torch.exp(bias * field)
        if settings.blur:
            unit = unit + blur * (functional.avg_pool3d(unit, 3, 1, 1, count_include_pad=False) - unit)
        if settings.noise:
            unit = unit + noise * torch.stack([self._normal(rng, self.contrasts, *self.window) for rng in rngs])
        return (unit.clamp(0.0, 1.0) * span + (low - self.fill)) * brain * present

    def _errors(self, prior: Tensor, brain: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Errors that the program could have made: sureness, size, a part lost at a plane, a false part, nothing."""
        config, settings = self.config, self.settings
        other = prior.roll(1, 0)
        numbers = np.stack([_error_numbers(rng, config, settings) for rng in rngs])
        drawn = torch.from_numpy(numbers.astype(np.float32)).to(self.device)[:, :, None, None, None, None].unbind(1)
        scale, shift, hard, grown, shrunk, lost, false, nothing, nx, ny, nz, offset = drawn
        if numbers[:, 3:5].any():  # grown or shrunk: in few batches, and dear
            larger = functional.max_pool3d(prior, 3, 1, 1)
            smaller = -functional.max_pool3d(-prior, 3, 1, 1)
            prior = prior + grown * (larger - prior) + shrunk * (smaller - prior)
        axes = [torch.linspace(-1.0, 1.0, width, device=self.device) for width in self.window]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        beyond = ((nx * x + ny * y + nz * z) > offset).float()
        prior = prior * (1.0 - lost * beyond)
        prior = torch.maximum(prior, other * false * brain)
        prior = prior * (1.0 - nothing)
        prior = prior + hard * (((prior - 0.5) * HARD + 0.5).clamp(0.0, 1.0) - prior)
        logit = torch.logit(prior, eps=1e-4)
        return torch.where(hard > 0.0, prior, torch.sigmoid(scale * logit + shift))


def _centres(case: TrainingCase, prior: Probability) -> dict[str, npt.NDArray[np.int64]]:
    """Voxels on which windows may lie, (n, 3): where the prior errs, ends, doubts, and anywhere in the brain."""
    mask = prior > 0.5
    edge = np.zeros(mask.shape[1:], bool)
    for axis in (1, 2, 3):
        step = (mask != np.roll(mask, 1, axis)).any(0)
        edge |= step
    voxels = {
        "errors": (mask != case.regions).any(0),
        "boundary": edge,
        "doubts": (prior > 0.05).any(0) | case.regions.any(0),
        "brain": (case.image != case.image[:, :1, :1, :1]).any(0),
    }
    return {name: np.argwhere(where) for name, where in voxels.items()}


def _centre(
    rng: np.random.Generator, centres: dict[str, npt.NDArray[np.int64]], settings: WindowSampling
) -> npt.NDArray[np.int64]:
    shares = [settings.errors, settings.boundary, settings.doubts]
    kind = ("errors", "boundary", "doubts", "brain")[int(np.searchsorted(np.cumsum(shares), rng.random(), "right"))]
    for name in (kind, "boundary", "doubts", "brain"):
        if len(centres[name]):
            return np.asarray(centres[name][rng.integers(len(centres[name]))])
    return np.zeros(3, np.int64)


def _choose_priors(
    rng: np.random.Generator, priors: Sequence[Prior], missing: float, settings: WindowSampling
) -> tuple[list[int], int | None]:
    """Indices of the priors whose mean is shown, and the contrast that is taken away."""
    own = [i for i, prior in enumerate(priors) if not prior.given and prior.missing is None]
    given = [i for i, prior in enumerate(priors) if prior.given]
    contrasts = sorted({prior.missing for prior in priors if prior.missing is not None})
    if contrasts and rng.random() < missing:
        contrast = int(rng.choice(contrasts))
        own = [i for i, prior in enumerate(priors) if prior.missing == contrast]
        return [int(rng.choice(own))], contrast
    if given and rng.random() < settings.given:
        return [int(rng.choice(given))], None
    if len(own) > 1 and rng.random() < settings.averages:
        return [int(i) for i in rng.choice(own, 2, replace=False)], None
    return [int(rng.choice(own))], None


def _intensity_numbers(rng: np.random.Generator, contrasts: int, settings: Augmentation) -> npt.NDArray[np.float32]:
    yes = rng.random((6, contrasts))
    gamma = np.where(yes[0] < settings.gamma, np.exp(rng.uniform(-0.35, 0.35, contrasts)), 1.0)
    gained = yes[1] < settings.gain
    gain = np.where(gained, rng.uniform(0.85, 1.15, contrasts), 1.0)
    offset = np.where(gained, rng.uniform(-0.08, 0.08, contrasts), 0.0)
    noise = np.where(yes[3] < settings.noise, rng.uniform(0.0, 0.06, contrasts), 0.0)
    bias = np.where(yes[4] < settings.bias_field, settings.bias_strength, 0.0)
    blur = np.where(yes[5] < settings.blur, rng.uniform(0.3, 1.0, contrasts), 0.0)
    return np.stack([gamma, gain, offset, noise, bias, blur]).astype(np.float32)


def _error_numbers(rng: np.random.Generator, config: TrainConfig, settings: WindowSampling) -> npt.NDArray[np.float64]:
    jittered = rng.random() < config.logit_jitter
    scale, shift = (rng.uniform(0.5, 1.8), rng.uniform(-1.0, 1.0)) if jittered else (1.0, 0.0)
    yes = rng.random(5)
    resized = yes[0] < settings.resized
    amount = rng.uniform(0.3, 1.0)
    grown, shrunk = (amount, 0.0) if rng.random() < 0.5 else (0.0, amount)
    normal = rng.standard_normal(3)
    normal /= np.linalg.norm(normal)
    return np.array(
        [
            scale,
            shift,
            float(yes[1] < settings.hardened),
            grown * resized,
            shrunk * resized,
            float(yes[2] < config.lost_parts),
            float(yes[3] < config.false_parts),
            float(yes[4] < config.simulated_errors),
            *normal,
            rng.uniform(-0.3, 0.8),
        ]
    )
