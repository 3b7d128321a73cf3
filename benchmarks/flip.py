"""Flip-and-decode of a full volume against its numpy twin, numpy written for one task, and a copy of the same bytes.

Two tasks: the three nested regions of BraTS, and four of which one, the cavity, lies in none of the others.

    python benchmarks/flip.py [--repeats 9]

The copy moves what the kernel reads and writes: delta and baseline, and the label bytes.
"""

import argparse

import numpy as np
from timing import describe, interleaved, ratio, table

from rediffinet.ext import flip_and_decode, reference
from rediffinet.task import TASKS

SHAPE = (3, 240, 240, 155)
THRESHOLDS = (0.5, 0.5, 0.5)
BRATS, CAVITY = TASKS["glioma-2023"], TASKS["glioma-post-2024"]
VALUES = BRATS.paint
FOREST = (CAVITY.paint, CAVITY.parents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    delta = rng.random(SHAPE, dtype=np.float32)
    baseline = rng.random(SHAPE) < 0.3
    half = delta.astype(np.float16)
    labels = flip_and_decode(delta, baseline, THRESHOLDS, VALUES).labels
    four = rng.random((4, *SHAPE[1:]), dtype=np.float32), rng.random((4, *SHAPE[1:])) < 0.3
    limits = (0.5,) * 4
    assert np.array_equal(
        flip_and_decode(*four, limits, *FOREST).labels, reference.flip_and_decode(*four, limits, *FOREST).labels
    )
    assert np.array_equal(labels, reference.flip_and_decode(delta, baseline, THRESHOLDS, VALUES).labels)
    copies = [(array, np.empty_like(array)) for array in (delta, baseline, labels)]
    half_copies = [(half, np.empty_like(half)), *copies[1:]]

    def copy(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for source, target in pairs:
            np.copyto(target, source)

    def expression() -> None:
        """The shortest numpy for the same labels and counts."""
        refined = baseline ^ (delta > np.float32(0.5))
        wt, tc, et = refined
        tc = tc | et
        wt = wt | tc
        out = np.where(et, 3, np.where(tc, 1, np.where(wt, 2, 0))).astype(np.uint8)
        before_wt, before_tc, before_et = baseline
        before_tc = before_tc | before_et
        before_wt = before_wt | before_tc
        counts = [np.count_nonzero(region) for region in (wt, tc, et)]
        flips = [np.count_nonzero(a != b) for a, b in ((wt, before_wt), (tc, before_tc), (et, before_et))]
        assert out.size and len(counts) == len(flips)

    timings = interleaved(
        {
            "flip_and_decode float32": lambda: flip_and_decode(delta, baseline, THRESHOLDS, VALUES),
            "flip_and_decode float32, 2 threads": lambda: flip_and_decode(
                delta, baseline, THRESHOLDS, VALUES, threads=2
            ),
            "numpy expression float32": expression,
            "numpy twin float32": lambda: reference.flip_and_decode(delta, baseline, THRESHOLDS, VALUES),
            "copy of the same bytes, float32": lambda: copy(copies),
            "flip_and_decode float32, four regions": lambda: flip_and_decode(*four, limits, *FOREST),
            "numpy twin float32, four regions": lambda: reference.flip_and_decode(*four, limits, *FOREST),
            "flip_and_decode float16": lambda: flip_and_decode(half, baseline, THRESHOLDS, VALUES),
            "copy of the same bytes, float16": lambda: copy(half_copies),
        },
        repeats,
    )
    ours = timings["flip_and_decode float32"]
    print(f"Volume {SHAPE}; {repeats} interleaved runs; {describe(['numpy', 'rediffinet'])}\n")
    rows = [(name, f"{t.median:.1f}", f"{t.shortest:.1f}", ratio(t, ours)) for name, t in timings.items()]
    print(table(("what", "median ms", "shortest ms", "of flip_and_decode float32 (medians / minima)"), rows))


if __name__ == "__main__":
    main()
