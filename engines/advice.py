"""What would fit, for a message that says the GPU is full."""

from __future__ import annotations

from collections.abc import Sequence

STEP = 8
"""Windows are multiples of this: networks halve their input a few times."""


def what_fits(needed: int, free: int, batch: int, window: Sequence[int]) -> str:
    """Advice for work that needs `needed` bytes for a batch of windows where `free` are free, going by proportion."""
    free = max(free, 0)
    fitting = min(free * batch // max(needed, 1), batch - 1)
    if fitting >= 1:
        return f"a batch of {fitting} would fit, going by proportion"
    scale = (free * batch / max(needed, 1)) ** (1 / 3)
    smaller = [int(size * min(scale, 1.0)) // STEP * STEP for size in window]
    none = "not even a batch of 1 would fit" if batch > 1 else "it does not fit"
    if not smaller or min(smaller) < STEP:
        return f"{none}, nor would a smaller window: free the GPU, or take a larger one"
    return (
        f"{none}; a window of {' × '.join(map(str, smaller))} would, going by proportion: "
        "free the GPU, or use a bundle with such a window"
    )
