"""What a cohort gains over its cases one by one, and what memory its processes share.

    python benchmarks/cohort.py [--cases 8] [--shape 240,240,155] [--repeats 3] [--bundle DIR] [--processes 2]

The ways take turns, each from start to end as a user starts it: `rediff segment CASE` for each case, the folder in one
process, the folder with --processes. Memory is the sum over the processes of a way of what each has to itself plus its
part of what is shared (PSS), at its highest of a look every half second; beside it the sum without that division (RSS).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import describe, table

from rediffinet.phantom import write_phantoms

PROGRAM = (sys.executable, "-c", "from rediffinet.cli.main import main; main()")


def tree(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
        except OSError:
            continue
    found, at = [root], 0
    while at < len(found):
        found += parents.get(found[at], [])
        at += 1
    return found


def memory_mb(root: int) -> tuple[float, float]:
    """(PSS, RSS) of a process and all below it, in MiB."""
    sums = {"Pss": 0, "Rss": 0}
    for process in tree(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition(":")
            if key in sums:
                sums[key] += int(value.split()[0])
    return sums["Pss"] / 1024, sums["Rss"] / 1024


def run(commands: list[list[str]]) -> tuple[float, float, float]:
    """(seconds, highest PSS, highest RSS) of commands one after the other."""
    started = time.perf_counter()
    highest = (0.0, 0.0)
    for command in commands:
        process = subprocess.Popen([*PROGRAM, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            pss, rss = memory_mb(process.pid)
            highest = max(highest[0], pss), max(highest[1], rss)
            time.sleep(0.5)
        if process.returncode:
            raise SystemExit(f"rediff {' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, *highest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--shape", default="240,240,155")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bundle")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    x, y, z = map(int, chosen.shape.split(","))
    more = ["--overwrite", *(["--bundle", chosen.bundle] if chosen.bundle else [])]
    print(f"{describe(['onnxruntime', 'openvino', 'numpy'])}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as made:
        cohort, out = Path(made) / "cohort", str(Path(made) / "out")
        write_phantoms(cohort, chosen.cases, seed=1, shape=(x, y, z))
        folder = ["segment", str(cohort), "-o", out, *more]
        cases = [path for path in sorted(cohort.iterdir()) if path.is_dir()]
        ways = {
            "one by one": [["segment", str(case), "-o", out, *more] for case in cases],
            "cohort": [folder],
            f"cohort, --processes {chosen.processes}": [[*folder, "--processes", str(chosen.processes)]],
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
        for _ in range(chosen.repeats):
            for name, commands in ways.items():
                found[name].append(run(commands))
    alone = statistics.median(seconds for seconds, _, _ in found["one by one"])
    rows = []
    for name, runs in found.items():
        seconds = statistics.median(one[0] for one in runs)
        pss, rss = (max(one[k] for one in runs) for k in (1, 2))
        rate = f"{3600 * chosen.cases / seconds:.0f}"
        rows.append([name, f"{seconds:.1f}", rate, f"{alone / seconds:.2f}×", f"{pss:.0f}", f"{rss:.0f}"])
    print(table(["way", "seconds", "cases an hour", "throughput", "PSS MiB", "RSS MiB"], rows))


if __name__ == "__main__":
    main()
