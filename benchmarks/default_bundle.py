"""Make the default bundle from labelled cases: cross-validate, calibrate out of fold, export all folds as one.

    python benchmarks/default_bundle.py --data DIR --study STUDY --out BUNDLE [--processes 2]

Every piece that is finished is skipped and an interrupted one resumed, so the command may be stopped and started at any
time. `STUDY/calibrated` then holds the scores of every case by the networks that had not seen it, `BUNDLE` the mean of
the networks of all folds with the thresholds and the uncertainty chosen on those cases.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

MODEL = "rediffinet"
FOLDS = 4
REFINER = (
    *("refiner.residual=discrepancy", "result_dice=true", "warm_start=true"),
    *("steps=780", "crop=null", "crop_steps=0", "learning_rate=8e-3"),
    *("noisiest_fraction=0.7", "simulated_errors=0.25", "augmentation.bias_field=0.4"),
)
SETTINGS = ("compile=true", *(f"{MODEL}:{setting}" for setting in REFINER))
MIN_FRACTION = "0.1"
TRAINING = ("--preset", "tiny-2mm", "--folds", str(FOLDS), *(part for value in SETTINGS for part in ("--set", value)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--study", type=Path, default=Path("study"))
    parser.add_argument("--out", type=Path, default=Path("bundle"))
    parser.add_argument("--name", default="glioma-2mm-v1")
    parser.add_argument("--processes", type=int, default=2, help="Each with one thread.")
    given = parser.parse_args()
    if given.data is None:
        print("no data: give --data, a folder of labelled cases; it trains for hours")
        return
    crossval = ["crossval", "--data", given.data, "--out", given.study, "--models", f"unet,{MODEL}"]
    workers = [start(*crossval, *TRAINING) for _ in range(given.processes)]
    if any(worker.wait() != 0 for worker in workers):
        sys.exit("cross-validation did not end well; start the command again to go on")
    done = start(
        *("calibrate", given.study, "--data", given.data, "--model", MODEL, "--min-fraction", MIN_FRACTION), keep=True
    )
    thresholds, _ = done.communicate()
    if done.returncode != 0:
        sys.exit(done.returncode)
    runs = [given.study / "seed0" / f"fold{fold}" for fold in range(FOLDS)]
    calibrated = given.study / "calibrated"
    export = start(
        "export",
        *(run / MODEL for run in runs),
        *(argument for run in runs for argument in ("--baseline", run / "unet")),
        *("--out", given.out, "--overwrite", "--name", given.name, "--weights", "float16"),
        *("--min-fraction", MIN_FRACTION),
        *("--thresholds", thresholds.strip(), "--uncertainty", calibrated / f"{MODEL}-uncertainty.json"),
        *("--metrics", calibrated / f"{MODEL}-metrics.json"),
    )
    sys.exit(export.wait())


def start(*arguments: object, keep: bool = False) -> subprocess.Popen[str]:
    """`rediff` with these arguments, on one thread."""
    command = [sys.executable, "-c", "from rediffinet.cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE if keep else None)


if __name__ == "__main__":
    main()
