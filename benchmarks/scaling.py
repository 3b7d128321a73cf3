"""How the seconds of a case grow: with threads, with the volume, with the cases of a cohort, with the window.

    python benchmarks/scaling.py --case DIR --out DIR [--bundle DIR] [--turns 5] [--parts threads,volume,cases,window]
                                 [--counts 1,2,4]

threads: the case in one process on 1, 2, 4 … threads. volume: phantoms of growing size, whose brains grow with them up
to an adult's. cases: `rediff segment` of 1, 2 and 4 copies of the case, in one process and in one for each core:
seconds a case, start included. window: the baseline's graph, its weights as they are, made for windows of other sizes:
ms a call, and what a brain of 72 × 88 × 72 voxels takes with them. Contestants take turns, the first is not counted;
medians. Parts that are not named keep what DIR/scaling.json has. Writes that file, scaling.md and scaling.svg
(Matplotlib: the extra report).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from timing import describe, interleaved, table

from rediffinet import Segmenter, load_case
from rediffinet.bundle import Bundle, open_bundle
from rediffinet.engines import GraphSpec, TensorSpec, open_engine
from rediffinet.io.cases import Case
from rediffinet.method.normalise import brain_box
from rediffinet.method.windows import plan_windows
from rediffinet.phantom import make_phantom

PARTS = {
    "threads": ("threads", "seconds a case"),
    "volume": ("million voxels of the image", "seconds a case"),
    "cases": ("cases of a cohort", "seconds a case, start included"),
    "window": ("thousand voxels of the window", "ms a call"),
}
SHAPES = ((120, 120, 78), (160, 160, 103), (200, 200, 129), (240, 240, 155), (288, 288, 186))
COUNTS = (1, 2, 4)
WINDOWS = ((24, 32, 24), (40, 48, 40), (56, 72, 56), (72, 88, 72), (96, 112, 96))
BRAIN = (72, 88, 72)
Rows = list[dict[str, Any]]


def turns(contestants: Mapping[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds (median, shortest, longest) of each."""
    found = interleaved(contestants, count)
    return {name: [round(one / 1e3, 4) for one in astuple(took)] for name, took in found.items()}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(given: argparse.Namespace) -> Rows:
    case = load_case(given.case)
    counts = sorted({2**k for k in range(cores().bit_length())} | {cores()})
    opened = {count: Segmenter.open(given.bundle, threads=count) for count in counts if count <= cores()}
    took = turns({str(count): lambda one=one: one.segment(case) for count, one in opened.items()}, given.turns)
    for one in opened.values():
        one.close()
    return [{"x": count, "series": "a case in memory", "took": took[str(count)]} for count in opened]


def volume(given: argparse.Namespace) -> Rows:
    cases = []
    for shape in SHAPES:
        phantom = make_phantom(7, shape, tumour="enhancing")
        cases.append(Case.from_arrays(phantom.name, phantom.images, phantom.affine))
    with Segmenter.open(given.bundle) as segmenter:
        windows = [segmenter.segment(case).report.sampling.windows for case in cases]
        took = turns({str(k): lambda case=case: segmenter.segment(case) for k, case in enumerate(cases)}, given.turns)
    return [
        {
            "x": round(np.prod(shape) / 1e6, 2),
            "series": "a phantom in memory",
            "took": took[str(k)],
            "what": size(shape),
        }
        | {"brain": size(extent(cases[k])), "windows of the refinement": windows[k]}
        for k, shape in enumerate(SHAPES)
    ]


def extent(case: Case) -> tuple[int, ...]:
    """Voxels of the brain along each axis."""
    return tuple(side.stop - side.start for side in brain_box(case.images))


def cases(given: argparse.Namespace) -> Rows:
    bundle = ["--bundle", str(given.bundle)] if given.bundle else []
    program = [sys.executable, "-c", "from rediffinet.cli.main import main; main()", "segment"]
    with tempfile.TemporaryDirectory() as made:
        ways: dict[str, Callable[[], object]] = {}
        for count in given.counts:
            folder = Path(made) / str(count)
            for k in range(count):
                for path in given.case.iterdir():
                    copied = folder / f"case{k}" / path.name.replace(given.case.name, f"case{k}")
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, copied)
            for processes in sorted({1, min(cores(), count)}):
                command = [*program, folder, "-o", Path(made) / "out", "--overwrite", *bundle]
                command += ["--processes", processes] if processes > 1 else []
                words = list(map(str, command))
                ways[f"{count} {processes}"] = lambda words=words: subprocess.run(
                    words, check=True, capture_output=True
                )
        took = turns(ways, given.turns)
    rows: Rows = []
    for way, seconds in took.items():
        count, processes = map(int, way.split())
        series = "one process" if processes == 1 else "a process for each core"
        rows.append({"x": count, "series": series, "took": [round(one / count, 3) for one in seconds]})
    return rows


