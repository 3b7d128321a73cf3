"""What a killed process (SIGKILL, power) leaves: hidden folders, and perhaps files of a case without their report."""

import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rediffinet.io.outputs import all_names

HIDDEN = ".rediffinet-*"
"""Where `rediffinet.files.new_files` makes files before it moves them in."""


def remove_leftovers(folder: Path, cases: Collection[str], *, alone: bool = False) -> None:
    """Remove the hidden folders that a killed writer of these cases left, and their outputs without a report.

    Such outputs are removed only where a hidden folder with the report tells that they were being moved in: a reference
    segmentation may have the same name, and is refused before such a folder is made. No other process may be writing
    these cases. alone: nor any other case in this folder, so that hidden folders without a file go as well.
    """
    owner = {file: name for name in cases for file in all_names(name).values()}
    for hidden in folder.glob(HIDDEN):
        with suppress(OSError):
            held = [path.name for path in hidden.iterdir()]
            found = {owner.get(file) for file in held}
            if None in found or not (found or alone):  # another cohort's, another shard's, or one that just begins
                continue
            for name in filter(None, found):
                names = all_names(name)
                if names["report"] in held and not (folder / names["report"]).exists():
                    for file in names.values():
                        (folder / file).unlink(missing_ok=True)
            shutil.rmtree(hidden)
