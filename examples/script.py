"""A script: one case with progress, a deadline, and a row for a table.

python examples/script.py CASE_FOLDER OUT [BUNDLE]
"""

import csv
import sys
from pathlib import Path

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
    volumes = result.report.to_dict()["volumes_ml"]["refined"]
    with (out / "volumes.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow([case.name, *(round(ml, 2) for ml in volumes.values())])
    return 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.stderr.write("usage: python examples/script.py CASE_FOLDER OUT [BUNDLE]\n")
        sys.exit(2)
    sys.exit(main(*map(Path, sys.argv[1:])))
