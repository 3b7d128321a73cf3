"""Noise is a function of its key."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kstest

from rediffinet.method.noise import philox, window_noise

KEY = (7, "BraTS-GLI-00001-000", (3, -2, 40), 1, (3, 8, 8, 8))


def test_the_same_key_gives_the_same_bytes_whatever_was_drawn_before() -> None:
    first = window_noise(*KEY)
    window_noise(8, "other", (0, 0, 0), 0, (3, 4, 4, 4))
    np.random.default_rng(0).normal()
    assert window_noise(*KEY).tobytes() == first.tobytes()
    assert first.dtype == np.float32


@pytest.mark.parametrize(
    "other",
    [
        (8, *KEY[1:]),
        (KEY[0], "BraTS-GLI-00002-000", *KEY[2:]),
        (*KEY[:2], (3, -2, 41), *KEY[3:]),
        (*KEY[:2], (-2, 3, 40), *KEY[3:]),
        (*KEY[:3], 2, KEY[4]),
    ],
)
def test_every_part_of_the_key_matters(other: tuple) -> None:
    correlation = np.corrcoef(window_noise(*KEY).ravel(), window_noise(*other).ravel())[0, 1]
    assert abs(correlation) < 0.1  # 1536 values: a standard deviation of 0.026


def test_key_parts_do_not_run_together() -> None:
    assert philox(1, 23).integers(2**60) != philox(12, 3).integers(2**60)
    assert philox("a", "bc").integers(2**60) != philox("ab", "c").integers(2**60)


def test_the_key_is_hashed_as_documented_in_every_process() -> None:
    """A result must be repeatable with the next version and in another process: no salted hash is in it."""
    digest = hashlib.sha256(b"window\x1f7\x1fX\x1f1\x1f2\x1f3\x1f0").digest()
    key = int.from_bytes(digest[:16], "little")
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal(4, dtype=np.float32).tolist()
    program = (
        "from rediffinet.method.noise import window_noise; print(window_noise(7, 'X', (1, 2, 3), 0, (4,)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


def test_the_noise_is_standard_normal() -> None:
    assert kstest(window_noise(0, "X", (0, 0, 0), 0, (20_000,)), "norm").pvalue > 0.01
