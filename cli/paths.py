"""Where a command will write, tried before it works: hours of work are not lost to a folder that is not there."""

import os
import tempfile
import uuid
from pathlib import Path

from rediffinet.errors import OutputError


def check_new_file(path: Path) -> None:
    """Raise OutputError unless a file can be made at `path`, whose folder has to exist. Nothing is left behind."""
    trial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")  # as long as the name it is written under
    try:
        if path.is_dir():
            raise OutputError(f"Cannot write {path}: it is a folder.\nGive the name of a file.")
        with trial.open("xb"):
            pass
        trial.unlink()
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        message = f"Cannot write {path}: {reason}.\nChoose a folder that exists and can be written to."
        raise OutputError(message) from None


def check_new_folder(path: Path) -> None:
    """Raise OutputError unless files can be made in a folder at `path`, which need not exist; nothing is left."""
    try:
        nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise OutputError(f"Cannot write into {path}: {nearest} is a file.\nGive a folder.")
        longest = max(
            (len(os.fsencode(part)) for part in path.absolute().relative_to(nearest.absolute()).parts), default=0
        )
        with tempfile.TemporaryDirectory(prefix=".rediff.", dir=nearest) as trial:
            (Path(trial) / ("x" * longest)).mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        message = f"Cannot write into {path}: {reason}.\nChoose a folder that can be written to."
        raise OutputError(message) from None
