"""A task of a batch scheduler (a Slurm array without gaps): its share of a cohort, safe to be preempted.

    sbatch --array=1-16 --signal=TERM@60 --requeue --wrap "srun python examples/batch_task.py COHORT OUT"

SLURM_ARRAY_TASK_ID, _MIN and _COUNT say which share; other schedulers have other names for them.
Shell users have the same in `rediff segment COHORT -o OUT --skip-existing --shard i/N`.
"""

import os
import sys
from pathlib import Path

from rediffinet.clinic.cohort import Order, segment_cohort
from rediffinet.clinic.inputs import Shard, list_cohort
from rediffinet.clinic.interrupt import Interrupted, interruptible
from rediffinet.clinic.table import open_table
from rediffinet.errors import RediffError
from rediffinet.segmenter import Segmenter


def main(cohort: Path, out: Path, bundle: Path | None = None) -> int:
    """0: all done; 3: some failed; 75: preempted, to be queued again (finished cases are skipped then)."""
    number, first = (int(os.environ.get(f"SLURM_ARRAY_TASK_{name}", "1")) for name in ("ID", "MIN"))
    shard = Shard(number - first + 1, int(os.environ.get("SLURM_ARRAY_TASK_COUNT", "1")))
    cases = shard.of(list_cohort(cohort, apart=[out])[0])
    order = Order(out, skip_existing=True)
    failed = 0
    try:
        with interruptible(), open_table(cases, order, shard) as table, Segmenter.open(bundle) as segmenter:
            for given, outcome in zip(cases, segment_cohort(segmenter, cases, order), strict=True):
                table.add(given, outcome)
                failed += outcome.report is None
    except Interrupted:
        return 75
    return 3 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.stderr.write("usage: python examples/batch_task.py COHORT OUT [BUNDLE]\n")
        sys.exit(2)
    try:
        sys.exit(main(*map(Path, sys.argv[1:])))
    except RediffError as error:  # of the whole task: a wrong bundle, no cohort, another task with this share
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
