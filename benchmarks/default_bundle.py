"""Make the default bundle from labelled cases: cross-validate, calibrate out of fold, export all folds as one.

    python benchmarks/default_bundle.py --data DIR --study STUDY --out BUNDLE [--processes 2]

Four studies of the same folds, one after the other. STUDY/first trains baselines; those of STUDY/second begin with the
weights of the first, those of STUDY/third with the weights of the second, and refiners begin with those. The baselines
of STUDY/averaged are the means of the second and the third (`rediff average`), and its refiners begin with those of the
third. Every piece that is finished is skipped and an interrupted one resumed, so the command may be stopped and started
at any time. `STUDY/averaged/calibrated` then holds the scores of every case by the networks that had not seen it,
`BUNDLE` the mean of the networks of all folds with the thresholds and the uncertainty chosen on those cases.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

MODEL = "rediffinet"
FOLDS = 4
MIN_FRACTION = "0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--study", type=Path, default=Path("study"))
    parser.add_argument("--out", type=Path, default=Path("bundle"))
    parser.add_argument("--name", default="glioma-2mm-v4")
    parser.add_argument("--processes", type=int, default=2, help="Each with one thread.")
    given = parser.parse_args()
    if given.data is None:
        print("no data: give --data, a folder of labelled cases; it trains for hours")
        return
    first, second, third, study = (given.study / name for name in ("first", "second", "third", "averaged"))
    cache = ("--cache", given.study / "cache")
    crossvalidate(given, first, "unet", *cache)
    crossvalidate(given, second, "unet", *cache, "--begin-with", first)
    crossvalidate(given, third, "unet", *cache, "--begin-with", second)
    crossvalidate(given, third, MODEL, *cache)
    folds = [Path("seed0") / f"fold{fold}" for fold in range(FOLDS)]
    for run in (fold / "unet" for fold in folds):
        if not (study / run / "checkpoint.safetensors").exists():
            finish(start("average", second / run, third / run, "--out", study / run))
    crossvalidate(given, study, "unet", *cache)  # nothing is trained, they are scored
    crossvalidate(given, study, MODEL, *cache, "--begin-with", third)
    calibration = ("calibrate", study, "--data", given.data, "--model", MODEL, "--min-fraction", MIN_FRACTION)
    calibration += ("--unsure-enhancement", "auto", "--whole-components", "auto")
    finish(start(*calibration, *cache))
    runs = [study / fold for fold in folds]
    export = (
        "export",
        *(run / MODEL for run in runs),
        *(argument for run in runs for argument in ("--baseline", run / "unet")),
        *("--out", given.out, "--overwrite", "--name", given.name, "--weights", "float16"),
        *("--calibrated", study / "calibrated"),
    )
    finish(start(*export))


def crossvalidate(given: argparse.Namespace, out: Path, model: str, *more: object) -> None:
    """A model on all folds with the preset of that study, by as many processes as were asked for."""
    command = ["crossval", "--data", given.data, "--out", out, "--models", model, "--folds", FOLDS, *more]
    command += ["--preset", f"glioma-2mm-{out.name}"]
    workers = [start(*command) for _ in range(given.processes)]
    if any(worker.wait() != 0 for worker in workers):
        sys.exit(f"the cross-validation in {out} did not end well; start the command again to go on")


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process; ends all when it failed."""
    if process.wait() != 0:
        sys.exit(process.returncode)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """`rediff` with these arguments, on one thread."""
    command = [sys.executable, "-c", "from rediffinet.cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment)


if __name__ == "__main__":
    main()
