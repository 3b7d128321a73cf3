"""`rediff phantom`: write synthetic cases."""

from pathlib import Path
from typing import Annotated

import typer


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write the case folders into; made when absent.")],
    cases: Annotated[int, typer.Option("--cases", "-n", min=1, help="How many cases.")] = 1,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="The same seed gives the same cases.")] = 0,
    tumour: Annotated[
        str,
        typer.Option(help="random, none, enhancing, solid, tiny-enhancing or non-enhancing."),
    ] = "random",
    shape: Annotated[
        tuple[int, int, int], typer.Option(metavar="X Y Z", help="Grid in voxels; a smaller one is a coarser brain.")
    ] = (240, 240, 155),
    task: Annotated[
        str, typer.Option(metavar="NAME|FILE.json", help="Tumour, contrasts and label values: glioma-2023, …")
    ] = "glioma-2023",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace cases that exist already.")] = False,
) -> None:
    """Write synthetic glioma cases with BraTS-2023 names and geometry, and the contrasts and labels of a task.

    No patient data is involved: they are for demos, tests and trying out an installation.
    """
    from typing import cast

    from rediffinet.cli.paths import check_new_folder
    from rediffinet.phantom import Tumour, write_phantoms
    from rediffinet.task import find_task

    check_new_folder(out)
    write_phantoms(
        out,
        cases,
        seed,
        shape=shape,
        tumour=cast("Tumour", tumour),
        task=find_task(task),
        overwrite=overwrite,
        on_case=lambda folder: typer.echo(str(folder)),
    )
