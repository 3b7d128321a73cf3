"""What every objective of the loop is: a network, its batches, its loss."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rediffinet.method.noise import philox
from rediffinet.method.recipe import whole_of
from rediffinet.method.windows import Shape, Start
from rediffinet.training.config import TrainConfig
from rediffinet.training.data import TrainingCase
from rediffinet.training.sampling import augment_intensity, augment_space, cut, transplant


class Objective(ABC):
    """A model with its batches and loss; batches depend on (seed, step) alone, a loss is the mean over examples.

    weights: of a trained model of the same shape, with which training begins.
    """

    weights: Mapping[str, Tensor] | None = None

    def __init__(self, config: TrainConfig, cases: Sequence[TrainingCase]) -> None:
        self.config = config
        self.cases = cases
        self.regions = len(config.task.regions)
        self.whole = whole_of(config.task)
        # as the images hold it, or background voxels would not be recognised
        self.fill = float(np.float16(config.normalisation.background))

    @abstractmethod
    def build(self) -> nn.Module:
        """A freshly initialised model."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, window: Shape) -> tuple[Tensor, ...]:
        """One training example of this window, without the batch axis."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """The scalar loss of a batch."""

    def batch(self, step: int, slots: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """The batch of a step, or the part of it in these slots; an example depends on (seed, step, slot) alone."""
        chosen = range(self.config.batch) if slots is None else slots
        window = self.config.window_at(step)
        examples = [self.sample(philox("batch", self.config.seed, step, slot), window) for slot in chosen]
        return tuple(torch.stack(parts) for parts in zip(*examples, strict=True))

    def _masks(self, index: int, start: Start, window: Shape) -> Tensor:
        """What goes through the changes of space with the image of a case; its regions first."""
        return cut(self.cases[index].regions, start, window, 0)

    def _window(self, rng: np.random.Generator, index: int, start: Start, window: Shape) -> tuple[Tensor, Tensor]:
        """Image and masks of a case, now and then in the brain of another."""

        def at(case: int) -> tuple[Tensor, Tensor]:
            return cut(self.cases[case].image, start, window, self.fill), self._masks(case, start, window)

        share = self.config.augmentation.transplant
        if not share or rng.random() >= share:
            return at(index)
        # cases are cropped to the brain, so the same window is about the same place
        return transplant(rng, at(index), at(int(rng.integers(len(self.cases)))), self.fill, self.whole)

    def _augment(self, rng: np.random.Generator, image: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        settings, recipe = self.config.augmentation, self.config.normalisation
        image, masks = augment_space(rng, settings, image, masks, self.fill)
        standardised = recipe.method == "zscore"
        changed = augment_intensity(rng, settings, image, recipe.range, self.fill, standardised=standardised)
        return changed, masks
