"""A whole case on the CPU, from process start to files, and what its parts cost: every claim of docs/performance.md.

    python benchmarks/case.py --case DIR --out DIR [--before CLONE] [--turns 5] [--parts PARTS]

case: `rediff segment` in a process of its own, ours and that of another checkout (CLONE, with its own .venv) in turns:
seconds of the clock and of the processors, stages as the report has them, peak memory. start: the same up to the first
call of a graph, and until all graphs are compiled, beside a script that imports NumPy and OpenVINO, loads the compiled
graphs and does nothing else: no start takes less. second: the second case in one process. calls: each graph of the
bundle by OpenVINO and ONNX Runtime: one window at a time against several in one call, two calls side by side on half
the threads each, the time embedding as a constant. Cases share the compiled graphs of the user's cache, which the
first, uncounted turn fills. Only what took turns on a quiet machine is worth comparing: the load is written beside.

Writes case.json, case.md and, where Matplotlib is there, case.svg as it goes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from raw_sessions import OPENVINO
from timing import describe, interleaved, table

from rediffinet.bundle import Bundle, open_bundle
from rediffinet.engines import Graph, open_engine
from rediffinet.errors import RediffError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rediffinet", "numpy", "nibabel", "openvino", "onnxruntime")
PARTS = ("case", "start", "second", "calls")
BATCHES = (1, 2, 4)

START = """
import os, sys, time
from rediffinet.cli.main import main
from rediffinet.engines.base import Engine, Graph
ready, load = [], Engine.load
def loaded(self, spec):
    graph = load(self, spec)
    ready.append(time.clock_gettime(time.CLOCK_MONOTONIC))
    return graph
