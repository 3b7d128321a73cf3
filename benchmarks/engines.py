"""The paper-size denoiser on the CPU: torch eager against every engine and precision.

    python benchmarks/engines.py [--window 64] [--repeats 5] [--threads N]

Random weights: the time of a step does not depend on them. Contestants take turns in one run. int8 is calibrated on two
random inputs, so its distance from fp32 is that of unstructured data; the gate of `rediff export` measures real ones.
Raw sessions run beside ours, to be seen; what our protocol costs is below the noise of a step: benchmarks/overhead.py.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from raw_sessions import raw_onnxruntime, raw_openvino
from timing import describe, interleaved, ratio, table

from rediffinet.engines import Graph, GraphSpec, open_engine
from rediffinet.engines.machine import describe_machine
from rediffinet.errors import RediffError
from rediffinet.export.graphs import run_torch, write_graph
from rediffinet.export.precision import to_int8
from rediffinet.nets.graphs import NetGraph
from rediffinet.nets.refiner import Refiner
from rediffinet.training.config import resolve_config
from rediffinet.training.recipe import graphs_of

Arrays = dict[str, np.ndarray]
CONTESTANTS = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)


def inputs_of(source: NetGraph, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    shapes = {name: tuple(zeros.shape) for name, zeros in source.examples(1).items()}
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    return arrays | {"t": np.float32([999 - seed]), "c0": np.float32([0.7]), "c1": np.float32([0.3])}


def bound(graph: Graph, given: Arrays) -> tuple[Callable[[], None], Callable[[], Arrays]]:
    """A step on buffers that are on the device already, as in the sampling loop, and its result."""
    engine = graph.engine
    inputs = {name: engine.upload(array) for name, array in given.items()}
    outputs = {tensor.name: engine.empty((1, *tensor.shape[1:]), tensor.dtype) for tensor in graph.spec.outputs}
    return lambda: graph.run(inputs, outputs), lambda: {name: engine.download(b) for name, b in outputs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = resolve_config("rediffinet", "paper", changes={"refiner": {"window": (arguments.window,) * 3}})
    source = graphs_of(config, Refiner(config.refiner).eval())[1]
    given = inputs_of(source, 0)
    expected = [tensor.numpy() for tensor in run_torch(source, given)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = {"fp32": Path(folder) / "denoiser.onnx", "int8": Path(folder) / "denoiser-int8.onnx"}
        write_graph(source, paths["fp32"], "float32")
        to_int8(paths["fp32"], paths["int8"], [inputs_of(source, seed) for seed in (1, 2)])
        tensors = (source.inputs, source.outputs)
        runs: dict[str, Callable[[], object]] = {"torch eager fp32": lambda: run_torch(source, given)}
        results: dict[str, Callable[[], Arrays]] = {}
        for engine, precision in CONTESTANTS:
            name = f"{engine} {precision}"
            stored = "int8" if precision == "int8" else "fp32"
            try:
                opened = stack.enter_context(open_engine(engine, threads=arguments.threads, precision=precision))
                graph = opened.load(GraphSpec("denoiser", paths[stored], *tensors, stored))
            except RediffError as error:
                print(f"{name} left out: {error}")
                continue
            runs[name], results[name] = bound(graph, given)
        runs["onnxruntime fp32, raw session"] = raw_onnxruntime(paths["fp32"], given, tensors[1], arguments.threads)[0]
        runs["openvino fp32, raw request"] = raw_openvino(paths["fp32"], given, tensors[1], arguments.threads)[0]
        timings = interleaved(runs, arguments.repeats)
        found = {name: result()["x0"] for name, result in results.items()}
    features = [name for name, there in (describe_machine().processor.features or {}).items() if there]
    print(f"Denoiser {config.refiner.features}, window {arguments.window}³, {arguments.threads} threads, batch 1;")
    versions = describe(["torch", "onnxruntime", "openvino", "numpy", "rediffinet"])
    print(f"{arguments.repeats} interleaved runs; {versions};")
    print(f"the processor has {', '.join(features) or 'unknown features'}\n")
    reference = timings["torch eager fp32"]
    x0 = expected[[tensor.name for tensor in source.outputs].index("x0")]

    def distance(name: str) -> str:
        return f"{np.abs(found[name] - x0).max():.1e}" if name in found else ""

    rows = [(n, f"{t.median:.0f}", f"{t.shortest:.0f}", ratio(reference, t), distance(n)) for n, t in timings.items()]
    columns = ("what", "median ms", "shortest ms", "faster than torch (medians / minima)", "max |x0 − torch's|")
    print(table(columns, rows))
    print(f"\nstandard deviation of x0: {x0.std():.2e}")


if __name__ == "__main__":
    main()
