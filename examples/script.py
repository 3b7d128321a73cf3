"""A script: one case with progress, a deadline, and a row for a table.

python examples/script.py CASE_FOLDER OUT [BUNDLE]
"""

import csv
import sys
from pathlib import Path
from typing import Any

from rediffinet import Segmenter, load_case
from rediffinet.errors import RediffError


def main(case_folder: Path, out: Path, bundle: Path | None = None) -> int:
    """Segment, write the files and a row; the exit code."""

    def progress(stage: str, done: int, of: int) -> None:
        print(f"\r{stage} {done}/{of}   ", end="", file=sys.stderr, flush=True)

    try:
        with Segmenter.open(bundle) as segmenter:
            case = load_case(case_folder)
            result = segmenter.segment(case, seed=0, progress=progress, deadline_s=600)
        result.save(out, overwrite=True)
    except RediffError as error:  # the images (CaseError), too slow (DeadlineError), no room (OutputError) …
        print(f"\n{error}", file=sys.stderr)
        return 2
    put_row(out / "volumes.csv", {"case": case.name, **result.report.to_dict()["volumes_ml"]["refined"]})
    return 0


def put_row(path: Path, row: dict[str, Any]) -> None:
    """Add a case to a table, in the place of its row of an earlier run."""
    with path.open("a+", newline="") as stream:
        stream.seek(0)
        rows = {known["case"]: known for known in csv.DictReader(stream)}
        stream.truncate(0)
        table = csv.DictWriter(stream, row)
        table.writeheader()
        table.writerows({**rows, row["case"]: row}.values())


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.stderr.write("usage: python examples/script.py CASE_FOLDER OUT [BUNDLE]\n")
        sys.exit(2)
    sys.exit(main(*map(Path, sys.argv[1:])))
