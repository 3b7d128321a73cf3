"""`rediff doctor`."""

import json
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False) -> None:
    """Show which engines work here on which devices: each runs a tiny graph, or says why not and what to install."""
    from dataclasses import asdict

    from rediffinet.engines import AUTO, survey
    from rediffinet.engines.machine import describe_machine

    machine = describe_machine()
    found = survey(("cpu", *(f"cuda:{gpu.index}" for gpu in machine.gpus)) if machine.gpus else ("cpu", "cuda:0"))
    if as_json:
        content = {"machine": asdict(machine), "engines": [asdict(row) for row in found], "auto": list(AUTO)}
        typer.echo(json.dumps(content, indent=2))
        return
    processor = machine.processor
    has = [name for name, there in (processor.features or {}).items() if there]
    typer.echo(f"processor: {processor.name}, {processor.cores} cores, {', '.join(has) or 'features unknown'}")
    for gpu in machine.gpus:
        typer.echo(f"cuda:{gpu.index}: {gpu}")
    if machine.no_gpu:
        typer.echo(f"GPU: none ({machine.no_gpu})")
    typer.echo("")
    width = max(len(row.engine) for row in found)
    for row in found:
        start = f"{row.engine:{width}}  {row.device:7} {'works' if row.works else 'no   '}  "
        if row.works:
            typer.echo(f"{start}{row.version}, {row.detail}: {', '.join(row.precisions)}")
        else:
            first, *rest = row.detail.splitlines()
            typer.echo(start + first)
            for line in rest:
                typer.echo(" " * (width + 17) + line)
    typer.echo("")
    typer.echo(f"--engine auto takes the first that works of {', '.join(AUTO)}")
