"""Where the time of a graph's call goes in OpenVINO, and how much of this machine's arithmetic it gets.

    python benchmarks/layers.py [--bundle DIR] [--calls 5]

For each graph: operations of its convolutions (two for a multiplication and an addition), the fastest call, the rate
that is, its share of what NumPy's matrix product reaches on all cores too (2,048², float32, the fastest of as many),
and the layers' share of the time by kind. Layers are timed in calls of their own, for timing them costs a little.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from raw_sessions import OPENVINO
from timing import describe, table

from rediffinet.bundle import open_bundle
from rediffinet.engines.base import GraphSpec

SIDE = 2048
CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")


def fastest(call: Callable[[], object], times: int) -> float:
    """Seconds."""
    took = []
    for _ in range(times + 1):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took[1:])


def operations(model: ov.Model) -> float:
    """Of the convolutions: each voxel of the larger side meets every weight of a channel of the other."""
    total = 0.0
    for layer in model.get_ordered_ops():
        kind = layer.get_type_name()
        if kind in CONVOLUTIONS:
            weights = layer.input(1).get_shape()
            transposed = kind == "ConvolutionBackpropData"
            outer = layer.input(0).get_shape() if transposed else layer.output(0).get_shape()
            first = 2 if kind == "GroupConvolution" else 1
            total += 2.0 * float(np.prod(outer)) * float(np.prod(list(weights)[first:]))
    return total


def request(model: ov.Model, *, timed: bool) -> ov.InferRequest:
    """A compiled model with noise for its inputs."""
    compiled = ov.Core().compile_model(
        model, "CPU", {**OPENVINO, "INFERENCE_NUM_THREADS": os.cpu_count() or 1, "PERF_COUNT": timed}
    )
    made = compiled.create_infer_request()
    rng = np.random.default_rng(0)
    for port in compiled.inputs:
        made.set_tensor(port, ov.Tensor(rng.uniform(0, 1, list(port.shape)).astype(np.float32)))
    return made


def measure(spec: GraphSpec, calls: int, gemm: float) -> tuple[tuple[object, ...], list[tuple[str, str]]]:
    """The row of a graph, and the layers' shares by kind."""
    model = ov.Core().read_model(str(spec.path))
    model.reshape({one.name: [1 if isinstance(size, str) else size for size in one.shape] for one in spec.inputs})
    count = operations(model)

    def run(made: ov.InferRequest) -> Callable[[], Any]:
        return lambda: (made.start_async(), made.wait())

    seconds = fastest(run(request(model, timed=False)), calls)
    timed = request(model, timed=True)
    shares: Counter[str] = Counter()
    for _ in range(calls):
        run(timed)()
        for layer in timed.profiling_info:
            shares[layer.node_type] += layer.real_time.total_seconds()
    rate = count / seconds
    row = (spec.name, f"{count / 1e9:.1f}", f"{seconds * 1e3:.0f}", f"{rate / 1e9:.0f}", f"{rate / gemm:.0%}")
    total = sum(shares.values())
    return row, [(kind, f"{spent / total:.1%}") for kind, spent in shares.most_common() if spent / total >= 0.005]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--calls", type=int, default=5)
    chosen = parser.parse_args()
    print(describe(["openvino", "numpy"]))
    square = np.random.default_rng(0).uniform(0, 1, (SIDE, SIDE)).astype(np.float32)
    gemm = 2.0 * SIDE**3 / fastest(lambda: square @ square, chosen.calls)
    print(f"matrix product: {gemm / 1e9:.0f} GFLOP/s\n")
    bundle = open_bundle(chosen.bundle)
    found = [
        measure(bundle.graph(name), chosen.calls, gemm)
        for name, graph in bundle.manifest.graphs.items()
        if all(one.dtype == "float32" for one in graph.inputs)
    ]
    print(table(("graph", "GFLOP", "ms a call", "GFLOP/s", "of the matrix product"), [row for row, _ in found]))
    for row, shares in found:
        print(f"\n{row[0]}\n{table(('layers', 'of the time'), shares)}")


if __name__ == "__main__":
    main()
