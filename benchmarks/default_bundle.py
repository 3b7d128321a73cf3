"""Make the default bundle from labelled cases: cross-validate, calibrate out of fold, export all folds as one.

    python benchmarks/default_bundle.py --data DIR --masks DIR --study STUDY --out BUNDLE [--processes 2]

Studies of the same folds, one after the other. STUDY/first trains baselines; those of STUDY/second begin with the
weights of the first, those of STUDY/third with the weights of the second. The baselines of STUDY/averaged are the means
of the second and the third (`rediff average`), those of STUDY/windows-first go on from there, and its correctors learn
in windows of 1 mm on what these baselines say of cases that they have not seen. STUDY/windows has the same baselines,
and correctors that go on from those of windows-first. STUDY/windows-first-1 and STUDY/windows-1 are the same with
another seed. Every piece that is finished is skipped and an interrupted one resumed, so the command may be stopped and
started at any time. `STUDY/windows/calibrated` then holds the scores of every case by the mean of the two correctors
that had not seen it, `BUNDLE` the mean of the networks of all folds.

`--rehearse` takes two steps in place of every training: the whole way in minutes, on phantoms for example, to see that
it comes to its end.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

MODEL = "discrepancy-unet"
FOLDS = 4
SEEDS = (0, 1)
"""Of the correctors, of which a fold has one each."""
CHECKPOINT = "checkpoint.safetensors"
SHORT = (
    "unet:steps=2",
    "unet:crop=null",
    "unet:crop_steps=0",
    "unet:compile=false",
    f"{MODEL}:steps=2",
    f"{MODEL}:compile=false",
)
TWO_STEPS = tuple(argument for setting in SHORT for argument in ("--set", setting))
CALIBRATION = (
    "--min-fraction",
    "0.1",
    "--small-parts",
    "50",
    "--unsure-enhancement",
    "auto",
    "--thresholds",
    "0.5",
    "--reach",
    "2,2,4",
    "--evidence",
    "t1n,t1c,t2w",
    "--missing",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--masks", type=Path, help="Label maps of another program, CASE*.nii.gz, to learn from too.")
    parser.add_argument("--study", type=Path, default=Path("study"))
    parser.add_argument("--out", type=Path, default=Path("bundle"))
    parser.add_argument("--name", default="glioma-v6")
    parser.add_argument("--processes", type=int, default=2, help="Each with one thread.")
    parser.add_argument("--bf16", action="store_true", help="Hold bf16 against fp32 too: on a processor that has it.")
    parser.add_argument("--rehearse", action="store_true", help="Two steps in place of every training.")
    given = parser.parse_args()
    if given.data is None:
        print("no data: give --data, a folder of labelled cases; it trains for hours")
        return
    first, second, third, averaged = (given.study / name for name in ("first", "second", "third", "averaged"))
    cache = ("--cache", given.study / "cache")
    crossvalidate(given, first, "unet", "glioma-2mm-first", *cache)
    crossvalidate(given, second, "unet", "glioma-2mm-second", *cache, "--begin-with", first)
    crossvalidate(given, third, "unet", "glioma-2mm-third", *cache, "--begin-with", second)
    folds = [Path("seed0") / f"fold{fold}" for fold in range(FOLDS)]
    for run in (fold / "unet" for fold in folds):
        if not (averaged / run / CHECKPOINT).exists():
            finish(start("average", second / run, third / run, "--out", averaged / run))
    crossvalidate(given, averaged, "unet", "glioma-2mm-averaged", *cache)  # nothing is trained, they are scored
    masks = () if given.masks is None else ("--masks", given.masks)
    studies = [correctors(given, seed, averaged, folds, *cache, *masks) for seed in SEEDS]
    study, *others = studies
    calibration = ("calibrate", study, "--data", given.data, "--model", MODEL, *CALIBRATION, *masks)
    finish(start(*calibration, *cache, *(argument for other in others for argument in ("--beside", other))))
    export = (
        "export",
        *(one / fold / MODEL for one in studies for fold in folds),
        *(argument for fold in folds for argument in ("--baseline", study / fold / "unet")),
        *("--out", given.out, "--overwrite", "--name", given.name, "--weights", "float16"),
        *("--calibrated", study / "calibrated"),
        *(("--precision", "fp32,bf16", "--calibration", given.data) if given.bf16 else ()),
    )
    finish(start(*export))


def correctors(given: argparse.Namespace, seed: int, averaged: Path, folds: list[Path], *more: object) -> Path:
    """The study of the correctors of a seed, in two passes, with the baselines that the first study trains on."""
    suffix = f"-{seed}" if seed else ""
    first, second = given.study / f"windows-first{suffix}", given.study / f"windows{suffix}"
    own = (*more, "--set", f"{MODEL}:seed={seed}")
    if seed:
        share_baselines(given.study / "windows-first", first, folds)
    crossvalidate(given, first, MODEL, "glioma-windows-first", *own, "--begin-with", averaged)
    share_baselines(first, second, folds)
    crossvalidate(given, second, MODEL, "glioma-windows", *own, "--begin-with", first)
    return second


def share_baselines(source: Path, study: Path, folds: list[Path]) -> None:
    """The baselines of one study in another, where they are not yet."""
    for run in (fold / "unet" for fold in folds):
        if not (study / run / CHECKPOINT).exists():
            shutil.copytree(source / run, study / run, dirs_exist_ok=True)


def crossvalidate(given: argparse.Namespace, out: Path, model: str, preset: str, *more: object) -> None:
    """A model on all folds with a preset, by as many processes as were asked for."""
    command = ["crossval", "--data", given.data, "--out", out, "--models", model, "--folds", FOLDS, *more]
    command += ["--preset", preset, *(TWO_STEPS if given.rehearse else ())]
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
