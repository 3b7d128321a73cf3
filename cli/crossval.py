"""`rediff crossval`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rediffinet.method.recipe import Evidence


def crossval(
    data: Annotated[list[Path], typer.Option(help="Folder of labelled case folders; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the study; runs there are continued, finished ones skipped.")],
    models: Annotated[str, typer.Option(help="Models, separated by commas; a wrong name lists all.")] = (
        "unet,discrepancy-unet,ua-diffusion-concat,rediffinet"
    ),
    task: Annotated[
        str, typer.Option(metavar="NAME|FILE.json", help="Tumour, contrasts and labels of the data.")
    ] = "glioma-2023",
    folds: Annotated[int, typer.Option(help="Number of folds, grouped by patient.")] = 5,
    only: Annotated[str | None, typer.Option("--only", help="Folds to do, for example 0,1; default: all.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of the trainings, separated by commas.")] = "0",
    fold_seed: Annotated[int, typer.Option(help="Seed of the assignment of patients to folds.")] = 0,
    preset: Annotated[str, typer.Option(help="tiny, tiny-2mm or paper.")] = "tiny-2mm",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for all models, MODEL:KEY=VALUE for one.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Sampling steps S when scoring.")] = 1,
    samples: Annotated[int, typer.Option(help="Noise samples K when scoring.")] = 4,
    patients: Annotated[Path | None, typer.Option(help="CSV (case,patient) where names do not tell.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared cases; default: OUT/cache.")] = None,
    begin_with: Annotated[
        Path | None, typer.Option(help="A study of the same folds; every run begins with the weights of its own.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Another program's label maps (CASE*.nii.gz), which models that learn in windows are shown."),
    ] = None,
) -> None:
    """Train and score models on folds grouped by patient; start it several times, or under torchrun, to share the work.

    Scores per case go to OUT/scores.csv: Dice and HD95 (BraTS-2023 definition), whole-image and lesion-wise.
    """
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.cli.progress import training_progress
    from rediffinet.errors import ConfigError, MissingExtraError
    from rediffinet.task import find_task

    try:
        from rediffinet.training.crossval import Study, crossvalidate
        from rediffinet.training.data import read_patients
        from rediffinet.training.recipe import InferenceSettings
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", str(error.name), "train") from None

    def numbers(option: str, text: str) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError:
            message = f"{option}: got '{text}', expected whole numbers separated by commas"
            raise ConfigError(message) from None

    check_new_folder(out)
    if cache is not None:
        check_new_folder(cache)
    study = Study(
        data=tuple(data),
        out=out,
        models=tuple(name.strip() for name in models.split(",")),
        folds=folds,
        only=numbers("--only", only or ""),
        seeds=numbers("--seeds", seeds),
        fold_seed=fold_seed,
        preset=preset,
        settings=tuple(settings or ()),
        patients=read_patients(patients) if patients is not None else {},
        inference=InferenceSettings(steps=steps, samples=samples),
        cache=cache or out / "cache",
        begin_with=begin_with,
        masks=masks,
        task=find_task(task),
    )
    with training_progress() as (progress, stage):
        path = crossvalidate(study, progress=progress, stage=stage, tell=lambda text: typer.echo(text, err=True))
    typer.echo(str(path))


def calibrate(
    study: Annotated[Path, typer.Argument(help="The OUT of a finished `rediff crossval`.")],
    data: Annotated[list[Path], typer.Option(help="The data it was made of; may be repeated.")],
    model: Annotated[str, typer.Option(help="A model that refines a baseline.")] = "rediffinet",
    seed: Annotated[int, typer.Option(help="Seed of the trainings.")] = 0,
    patients: Annotated[Path | None, typer.Option(help="CSV (case,patient), as given to crossval.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of prepared cases; default: STUDY/cache.")] = None,
    min_fraction: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Remove components below this share of the largest."),
    ] = 0.0,
    small_parts: Annotated[
        int, typer.Option(min=0, help="Call parts of ET or TC under this many voxels what is around them.")
    ] = 0,
    unsure_enhancement: Annotated[
        str, typer.Option(help="Call ET core where its mean probability is lower; auto: choose that too.")
    ] = "0",
    whole_components: Annotated[
        str, typer.Option(help="Flip a whole component where its mean Δ exceeds this; auto: choose that too.")
    ] = "1",
    thresholds: Annotated[
        str, typer.Option(help="Flip where Δ exceeds this: a number, one per region (0.5,0.5,1), or auto to choose it.")
    ] = "auto",
    reach: Annotated[
        str | None,
        typer.Option(
            metavar="MM",
            help="Flip only within these mm of the baseline's boundary, a number or one per region (2,2,4); default: "
            "anywhere.",
        ),
    ] = None,
    evidence: Annotated[
        str,
        typer.Option(
            metavar="CONTRAST,…", help="Leave separate lesions out that are not found without each of these contrasts."
        ),
    ] = "",
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="STUDY",
            help="A study of the same folds whose networks answer too: the mean of the logits. May be repeated.",
        ),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Label maps of another program, CASE*.nii.gz: decide for such masks too.")
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Score without each contrast as well.")] = False,
) -> None:
    """Choose the thresholds of the flip on out-of-fold cases; score each fold with those chosen on the others.

    Writes into STUDY/calibrated, which `rediff export --calibrated` takes: MODEL-decision.json (what was chosen, the
    curve of the uncertainty, the margin in mm, when samples disagree, means and deviations of the scores),
    MODEL-uncertainty.json (the reliability before and after), MODEL-sweep.csv (every case at every threshold, where
    they are chosen), MODEL.csv (the baseline, and the model with the decision of the other folds) and, with --masks,
    MODEL-given.csv. Prints the path of the decision.
    """
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.cli.progress import training_progress
    from rediffinet.errors import MissingExtraError
    from rediffinet.method.recipe import SmallComponents

    try:
        from rediffinet.training.calibrate_study import calibrate_study, decision_file
        from rediffinet.training.crossval import reopen
        from rediffinet.training.data import read_patients
    except ModuleNotFoundError as error:
        raise MissingExtraError("Calibration", str(error.name), "train") from None

    named = read_patients(patients) if patients is not None else None
    enhancing = number_or_auto("--unsure-enhancement", unsure_enhancement)
    whole = number_or_auto("--whole-components", whole_components)
    opened = reopen(study, data, cache=cache, patients=named)
    fixed = _thresholds(thresholds, len(opened.task.regions))
    reaches = None if reach is None else _reaches(reach, len(opened.task.regions))
    check_new_folder(study / "calibrated")
    with training_progress() as (_, stage):
        found = calibrate_study(
            opened,
            model,
            seed,
            small_components=SmallComponents(min_fraction=min_fraction),
            small_parts=small_parts,
            whole_components=whole,
            unsure_enhancement=enhancing,
            thresholds=fixed,
            reach_mm=reaches,
            evidence=_evidence(evidence, opened.task.contrasts),
            beside=beside or (),
            masks=masks,
            missing=missing,
            stage=stage,
        )
    typer.echo(
        f"expected calibration error {found.before.error:.4f}, calibrated on other folds {found.after.error:.4f}",
        err=True,
    )
    for region, part in found.margin["regions"].items():
        typer.echo(
            f"{region}: the margin of {part['median_mm']:g} mm (median) that the other folds gave held "
            f"{part['coverage']:.1%} of the boundary, {found.margin['share']:.0%} or more of it in {part['reached']} "
            f"of {part['cases']} cases",
            err=True,
        )
    for fold, choice in found.per_fold.items():
        typer.echo(f"fold {fold}, chosen on the others: {choice.described()}", err=True)
    typer.echo(f"chosen on all: {found.chosen.described()}", err=True)
    if found.given is not None:
        typer.echo(f"for masks made elsewhere: {found.given.described()}", err=True)
    typer.echo(str(decision_file(found.folder, model)))


def _evidence(text: str, contrasts: Sequence[str]) -> "Evidence | None":
    from rediffinet.errors import ConfigError
    from rediffinet.method.recipe import Evidence

    if not text:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(contrasts):
        message = f"--evidence: got '{text}', expected some of {','.join(contrasts)}"
        raise ConfigError(message)
    return Evidence(without=names)


def _thresholds(text: str, regions: int) -> tuple[float, ...] | None:
    from rediffinet.errors import ConfigError

    numbers = [number_or_auto("--thresholds", part) for part in text.split(",")]
    if numbers == [None]:
        return None
    chosen = tuple(number for number in numbers if number is not None)
    if len(chosen) != len(numbers) or len(chosen) not in (1, regions):
        message = f"--thresholds: got '{text}', expected one number from 0 to 1, {regions} of them, or auto"
        raise ConfigError(message)
    return chosen * regions if len(chosen) == 1 else chosen


def _reaches(text: str, regions: int) -> float | tuple[float, ...]:
    from rediffinet.errors import ConfigError

    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, regions) or not all(0.5 <= number < float("inf") for number in numbers):
        message = f"--reach: got '{text}', expected millimetres of 0.5 or more, one number or {regions} of them"
        raise ConfigError(message)
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def number_or_auto(option: str, text: str) -> float | None:
    """A share from 0 to 1, or None for auto. Raises ConfigError."""
    from rediffinet.errors import ConfigError

    if text == "auto":
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        message = f"{option}: got '{text}', expected a number from 0 to 1, or auto"
        raise ConfigError(message)
    return number
