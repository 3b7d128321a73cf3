"""Batches made ahead, by threads, while the network is busy with the one before."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from rediffinet.training.objective import Objective

Batch = tuple[Tensor, ...]
T = TypeVar("T")


def load_ahead(load: Callable[[int], T], steps: range, threads: int = 1) -> Generator[T, None, None]:
    """load(step) for each step in order; `threads` of them are in the making while the caller uses the last one.

    An error of `load` is raised when its turn comes. Close the generator to leave early.
    """
    coming = iter(steps)
    with ThreadPoolExecutor(threads) as pool:
        pending = deque(pool.submit(load, step) for step in islice(coming, threads))
        try:
            while pending:
                made = pending.popleft().result()
                pending.extend(pool.submit(load, step) for step in islice(coming, 1))
                yield made
        finally:
            for future in pending:
                future.cancel()


def micro_batches(objective: Objective, shares: Sequence[range], step: int, device: torch.device) -> list[Batch]:
    """The micro-batches of a step, in pinned memory where they go to a GPU and are not there yet."""
    batches = [objective.batch(step, slots) for slots in shares]
    if device.type != "cuda":
        return batches
    return [tuple(part if part.is_cuda else part.pin_memory() for part in batch) for batch in batches]
