"""From a normalised image on a model's own voxel grid to what the model says of it: one path for all seven models.

The segmenter of a bundle and the cross-validation of runs in memory both go through here, on whatever engine.
"""

import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rediffinet.engines.base import Engine, Graph
from rediffinet.errors import ConfigError
from rediffinet.method.evidence import unsupported_components
from rediffinet.method.preprocessing import regrid
from rediffinet.method.recipe import Decision, Recipe
from rediffinet.method.refine import (
    Corrector,
    Discrepancy,
    Done,
    Sampler,
    WindowModel,
    refinement_windows,
    sample_discrepancy,
    undecided,
)
from rediffinet.method.schedule import Schedule, cumulative_alphas, linear_betas, respace
from rediffinet.method.windows import plan_windows, slide

Volume = npt.NDArray[np.float32]


class Loaded(NamedTuple):
    """A model that is ready to run: its graphs by name on an engine, and the recipe that says how."""

    engine: Engine
    graphs: Mapping[str, Graph]
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """How the discrepancy is sampled: the respaced schedule, samples per window, the seed of the noise.

    A model that draws no noise has no schedule and 0 samples.
    """

    schedule: Schedule | None
    samples: int
    seed: int

    @property
    def steps(self) -> int:
        """Denoiser calls per sample."""
        return len(self.schedule) if self.schedule is not None else 0


@dataclass(frozen=True)
class Inferred:
    """What a model says of a case, on the grid of its last stage (`Recipe.decided_mm`).

    probability: float32 (R, X, Y, Z) of the baseline; None where the model has none. found: None where it refines
    nothing. unsupported: bool (X, Y, Z), lesions that do not stand by the decision's evidence; None where nothing was
    asked.
    """

    probability: Volume | None
    found: Discrepancy | None
    unsupported: npt.NDArray[np.bool_] | None = None


def plan_sampling(recipe: Recipe, steps: int | None = None, samples: int | None = None, seed: int = 0) -> Plan:
    """The sampling that the arguments and the recipe's defaults (None) amount to.

    Raises ConfigError for steps, samples or seed out of range. A model that draws no noise takes any in range, unused.
    """
    diffusion = recipe.diffusion
    for name, value in (("samples", samples), ("steps", steps)):
        if value is not None and value < 1:
            most = f"1 to {diffusion.train_steps}" if name == "steps" and diffusion is not None else "1 or more"
            message = f"{name}: got {value}, expected {most}"
            raise ConfigError(message)
    if not isinstance(seed, numbers.Integral) or seed < 0:
        raise ConfigError(f"seed: got {seed!r}, expected a whole number of 0 or more")
    seed = int(seed)
    if diffusion is None:
        return Plan(None, 0, seed)
    alpha_bar = cumulative_alphas(linear_betas(diffusion.train_steps, diffusion.beta_first, diffusion.beta_last))
    schedule = respace(alpha_bar, diffusion.steps if steps is None else steps)
    return Plan(schedule, diffusion.samples if samples is None else samples, seed)


def infer(
    model: Loaded,
    image: Volume,
    plan: Plan,
    name: str,
    *,
    probability: Volume | None = None,
    everywhere: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Inferred:
    """Run a model on a normalised crop (C, X, Y, Z) of the case `name`, on the grid of its last stage.

    probability: float32 (R, X, Y, Z), in the place of what the baseline graph would say: known already, or a mask made
    elsewhere; needed where the refiner has a voxel size of its own. everywhere: see `find_discrepancy`.
    progress(stage, done, of): stages "baseline" and "refine".
    """

    def tell(stage: str) -> Done | None:
        return None if progress is None else lambda done, of: progress(stage, done, of)

    if probability is None:
        assert model.recipe.decided_mm == model.recipe.spacing_mm, "the baseline works on another grid than the refiner"
        probability = predict_baseline(model, image, tell("baseline"))
    found = find_discrepancy(model, image, probability, plan, name, everywhere=everywhere, done=tell("refine"))
    return Inferred(probability, found)


def predict_baseline(model: Loaded, image: Volume, done: Done | None = None) -> Volume | None:
    """Blended probabilities of the regions, float32 (R, X, Y, Z); None for a model without a baseline."""
    settings = model.recipe.baseline
    if settings is None:
        return None
    graph = model.graphs["baseline"]
    fill = model.recipe.background

    def predict(window: Volume) -> Volume:
        return np.asarray(graph(image=window)["probability"], np.float32)

    regions = len(model.recipe.task.regions)
    return slide(image, settings.window, settings.overlap, predict, regions, fill, done, settings.spare)


def find_unsupported(
    model: Loaded, image: Volume, probability: Volume, done: Done | None = None
) -> npt.NDArray[np.bool_]:
    """Lesions that do not stand by the decision's evidence, bool (X, Y, Z); none where it asks for none.

    image (C, x, y, z) on the baseline's grid; probability (R, X, Y, Z) of the baseline on that of the last stage.
    """
    recipe = model.recipe

    def without(contrast: int) -> Volume:
        shown = image.copy()
        shown[contrast] = recipe.background
        left = predict_baseline(model, shown, done)
        assert left is not None, "a model with a baseline"
        return regrid(left, recipe.spacing_mm, recipe.decided_mm, probability)

    return unsupported_components(recipe, probability, without)


def find_discrepancy(
    model: Loaded,
    image: Volume,
    probability: Volume | None,
    plan: Plan,
    name: str,
    *,
    everywhere: bool = False,
    decision: Decision | None = None,
    postprocess: bool = True,
    left_out: npt.NDArray[np.bool_] | None = None,
    done: Done | None = None,
) -> Discrepancy | None:
    """What the model would change of the baseline; None for a model that is nothing but a baseline.

    image (C, X, Y, Z), probability (R, X, Y, Z) of the baseline. `plan.seed` and `name` key the noise. Windows lie
    where discrepancy can be, or can change something when the decision, whether the baseline is postprocessed and what
    is flipped whole (`left_out`, bool (X, Y, Z)) are known; with `everywhere`, or where there is no baseline to tell,
    they tile the whole crop.
    """
    settings = model.recipe.refiner
    if settings is None:
        return None
    shape = (image.shape[1], image.shape[2], image.shape[3])
    prior = np.zeros((len(model.recipe.task.regions), *shape), np.float32) if probability is None else probability
    if everywhere or probability is None:
        starts = plan_windows(shape, settings.window, settings.overlap)
    else:
        where = undecided(model.recipe, probability, decision, postprocess=postprocess, left_out=left_out)
        starts = refinement_windows(where, settings)
    window_model = _window_model(model, plan)
    key = (plan.seed, name)
    return sample_discrepancy(
        window_model, model.recipe, image, prior, starts, key=key, samples=plan.samples, done=done
    )


def _window_model(model: Loaded, plan: Plan) -> WindowModel:
    if plan.schedule is None:
        return Corrector(model.engine, model.graphs["discrepancy"])
    return Sampler(model.engine, model.graphs["conditioner"], model.graphs["denoiser"], plan.schedule)
