"""Files and folders that appear whole or not at all, and where a machine keeps what it can make again.

The engines may not import the core, which has a writer of its own for results (`rediffinet.io.nifti`). Everything here
raises OSError; who calls says what could not be written.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_folder(*parts: str) -> Path:
    """Where what was measured or compiled for this machine is kept: safe to remove at any time.

    `parts` name a folder or file inside it; nothing is made.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.joinpath("rediffinet", *parts)


def write_whole(path: Path, content: Any, *, durable: bool = False) -> None:
    """Write `content` (anything with the buffer protocol, which is not copied) so that a reader sees it whole.

    It is written beside `path` and renamed; its folder is made. durable: on the disk before this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` when the block ends well and is removed when it does not.

    A reader sees the old folder or the new one, or none for an instant. Its parents are made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield made
        made.chmod(0o755)  # mkdtemp's is for the owner alone
        old = made.with_name(f"{made.name}.old")
        if folder.exists():
            folder.rename(old)
        try:
            made.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)
