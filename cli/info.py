"""`rediff info`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def info(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder; default: the one in the package.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Show a bundle's manifest and verify its hashes."""
    from rediffinet.bundle import open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    if as_json:
        typer.echo(json.dumps({"sha256": opened.sha256, **manifest.model_dump(mode="json")}, indent=2))
        return
    diffusion = manifest.diffusion
    typer.echo(f"{manifest.name} ({manifest.model}), sha256 {opened.sha256}, hashes verified")
    typer.echo(f"at {opened.path}")
    for name, entry in manifest.graphs.items():
        window = "×".join(str(size) for size in entry.inputs[0].shape[2:])
        typer.echo(f"  {name}: {entry.file}, {entry.precision} (weights {entry.weights}), window {window}")
    typer.echo(
        f"sampling: {diffusion.scheduler}, {diffusion.steps} of {diffusion.train_steps} steps, "
        f"{diffusion.samples} samples; flips above {manifest.refiner.thresholds} (WT, TC, ET)"
    )
    typer.echo(f"channels {', '.join(manifest.channels)}; labels {manifest.labels}; {manifest.intended_use}")
