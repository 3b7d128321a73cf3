"""Progress on stderr: bars on a terminal, silence otherwise (a line now and then for training)."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def _bars() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, of) that shows one bar, renamed per stage."""
    if not sys.stderr.isatty():  # nothing is shown, and nothing imported for it
        yield lambda stage, done, total: None
        return
    with _bars() as bars:
        task = bars.add_task("", total=None)

        def report(stage: str, done: int, total: int) -> None:
            bars.update(task, description=stage, completed=done, total=total)

        yield report


@contextmanager
def cohort_progress(total: int) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[], None]]]:
    """(stage callback, a case is done): a bar over the cases with their rate and the time left, one of the stage."""
    started, finished = time.monotonic(), 0
    with _bars() as bars:
        cases = bars.add_task("cases", total=total)
        task = bars.add_task("", total=None)

        def stage(name: str, done: int, of: int) -> None:
            bars.update(task, description=name, completed=done, total=of)

        def advance() -> None:
            nonlocal finished
            finished += 1
            rate = finished / max(time.monotonic() - started, 1e-3) * 3600
            bars.update(cases, advance=1, description=f"cases, {rate:.0f} an hour")

        yield stage, advance


@contextmanager
def training_progress(
    every_seconds: float = 30.0,
) -> Iterator[tuple[Callable[[int, int, float], None], Callable[[str, int, int], None]]]:
    """(step callback, stage callback); without a terminal, one line on stderr every half minute."""
    with stages() as stage:
        last = -every_seconds

        def step(done: int, total: int, loss: float) -> None:
            nonlocal last
            stage(f"training, loss {loss:.3f}", done, total)
            if not sys.stderr.isatty() and (time.monotonic() - last >= every_seconds or done == total):
                last = time.monotonic()
                print(f"step {done} of {total}, loss {loss:.4f}", file=sys.stderr, flush=True)

        yield step, stage
