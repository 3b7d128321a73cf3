"""`rediff convert`."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder that an older version of rediffinet made.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle folder to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Make a bundle of an older version fit this one: same graphs, same results, its manifest written anew."""
    from rediffinet.export.convert import convert_bundle

    made = convert_bundle(bundle, out, overwrite=overwrite)
    typer.echo(str(made.path))
