"""Schedules against the published numbers and plain products."""

import math

import numpy as np
import pytest

from rediffinet.errors import ConfigError
from rediffinet.method.schedule import cumulative_alphas, linear_betas, respace


def test_betas_are_those_of_ddpm() -> None:
    betas = linear_betas()
    assert betas.dtype == np.float64
    assert (len(betas), betas[0], betas[-1]) == (1000, 1e-4, 0.02)
    assert np.allclose(np.diff(betas), 0.0199 / 999)


def test_alpha_bar_is_the_running_product() -> None:
    betas = linear_betas()
    alpha_bar = cumulative_alphas(betas)
    for t in (0, 1, 500, 999):
        assert math.isclose(alpha_bar[t], math.prod(1 - beta for beta in betas[: t + 1]), rel_tol=1e-12)
    # what is left of the signal at the end of DDPM's schedule, as Lin et al. 2024 (table 1) print it
    assert round(math.sqrt(alpha_bar[-1]), 6) == 0.006353


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (1, [999]),
        (2, [999, 499]),
        (3, [999, 666, 332]),
        (5, [999, 799, 599, 399, 199]),
        (10, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        (1000, list(range(999, -1, -1))),
    ],
)
def test_respacing_is_trailing(steps: int, timesteps: list[int]) -> None:
    alpha_bar = cumulative_alphas(linear_betas())
    schedule = respace(alpha_bar, steps)
    assert schedule.timesteps.tolist() == timesteps
    assert len(schedule) == steps
    assert np.array_equal(schedule.alpha_bar, alpha_bar[timesteps])
    assert np.array_equal(schedule.alpha_bar_prev, [*alpha_bar[timesteps[1:]], 1.0])


def test_every_number_of_steps_gives_distinct_timesteps() -> None:
    alpha_bar = cumulative_alphas(linear_betas(100))
    for steps in range(1, 101):
        timesteps = respace(alpha_bar, steps).timesteps
        assert timesteps[0] == 99
        assert timesteps[-1] >= 0
        assert (np.diff(timesteps) < 0).all()


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"got {steps}, expected 1 to 1000"):
        respace(cumulative_alphas(linear_betas()), steps)
