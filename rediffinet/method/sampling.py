"""The diffusion itself: forward process and DDIM sampling with x0-prediction, as free functions.

A sampler knows nothing of networks or engines: it is given a `step` callable and a `Schedule`. Noise is injected, never
drawn here. The DDIM update (Song et al. 2021, eq. 12 with sigma = 0) is linear in x0 and x_t:

    x_prev = c0 · x0 + c1 · x_t,   c1 = sqrt((1 − ā_prev) / (1 − ā)),   c0 = sqrt(ā_prev) − c1 · sqrt(ā)

so that the exported denoiser graph can hold it and a step moves no data through the host.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rediffinet.method.schedule import Schedule

State = TypeVar("State")
Step = Callable[[State, int, float, float], tuple[State, State]]
"""(x_t, t, c0, c1) → (x_prev, x0)."""


def to_signal(delta: npt.NDArray[np.floating], scale: float) -> npt.NDArray[np.floating]:
    """Binary discrepancy in [0, 1] → the diffused signal in [−scale, scale] (analog bits, Chen et al. 2023)."""
    return scale * (2.0 * delta - 1.0)


def q_sample(
    x0: npt.NDArray[np.floating], noise: npt.NDArray[np.floating], alpha_bar: float
) -> npt.NDArray[np.floating]:
    """Forward process: x_t = sqrt(ā) · x0 + sqrt(1 − ā) · noise (Ho et al. 2020, eq. 4). Same shape and dtype as x0."""
    return np.asarray(np.sqrt(alpha_bar) * x0 + np.sqrt(1.0 - alpha_bar) * noise, dtype=x0.dtype)


def ddim_coefficients(alpha_bar: float, alpha_bar_prev: float) -> tuple[float, float]:
    """(c0, c1) of the deterministic DDIM update x_prev = c0 · x0 + c1 · x_t."""
    c1 = float(np.sqrt((1.0 - alpha_bar_prev) / (1.0 - alpha_bar)))
    return float(np.sqrt(alpha_bar_prev) - c1 * np.sqrt(alpha_bar)), c1


def ddim(
    step: Step[State], x_T: State, schedule: Schedule, callback: Callable[[int, State], None] | None = None
) -> State:
    """Run the schedule from pure noise x_T and return the last x0.

    `callback(i, x0)` is called after step i. The state may be anything `step` takes: an array or a device buffer.
    """
    x_t = x0 = x_T
    for i, t in enumerate(schedule.timesteps):
        c0, c1 = ddim_coefficients(schedule.alpha_bar[i], schedule.alpha_bar_prev[i])
        x_t, x0 = step(x_t, int(t), c0, c1)
        if callback is not None:
            callback(i, x0)
    return x0
