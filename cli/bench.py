"""`rediff bench`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rediffinet.clinic.bench import Contestant


def bench(
    case: Annotated[Path | None, typer.Option(help="A case folder; default: a phantom of BraTS' size.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle folder; default: the one in the package.")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Also what others would run; needs the extra train.")] = False,
    turns: Annotated[int, typer.Option(min=1, help="Timed runs of each contestant.")] = 3,
    threads: Annotated[str | None, typer.Option(help="CPU threads; 1,2,4 for each of them in turn.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only these engines: openvino,onnxruntime.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for bench.json and bench.md.")] = None,
) -> None:
    """Show how fast a case is on this machine, beside what others would run: turn by turn, with quality and memory."""
    import tempfile

    from rediffinet.bundle import open_bundle
    from rediffinet.cli.progress import stages
    from rediffinet.clinic.bench import as_json, as_rows, contest, describe
    from rediffinet.files import write_atomically
    from rediffinet.phantom import write_phantoms
    from rediffinet.reports.formats import markdown_table

    opened = open_bundle(bundle)
    task = opened.manifest.recipe.task
    with tempfile.TemporaryDirectory() as made, stages() as stage:
        if case is None:
            stage("making a phantom", 0, 1)
            write_phantoms(Path(made), 1, seed=7, tumour="enhancing", task=task)
        folder = case or next(path for path in Path(made).iterdir() if path.is_dir())
        contestants = [*ours(opened.precisions, bundle, engine, threads), *(others(bundle, threads) if peers else ())]
        done = iter(range(len(contestants) * (turns + 2)))
        standings = contest(
            folder, contestants, turns, lambda what: stage(what, next(done, 0), len(contestants) * (turns + 2)), task
        )
    header, rows = as_rows(standings)
    machine = "; ".join(f"{key} {value}" for key, value in describe().items())
    name = "a phantom of 240 × 240 × 155" if case is None else case.name
    text = f"{name}, {turns} turns\n{machine}\n\n{markdown_table(header, rows)}"
    typer.echo(text)
    if out is not None:
        write_atomically(
            out / "bench.json", (json.dumps(as_json(name, standings), indent=1) + "\n").encode(), parents=True
        )
        write_atomically(out / "bench.md", text.encode(), parents=True)


def ours(has: "Sequence[str]", bundle: Path | None, engine: str | None, threads: str | None) -> "list[Contestant]":
    """Every engine and precision of those a bundle has, and bf16, which needs no file, at each number of threads."""
    from rediffinet.clinic.bench import Contestant

    pairs = [
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("torch", "fp32"),
    ]
    wanted = [name.strip() for name in engine.split(",")] if engine else [name for name, _ in pairs]
    return [
        Contestant(
            f"rediffinet, {name} {precision}{f', {count} threads' if count else ''}",
            "rediffinet.clinic.bench:segmenter_run",
            {"bundle": str(bundle) if bundle else None, "engine": name, "precision": precision, "threads": count},
        )
        for name, precision in pairs
        if name in wanted and (precision in has or precision == "bf16")
        for count in counts(threads)
    ]


def others(bundle: Path | None, threads: str | None) -> "list[Contestant]":
    """What others would run, with the most of the numbers of threads."""
    from rediffinet.clinic.bench import Contestant

    most = max((count for count in counts(threads) if count), default=None)
    random = "random weights, extrapolated"
    path = str(bundle) if bundle else None
    module = "rediffinet.export.peers"
    return [
        Contestant(
            "MONAI's sliding window, torch", f"{module}:monai", {"bundle": path, "threads": most}, "baseline alone"
        ),
        Contestant(
            "nnU-Net v2, no mirroring",
            f"{module}:nnunet",
            {"mirroring": False, "threads": most},
            f"one network; {random}",
        ),
        Contestant(
            "nnU-Net v2, mirroring", f"{module}:nnunet", {"mirroring": True, "threads": most}, f"one network; {random}"
        ),
        Contestant(
            "Re-DiffiNet as published, torch",
            f"{module}:published",
            {"threads": most},
            f"10 × 10; {random}",
        ),
    ]


def counts(threads: str | None) -> list[int | None]:
    """'1,2' → [1, 2]; the engine's own number when nothing is said."""
    return [int(count) for count in threads.split(",")] if threads else [None]
