"""Noise schedules of the diffusion as plain arrays: betas, alpha_bar, and their respacing to a few steps.

Float64 throughout; nothing here depends on a network or an engine. Notation of Ho et al. 2020 (DDPM) and Song et al.
2021 (DDIM): x_t = sqrt(alpha_bar_t) · x0 + sqrt(1 − alpha_bar_t) · noise.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """The S sampling steps of a T-step diffusion, noisiest first.

    timesteps: int64 (S,), indices into the T training steps.
    alpha_bar: float64 (S,), cumulative signal power at each timestep.
    alpha_bar_prev: float64 (S,), that of the following (less noisy) step; 1.0 after the last.
    """

    timesteps: npt.NDArray[np.int64]
    alpha_bar: FloatArray
    alpha_bar_prev: FloatArray

    def __len__(self) -> int:
        """Number of steps S."""
        return len(self.timesteps)


def linear_betas(train_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> FloatArray:
    """Linearly growing betas, float64 (T,) (Ho et al. 2020; the paper's T = 1000)."""
    return np.linspace(first, last, train_steps, dtype=np.float64)


def cumulative_alphas(betas: FloatArray) -> FloatArray:
    """alpha_bar_t = prod_{s ≤ t} (1 − beta_s), float64 (T,)."""
    return np.cumprod(1.0 - betas, dtype=np.float64)


def respace(alpha_bar: FloatArray, steps: int) -> Schedule:
    """Choose `steps` of the T training steps, evenly spaced and always including the noisiest one.

    Sampling starts from pure noise, so the first step must be t = T − 1 ("trailing" spacing, Lin et al. 2024).
    Raises ConfigError when steps is not in 1..T.
    """
    train_steps = len(alpha_bar)
    if not 1 <= steps <= train_steps:
        message = f"sampling steps: got {steps}, expected 1 to {train_steps} (the number of training steps)"
        raise ConfigError(message)
    timesteps = np.round(train_steps - np.arange(steps) * (train_steps / steps)).astype(np.int64) - 1
    at = alpha_bar[timesteps]
    return Schedule(timesteps, at, np.append(at[1:], 1.0))
