"""A lock that its process cannot leave behind: it goes with the process, however that ends."""

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from rediffinet.errors import ConfigError, OutputError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What a file system says that has none."""
BYTE = 2**30
"""Which byte is locked where the system locks bytes: none that tells the holder, who could not be read then."""


@contextmanager
def held(path: Path, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the lock within the block; its file is there that long, and tells the holder.

    shared: with others that share it. On a file system without locks nothing is held; Windows shares none.

    Raises ConfigError when another process holds it and `wait` is False, OutputError when its file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            _lock(descriptor, path, wait=wait, shared=shared)
            if _is_at(descriptor, path):
                break
            os.close(descriptor)  # its last holder removed it in between
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{path.parent} is not a folder.\nGive a folder, there already or new.") from error
    except OSError as error:
        message = f"{path.parent} cannot be written: {error.strerror or error}.\nMake room, or choose another folder."
        raise OutputError(message) from error
    try:
        with suppress(OSError):  # a full disk
            os.ftruncate(descriptor, 0)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}, since {now}".encode())
        yield
    finally:
        if not shared or _is_last(descriptor):
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _lock(descriptor: int, path: Path, *, wait: bool, shared: bool) -> None:
    """Take the lock. Closes the file where another process holds it, and raises ConfigError."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, BYTE, os.SEEK_SET)
            if not shared:
                msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            return
        os.lseek(descriptor, 0, os.SEEK_SET)
        who = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        message = f"Another rediff works in {path.parent} already ({who or 'just begun'})."
        raise ConfigError(f"{message} Use another folder, or end that one first.") from None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _is_last(descriptor: int) -> bool:
    """Whether nobody else shares the lock."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
