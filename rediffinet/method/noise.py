"""Reproducible noise: a counter-based generator keyed by what the noise is for, not by when it is drawn."""

import hashlib

import numpy as np
import numpy.typing as npt


def philox(*key: int | str) -> np.random.Generator:
    """A Philox generator whose stream depends on `key` alone: not on order, batch, engine or process."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def window_noise(
    seed: int, case: str, window: tuple[int, ...], sample: int, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """Standard normal float32 noise for one sample of one window (`window`: its start in the brain crop)."""
    return philox("window", seed, case, *window, sample).standard_normal(shape, dtype=np.float32)
