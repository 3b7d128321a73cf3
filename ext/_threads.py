"""Work shared among threads: the compiled loops release the interpreter lock."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np


def slabs(length: int, threads: int) -> list[tuple[int, int]]:
    """Split 0…length into at most `threads` stretches."""
    edges = np.linspace(0, length, min(threads, length) + 1).astype(int).tolist() if length else [0]
    return list(pairwise(edges))


def run(work: Callable[[int], None], count: int, threads: int) -> None:
    """Call work(0) … work(count - 1), in threads where there are several; the first exception is raised."""
    if threads == 1 or count < 2:
        for k in range(count):
            work(k)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))
