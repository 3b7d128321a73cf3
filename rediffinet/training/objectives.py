"""What the loop trains: an objective makes a network, its batches and its loss."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rediffinet.method.models import build_condition, find_model
from rediffinet.method.sampling import q_sample, to_signal
from rediffinet.method.schedule import cumulative_alphas, linear_betas
from rediffinet.method.windows import Shape, Start
from rediffinet.nets.graphs import build_network
from rediffinet.nets.refiner import Refiner
from rediffinet.nets.warm_start import warm_start
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import TrainingCase
from rediffinet.training.losses import compound_loss, deep_supervision_loss
from rediffinet.training.objective import Objective
from rediffinet.training.out_of_fold import Prior, Probability
from rediffinet.training.precision import autocast
from rediffinet.training.prior_errors import false_part, gone_wrong, jittered, lost_part
from rediffinet.training.sampling import cut, random_start, random_voxel
from rediffinet.training.window_objectives import WindowCorrectorObjective, WindowRefinerObjective


class BaselineObjective(Objective):
    """The U-Net: windows with tumour oversampling → regions."""

    def build(self) -> nn.Module:
        """See Objective."""
        return build_network(find_model(self.config.model), self.config.unet, self.config.task)

    def sample(self, rng: np.random.Generator, window: Shape) -> tuple[Tensor, ...]:
        """Image (C, window), regions (R, window)."""
        index = int(rng.integers(len(self.cases)))
        case = self.cases[index]
        wanted = rng.random() < self.config.tumour_fraction
        inside = random_voxel(rng, np.asarray(case.regions[self.whole].any(axis=0))) if wanted else None
        start = random_start(rng, _shape(case.regions), window, inside)
        return self._augment(rng, *self._window(rng, index, start, window))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """See Objective."""
        image, regions = batch
        with autocast(self.config.autocast, image.device):
            logits = model(image)
        return deep_supervision_loss(logits, regions, squared_error=self.config.squared_error)


class ConditionedObjective(Objective):
    """Every model that is conditioned: what it predicts, and from what, is its `ModelKind`.

    `predictions[i]`: float16 (R, X, Y, Z) for cases[i], from a baseline that has not seen that patient; None for a
    model that takes no baseline.
    """

    def __init__(
        self, config: TrainConfig, cases: Sequence[TrainingCase], predictions: Sequence[Probability] | None = None
    ) -> None:
        super().__init__(config, cases)
        self.kind = find_model(config.model)
        self.predictions = predictions

    def draw(self, rng: np.random.Generator, window: Shape) -> tuple[Tensor, Tensor]:
        """Condition (C, window) and target (R, window), the discrepancy or the regions."""
        config = self.config
        index = int(rng.integers(len(self.cases)))
        case = self.cases[index]
        probability = self._probability(index)
        start = random_start(rng, _shape(case.regions), window, self._centre(rng, case, probability))
        image, masks = self._augment(rng, *self._window(rng, index, start, window))
        regions, soft = masks[: self.regions], masks[self.regions :]
        if self.predictions is not None and rng.random() < config.logit_jitter:
            soft = jittered(rng, soft)
        if self.predictions is not None and config.simulated_errors and rng.random() < config.simulated_errors:
            soft = gone_wrong(rng, soft)
        if self.predictions is not None and config.lost_parts and rng.random() < config.lost_parts:
            soft = lost_part(rng, soft, self.whole)
        if self.predictions is not None and config.false_parts and rng.random() < config.false_parts:
            other = cut(self._probability(int(rng.integers(len(self.cases)))), start, window, 0)
            soft = false_part(rng, soft, other, (image != self.fill).any(0))
        mask = (soft > 0.5).float()
        prior = soft if config.network.soft_condition else mask
        condition = build_condition(
            self.kind, image.numpy(), prior.numpy(), mask[self.whole].amax(0).numpy() > 0, self.fill
        )
        target = (mask - regions).abs() if self.kind.target == "discrepancy" else regions
        return torch.from_numpy(condition), target

    def _probability(self, index: int) -> Probability:
        if self.predictions is None:
            return np.broadcast_to(np.float16(0.0), self.cases[index].regions.shape)
        return self.predictions[index]

    def _masks(self, index: int, start: Start, window: Shape) -> Tensor:
        """Regions and the baseline's probabilities: an error moves with the tissue that caused it."""
        return torch.cat([super()._masks(index, start, window), cut(self._probability(index), start, window, 0)])

    def _centre(
        self, rng: np.random.Generator, case: TrainingCase, probability: Probability
    ) -> npt.NDArray[np.integer] | None:
        """A voxel the window must hold: an error, then tumour or what was taken for it, else anything."""
        draw = rng.random()
        if draw < self.config.error_fraction:
            return random_voxel(rng, ((probability > 0.5) != case.regions).any(0))
        if draw < self.config.error_fraction + (1.0 - self.config.error_fraction) * self.config.tumour_fraction:
            return random_voxel(
                rng, np.asarray(((probability[self.whole] > 0.1) | case.regions[self.whole]).any(axis=0))
            )
        return None