def window(given: argparse.Namespace) -> Rows:
    bundle = open_bundle(given.bundle)
    overlap = bundle.manifest.recipe.baseline.overlap
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, open_engine("auto", "cpu") as engine:
        ways = {}
        for shape in WINDOWS:
            graph = engine.load(resized(bundle, shape, Path(folder)))
            image = rng.standard_normal((1, *graph.spec.inputs[0].shape[1:]), np.float32)
            ways[size(shape)] = lambda graph=graph, image=image: graph(image=image)
        took = turns(ways, given.turns)
    rows: Rows = []
    for shape in WINDOWS:
        milliseconds = [round(1e3 * one, 1) for one in took[size(shape)]]
        needed = len(plan_windows(BRAIN, shape, overlap))
        row = {"x": round(np.prod(shape) / 1e3, 1), "series": "the baseline", "took": milliseconds, "what": size(shape)}
        row |= {"ms a thousand voxels": round(milliseconds[0] / (np.prod(shape) / 1e3), 2)}
        rows.append(row | {"calls for a brain": needed, "s for a brain": round(needed * took[size(shape)][0], 2)})
    return rows


def resized(bundle: Bundle, shape: tuple[int, int, int], folder: Path) -> GraphSpec:
    """The baseline's graph for another window: its weights know of none."""
    import onnx

    spec = bundle.graph("baseline")
    model = onnx.load(spec.path)
    del model.graph.value_info[:]
    for tensor in (*model.graph.input, *model.graph.output):
        for dimension, wanted in zip(tensor.type.tensor_type.shape.dim[2:], shape, strict=True):
            dimension.dim_value = wanted
    path = folder / f"{size(shape)}.onnx"
    onnx.save(model, path)

    def fit(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(one.name, one.dtype, (*one.shape[:2], *shape)) for one in tensors)

    return GraphSpec("baseline", path, fit(spec.inputs), fit(spec.outputs))


def size(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def as_text(found: Mapping[str, Any]) -> str:
    """All parts as Markdown."""
    lines = []
    for part, (x, y) in PARTS.items():
        if part not in found:
            continue
        rows = found[part]["rows"]
        more = [key for key in rows[0] if key not in ("x", "series", "took")]
        cells = [
            (row["series"], row["x"], "{:.4g} ({:.4g} to {:.4g})".format(*row["took"]), *(row[key] for key in more))
            for row in rows
        ]
        lines += [f"## {part}", "", f"{found[part]['machine']}; {found[part]['turns']} turns", ""]
        lines += [table(("", x, y, *more), cells), ""]
    return "\n".join(lines)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """A panel for each part that was measured: the median as a line, shortest and longest as bars."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "scaling", "font.size": 9, "font.sans-serif": ["DejaVu Sans"]}
    )
    from matplotlib import pyplot as plt

    parts = [part for part in PARTS if part in found]
    figure, panels = plt.subplots(1, len(parts), figsize=(3.4 * len(parts), 3.2), layout="constrained", squeeze=False)
    for axes, part in zip(panels.flat, parts, strict=True):
        rows, (x, y) = found[part]["rows"], PARTS[part]
        axes.set(title=part, xlabel=x, ylabel=y)
        for series in dict.fromkeys(row["series"] for row in rows):
            mine = [row for row in rows if row["series"] == series]
            median, least, most = (np.array([row["took"][k] for row in mine]) for k in range(3))
            spread = [median - least, most - median]
            axes.errorbar([row["x"] for row in mine], median, spread, marker="o", capsize=3, label=series)
        if part in ("threads", "cases"):
            axes.set_xticks(sorted({row["x"] for row in rows}))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, help="for the parts threads and cases")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, help="default: the one in the package")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)), help="of cases, for that part; others are kept")
    given = parser.parse_args()
    ways = {"threads": threads, "volume": volume, "cases": cases, "window": window}
    parts = given.parts.split(",")
    if unknown := [part for part in parts if part not in ways]:
        parser.error(f"there is no part {', '.join(unknown)}; there is {', '.join(ways)}")
    if given.case is None and {"threads", "cases"} & set(parts):
        parser.error("the parts threads and cases need --case")
    given.counts = [int(count) for count in given.counts.split(",")]
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "scaling.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    for part in parts:
        machine = describe(("rediffinet", "openvino", "onnxruntime", "numpy"))
        rows = ways[part](given)
        if part == "cases" and part in found:
            kept_rows = [row for row in found[part]["rows"] if row["x"] not in given.counts]
            rows = sorted(kept_rows + rows, key=lambda row: row["x"])
        found[part] = {"machine": machine, "turns": given.turns, "rows": rows}
        kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (given.out / "scaling.md").write_text(as_text(found), encoding="utf-8")
        plot(found, given.out / "scaling.svg")
    print(as_text(found))


if __name__ == "__main__":
    main()
