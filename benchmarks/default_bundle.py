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
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MODEL = "rediffinet"
FOLDS = 4
FIRST = ("compile=true",)
STRONGER = (
    "compile=true",
    *("augmentation.rotation_axes=0,1,2", "augmentation.rotation_degrees=15", "augmentation.affine=0.6"),
    *("augmentation.bias_field=0.5", "augmentation.bias_strength=0.25", "augmentation.noise=0.1"),
    *("augmentation.thick_slices=0.1", "augmentation.transplant=0.3", "crop=null", "crop_steps=0"),
)
SECOND = (*STRONGER, "augmentation.cut_off=0.05", "steps=1300", "learning_rate=1e-2")
LATER = (*STRONGER, "augmentation.cut_off=0.08", "augmentation.drop_contrast=0.05", "learning_rate=8e-3")
THIRD = (*LATER, "steps=1000")
REFINER = (
    *(*LATER, "refiner.residual=discrepancy", "result_dice=true", "noisiest_fraction=0.7"),
    *("simulated_errors=0.15", "lost_parts=0.15", "false_parts=0.25"),
)
BEGIN = (*REFINER, "warm_start=true", "steps=650")
GO_ON = (*REFINER, "steps=700")
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
    crossvalidate(given, first, "unet", FIRST, *cache)
    crossvalidate(given, second, "unet", SECOND, *cache, "--begin-with", first)
    crossvalidate(given, third, "unet", THIRD, *cache, "--begin-with", second)
    crossvalidate(given, third, MODEL, BEGIN, *cache)
    folds = [Path("seed0") / f"fold{fold}" for fold in range(FOLDS)]
    for run in (fold / "unet" for fold in folds):
        if not (study / run / "checkpoint.safetensors").exists():
            finish(start("average", second / run, third / run, "--out", study / run))
    crossvalidate(given, study, "unet", THIRD, *cache)  # nothing is trained, they are scored
    crossvalidate(given, study, MODEL, GO_ON, *cache, "--begin-with", third)
    calibration = ("calibrate", study, "--data", given.data, "--model", MODEL, "--min-fraction", MIN_FRACTION)
    calibration += ("--min-enhancing", "auto", "--component-threshold", "auto")
    thresholds = finish(start(*calibration, *cache, keep=True))
    runs = [study / fold for fold in folds]
    calibrated = study / "calibrated"
    chosen = json.loads((calibrated / f"{MODEL}-metrics.json").read_text())
    export = (
        "export",
        *(run / MODEL for run in runs),
        *(argument for run in runs for argument in ("--baseline", run / "unet")),
        *("--out", given.out, "--overwrite", "--name", given.name, "--weights", "float16"),
        *("--min-fraction", MIN_FRACTION, "--min-enhancing", chosen["postprocess"]["min_enhancing"]),
        *("--component-threshold", chosen["component_threshold"]),
        *("--thresholds", thresholds.strip(), "--uncertainty", calibrated / f"{MODEL}-uncertainty.json"),
        *("--metrics", calibrated / f"{MODEL}-metrics.json"),
    )
    finish(start(*export))


def crossvalidate(given: argparse.Namespace, out: Path, model: str, settings: Sequence[str], *more: object) -> None:
    """A model on all folds, by as many processes as were asked for."""
    command = ["crossval", "--data", given.data, "--out", out, "--models", model, "--preset", "tiny-2mm"]
    command += ["--folds", FOLDS, *(part for value in settings for part in ("--set", f"{model}:{value}")), *more]
    workers = [start(*command) for _ in range(given.processes)]
    if any(worker.wait() != 0 for worker in workers):
        sys.exit(f"the cross-validation in {out} did not end well; start the command again to go on")


def finish(process: subprocess.Popen[str]) -> str:
    """What a process printed, where that was kept; ends all when it failed."""
    printed, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(process.returncode)
    return printed or ""


def start(*arguments: object, keep: bool = False) -> subprocess.Popen[str]:
    """`rediff` with these arguments, on one thread."""
    command = [sys.executable, "-c", "from rediffinet.cli.main import main; main()", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE if keep else None)


if __name__ == "__main__":
    main()
