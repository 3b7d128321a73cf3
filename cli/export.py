"""`rediff export`."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        list[Path], typer.Argument(help="Run folder of the model; of several, such as all folds, the mean answers.")
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to make.")],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder of the baseline that the model refines, where it refines one; may be repeated."),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(help="last, or best for that of the best validation of the model's run.")
    ] = "last",
    name: Annotated[str, typer.Option(help="Name of the bundle.")] = "rediffinet",
    weights: Annotated[str, typer.Option(help="float32, or float16 to store weights in half the space.")] = "float32",
    steps: Annotated[int, typer.Option(min=1, help="Default sampling steps.")] = 1,
    samples: Annotated[int, typer.Option(min=1, help="Default noise samples.")] = 4,
    overlap: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Overlap of refinement windows, a share of their sides.")
    ] = 0.25,
    calibrated: Annotated[
        Path | None,
        typer.Option(help="STUDY/calibrated of `rediff calibrate`: what it decided for the model, and its scores."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32 and what else the bundle runs in, each checked: fp32,fp16,bf16,int8.")
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Case folder(s) to calibrate int8 and check precisions on; default: phantoms.")
    ] = None,
    trt: Annotated[bool, typer.Option("--trt", help="Build TensorRT plans too, as `rediff plan` does.")] = False,
    trt_target: Annotated[
        str, typer.Option(help="With --trt: sm75,sm80,sm86,sm89,sm120 (TensorRT-RTX, no GPU needed), or current.")
    ] = "current",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Export a run, with that of its baseline, into a bundle; each graph is held against torch before it enters."""
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.cli.progress import stages
    from rediffinet.errors import ConfigError, MissingExtraError

    try:
        from rediffinet.export.bundle import ExportSettings, export_bundle
        from rediffinet.export.variants import parse_precisions
        from rediffinet.training.calibrate_study import read_calibration
        from rediffinet.training.run import merge_runs, open_run
    except ModuleNotFoundError as error:
        raise MissingExtraError("Export", str(error.name), "train") from None
    from rediffinet.cli.plan import names, tell
    from rediffinet.export.tensorrt import PlanSettings, build_plans, check_targets

    if checkpoint not in ("last", "best"):
        message = f"--checkpoint: got '{checkpoint}', expected last or best"
        raise ConfigError(message)
    if weights not in ("float32", "float16"):
        message = f"--weights: got '{weights}', expected float32 or float16"
        raise ConfigError(message)
    settings = ExportSettings(
        name=name,
        weights="float16" if weights == "float16" else "float32",
        steps=steps,
        samples=samples,
        overlap=overlap,
        precisions=parse_precisions(precision),
        calibration=calibration,
    )
    check_new_folder(out)
    plans = PlanSettings(targets=names(trt_target))
    if trt:
        check_targets(plans)
    with stages() as stage:
        opened = merge_runs([open_run(folder) for folder in baseline]) if baseline else None
        exported = merge_runs([open_run(folder, "best" if checkpoint == "best" else "last") for folder in run])
        if calibrated is not None:
            settings = settings.calibrated(read_calibration(calibrated, exported.config.model))
        bundle = export_bundle(exported, opened, out, settings, overwrite=overwrite, stage=stage)
    for graph_name, entry in bundle.manifest.graphs.items():
        size = (bundle.path / entry.file).stat().st_size / 1e6
        typer.echo(
            f"{graph_name}: {size:.1f} MB, against torch {entry.parity.graph:.1e} "
            f"(tolerance {entry.parity.graph_tolerance:.0e}), stored weights {entry.parity.storage:.1e} "
            f"({entry.parity.storage_tolerance:.0e}), in ONNX Runtime {entry.parity.onnxruntime:.1e} "
            f"({entry.parity.onnxruntime_tolerance:.0e})"
        )
    for lower, gate in bundle.manifest.precision_gate.items():
        regions = bundle.manifest.recipe.task.region_names
        dice = ", ".join(f"{name} {value:.4f}" for name, value in zip(regions, gate.dice, strict=True))
        typer.echo(f"{lower}: Dice against fp32 {dice} (limit {gate.limit}), {len(gate.cases)} cases in {gate.engine}")
    if trt:
        with stages() as stage:
            outcomes = build_plans(bundle, plans, stage)
        for outcome in outcomes:
            tell(outcome)
    typer.echo(str(bundle.path))
