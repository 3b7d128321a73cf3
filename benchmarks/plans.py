"""TensorRT-RTX plans of the paper-size graphs, built ahead of time on this machine: seconds, peak memory, sizes.

    python benchmarks/plans.py [--target sm86] [--precision fp32,fp16] [--batch 1] [--preset paper]

The networks have the paper's size and random weights. Each plan is built in a process of its own, so that its peak
memory (of the host; there is no GPU in this) is its own. What it computes and how fast it runs, only a GPU can show.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from timing import describe, table

LIMIT_SECONDS = 60


def write_graphs(folder: Path, preset: str) -> list[tuple[str, float]]:
    """Write the three graphs of a preset with random weights; (name, millions of parameters) of each."""
    import torch

    from rediffinet.export.graphs import write_graph
    from rediffinet.nets.refiner import Refiner
    from rediffinet.nets.unet import UNet
    from rediffinet.training.config import resolve_config
    from rediffinet.training.recipe import graphs_of

    baseline, refiner = (resolve_config(model, preset) for model in ("unet", "rediffinet"))
    torch.manual_seed(0)
    sources = [
        *graphs_of(baseline, UNet(baseline.unet).eval()),
        *graphs_of(refiner, Refiner(refiner.refiner).eval()),
    ]
    sizes = []
    for source in sources:
        write_graph(source, folder / f"{source.name}.onnx", "float32")
        used = sum(parameter.numel() for parameter in source.module.parameters())
        sizes.append((source.name, used / 1e6))
    return sizes


def build_one(path: str, target: str, batch: int) -> tuple[float, float, int]:
    """Build one plan: (seconds, peak of the process in MiB, bytes of the plan)."""
    from rediffinet.engines.tensorrt.build import BuildOptions, build, find_module

    trt = find_module("tensorrt-rtx")
    model = Path(path).read_bytes()
    started = time.perf_counter()
    plan = build(trt, path, Path(path), model, BuildOptions(target, batch)).plan
    seconds = time.perf_counter() - started
    return seconds, peak_mib(), len(plan)


def peak_mib() -> float:
    """Peak resident memory of this process. Not getrusage: after an exec it still holds the parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="sm86")
    parser.add_argument("--precision", default="fp32,fp16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--preset", default="paper")
    arguments = parser.parse_args()
    print(describe(["tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "torch", "onnx"]), flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, millions in write_graphs(folder, arguments.preset):
            for precision in arguments.precision.split(","):
                path = folder / f"{name}.onnx"
                if precision == "fp16":
                    from rediffinet.export.precision import to_fp16

                    path = folder / f"{name}-fp16.onnx"
                    to_fp16(folder / f"{name}.onnx", path)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    seconds, peak, size = pool.apply(build_one, (str(path), arguments.target, arguments.batch))
                verdict = "yes" if seconds < LIMIT_SECONDS else "NO"
                onnx_mib = path.stat().st_size / 2**20
                rows.append(
                    [name, precision, f"{millions:.1f} M", f"{onnx_mib:.0f}", f"{size / 2**20:.0f}", f"{seconds:.1f}"]
                )
                rows[-1] += [f"{peak:.0f}", verdict]
                print(f"{name} {precision}: {seconds:.1f} s, peak {peak:.0f} MiB", flush=True)
    header = ["graph", "precision", "parameters", "ONNX MiB", "plan MiB", "seconds", "peak MiB", "under a minute"]
    print(f"\ntarget {arguments.target}, batch 1 to {arguments.batch}, preset {arguments.preset}\n")
    print(table(header, rows))


if __name__ == "__main__":
    main()
