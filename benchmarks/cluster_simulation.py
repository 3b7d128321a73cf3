"""SIMULATION, not a measurement: cases an hour of a cluster, from what one case costs.

    python benchmarks/cluster_simulation.py OUT/cohort.json --workers 1,2,4,8,64,512 --cases 1000000

The distribution of seconds per case is that of the reports in OUT (measured: load, compute, write on one worker of the
cluster's kind). Simulated: a dispatcher that hands out a case in --dispatch ms, two cases per worker in flight, a
shared file system of --bandwidth MB/s for --megabytes a case, and workers that are lost every --lost hours on average,
with what they were doing, and replaced after --start seconds.
"""

import argparse
import heapq
import json
import random
from pathlib import Path


def read_seconds(table: Path) -> list[float]:
    """Seconds of every finished case."""
    rows = json.loads(table.read_text())["cases"]
    return [row["seconds"] for row in rows if row["seconds"] is not None]


def simulate(
    seconds: list[float], workers: int, cases: int, dispatch_s: float, disk_s: float, lost_h: float, start_s: float
) -> tuple[float, float, int]:
    """(cases an hour, share of time that workers compute, how many cases were begun again)."""
    chance = random.Random(0)
    free = [(start_s, worker) for worker in range(workers)]
    heapq.heapify(free)
    dispatcher = disk = busy = end = 0.0
    again = 0
    for _ in range(cases):
        ready, worker = heapq.heappop(free)
        cost = chance.choice(seconds)
        while chance.random() < cost / 3600 / lost_h:  # the worker is lost somewhere in the case
            spent = chance.random() * cost
            ready += spent + start_s
            again += 1
        dispatcher = max(dispatcher, ready - cost) + dispatch_s  # the next case was sent while this worker computed
        disk = max(disk, dispatcher) + disk_s
        begun = max(ready, disk)
        busy += cost
        end = max(end, begun + cost)
        heapq.heappush(free, (begun + cost, worker))
    return 3600 * cases / end, busy / (workers * end), again


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", help="cohort.json of a measured run")
    parser.add_argument("--seconds", type=float, help="instead of a table: what every case takes on a worker")
    parser.add_argument("--workers", default="1,2,4,8,16,64,256,1024")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--dispatch", type=float, default=5.0, help="ms of the driver per case")
    parser.add_argument("--bandwidth", type=float, default=1000.0, help="MB/s of the shared file system")
    parser.add_argument("--megabytes", type=float, default=15.0, help="MB read and written per case")
    parser.add_argument("--lost", type=float, default=100.0, help="hours until a worker is lost, on average")
    parser.add_argument("--start", type=float, default=20.0, help="seconds until a worker computes")
    given = parser.parse_args()
    if (given.table is None) == (given.seconds is None):
        parser.error("give a table or --seconds")
    seconds = read_seconds(given.table) if given.table is not None else [given.seconds]
    mean = sum(seconds) / len(seconds)
    print(f"SIMULATION of {given.cases} cases; {mean:.2f} s a case on a worker ({given.table or 'given'})\n")
    print("| workers | cases an hour | computing | cases begun again |\n|---|---|---|---|")
    for workers in map(int, given.workers.split(",")):
        rate, share, again = simulate(
            seconds,
            workers,
            given.cases,
            given.dispatch / 1000,
            given.megabytes / given.bandwidth,
            given.lost,
            given.start,
        )
        print(f"| {workers} | {rate:,.0f} | {100 * share:.0f} % | {again} |")


if __name__ == "__main__":
    main()
