"""The one writer: files and folders that appear whole or not at all, and where a machine keeps what it can make again.

Everything is made under a hidden name on the same disk and renamed. What cannot be written raises OutputError, whose
cause is the system's error; nothing half-written stays. Of reading it has what many do alike: hashes, JSON of others.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rediffinet.errors import OutputError


def cache_folder(*parts: str) -> Path:
    """Where what was measured or compiled for this machine is kept: safe to remove at any time.

    `parts` name a folder or file inside it; nothing is made.
    """
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.joinpath("rediffinet", *parts)


def write_atomically(
    path: str | os.PathLike[str], content: Any, *, parents: bool = False, durable: bool = False
) -> None:
    """Write `content` (anything with the buffer protocol, which is not copied) so that a reader sees it whole.

    parents: make the folders above. durable: on the disk before this returns.

    Raises:
        OutputError: the folder is absent or not writable, or the disk is full.
    """
    with new_file(path, parents=parents) as temporary, temporary.open("xb") as stream:
        stream.write(content)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def new_file(path: str | os.PathLike[str], *, parents: bool = False) -> Iterator[Path]:
    """A name to write to, for writers that want one; the file takes the place of `path` when the block ends well.

    Raises:
        OutputError: for an OSError of the block, or of the renaming.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}.tmp")
    try:
        try:
            if parents:
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, UnicodeEncodeError) as error:
        message = f"Cannot write {path}: {_reason(error)}.\nChoose a folder that exists and can be written to."
        raise OutputError(message) from error


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` when the block ends well and is removed when it does not.

    A reader sees the old folder or the new one, or none for an instant. Its parents are made.

    Raises:
        OutputError: for an OSError of the block, or of the renaming; the old folder is then as it was.
    """
    try:
        with _beside(folder.parent) as made:
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
    except (OSError, UnicodeEncodeError) as error:
        raise OutputError(f"{folder} cannot be written: {_reason(error)}.\nMake room, or choose another.") from error


@contextmanager
def new_files(folder: Path, *, last: str = "", stale: Iterable[str] = ()) -> Iterator[Path]:
    """A hidden folder to fill, whose files go into `folder` together when the block ends well; others there stay.

    They are on the disk then. Files of the same names are replaced and those named in `stale` removed. `last` names the
    file that says that the others are whole: its old one goes before anything else does, its new one comes after
    everything else.

    Raises:
        OutputError: for an OSError of the block or of the renaming. None of the new files stays then, nor a folder that
            was made for them.
    """
    absent = [path for path in (folder, *folder.parents) if not _exists(path)]
    try:
        with _beside(folder) as made:
            yield made
            _move_in(made, folder, last, stale)
    except BaseException as error:
        for path in absent:
            with suppress(OSError, UnicodeEncodeError):
                path.rmdir()
        if not isinstance(error, OSError | UnicodeEncodeError):
            raise
        message = (
            f"{folder} cannot be written: {_reason(error)}. None of the new files is there.\nMake room, or choose "
        )
        raise OutputError(message + "another folder.") from error


def write_together(folder: Path, contents: Mapping[str, bytes], *, last: str = "", stale: Iterable[str] = ()) -> None:
    """Write files, by name, into a folder as `new_files` does. Raises OutputError as it does."""
    with new_files(folder, last=last, stale=stale) as made:
        for name, content in contents.items():
            (made / name).write_bytes(content)


@contextmanager
def _beside(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent`, which is made, removed at the end if it is still there."""
    parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".rediffinet-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move_in(made: Path, folder: Path, last: str, stale: Iterable[str]) -> None:
    names = sorted((path.name for path in made.iterdir()), key=lambda name: (name == last, name))
    for name in (*((last,) if last else ()), *(name for name in stale if name not in names)):
        (folder / name).unlink(missing_ok=True)
    done = []
    for name in names:
        _sync(made / name)
    try:
        for name in names:
            if name == last:
                _sync(folder)  # after a loss of power too it is there only where the others are
            (made / name).replace(folder / name)
            done.append(folder / name)
        _sync(folder)
    except OSError:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    if sys.platform == "win32":  # opens no folder, and syncs no file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot
            raise
    finally:
        os.close(descriptor)


def _exists(path: Path) -> bool:
    with suppress(OSError, UnicodeEncodeError):
        return path.exists()
    return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def parse_json(text: str | bytes) -> Any:
    """JSON that somebody else wrote. Raises ValueError, also where it is nested deeper than Python follows."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
