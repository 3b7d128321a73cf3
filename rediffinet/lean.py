"""What a process of our own need not import: a command, and those that compute for it."""

import gc
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any


@contextmanager
def importing() -> Iterator[None]:
    """A block of imports, in which garbage is not collected and pydantic looks for no plugins: a fifth of a second.

    What was imported stays until the process ends, so it is not looked through later either, nor at the end, which is
    most of what the end takes. For a process of our own alone, as below.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would ask every installed distribution
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collected:
            gc.enable()


def import_nibabel_alone() -> None:
    """Import NiBabel as if pydicom and SciPy were not installed, and without what fetches an image by its URL.

    It would import pydicom, and requests with it, for an extension of NIfTI headers that nothing here reads: half a
    second. Such extensions are then kept as the bytes that they are. SciPy is for the .mat files of SPM, and the rest
    for `from_url`: a twelfth of a second. All can be imported as ever afterwards. For a process of our own alone: a
    program that embeds the library may want what NiBabel does with them.
    """
    if "nibabel" in sys.modules:
        return
    spared: dict[str, ModuleType | None] = {
        "pydicom": None,  # the import system's own mark of what is not there
        "scipy": None,
        "urllib.request": ModuleType("urllib.request"),
    }
    spared = {name: instead for name, instead in spared.items() if name not in sys.modules}
    sys.modules.update(spared)  # type: ignore[arg-type]
    try:
        import nibabel  # noqa: F401
    finally:
        for name in spared:
            del sys.modules[name]


def leave_out_converters() -> None:
    """Have OpenVINO imported without its model converter, which nothing here calls: an eighth of a second.

    For a process of our own alone, as above.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]


def spawn(
    target: Callable[..., object], *given: object, connection: Connection, name: str | None = None
) -> SpawnProcess:
    """Start a lean process of our own that calls target(*given, connection); it ends with this one.

    target and given travel as bytes, so that none of their modules is imported before what is left out is settled.
    """
    context = multiprocessing.get_context("spawn")  # engines do not survive a fork
    process = context.Process(target=_call, args=(pickle.dumps((target, given)), connection), name=name, daemon=True)
    process.start()
    return process


def _call(content: bytes, connection: Connection) -> None:
    with importing():
        import_nibabel_alone()
        leave_out_converters()
        call: tuple[Callable[..., object], tuple[Any, ...]] = pickle.loads(content)
    target, given = call
    target(*given, connection)
