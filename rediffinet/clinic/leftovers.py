"""What a killed process (SIGKILL, power) leaves of a case: a hidden folder, and perhaps files without a report."""

import re
import shutil
from pathlib import Path

from rediffinet.io.outputs import OutputChoice


def remove_leftovers(folder: Path, name: str) -> bool:
    """Remove the hidden folders that a killed writer left of a case, and its outputs without a report.

    Such outputs are removed only if a hidden folder tells that they are ours: a reference segmentation may have the
    same name, and is refused before such a folder is made. Returns whether there was any. No other process may be
    writing the case.
    """
    pattern = re.compile(re.escape(f".{name}.") + r"[a-z0-9_]{8}")
    try:
        hidden = [path for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return False
    if not hidden:
        return False
    names = OutputChoice(uncertainty=True, probabilities=True).names(name)
    complete = any((path / names["report"]).exists() for path in hidden)  # it was being renamed into place
    if complete and not (folder / names["report"]).exists():
        for file in names.values():
            (folder / file).unlink(missing_ok=True)
    for path in hidden:
        shutil.rmtree(path, ignore_errors=True)
    return True
