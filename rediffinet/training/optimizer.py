"""The optimizers: AdamW, and Muon, which makes the steps of convolution kernels orthogonal, as matrices.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): of the momentum of a kernel, flattened to
(first axis, all others), the nearest semi-orthogonal matrix is taken, by Newton–Schulz iterations, so that directions
that the gradient hardly shows learn as fast as the others. The step is scaled to the root mean square of an AdamW step
(Liu et al. 2025, arXiv 2502.16982), so that learning rate and weight decay mean the same in both. Everything else
(norms, biases, 1×1×1 heads, linear layers) is left to AdamW. torch's own Muon takes matrices only and iterates in
bfloat16, which most CPUs emulate.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rediffinet.training.config import TrainConfig

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Of the AdamW part."""
MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration: singular values between 0 and 1 end near 1, fast rather than exactly."""
ADAM_RMS = 0.2
"""Root mean square of a usual AdamW step, in learning rates."""


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a configuration; a checkpoint keeps its state by the names exp_avg, exp_avg_sq and step."""
    kind = Muon if config.optimizer == "muon" else torch.optim.AdamW
    return kind(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


class Muon(torch.optim.Optimizer):
    """See the module. exp_avg is the momentum of both kinds of parameters."""

    def __init__(self, params: Any, lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step with the gradients that are there."""
        assert closure is None, "not used in this project"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                update = (_kernel_step if is_kernel(parameter) else _adam_step)(state, parameter.grad)
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])


def is_kernel(parameter: Tensor) -> bool:
    """Whether this is the kernel of a convolution wider than 1×1×1."""
    return parameter.ndim == 5 and math.prod(parameter.shape[2:]) > 1


def _kernel_step(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
    if not state:
        state["exp_avg"] = torch.zeros_like(gradient)
    momentum = state["exp_avg"]
    momentum.lerp_(gradient, 1.0 - MOMENTUM)
    ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
    matrix = ahead.flatten(1)
    step = orthogonalise(matrix) * (ADAM_RMS * math.sqrt(max(matrix.shape)))
    return step.view(gradient.shape)


def _adam_step(state: dict[str, Tensor], gradient: Tensor) -> Tensor:
    if not state:
        state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient))
    state["step"] += 1
    count = float(state["step"])
    state["exp_avg"].lerp_(gradient, 1.0 - BETA_1)
    state["exp_avg_sq"].mul_(BETA_2).addcmul_(gradient, gradient, value=1.0 - BETA_2)
    spread = (state["exp_avg_sq"] / (1.0 - BETA_2**count)).sqrt_().add_(EPSILON)
    return torch.div(state["exp_avg"], spread * (1.0 - BETA_1**count))


def orthogonalise(matrix: Tensor) -> Tensor:
    """About the nearest semi-orthogonal matrix: singular values between 0.7 and 1.2. (m, n) float → (m, n)."""
    a, b, c = QUINTIC
    x = matrix / (torch.linalg.vector_norm(matrix) + 1e-7)
    wide: Tensor = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T
