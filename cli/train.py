"""`rediff train`."""

from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    model: Annotated[str, typer.Option(help="unet (the baseline), rediffinet, or another; a wrong one lists all.")],
    data: Annotated[list[Path], typer.Option(help="Folder of labelled case folders; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Run folder to make.")],
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.json", help="Tumour, contrasts and labels of the data; default: glioma-2023."),
    ] = None,
    preset: Annotated[str, typer.Option(help="tiny (CPU), tiny-2mm (CPU, minutes) or paper.")] = "tiny",
    config: Annotated[Path | None, typer.Option(help="JSON file of settings laid over the preset.")] = None,
    fold: Annotated[int | None, typer.Option(help="Hold this fold out of training.")] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds, grouped by patient; default: 5.")] = None,
    baseline: Annotated[list[Path] | None, typer.Option(help="Baseline runs for the refiner; repeat per fold.")] = None,
    begin_with: Annotated[
        Path | None, typer.Option(help="Run folder of the same model; training begins with its weights.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of another program's label maps (CASE*.nii.gz) to learn from too, in windows."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder in which prepared cases are kept and mapped from, for the next run.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV (case,patient) where names do not tell the patient.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto (CUDA where there is any, one GPU for each process of a node), cpu or cuda."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, for example steps=500.")] = None,
) -> None:
    """Train a model; checkpoints are written whole and --resume continues exactly. Under torchrun: data-parallel."""
    from contextlib import nullcontext

    from rediffinet.cli.paths import check_new_folder
    from rediffinet.cli.progress import training_progress
    from rediffinet.errors import ConfigError, MissingExtraError
    from rediffinet.files import parse_json
    from rediffinet.task import find_task

    try:
        from rediffinet.training.config import resolve_config
        from rediffinet.training.data import read_patients
        from rediffinet.training.distributed import open_place
        from rediffinet.training.train import train as run
    except ModuleNotFoundError as error:
        raise MissingExtraError("Training", str(error.name), "train") from None

    changes: dict[str, Any] = {}
    if config is not None:
        try:
            changes = parse_json(config.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            message = f"--config {config}: {error}. Expected a JSON file of settings."
            raise ConfigError(message) from None
        if not isinstance(changes, dict):
            message = f"--config {config}: holds a {type(changes).__name__}, expected a JSON object of settings"
            raise ConfigError(message)
    given = {"fold": fold, "folds": folds, "device": device}
    changes |= {key: value for key, value in given.items() if value is not None}
    if task is not None:
        changes["task"] = find_task(task).model_dump(mode="json")
    resolved = resolve_config(model, preset, changes, tuple(settings or ()))
    check_new_folder(out)
    if cache is not None:
        check_new_folder(cache)
    with open_place(resolved.device, resolved.timeout_s) as place:
        if place.main:
            typer.echo(f"training on {place}", err=True)
        with training_progress() if place.main else nullcontext((None, None)) as (progress, stage):
            path = run(
                resolved,
                data,
                out,
                baselines=baseline or (),
                begin_with=begin_with,
                masks=masks,
                resume=resume,
                progress=progress,
                stage=stage,
                cache=cache,
                patients=read_patients(patients) if patients is not None else None,
                place=place,
            )
        if place.main:
            typer.echo(str(path))
