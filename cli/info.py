"""`rediff info`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rediffinet.bundle import Bundle, Manifest
    from rediffinet.method.recipe import Recipe


def info(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder; default: the one in the package.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest, precisions and plans as JSON.")] = False,
) -> None:
    """Show what a bundle holds and where it comes from, and verify its hashes."""
    from rediffinet.bundle import open_bundle

    opened = open_bundle(bundle)
    manifest, recipe = opened.manifest, opened.manifest.recipe
    if as_json:
        typer.echo(json.dumps(_content(opened), indent=2))
        return
    typer.echo(f"{manifest.name} ({recipe.model}), sha256 {opened.sha256}, hashes verified")
    typer.echo(f"at {opened.path}, made by rediffinet {manifest.rediffinet}, licence {manifest.licence}")
    _graphs(opened)
    _precisions(opened)
    _settings(recipe)
    task = recipe.task
    typer.echo(f"task {task.name}: channels {', '.join(task.contrasts)}; labels {task.describe_labels()}")
    typer.echo(manifest.intended_use)
    _training(manifest)


def _settings(recipe: "Recipe") -> None:
    sizes = [" × ".join(f"{size:g}" for size in spacing) for spacing in (recipe.spacing_mm, recipe.decided_mm)]
    spacing = sizes[0] if sizes[0] == sizes[1] else f"{sizes[0]} mm (baseline) and {sizes[1]}"
    kind, diffusion = recipe.kind, recipe.diffusion
    origin = f" from {', '.join(kind.condition)}" if kind.condition else ""
    typer.echo(f"predicts the {kind.target}{origin}, at voxels of {spacing} mm")
    if diffusion is not None:
        typer.echo(
            f"sampling: {diffusion.scheduler}, {diffusion.steps} of {diffusion.train_steps} steps, "
            f"{diffusion.samples} samples"
        )
    if recipe.refiner is not None:
        typer.echo(f"decision ({', '.join(recipe.task.region_names)}): {recipe.decision.described()}")
        if recipe.given is not None:
            typer.echo(f"decision for a given mask: {recipe.given.described()}")


def _content(bundle: "Bundle") -> dict[str, Any]:
    from dataclasses import asdict

    from rediffinet.bundle import PLANS
    from rediffinet.engines.tensorrt.plans import list_plans

    plans = [
        {"path": str(found.path), "key": asdict(found.key), "graphs": sorted(found.plans)}
        for found in list_plans(bundle.path / PLANS)
    ]
    return {
        "sha256": bundle.sha256,
        "hashes_verified": True,
        "precisions": list(bundle.precisions),
        "plans": plans,
        **bundle.manifest.model_dump(mode="json"),
    }


def _graphs(bundle: "Bundle") -> None:
    for name, entry in bundle.manifest.graphs.items():
        window = "×".join(str(size) for size in entry.inputs[0].shape[2:])
        typer.echo(
            f"  {name}: {entry.file}, {_megabytes(bundle.path / entry.file)}, {entry.precision} (weights "
            f"{entry.weights}), window {window}, against torch {entry.parity.graph:.1e}"
        )
        for precision, variant in entry.variants.items():
            full = f", {len(variant.float32_layers)} convolutions in float32" if variant.float32_layers else ""
            typer.echo(
                f"    {precision}: {variant.file}, {_megabytes(bundle.path / variant.file)}, against fp32 largest "
                f"{variant.parity.largest:.1e}, mean {variant.parity.mean:.1e} ({variant.parity.engine}){full}"
            )


def _precisions(bundle: "Bundle") -> None:
    from rediffinet.bundle import PLANS
    from rediffinet.engines.tensorrt.plans import list_plans

    typer.echo(f"precisions: {', '.join(bundle.precisions)}")
    regions = ", ".join(bundle.manifest.recipe.task.region_names)
    for precision, gate in bundle.manifest.precision_gate.items():
        dice = ", ".join(f"{value:.4f}" for value in gate.dice)
        typer.echo(f"  {precision}: Dice of {regions} against fp32 {dice}; {len(gate.cases)} cases, {gate.engine}")
    for plans in list_plans(bundle.path / PLANS):
        key = plans.key
        typer.echo(f"  plans {plans.path.name}: {key.module} {key.version}, {key.target}, {', '.join(plans.plans)}")


def _training(manifest: "Manifest") -> None:
    for name, run in manifest.training.items():
        if isinstance(run, dict):
            trained, held = (len(run.get(key, ())) for key in ("trained_on", "held_out"))
            typer.echo(
                f"{name}: {run.get('model')} trained on {trained} cases, {held} held out, "
                f"checkpoint {str(run.get('checkpoint_sha256'))[:12]}"
            )
    for name, value in manifest.metrics.items():
        typer.echo(f"metric {name}: {value}")


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
