"""Forward process and DDIM against closed forms."""

import math

import numpy as np
import pytest

from rediffinet.method.sampling import ddim, ddim_coefficients, q_sample, to_signal
from rediffinet.method.schedule import cumulative_alphas, linear_betas, respace

ALPHA_BAR = cumulative_alphas(linear_betas())
RNG = np.random.default_rng(0)


def test_signal_of_a_binary_mask() -> None:
    assert to_signal(np.array([0.0, 1.0, 0.5]), 0.2).tolist() == [-0.2, 0.2, 0.0]


@pytest.mark.parametrize("t", [0, 10, 400, 999])
def test_forward_process_is_t_steps_of_the_chain(t: int) -> None:
    """One step is x → sqrt(1 − β) x + sqrt(β) n: follow the factor of x0 and the variance through the chain."""
    factor, variance = 1.0, 0.0
    for beta in linear_betas()[: t + 1]:
        factor, variance = factor * math.sqrt(1 - beta), variance * (1 - beta) + beta
    x0, noise = RNG.normal(size=(2, 5, 6))
    expected = factor * x0 + math.sqrt(variance) * noise
    assert np.allclose(q_sample(x0, noise, ALPHA_BAR[t]), expected, rtol=1e-10, atol=1e-12)


def test_forward_process_keeps_the_dtype() -> None:
    x0 = np.ones(3, np.float32)
    assert q_sample(x0, np.zeros(3), 0.25).dtype == np.float32


def test_last_step_returns_x0_alone() -> None:
    assert ddim_coefficients(0.3, 1.0) == (1.0, 0.0)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_each_step_is_equation_12_of_song_et_al(steps: int) -> None:
    """With σ = 0: x_prev = sqrt(ā_prev) x0 + sqrt(1 − ā_prev) ε, ε = (x_t − sqrt(ā) x0) / sqrt(1 − ā)."""
    schedule = respace(ALPHA_BAR, steps)
    x_T = RNG.normal(size=(3, 4))
    calls, x0s = [], []

    def denoise(x_t: np.ndarray, t: int) -> np.ndarray:
        return np.tanh(x_t * 0.7 + t / 1000)

    def step(x_t: np.ndarray, t: int, c0: float, c1: float) -> tuple[np.ndarray, np.ndarray]:
        calls.append((t, x_t))
        x0 = denoise(x_t, t)
        return c0 * x0 + c1 * x_t, x0

    got = ddim(step, x_T, schedule, lambda i, x0: x0s.append((i, x0)))

    x_t = x_T
    for i, (t, a, a_prev) in enumerate(
        zip(schedule.timesteps, schedule.alpha_bar, schedule.alpha_bar_prev, strict=True)
    ):
        assert calls[i][0] == t
        assert np.allclose(calls[i][1], x_t)
        x0 = denoise(x_t, t)
        assert x0s[i][0] == i
        assert np.allclose(x0s[i][1], x0)
        x_t = math.sqrt(a_prev) * x0 + math.sqrt(1 - a_prev) * (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
    assert len(calls) == len(x0s) == steps
    assert np.allclose(got, x0)


def test_a_denoiser_that_knows_the_truth_stays_on_the_forward_process() -> None:
    """The noise found in x_T is kept: every x_t is q_sample(truth, that noise) at its own timestep."""
    truth, noise = np.sign(RNG.normal(size=8)), RNG.normal(size=8)
    schedule = respace(ALPHA_BAR, 6)
    states = []

    def step(x_t: np.ndarray, t: int, c0: float, c1: float) -> tuple[np.ndarray, np.ndarray]:
        states.append((t, x_t))
        return c0 * truth + c1 * x_t, truth

    ddim(step, q_sample(truth, noise, schedule.alpha_bar[0]), schedule)
    for t, x_t in states:
        assert np.allclose(x_t, q_sample(truth, noise, ALPHA_BAR[t]))
