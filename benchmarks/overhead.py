"""What our protocol costs per call, over a raw session call: in µs, and as a share of a denoiser step.

    python benchmarks/overhead.py [--calls 1000] [--rounds 21] [--step-repeats 3] [--window 64] [--preset paper]
    python benchmarks/overhead.py --step-ms 700       # leaves the denoiser out, and takes its step as told

A step of the paper-size denoiser takes so long that a few hundred µs vanish in its noise: the difference of two such
timings says nothing. So the cost is measured where nothing hides it, on a graph of the denoiser's inputs and outputs
with one voxel each, whose own work is almost nothing: blocks of calls, ours and raw in turns, and the median of the
rounds' differences. That is what a call costs on any graph with these tensors (checks, bindings, buffers); divided by
the step it is the share. The step is that of the faster of fp32 and bf16, which is the harder one; the last column says
from which step on the share would be above the limit.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from raw_sessions import RAW, Arrays
from timing import describe, table

from rediffinet.engines import Engine, Graph, GraphSpec, TensorSpec, open_engine
from rediffinet.errors import RediffError

LIMIT = 0.02
LEVELS = 5
"""Feature maps that the paper-size denoiser takes from the conditioner."""


@dataclass(frozen=True)
class Cost:
    """µs per call, medians over the rounds; `extra` is the median of the rounds' differences, with its quartiles."""

    ours: float
    raw: float
    extra: float
    low: float
    high: float


