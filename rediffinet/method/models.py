"""The models of the paper's Table 1 by name: what each predicts, from what, and what it needs (no torch here).

| model | network | predicts | from |
|---|---|---|---|
| unet | U-Net | the segmentation x0 | I |
| discrepancy-unet | U-Net | the discrepancy Δ | U(I), I |
| diff-unet | diffusion | x0 | I |
| ua-diffusion-mask-only | diffusion | x0 | U(I) |
| ua-diffusion-concat | diffusion | x0 | U(I), I |
| ua-diffusion-masked | diffusion | x0 | I ∘ M′ (eq. 3) |
| rediffinet | diffusion | Δ | U(I), I (eq. 5) |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError
from rediffinet.task import Task

Part = Literal["prior", "image", "masked"]
Network = Literal["baseline", "corrector", "refiner"]
"""What a network does: a segmentation of its own, a correction in one call, or a diffusion that draws noise."""
Volume = npt.NDArray[np.float32]
OUTSIDE = 0.2
"""M′ outside the predicted tumour (eq. 3)."""
GRAPHS: Mapping[Network, tuple[str, ...]] = {
    "baseline": ("baseline",),
    "corrector": ("discrepancy",),
    "refiner": ("conditioner", "denoiser"),
}
"""Names of the graphs of a network; what they are is in rediffinet.nets.graphs."""


@dataclass(frozen=True)
class ModelKind:
    """What a model is. `condition`: the parts that are concatenated, in order; empty for the baseline itself."""

    name: str
    network: Network
    target: Literal["segmentation", "discrepancy"]
    condition: tuple[Part, ...]

    @property
    def refines(self) -> bool:
        """Whether the model works on the output of a baseline."""
        return bool({"prior", "masked"} & set(self.condition))

    @property
    def has_baseline(self) -> bool:
        """Whether a bundle of the model holds a baseline: its own, or, for the baseline itself, nothing else."""
        return self.refines or not self.condition

    @property
    def samples(self) -> bool:
        """Whether the model draws noise."""
        return self.network == "refiner"

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs of a bundle of the model."""
        own = GRAPHS[self.network] if self.condition else ()
        return (*(GRAPHS["baseline"] if self.has_baseline else ()), *own)

    def condition_channels(self, task: Task) -> int:
        """Channels of the condition."""
        return sum(_channels(part, task) for part in self.condition)


def _channels(part: Part, task: Task) -> int:
    return len(task.regions if part == "prior" else task.contrasts)


MODELS = {
    kind.name: kind
    for kind in (
        ModelKind("unet", "baseline", "segmentation", ()),
        ModelKind("discrepancy-unet", "corrector", "discrepancy", ("prior", "image")),
        ModelKind("diff-unet", "refiner", "segmentation", ("image",)),
        ModelKind("ua-diffusion-mask-only", "refiner", "segmentation", ("prior",)),
        ModelKind("ua-diffusion-concat", "refiner", "segmentation", ("prior", "image")),
        ModelKind("ua-diffusion-masked", "refiner", "segmentation", ("masked",)),
        ModelKind("rediffinet", "refiner", "discrepancy", ("prior", "image")),
    )
}


def find_model(name: str) -> ModelKind:
    """The model of that name. Raises ConfigError that lists what exists."""
    if name not in MODELS:
        message = f"model: got '{name}', expected one of {', '.join(MODELS)}"
        raise ConfigError(message)
    return MODELS[name]


def build_condition(
    kind: ModelKind, image: Volume, prior: Volume, tumour: npt.NDArray[np.bool_], fill: float
) -> Volume:
    """What the network is conditioned on, float32 (C, X, Y, Z) with the channels of `kind.condition_channels`.

    image: normalised contrasts (channels, X, Y, Z), background `fill`; prior: U(I) as probabilities or as a mask of 0
    and 1, (R, X, Y, Z), which enters as 2·prior − 1; tumour: bool (X, Y, Z), the whole tumour of U(I). Eq. 3 multiplies
    by M′ intensities whose background is 0, hence the detour over image − fill.
    """
    parts: dict[str, Volume] = {"prior": 2.0 * prior - 1.0, "image": image}
    if "masked" in kind.condition:
        parts["masked"] = (image - fill) * np.where(tumour, np.float32(1.0), np.float32(OUTSIDE)) + fill
    return np.concatenate([parts[part] for part in kind.condition]).astype(np.float32, copy=False)


def as_discrepancy(kind: ModelKind, predicted: Volume, mask: npt.NDArray[np.bool_]) -> Volume:
    """What a model predicted in [0, 1] as a discrepancy to U(I): itself, or |U(I) − x̂0| for a segmentation.

    predicted float32 and mask bool, both (R, X, Y, Z). With it every model ends in the same flip, |U(I) − Δ̂|.
    """
    if kind.target == "discrepancy":
        return predicted
    return np.where(mask, 1.0 - predicted, predicted).astype(np.float32, copy=False)
