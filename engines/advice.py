"""What would fit, for a message that says the GPU is full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def is_out_of_memory(said: str) -> bool:
    """Whether a back-end's message means that the device is full."""
    text = said.lower()
    return any(words in text for words in ("out of memory", "failed to allocate memory", "cudaerrormemoryallocation"))


def full_device(graph: str, device: str, shapes: Iterable[Sequence[int]], said: str) -> str:
    """The message where a back-end only says that a run did not fit; `shapes` are those of its inputs."""
    batch, window = next(((shape[0], shape[2:]) for shape in shapes if len(shape) == 5), (1, ()))
    if batch > 1:
        advice = f"a batch of {batch // 2} needs half as much"
    else:
        advice = "free the GPU, or use a bundle with a smaller window: memory goes with its voxels"
    return (
        f"graph '{graph}': out of memory on {device} with a window of {' × '.join(map(str, window))} in a batch of "
        f"{batch}; {advice}. It said: {said}"
    )