def stop(self, *arguments):
    print("ready", max(ready), "started", time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
    os._exit(0)
Engine.load, Graph.run = loaded, stop
sys.argv = ["rediff", "segment", sys.argv[1], "-o", sys.argv[2], "--overwrite", *sys.argv[3:]]
main()
"""
BARE = """
import sys, time
sys.modules["openvino.tools.ovc"] = None
import numpy, openvino
from concurrent.futures import ThreadPoolExecutor
core, config = openvino.Core(), eval(sys.argv[1])
def load(path):
    with open(path, "rb") as file:
        return core.import_model(file.read(), "CPU", config)
with ThreadPoolExecutor(2) as pool:
    graphs = list(pool.map(load, sys.argv[2:]))
print("ready", time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""
SECOND = """
import json, sys, time
from pathlib import Path
from rediffinet import Segmenter, load_case
from rediffinet.io.outputs import OutputChoice, save_result
bundle = sys.argv[3] if len(sys.argv) > 3 else None
with Segmenter.open(bundle) as segmenter:
    for _ in range(2):
        began = time.perf_counter()
        save_result(segmenter.segment(load_case(sys.argv[1])), Path(sys.argv[2]), OutputChoice(overwrite=True))
        took = time.perf_counter() - began
print("second", took)
"""


def run(command: Sequence[object], checkout: Path) -> tuple[float, float, float, str]:
    """Seconds of the clock and of the processors, peak MB and what was printed. Raises RuntimeError where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=checkout
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(said)
    return took, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def python(checkout: Path) -> str:
    """The interpreter of a checkout: that of its own .venv, where it has one."""
    own = checkout / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def turns(contestants: Mapping[str, Callable[[], dict[str, float]]], count: int) -> dict[str, Any]:
    """Medians, and the least and most, of what each contestant measures; the first turn is not counted.

    Every second turn goes the other way round: a process after one as large is given its memory sooner.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for turn in range(count + 1):
        for name in list(contestants)[:: 1 if turn % 2 else -1]:
            measured = contestants[name]()
            if turn:
                found[name].append(measured)
    return {
        name: {
            key: [round(f([one[key] for one in measured]), 3) for f in (statistics.median, min, max)]
            for key in measured[0]
        }
        for name, measured in found.items()
    }


def whole_case(case: Path, bundle: Sequence[str]) -> Callable[[Path], dict[str, float]]:
    """One `rediff segment`."""

    def once(checkout: Path) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as out:
            command = (python(checkout), "-c", "from rediffinet.cli.main import main; main()", "segment", case)
            wall, cpu, peak, _ = run((*command, "-o", out, *bundle), checkout)
            (report,) = Path(out).glob("*-report.json")
            stages = json.loads(report.read_text())["seconds"]
        named = {f"{stage} s": seconds for stage, seconds in stages.items() if stage != "total"}
        return {"wall s": wall, "cpu s": cpu, "peak MB": peak, **named, "around s": wall - sum(named.values())}

    return once


def started(case: Path, bundle: Sequence[str]) -> Callable[[Path], dict[str, float]]:
    """From the start of the process to the first call of a graph, with the images read, and until all are compiled."""

    def once(checkout: Path) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as out:
            began = time.clock_gettime(time.CLOCK_MONOTONIC)
            _, cpu, peak, said = run((python(checkout), "-c", START, case, out, *bundle), checkout)
        ready, reached = (float(said.split(word)[1].split()[0]) - began for word in ("ready", "started"))
        return {"wall s": reached, "graphs ready s": ready, "cpu s": cpu, "peak MB": peak}

    return once


def bare(bundle: Bundle, folder: Path, threads: int) -> Callable[[], dict[str, float]]:
    """From the start of a process that does nothing else until OpenVINO has loaded the bundle's compiled graphs."""
    import openvino as ov

    core, config, paths = ov.Core(), {**OPENVINO, "INFERENCE_NUM_THREADS": threads}, []
    for name in bundle.manifest.graphs:
        spec = bundle.graph(name)
        model = core.read_model(str(spec.path))
        model.reshape(
            {tensor.name: [size if isinstance(size, int) else 1 for size in tensor.shape] for tensor in spec.inputs}
        )
        paths.append(folder / name)
        paths[-1].write_bytes(core.compile_model(model, "CPU", config).export_model().getvalue())

    def once() -> dict[str, float]:
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        _, cpu, peak, said = run((sys.executable, "-c", BARE, repr(config), *paths), ROOT)
        ready = float(said.split("ready")[1].split()[0]) - began
        return {"wall s": ready, "graphs ready s": ready, "cpu s": cpu, "peak MB": peak}

    return once


def second(case: Path, bundle: Sequence[str]) -> Callable[[Path], dict[str, float]]:
    """The second of two cases in one process."""

    def once(checkout: Path) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as out:
            _, _, peak, said = run((python(checkout), "-c", SECOND, case, out, *bundle[1:]), checkout)
        return {"wall s": float(said.split("second")[1].split()[0]), "peak MB": peak}

    return once


def arrays(graph: Graph, batch: int) -> dict[str, np.ndarray]:
    """Noise of the right shapes; times in their range."""
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.uniform(0, 1, [batch if isinstance(size, str) else size for size in tensor.shape]).astype(
            tensor.dtype
        )
        for tensor in graph.spec.inputs
    }


def ready(graph: Graph, batch: int) -> Callable[[], None]:
    """A call with buffers of its own, which stay on the device."""
    engine = graph.engine
    inputs = {name: engine.upload(array) for name, array in arrays(graph, batch).items()}
    outputs = {
        tensor.name: engine.empty([batch if isinstance(size, str) else size for size in tensor.shape], tensor.dtype)
        for tensor in graph.spec.outputs
    }
    return lambda: graph.run(inputs, outputs)


def calls(bundle: Bundle, engine_name: str, threads: int, repeats: int) -> Iterator[tuple[str, str, float, float]]:
    """(graph, how, ms a window by the median, by the shortest): windows in one call, and calls side by side."""
    half = max(1, threads // 2)
    with open_engine(engine_name, threads=threads) as engine, open_engine(engine_name, threads=half) as halved:
        for name in bundle.manifest.graphs:
            graph, other = engine.load(bundle.graph(name)), halved.load(bundle.graph(name))
            ways: dict[str, Callable[[], object]] = {}
            windows: dict[str, int] = {}
            for batch in BATCHES:
                how = f"{batch} in a call"
                ways[how], windows[how] = ready(graph, batch), batch
            if threads > 1:
                pool = ThreadPoolExecutor(2)
                pair = ready(other, 1), ready(other, 1)
                how = f"2 calls side by side, {half} of {threads} threads each"
                ways[how] = lambda pool=pool, pair=pair: list(pool.map(lambda call: call(), pair))
                windows[how] = 2
            if engine_name == "openvino" and "t" in {tensor.name for tensor in graph.spec.inputs}:
                ways["1 in a call, time embedding constant"] = folded(graph, threads)
                windows["1 in a call, time embedding constant"] = 1
            for how, timing in interleaved(ways, repeats).items():
                yield name, how, timing.median / windows[how], timing.shortest / windows[how]
            graph.rest()
            other.rest()


def folded(graph: Graph, threads: int) -> Callable[[], None]:
    """A call of the graph with its scalars (t, c0, c1) as constants, compiled by OpenVINO alone."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(graph.spec.path))
    given = arrays(graph, 1)
    for parameter in list(model.get_parameters()):
        names = parameter.output(0).get_names()
        scalar = next((name for name in ("t", "c0", "c1") if name in names), None)
        if scalar is None:
            continue
        constant = ov.opset13.constant(given[scalar])
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(constant.output(0))
        model.remove_parameter(parameter)
    model.reshape({port: given[port.get_any_name()].shape for port in model.inputs})
    request = core.compile_model(model, "CPU", {**OPENVINO, "INFERENCE_NUM_THREADS": threads}).create_infer_request()
    for port in model.inputs:
        request.set_tensor(port.get_any_name(), ov.Tensor(given[port.get_any_name()]))

    def call() -> None:
        request.start_async()
        request.wait()

    return call


def as_text(found: Mapping[str, Any]) -> str:
    """All parts as Markdown."""
    lines = [found["machine"], f"load before: {found['load']}", ""]
    for part in ("case", "start", "second"):
        if part in found:
            names = list(found[part])
            rows = [
                (key, *(f"{v[key][0]:.2f} ({v[key][1]:.2f} to {v[key][2]:.2f})" for v in found[part].values()))
                for key in found[part][names[0]]
            ]
            lines += [f"## {part}", "", table(("", *names), rows), ""]
    if "calls" in found:
        rows = [(*row[:3], f"{row[3]:.0f}", f"{row[4]:.0f}") for row in found["calls"]]
        header = ("engine", "graph", "windows", "ms a window, median", "shortest")
        lines += ["## calls", "", table(header, rows), ""]
    return "\n".join(lines)


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Where the seconds of a case go, one bar for each checkout. Does nothing without Matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.6 * len(found["case"])), layout="constrained")
    stages = ("around s", "load s", "normalise s", "baseline s", "refine s", "decode s", "write s")
    left = dict.fromkeys(found["case"], 0.0)
    for stage in stages:
        for name, measured in found["case"].items():
            width = measured.get(stage, [0.0])[0]
            axes.barh(name, width, left=left[name], color=f"C{stages.index(stage)}")
            left[name] += width
    axes.legend(
        [plt.Rectangle((0, 0), 1, 1, color=f"C{k}") for k in range(len(stages))],
        [stage.removesuffix(" s").replace("around", "start and end") for stage in stages],
        ncols=len(stages),
        fontsize="small",
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        frameon=False,
    )
    axes.set_xlabel("seconds of a case, medians")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS))
    arguments = parser.parse_args()
    case, parts = arguments.case.resolve(), arguments.parts.split(",")
    bundle = ["--bundle", str(arguments.bundle.resolve())] if arguments.bundle else []
    checkouts = {"now": ROOT} | ({"before": arguments.before.resolve()} if arguments.before else {})
    arguments.out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else "unknown"
    found: dict[str, Any] = {"machine": describe(PACKAGES), "load": load}

    def keep() -> None:
        (arguments.out / "case.json").write_text(json.dumps(found, indent=1) + "\n")
        (arguments.out / "case.md").write_text(as_text(found))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ways = {"case": whole_case(case, bundle), "start": started(case, bundle), "second": second(case, bundle)}
    for part, once in ways.items():
        if part not in parts:
            continue
        contestants = {name: partial(once, checkout) for name, checkout in checkouts.items()}
        found[part] = turns(contestants, arguments.turns)
        if part == "start":
            with tempfile.TemporaryDirectory() as compiled:
                alone = bare(open_bundle(arguments.bundle), Path(compiled), cores)
                found[part] |= turns({"OpenVINO alone": alone}, arguments.turns)
        keep()
    if "calls" in parts:
        found["calls"] = []
        for engine in ("openvino", "onnxruntime"):
            try:
                measured = calls(open_bundle(arguments.bundle), engine, cores, arguments.turns)
                found["calls"] += [(engine, *row) for row in measured]
            except RediffError as error:
                found["calls"].append((engine, str(error), "", float("nan"), float("nan")))
            keep()
    keep()
    if "case" in found:
        plot(found, arguments.out / "case.svg")
    print(as_text(found))


if __name__ == "__main__":
    main()
