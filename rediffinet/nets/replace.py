"""Modules inside a network exchanged for others."""

from collections.abc import Callable

from torch import nn


def replace_modules(module: nn.Module, substitute: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Put what `substitute` gives in the place of every module inside `module`; None leaves it. Returns `module`."""
    for name, child in module.named_children():
        other = substitute(child)
        if other is None:
            replace_modules(child, substitute)
        else:
            setattr(module, name, other)
    return module
