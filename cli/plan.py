"""`rediff plan`."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; its plans go to BUNDLE/trt.")],
    trt_target: Annotated[
        str, typer.Option(help="sm75,sm80,sm86,sm89,sm120: TensorRT-RTX, no GPU needed; or current: the GPU here.")
    ] = "current",
    precision: Annotated[
        str | None, typer.Option(help="fp32,fp16,int8; default: fp32, and fp16 if the bundle has it.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="tensorrt or tensorrt-rtx; default: by target, tensorrt for current.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Largest batch; default: the bundle's samples.")] = None,
    workspace: Annotated[int | None, typer.Option(help="Scratch memory per layer in MiB.")] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="TensorRT: one plan for all GPUs from Ampere on, slower.")
    ] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Replace plans that are there but do not fit.")] = False,
) -> None:
    """Build TensorRT plans of a bundle's graphs. Plans that are there and fit are kept."""
    from rediffinet.bundle import open_bundle
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.cli.progress import stages
    from rediffinet.export.tensorrt import PlanSettings, build_plans

    settings = PlanSettings(
        targets=names(trt_target),
        precisions=names(precision) if precision else None,
        engine=engine,
        batch=batch,
        workspace_mib=workspace,
        hardware_compatible=hardware_compatible,
        rebuild=rebuild,
    )
    opened = open_bundle(bundle)
    check_new_folder(bundle / "trt")
    with stages() as stage:
        outcomes = build_plans(opened, settings, stage)
    for outcome in outcomes:
        tell(outcome)


def names(listed: str) -> tuple[str, ...]:
    """'sm86, sm89' → ('sm86', 'sm89')."""
    return tuple(name.strip().lower() for name in listed.split(",") if name.strip())


def tell(outcome: object) -> None:
    """One line about a folder of plans, one about each of its plans."""
    from rediffinet.export.tensorrt import Outcome

    assert isinstance(outcome, Outcome)
    key = outcome.plans.key
    state = f"built in {outcome.seconds:.1f} s" if outcome.built else "up to date"
    typer.echo(f"{outcome.plans.path}: {key.module} {key.version}, {key.target}, {key.precision}, {state}")
    for name, entry in outcome.plans.plans.items():
        typer.echo(f"  {name}: {entry.size / 1e6:.1f} MB, batch 1 to {key.batch}, {entry.seconds:.1f} s")
