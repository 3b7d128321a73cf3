"""How long training waits for its next batch: made ahead by threads, and, for comparison, made in turn.

    python benchmarks/loader.py [--data DIR] [--preset NAME] [--models A,B] [--device NAME] [--steps N] [--repeats R]

DIR defaults to REDIFF_REAL_DATA, and without it to phantoms made for the occasion. Cases are prepared once and mapped
from a cache, as `rediff train --cache` does; the optimizer steps are those of training, augmentation included. The
contestants take turns; medians over the repeats.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from timing import describe, table

from rediffinet import __version__
from rediffinet.method.models import find_model
from rediffinet.phantom import write_phantoms
from rediffinet.training.config import resolve_config
from rediffinet.training.data import TrainingCase, load_training_cases
from rediffinet.training.distributed import lone_place, share
from rediffinet.training.loader import load_ahead, micro_batches
from rediffinet.training.loop import advance
from rediffinet.training.objectives import Objective, make_objective
from rediffinet.training.state import State, new_state

THREADS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("REDIFF_REAL_DATA"))
    parser.add_argument("--preset", default="tiny-2mm")
    parser.add_argument("--models", default="unet,rediffinet")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    place = lone_place(given.device)
    print(describe(["rediffinet", "torch", "numpy"]))
    print(
        f"rediffinet {__version__}, preset {given.preset}, on {place}; {given.steps} steps × {given.repeats} repeats\n"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = given.data
        if data is None:
            data = Path(folder) / "phantoms"
            write_phantoms(data, 4, 1)
        print(f"cases: {'phantoms' if given.data is None else given.data}\n")
        for model in given.models.split(","):
            config = resolve_config(model, given.preset, {"device": given.device})
            cases = load_training_cases([data], config.preprocessing, cache=Path(folder) / "cache")
            priors = [shifted(case) for case in cases] if find_model(model).refines else None
            rows += measure(make_objective(config, cases, priors), model, given.steps, given.repeats)
    print(table(["model", "batches", "making one, ms", "a step, ms", "waiting, ms a step", "share of the time"], rows))


def shifted(case: TrainingCase) -> np.ndarray:
    """Probabilities of a baseline that is wrong by two voxels."""
    return np.where(np.roll(case.regions, 2, axis=1), 0.9, 0.02).astype(np.float16)


def measure(task: Objective, model: str, steps: int, repeats: int) -> list[list[object]]:
    """A row for each way to get batches."""
    state = new_state(task)
    waits: dict[str, list[float]] = {}
    totals: dict[str, list[float]] = {}
    ways = {"in turn": 0, **{f"ahead, {count} threads".replace("1 threads", "1 thread"): count for count in THREADS}}
    once(task, state, 2, 1)
    for _ in range(repeats):
        for name, threads in ways.items():
            waited, total = once(task, state, steps, threads)
            waits.setdefault(name, []).append(waited / steps)
            totals.setdefault(name, []).append(total / steps)
    making = statistics.median(waits["in turn"])
    return [
        [
            model,
            name,
            f"{1e3 * making:.0f}",
            f"{1e3 * statistics.median(totals[name]):.0f}",
            f"{1e3 * statistics.median(waits[name]):.1f}",
            f"{100 * statistics.median(w / t for w, t in zip(waits[name], totals[name], strict=True)):.1f} %",
        ]
        for name in ways
    ]


def once(task: Objective, state: State, steps: int, threads: int) -> tuple[float, float]:
    """Seconds waiting for batches and seconds in all, without the wait for the first; 0 threads: made in turn."""
    shares = share(task.config.batch, task.config.accumulate, state.place)
    load = partial(micro_batches, task, shares, device=state.place.device)
    wanted = range(state.step, state.step + steps + 1)
    with closing(load_ahead(load, wanted, threads) if threads else (load(step) for step in wanted)) as batches:
        advance(task, state, next(batches))
        waited, started = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            advance(task, state, batch)
    return waited, time.perf_counter() - started


if __name__ == "__main__":
    main()
