"""What a GPU has to prove, in one command: the tests, the labels, the times beside torch.

    python benchmarks/gpu.py --minutes 10 --out DIR [--parts doctor,labels,…] [--case FOLDER] [--device cuda:0]

Each part is a process of its own with its own time limit, the most important first; a part that cannot run says why,
and one that is stopped keeps the rows that it had. DIR/gpu.json, DIR/gpu.md and DIR/gpu.log are written after every
part. `--device cpu` runs the same on a processor, which proves the script and nothing about a GPU.

doctor     the machine, the packages, which engines work
labels     a case by the default bundle: labels of every engine against the CPU's (Dice), seconds, memory
steps      one call of each graph: torch eager, autocast, compiled, CUDA graphs; the engines; batches
tests      pytest -m gpu tests/gpu
paper      the same as `steps` for the denoiser of the paper's size, random weights
training   steps per second of the default recipe: fp32, bf16, compiled, channels last; the loader's share
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = {"doctor": 60, "labels": 150, "steps": 150, "tests": 120, "paper": 120, "training": 90}
"""Parts in the order of their importance, and the seconds that each may take of ten minutes; of more, more."""
LEAST = 1.0
"""A part is not begun with fewer seconds left."""


@dataclass(frozen=True)
class Ran:
    """One part: what became of it, its seconds, its rows and other facts."""

    name: str
    state: str
    seconds: float
    content: dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--bundle", type=Path, default=None, help="default: the one in the package")
    parser.add_argument("--case", type=Path, default=None, help="a case folder; default: a phantom")
    parser.add_argument("--phantom", default="240,240,155", help="shape of that phantom")
    parser.add_argument("--batches", default="1,2,4,8")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each contestant is timed")
    parser.add_argument("--preset", default=None, help="for the parts paper (paper) and training (tiny-2mm)")
    parser.add_argument("--window", default=None, help="X,Y,Z for these two parts; default: the preset's")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--part", default=None, help=argparse.SUPPRESS)  # in the process of a part
    given = parser.parse_args()
    if given.part is not None:
        import gpu_parts

        gpu_parts.run(given.part, given)
        return 0
    names = [name.strip() for name in given.parts.split(",") if name.strip()]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there is {', '.join(PARTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
    before = read(given.out / "gpu.json")
    found: dict[str, Ran] = {name: Ran(**part) for name, part in before.items() if name not in names}
    for name in names:
        left = end - time.monotonic()
        if left < LEAST:
            found[name] = Ran(name, f"not begun: the {given.minutes:g} minutes are over", 0.0, {})
        else:
            print(f"--- {name}", flush=True)
            found[name] = run_part(name, min(PARTS[name] * max(1.0, given.minutes / 10), left), given.out)
            print(f"    {found[name].state}, {found[name].seconds:.0f} s", flush=True)
        write(given.out, found)
    print((given.out / "gpu.md").read_text(encoding="utf-8"))
    return 0


def run_part(name: str, limit: float, out: Path) -> Ran:
    """Run one part in a process of its own; stop it, and all that it started, when its time is over."""
    rows = out / f".{name}.json"
    rows.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--part", name]
    environment = {**os.environ, "REDIFF_GPU_ROWS": str(rows.resolve()), "PYTHONUNBUFFERED": "1"}
    environment["REDIFF_GPU_SECONDS"] = str(limit)
    started = time.monotonic()
    log = out / "gpu.log"
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"\n=== {name}\n")
        stream.flush()
        place = stream.tell()
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit)
            state = "done" if code == 0 else f"failed ({code}): {last_words(log, place)}"
        except subprocess.TimeoutExpired:
            state = f"stopped after its {limit:.0f} s; the rows are those it had"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    content = read(rows)
    rows.unlink(missing_ok=True)
    return Ran(name, state, round(time.monotonic() - started, 1), content)


def last_words(log: Path, place: int) -> str:
    """The last line that a part printed."""
    with log.open("rb") as stream:
        stream.seek(place)
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(out: Path, found: dict[str, Ran]) -> None:
    """gpu.json and gpu.md, each whole or not at all."""
    ordered = [found[name] for name in PARTS if name in found]
    content = {part.name: vars(part) for part in ordered}
    for name, text in (("gpu.json", json.dumps(content, indent=1)), ("gpu.md", markdown(ordered))):
        made = out / f".{name}.part"
        made.write_text(text + "\n", encoding="utf-8")
        made.replace(out / name)


def markdown(parts: list[Ran]) -> str:
    """Every part: its state, its facts, its rows as a table."""
    text = ["# What ran on a GPU"]
    for part in parts:
        text.append(f"\n## {part.name}\n\n{part.state}; {part.seconds:.0f} s")
        for key, value in part.content.items():
            if key == "rows":
                continue
            if isinstance(value, str) and "\n" in value:
                text.append(f"\n{key}:\n\n```\n{value}\n```")
            else:
                text.append(f"- {key}: {value}")
        rows = part.content.get("rows", [])
        columns = list(dict.fromkeys(column for row in rows for column in row))
        if rows:
            text.append(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
            text += [f"| {' | '.join(shown(row.get(column, '')) for column in columns)} |" for row in rows]
    return "\n".join(text)


def shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
