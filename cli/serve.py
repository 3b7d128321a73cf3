"""`rediff serve`."""

import os
from pathlib import Path
from typing import Annotated

import typer


def serve(
    data: Annotated[Path, typer.Option(help="Folder of the service: jobs, uploads, results, tokens.")],
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need a token.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0: a free one, which is printed.")
    ] = 8000,
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder; default: the one in the package.")] = None,
    engine: Annotated[str, typer.Option(help="auto, or one that `rediff doctor` lists.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8.")] = "fp32",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the engine.")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Cases that wait or are computed at a time; more get 429.")] = 32,
    max_upload: Annotated[int, typer.Option(min=1, help="Largest upload in MiB.")] = 1024,
    case_time: Annotated[float, typer.Option(min=1.0, help="Longest time of a case in seconds.")] = 1800.0,
    upload_time: Annotated[float, typer.Option(min=1.0, help="Longest time of an upload in seconds.")] = 900.0,
    retention: Annotated[float, typer.Option(min=0.0, help="Hours that a finished case is kept.")] = 24.0,
    corrections: Annotated[
        int, typer.Option(min=0, help="Corrected label maps that a case may have; more get 409.")
    ] = 100,
    dicomweb: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Archive to fetch studies from and store objects in: its DICOMweb root."),
    ] = None,
    new_token: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make a token for NAME, print it once, and end.")
    ] = None,
    list_tokens: Annotated[
        bool, typer.Option("--list-tokens", help="Names of the tokens, when they were made, and end.")
    ] = False,
    revoke_token: Annotated[
        str | None, typer.Option(metavar="NAME", help="Forget the token of NAME, at once, and end.")
    ] = None,
    without_token: Annotated[
        bool, typer.Option("--without-token", help="Listen to everybody who reaches the port.")
    ] = False,
) -> None:
    """Segment cases over HTTP: send four images or a zip, ask for the state, fetch the files. See docs/service.md."""
    from rediffinet import lean
    from rediffinet.cli.paths import check_new_folder
    from rediffinet.clinic.service import tokens
    from rediffinet.clinic.service.settings import MIB, Archive, Limits, Settings
    from rediffinet.errors import MissingExtraError

    check_new_folder(data)
    authorization = os.environ.get("REDIFF_DICOMWEB_AUTHORIZATION", "")
    settings = Settings(
        data=data.absolute(),
        host=host,
        port=port,
        bundle=None if bundle is None else bundle.absolute(),
        engine=engine,
        device=device,
        precision=precision,
        threads=threads,
        retention_s=3600.0 * retention,
        limits=Limits(
            queue=queue,
            upload_bytes=max_upload * MIB,
            upload_s=upload_time,
            case_s=case_time,
            corrections=corrections,
        ),
        without_token=without_token,
        archive=None if dicomweb is None else Archive(dicomweb, authorization),
    )
    if new_token is not None:
        typer.echo(tokens.new_token(settings.tokens, new_token))
        return
    if revoke_token is not None:
        tokens.revoke_token(settings.tokens, revoke_token)
        return
    if list_tokens:
        listed = tokens.list_tokens(settings.tokens)
        for name, made, digest in listed:
            typer.echo(f"{name}  {made}  sha256 {digest}…")
        if not listed:
            typer.echo(f"There is no token in {data}. Make one with --new-token NAME.", err=True)
        return
    lean.leave_out_converters()
    lean.import_nibabel_alone()
    try:
        from rediffinet.clinic.service.server import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtraError("The service", str(error.name), "serve") from None
    run(settings)
