"""`rediff export`."""

import json
from pathlib import Path
from typing import Annotated, Any

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
    steps: Annotated[int, typer.Option(help="Default sampling steps.")] = 1,
    samples: Annotated[int, typer.Option(help="Default noise samples.")] = 4,
    thresholds: Annotated[str, typer.Option(help="Flip where mean Δ exceeds these: WT,TC,ET.")] = "0.5,0.5,0.5",
    component_threshold: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Flip a whole component where its mean Δ exceeds this; 1 is never."),
    ] = 1.0,
    overlap: Annotated[float, typer.Option(help="Overlap of refinement windows.")] = 0.25,
    min_fraction: Annotated[
        float, typer.Option(help="Remove whole-tumour components under this fraction of the largest.")
    ] = 0.0,
    min_enhancing: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Call the enhancing tumour core where its mean probability is lower."),
    ] = 0.0,
    metrics: Annotated[
        Path | None,
        typer.Option(help="MODEL-metrics.json of `rediff calibrate` or another JSON, kept in the manifest."),
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option(help="MODEL-uncertainty.json of `rediff calibrate`: the curve, and when samples disagree."),
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
    from rediffinet.bundle import PostprocessSettings
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.cli.progress import stages
    from rediffinet.errors import ConfigError, MissingExtraError

    try:
        from rediffinet.export.bundle import ExportSettings, export_bundle
        from rediffinet.export.variants import parse_precisions
        from rediffinet.training.runs import merge_runs, open_run
    except ModuleNotFoundError as error:
        raise MissingExtraError("Export", str(error.name), "train") from None
    from rediffinet.cli.plan import names, tell
    from rediffinet.export.tensorrt import PlanSettings, build_plans, check_targets
    from rediffinet.method.uncertainty import read_curve, read_disagreement_limit

    try:
        flips = [float(value) for value in thresholds.split(",")]
        wt, tc, et = flips if len(flips) == 3 else flips * 3
    except ValueError:
        message = f"--thresholds: got '{thresholds}', expected one number or three as WT,TC,ET"
        raise ConfigError(message) from None
    if checkpoint not in ("last", "best"):
        message = f"--checkpoint: got '{checkpoint}', expected last or best"
        raise ConfigError(message)
    if weights not in ("float32", "float16"):
        message = f"--weights: got '{weights}', expected float32 or float16"
        raise ConfigError(message)
    if not all(0.0 <= threshold <= 1.0 for threshold in (wt, tc, et)):
        message = f"--thresholds: got '{thresholds}', expected numbers from 0 to 1"
        raise ConfigError(message)
    if not (0.0 <= overlap < 1.0 and 0.0 <= min_fraction <= 1.0 and steps >= 1 and samples >= 1):
        message = (
            f"got --overlap {overlap}, --min-fraction {min_fraction}, --steps {steps}, --samples {samples}; expected "
            "an overlap in [0, 1), a fraction in [0, 1], one step or more, one sample or more"
        )
        raise ConfigError(message)
    measured: dict[str, Any] = {}
    if metrics is not None:
        try:
            measured = dict(json.loads(metrics.read_text()))
        except (OSError, ValueError, TypeError) as error:
            message = f"--metrics {metrics}: {error}. Expected a JSON object, as `rediff calibrate` writes."
            raise ConfigError(message) from None
    settings = ExportSettings(
        name=name,
        weights="float16" if weights == "float16" else "float32",
        steps=steps,
        samples=samples,
        thresholds=(wt, tc, et),
        component_threshold=component_threshold,
        overlap=overlap,
        postprocess=PostprocessSettings(min_fraction=min_fraction, min_enhancing=min_enhancing),
        uncertainty=None if uncertainty is None else read_curve(uncertainty),
        disagreement=None if uncertainty is None else read_disagreement_limit(uncertainty),
        metrics=measured,
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
        dice = ", ".join(f"{value:.4f}" for value in gate.dice)
        typer.echo(
            f"{lower}: Dice of WT, TC, ET against fp32 {dice} (limit {gate.limit}), "
            f"{len(gate.cases)} cases in {gate.engine}"
        )
    if trt:
        with stages() as stage:
            outcomes = build_plans(bundle, plans, stage)
        for outcome in outcomes:
            tell(outcome)
    typer.echo(str(bundle.path))
