"""`rediff view`."""

import threading
from pathlib import Path
from typing import Annotated

import typer


def view(
    target: Annotated[
        Path, typer.Argument(metavar="RESULT", help="The folder of a case's results, FOLDER/CASE, or its report.")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the four images, when they are not where they were segmented.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="A label map to compare with; default: the one beside the images.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Look at a result in the browser, correct its labels. Serves this machine alone, until Ctrl-C."""
    from rediffinet.clinic.interrupt import Interrupted
    from rediffinet.clinic.viewer.scene import find_report, open_scene
    from rediffinet.clinic.viewer.server import ViewerServer

    report = find_report(target)  # once: results of other cases may come beside it
    with ViewerServer(lambda: open_scene(report, images, reference), port) as server:
        case = server.scene.case
        for note in server.scene.notes:
            typer.echo(f"{case}: not shown: {note}", err=True)
        typer.echo(f"{case}: {server.url}")
        typer.echo("Ctrl-C ends.", err=True)
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        try:
            serving.start()
            if browser and not _opened(server.url):
                typer.echo("No browser could be opened: open the address yourself.", err=True)
            serving.join()
        except (Interrupted, KeyboardInterrupt):  # the way to end it, not an error
            typer.echo("ended", err=True)
        finally:
            server.shutdown()


def _opened(url: str) -> bool:
    import webbrowser

    try:
        return webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False