class CorrectorObjective(ConditionedObjective):
    """A second U-Net that predicts the discrepancy in one go (discrepancy-unet)."""

    def build(self) -> nn.Module:
        """See Objective."""
        return build_network(self.kind, self.config.unet, self.config.task)

    def sample(self, rng: np.random.Generator, window: Shape) -> tuple[Tensor, ...]:
        """Condition (C, window), target (R, window)."""
        return self.draw(rng, window)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """See Objective."""
        condition, target = batch
        with autocast(self.config.autocast, condition.device):
            logits = model(condition)
        return deep_supervision_loss(logits, target, squared_error=True)


class RefinerObjective(ConditionedObjective):
    """The diffusion models, rediffinet among them: x0 is the target, noised to a random timestep."""

    def __init__(
        self,
        config: TrainConfig,
        cases: Sequence[TrainingCase],
        predictions: Sequence[Probability] | None = None,
        start: nn.Module | None = None,
    ) -> None:
        super().__init__(config, cases, predictions)
        self.alpha_bar = cumulative_alphas(linear_betas(config.refiner.train_steps))
        self.start = start

    def build(self) -> nn.Module:
        """See Objective."""
        refiner = build_network(self.kind, self.config.refiner, self.config.task)
        assert isinstance(refiner, Refiner)
        if self.start is not None:
            warm_start(refiner, self.start)
        return refiner

    def sample(self, rng: np.random.Generator, window: Shape) -> tuple[Tensor, ...]:
        """Condition (C, window), x0 (R, window), x_t (R, window), t ()."""
        condition, x0 = self.draw(rng, window)
        t = self._timestep(rng)
        noise = rng.standard_normal(x0.shape, dtype=np.float32)
        x_t = q_sample(to_signal(x0.numpy(), self.config.refiner.signal_scale), noise, float(self.alpha_bar[t]))
        return condition, x0, torch.from_numpy(x_t.astype(np.float32)), torch.tensor(float(t))

    def _timestep(self, rng: np.random.Generator) -> int:
        """Uniform, but the noisiest step, where every sampling starts, in a fixed share of the draws."""
        last = self.config.refiner.train_steps - 1
        return last if rng.random() < self.config.noisiest_fraction else int(rng.integers(last + 1))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """See Objective."""
        condition, x0, x_t, t = batch
        with autocast(self.config.autocast, condition.device):
            logits = model(x_t, condition, t)
        mask = (condition[:, : self.regions] > 0.0).float() if self.config.result_dice else None
        return compound_loss(logits.float(), x0, squared_error=True, mask=mask)


def _shape(regions: npt.NDArray[np.bool_]) -> Shape:
    return (regions.shape[1], regions.shape[2], regions.shape[3])


def make_objective(
    config: TrainConfig,
    cases: Sequence[TrainingCase],
    predictions: Sequence[Probability] | None = None,
    start: nn.Module | None = None,
    priors: Sequence[Sequence[Prior]] = (),
) -> Objective:
    """The objective of config.model; predictions: for a model that refines; start: a U-Net that it begins with.

    priors: instead of predictions, for a model that learns in windows; by default the predictions.
    """
    kind = find_model(config.model)
    if config.windows is not None:
        several = priors or [(Prior(probability),) for probability in predictions or ()]
        windows = WindowCorrectorObjective if kind.network == "corrector" else WindowRefinerObjective
        return windows(config, cases, several)
    if not kind.condition:
        return BaselineObjective(config, cases)
    if kind.network == "corrector":
        return CorrectorObjective(config, cases, predictions)
    return RefinerObjective(config, cases, predictions, start)