def one_voxel_graph(path: Path) -> GraphSpec:
    """Inputs and outputs as the denoiser has them, one voxel and one channel each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    volumes = ["x_t", "condition", *(f"feature_{level}" for level in range(LEVELS))]
    shape = ("batch", 1, 1, 1, 1)
    scalars = ["t", "c0", "c1"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in volumes]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in scalars]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x_prev", "x0")]
    nodes = [
        helper.make_node("Sum", scalars, ["factor"]),
        helper.make_node("Unsqueeze", ["factor", "axes"], ["spread"]),
        helper.make_node("Sum", [*volumes, "spread"], ["x0"]),
        helper.make_node("Mul", ["x0", "x_t"], ["x_prev"]),
    ]
    axes = numpy_helper.from_array(np.array([1, 2, 3, 4]), "axes")
    graph = helper.make_graph(nodes, "one_voxel", inputs, outputs, [axes])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    tensors = tuple(TensorSpec(name, "float32", shape) for name in volumes)
    tensors += tuple(TensorSpec(name, "float32", ("batch",)) for name in scalars)
    return GraphSpec("denoiser", path, tensors, tuple(TensorSpec(name, "float32", shape) for name in ("x_prev", "x0")))


def bound(engine: Engine, graph: Graph, given: Arrays) -> tuple[Callable[[], None], Callable[[], Arrays]]:
    """A step on buffers that are on the device already, as in the sampling loop, and its results."""
    inputs = {name: engine.upload(array) for name, array in given.items()}
    outputs = {tensor.name: engine.empty((1, *tensor.shape[1:]), tensor.dtype) for tensor in graph.spec.outputs}
    return lambda: graph.run(inputs, outputs), lambda: {name: engine.download(b) for name, b in outputs.items()}


def cost_per_call(ours: Callable[[], None], raw: Callable[[], None], calls: int, rounds: int) -> Cost:
    """Blocks of calls in turns; which of the two comes first alternates, and garbage is collected between blocks."""

    def block(run: Callable[[], None]) -> float:
        gc.collect()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return 1e6 * (time.perf_counter() - start) / calls

    pair = {"ours": ours, "raw": raw}
    for run in pair.values():
        block(run)
    found: dict[str, list[float]] = {name: [] for name in pair}
    for index in range(rounds):
        for name in ("ours", "raw") if index % 2 else ("raw", "ours"):
            found[name].append(block(pair[name]))
    differences = [a - b for a, b in zip(found["ours"], found["raw"], strict=True)]
    low, _, high = statistics.quantiles(differences, n=4)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return Cost(medians["ours"], medians["raw"], statistics.median(differences), low, high)


def step_ms(engine: str, preset: str, window: int, repeats: int, threads: int) -> Mapping[str, float]:
    """Median ms of a denoiser step (random weights) in each precision that needs no calibration."""
    import torch

    from rediffinet.export.graphs import write_graph
    from rediffinet.nets.refiner import Refiner
    from rediffinet.training.config import resolve_config
    from rediffinet.training.recipe import graphs_of

    torch.manual_seed(0)
    config = resolve_config("rediffinet", preset, changes={"refiner": {"window": (window,) * 3}})
    source = graphs_of(config, Refiner(config.refiner).eval())[1]
    rng = np.random.default_rng(0)
    given = {
        name: rng.standard_normal(tuple(zeros.shape), dtype=np.float32) for name, zeros in source.examples(1).items()
    }
    inputs, outputs = source.inputs, source.outputs
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "denoiser.onnx"
        write_graph(source, path, "float32")
        for precision in ("fp32", "bf16"):
            try:
                with open_engine(engine, threads=threads, precision=precision) as opened:
                    graph = opened.load(GraphSpec("denoiser", path, inputs, outputs))
                    run, _ = bound(opened, graph, given)
                    run()
                    times = []
                    for _ in range(repeats):
                        start = time.perf_counter()
                        run()
                        times.append(1e3 * (time.perf_counter() - start))
            except RediffError as error:
                print(f"{engine} {precision} left out: {str(error).splitlines()[0]}")
                continue
            found[precision] = statistics.median(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="calls in a block")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--step-ms", type=float, default=None)
    parser.add_argument("--step-repeats", type=int, default=3)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{describe(['onnxruntime', 'openvino', 'numpy', 'rediffinet'])}; {arguments.threads} threads")
    print(f"{arguments.rounds} rounds of {arguments.calls} calls; denoiser {arguments.preset}, {arguments.window}³\n")
    rows = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        spec = one_voxel_graph(Path(folder) / "one_voxel.onnx")
        rng = np.random.default_rng(1)
        given = {tensor.name: rng.standard_normal([1, *tensor.shape[1:]]).astype(np.float32) for tensor in spec.inputs}
        for name, make_raw in RAW.items():
            try:
                engine = stack.enter_context(open_engine(name, threads=arguments.threads))
            except RediffError as error:
                print(f"{name} left out: {str(error).splitlines()[0]}")
                continue
            ours, result = bound(engine, engine.load(spec), given)
            raw, expected = make_raw(spec.path, given, spec.outputs, arguments.threads)
            cost = cost_per_call(ours, raw, arguments.calls, arguments.rounds)
            for output, array in expected().items():  # both did the work
                np.testing.assert_allclose(result()[output], array, rtol=1e-5)
            if arguments.step_ms is not None:
                steps: Mapping[str, float] = {"as told": arguments.step_ms}
            else:
                size = arguments.preset, arguments.window, arguments.step_repeats, arguments.threads
                steps = step_ms(name, *size)
            quickest = min(steps, key=lambda precision: steps[precision])
            share = cost.extra / 1e3 / steps[quickest]
            verdict = "yes" if share <= LIMIT else "NO"
            rows.append(
                [name, f"{cost.ours:.1f}", f"{cost.raw:.1f}", f"{cost.extra:.1f} ({cost.low:.1f}–{cost.high:.1f})"]
            )
            rows[-1] += [f"{steps[quickest]:.1f} ({quickest})", f"{100 * share:.3f} %", verdict]
            rows[-1] += [f"{cost.extra / 1e3 / LIMIT:.1f}"]
    header = ["engine", "ours µs", "raw µs", "extra µs (quartiles)", "step ms", "share", "≤ 2 %", "2 % at a step of ms"]
    print(f"\n{table(header, rows)}")


if __name__ == "__main__":
    main()
