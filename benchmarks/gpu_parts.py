"""The parts of benchmarks/gpu.py, each run in a process of its own."""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from timing import describe

from rediffinet.engines import ENGINES, Engine, Graph, GraphSpec, open_engine, survey
from rediffinet.errors import EngineError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rediffinet", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu13", "onnx", "numpy")
NEEDED = (
    "numpy",
    "nibabel",
    "isal",
    "pydantic",
    "typer",
    "rich",
    "PIL",
    "onnx",
    "torch",
    "monai",
    "safetensors",
    "pytest",
)
"""What the parts import: those that a hand-made environment lacks are told at once."""
NO_HALF = "left out: many processors have no half precision, and torch's substitute takes minutes"
TOO_LATE = "left out: too little of this part's time is left"
Arrays = dict[str, np.ndarray]
Given = argparse.Namespace


class Rows:
    """What a part found, written after every row: a part that is stopped keeps what it had."""

    def __init__(self) -> None:
        self.path = Path(os.environ["REDIFF_GPU_ROWS"])
        self.end = time.monotonic() + float(os.environ["REDIFF_GPU_SECONDS"])
        self.facts: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []

    def fact(self, name: str, value: Any) -> None:
        print(f"{name}: {value}", flush=True)
        self.facts[name] = value
        self._write()

    def add(self, **row: Any) -> None:
        print(row, flush=True)
        self.rows.append(row)
        self._write()

    @contextlib.contextmanager
    def trying(self, **row: Any) -> Iterator[None]:
        """What goes wrong in the block is a row that says so, and the next contestant comes."""
        try:
            yield
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            self.add(**row, why_not=f"{type(error).__name__}: {lines[0][:300]}")

    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.end - time.monotonic()

    def _write(self) -> None:
        made = self.path.with_suffix(".part")
        made.write_text(json.dumps({**self.facts, "rows": self.rows}), encoding="utf-8")
        made.replace(self.path)


def run(name: str, given: Given) -> None:
    """Run one part; what it raises ends its process."""
    parts = {"doctor": doctor, "labels": labels, "steps": steps, "tests": tests, "paper": paper, "training": training}
    parts[name](given, Rows())


def engines_of(device: str) -> list[str]:
    """Every engine; TensorRT and the like only where there may be a GPU."""
    return [name for name, backend in ENGINES.items() if device != "cpu" or not backend.gpu_only]


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor(given: Given, rows: Rows) -> None:
    """The machine, the packages, which engines work."""
    from rediffinet.engines.machine import describe_machine

    rows.fact("machine", describe([]))
    rows.fact("packages", ", ".join(f"{name} {installed(name)}" for name in PACKAGES))
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    rows.fact("absent, without which parts fail", ", ".join(absent) or "nothing")
    machine = describe_machine()
    rows.fact("GPUs", ", ".join(map(str, machine.gpus)) or machine.no_gpu)
    with contextlib.suppress(ImportError):
        import torch

        rows.fact("torch", f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    for found in survey((given.device,)):
        rows.add(
            engine=found.engine,
            device=found.device,
            works="yes" if found.works else "no",
            what=f"{found.version} {found.detail}" if found.works else found.detail,
            precisions=", ".join(found.precisions),
        )


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


# --- labels ----------------------------------------------------------------------------------------------------------


def labels(given: Given, rows: Rows) -> None:
    """A whole case on every engine against ONNX Runtime on the CPU."""
    from rediffinet import Segmenter
    from rediffinet.bundle import open_bundle

    bundle = open_bundle(given.bundle)
    case = the_case(given, rows)
    with Segmenter(bundle, "onnxruntime", "cpu") as segmenter:
        started = time.perf_counter()
        result = segmenter.segment(case)
        reference = result.labels
        seconds = {name: value for name, value in vars(result.report.seconds).items() if value}
        rows.add(engine="onnxruntime", device="cpu", precision="fp32", first_s=time.perf_counter() - started, **seconds)
    regions = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    with tempfile.TemporaryDirectory() as folder:
        lower = half_graphs(bundle, Path(folder), rows)
        for name in engines_of(given.device):
            for precision in ("fp32", "fp16") if lower else ("fp32",):
                what = {"engine": name, "device": given.device, "precision": precision}
                with rows.trying(**what), used_memory(given.device) as used:
                    if rows.left() < 10:
                        raise RuntimeError(TOO_LATE)
                    with opened(bundle, name, given.device, lower if precision == "fp16" else {}, folder) as segmenter:
                        times = []
                        for _ in range(4):
                            started = time.perf_counter()
                            result = segmenter.segment(case)
                            times.append(time.perf_counter() - started)
                            if rows.left() < 2 * times[-1] + 10:
                                break
                        memory = used()
                    dice = {
                        region: overlap(np.isin(result.labels, members), np.isin(reference, members))
                        for region, members in regions.items()
                    }
                    seconds = {key: value for key, value in vars(result.report.seconds).items() if value}
                    rows.add(
                        **what,
                        first_s=times[0],
                        best_s=min(times),
                        **seconds,
                        memory_MiB=memory,
                        differing_voxels=int((result.labels != reference).sum()),
                        **{f"Dice_{region}": round(value, 6) for region, value in dice.items()},
                    )


@contextlib.contextmanager
def opened(bundle: Any, name: str, device: str, lower: dict[str, GraphSpec], folder: str) -> Iterator[Any]:
    """A segmenter; with `lower`, on these graphs; for an engine that runs plans, in a copy of the bundle with plans."""
    from rediffinet import Segmenter
    from rediffinet.bundle import open_bundle

    if name.startswith("tensorrt") and not lower:
        from rediffinet.export.tensorrt import PlanSettings, build_plans

        copied = Path(folder) / f"bundle-{name}"
        shutil.copytree(bundle.path, copied)
        bundle = open_bundle(copied)
        build_plans(bundle, PlanSettings(precisions=("fp32",), engine=name, batch=8, rebuild=True))
    elif name.startswith("tensorrt"):
        raise RuntimeError("fp16 by plans: see the part steps")
    with Segmenter(bundle, name, device) as segmenter:
        if lower:
            engine = segmenter._engine
            engine.use("fp16")
            segmenter._graphs = {graph: engine.load(spec) for graph, spec in lower.items()}
        yield segmenter


def the_case(given: Given, rows: Rows) -> Any:
    """The case that was named, or a phantom."""
    from rediffinet.io.cases import Case, load_case

    if given.case is not None:
        rows.fact("case", given.case.name)
        return load_case(given.case)
    from rediffinet.phantom import make_phantom

    x, y, z = (int(size) for size in given.phantom.split(","))
    phantom = make_phantom(7, (x, y, z), tumour="enhancing")
    rows.fact("case", f"a phantom of {x} × {y} × {z}")
    return Case.from_arrays(phantom.name, phantom.images, phantom.affine)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Dice; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def half_graphs(bundle: Any, folder: Path, rows: Rows) -> dict[str, GraphSpec]:
    """The bundle's graphs in fp16, its own or converted here; none, and a row that says why, where that fails."""
    made = {}
    with rows.trying(contestant="fp16 of every engine"):
        from rediffinet.export.precision import to_fp16

        for name in bundle.manifest.graphs:
            if "fp16" in bundle.precisions:
                made[name] = bundle.graph(name, "fp16")
                continue
            spec = bundle.graph(name)
            to_fp16(spec.path, folder / f"{name}-fp16.onnx")
            made[name] = dataclasses.replace(spec, path=folder / f"{name}-fp16.onnx", precision="fp16", compiled=None)
        return made
    return {}


@contextlib.contextmanager
def used_memory(device: str) -> Iterator[Callable[[], float | str]]:
    """MiB that the GPU has less than before the block, asked for within it: kept by allocators, so near the peak.

    Nothing ("") where our own way to the driver fails: the times are worth having without. Raises without a driver.
    """
    gpu = None
    if device != "cpu":
        from rediffinet.engines.tensorrt.cuda import Cuda, gpus

        gpus()
        with contextlib.suppress(EngineError):
            gpu = Cuda(int(device.partition(":")[2] or 0))
    if gpu is None:
        yield lambda: ""
        return
    before, _ = gpu.memory_bytes()
    try:
        yield lambda: round((before - gpu.memory_bytes()[0]) / 2**20)
    finally:
        gpu.close()


# --- steps -----------------------------------------------------------------------------------------------------------


def steps(given: Given, rows: Rows) -> None:
    """Calls of the default bundle's graphs."""
    from rediffinet.bundle import open_bundle

    bundle = open_bundle(given.bundle)
    batches = [int(size) for size in given.batches.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        lower = half_graphs(bundle, Path(folder), rows)
        first = ("denoiser", "baseline")
        names = sorted(bundle.manifest.graphs, key=lambda name: first.index(name) if name in first else len(first))
        specs = {name: {"fp32": dataclasses.replace(bundle.graph(name), compiled=None)} for name in names}
        for name, spec in lower.items():
            specs[name]["fp16"] = spec
        for name in names:
            contest(given, rows, specs[name], batches[:1], compiled=name != "conditioner")
        for batch in batches[1:]:
            for name in names[:2]:
                contest(given, rows, specs[name], [batch], compiled=False)


def contest(given: Given, rows: Rows, specs: dict[str, GraphSpec], batches: list[int], *, compiled: bool) -> None:
    """Time one graph on every engine and on torch, against the CPU's result."""
    spec = specs["fp32"]
    for batch in batches:
        arrays = inputs(spec, batch)
        reference = None
        if batch == 1:
            with open_engine("onnxruntime", "cpu") as engine:
                reference = engine.load(spec)(**arrays)
        for name in engines_of(given.device):
            if name == "torch":
                continue  # timed below, beside autocast and the like
            for precision in specs:
                for graphs in (True, False) if name.startswith("tensorrt") else (True,):
                    what = {"graph": spec.name, "batch": batch, "contestant": f"{name} {precision}"}
                    options = {"cuda_graphs": graphs, "batch": batch} if name.startswith("tensorrt") else {}
                    if not graphs:
                        what["contestant"] += ", no CUDA graphs"
                    with (
                        rows.trying(**what),
                        used_memory(given.device) as used,
                        open_engine(name, given.device, precision=precision, **options) as engine,
                    ):
                        call, wait, result = bound(engine, engine.load(specs[precision]), arrays, spec)
                        took = timed(call, wait, given.seconds)
                        rows.add(**what, **took, **apart(result(), reference), memory_MiB=used())
        with rows.trying(graph=spec.name, batch=batch, contestant="torch"):
            torch_contest(given, rows, spec, arrays, reference, compiled=compiled)


def inputs(spec: GraphSpec, batch: int) -> Arrays:
    rng = np.random.default_rng(0)
    given = {
        tensor.name: rng.standard_normal([batch, *(int(size) for size in tensor.shape[1:])], np.float32)
        for tensor in spec.inputs
    }
    fixed = {"t": 500.0, "c0": 0.6, "c1": 0.4}
    return given | {name: np.full(batch, value, np.float32) for name, value in fixed.items() if name in given}


def bound(
    engine: Engine, graph: Graph, given: Arrays, spec: GraphSpec
) -> tuple[Callable[[], None], Callable[[], Any], Callable[[], Arrays]]:
    """A call on buffers that stay on the device, as in the sampling loop; the wait for it; its results."""
    batch = len(next(iter(given.values())))
    held = {name: engine.upload(array) for name, array in given.items()}
    out = {t.name: engine.empty([batch, *(int(s) for s in t.shape[1:])], t.dtype) for t in spec.outputs}
    smallest = min(out.values(), key=lambda buffer: int(np.prod(buffer.shape)))

    def result() -> Arrays:
        return {name: engine.download(buffer) for name, buffer in out.items()}

    return lambda: graph.run(held, out), lambda: engine.download(smallest), result


def timed(call: Callable[[], object], wait: Callable[[], object], seconds: float) -> dict[str, float]:
    """ms a call when calls follow each other, median of blocks; the first call apart. `wait` ends a block."""
    started = time.perf_counter()
    call()
    wait()
    first = time.perf_counter() - started
    if first < seconds:
        call()
        wait()
    started = time.perf_counter()
    call()
    wait()
    once = time.perf_counter() - started
    count = max(1, min(20, int(seconds / 5 / max(once, 1e-6))))
    blocks: list[float] = [1e3 * once] if once > seconds else []
    end = time.perf_counter() + seconds
    while not blocks or (time.perf_counter() < end and len(blocks) < 50):
        started = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        blocks.append(1e3 * (time.perf_counter() - started) / count)
    return {"ms": statistics.median(blocks), "shortest_ms": min(blocks), "longest_ms": max(blocks), "first_s": first}


def apart(found: Arrays, reference: Arrays | None) -> dict[str, float]:
    """The largest ‖result − CPU's‖ / ‖CPU's‖ of the outputs."""
    if reference is None:
        return {}
    return {
        "apart": max(
            float(np.linalg.norm(np.float64(found[name]) - array) / max(np.linalg.norm(np.float64(array)), 1e-12))
            for name, array in reference.items()
        )
    }


def torch_contest(
    given: Given, rows: Rows, spec: GraphSpec, arrays: Arrays, reference: Arrays | None, *, compiled: bool
) -> None:
    """The graph's own weights in torch functions: eager, autocast, CUDA graphs, channels last, compiled."""
    import torch

    with open_engine("torch", given.device) as engine:
        graph: Any = engine.load(spec)
        names = [tensor.name for tensor in spec.outputs]

        def forward(values: dict[str, Any]) -> tuple[Any, ...]:
            held = {**graph._constants, **values}
            for step in graph._steps:
                step.into(held)
            return tuple(held[name] for name in names)

        device = torch.device(given.device)
        held = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        what = {"graph": spec.name, "batch": len(arrays[spec.inputs[0].name])}
        torch_rows(given, rows, what, forward, held, names, reference, compiled=compiled)


def torch_rows(
    given: Given,
    rows: Rows,
    what: dict[str, Any],
    forward: Callable[[Any], tuple[Any, ...]],
    held: dict[str, Any],
    names: list[str],
    reference: Arrays | None,
    *,
    compiled: bool,
) -> None:
    """Time one function of torch in the ways that people run it."""
    import torch

    device = next(iter(held.values())).device
    cuda = device.type == "cuda"
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize(device)

    def last(value: Any) -> Any:
        return value.contiguous(memory_format=torch.channels_last_3d) if value.dim() == 5 else value

    def autocast(dtype: Any) -> Callable[[Any], tuple[Any, ...]]:
        def inner(values: Any) -> tuple[Any, ...]:
            with torch.autocast(device.type, dtype):
                return forward(values)

        return inner

    half, brain = torch.float16 if cuda else torch.bfloat16, torch.bfloat16
    name = "fp16" if cuda else "bf16"
    ways: list[tuple[str, Callable[[Any], tuple[Any, ...]], bool, bool]] = [
        ("eager fp32", forward, False, False),
        (f"autocast {name}", autocast(half), False, False),
        (f"autocast {name}, CUDA graph", autocast(half), False, True),
        ("eager fp32, CUDA graph", forward, False, True),
        (f"autocast {name}, channels last", autocast(half), True, False),
    ]
    if cuda:
        ways.append(("autocast bf16", autocast(brain), False, False))
    if compiled and not given.no_compile:
        ways += [
            (f"compiled, autocast {name}", torch.compile(autocast(half)), False, False),
            ("compiled, fp32", torch.compile(forward), False, False),
        ]
    for label, function, channels_last, graph in ways:
        with rows.trying(**what, contestant=f"torch {label}"), torch.inference_mode():
            if not cuda and (graph or "autocast" in label):
                raise RuntimeError("CUDA graphs need a GPU" if graph else NO_HALF)
            if rows.left() < (45 if label.startswith("compiled") else 5):
                raise RuntimeError(TOO_LATE)
            values = {key: last(value) if channels_last else value for key, value in held.items()}
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            kept: dict[str, Any] = {}

            def call(function: Any = function, values: Any = values, kept: Any = kept) -> None:
                kept["out"] = function(values)

            if graph:
                call, kept = captured(call, kept)
            took = timed(call, wait, given.seconds)
            found = {key: value.float().cpu().numpy() for key, value in zip(names, kept["out"], strict=True)}
            memory = round(torch.cuda.max_memory_allocated(device) / 2**20) if cuda else ""
            rows.add(**what, contestant=f"torch {label}", **took, **apart(found, reference), memory_MiB=memory)


def captured(call: Callable[[], None], kept: dict[str, Any]) -> tuple[Callable[[], None], dict[str, Any]]:
    """The call as one CUDA graph of torch."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay, kept


# --- tests -----------------------------------------------------------------------------------------------------------


def tests(given: Given, rows: Rows) -> None:
    """The tests that need a GPU, and the engine contract where a GPU engine is there."""
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-p", "no:cacheprovider", "-m", "gpu", "-rsf", "--tb=short", str(ROOT / "tests" / "gpu")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    print(ran.stdout, ran.stderr)
    lines = [line for line in ran.stdout.splitlines() if line.strip()]
    rows.fact("result", lines[-1] if lines else ran.stderr[-500:])
    rows.fact("exit code", ran.returncode)
    for line in lines:
        if line.startswith(("FAILED", "SKIPPED", "ERROR")):
            rows.add(test=line[:400])


# --- paper -----------------------------------------------------------------------------------------------------------


def paper(given: Given, rows: Rows) -> None:
    """The denoiser of the paper's size, random weights: torch's own modules beside the engines."""
    import torch

    from rediffinet.nets.refiner import ConditionerGraph, DenoiserGraph, Refiner
    from rediffinet.training.config import resolve_config

    config = resolve_config("rediffinet", given.preset or "paper", changes=window_of(given, "refiner")).refiner
    torch.manual_seed(0)
    refiner = Refiner(config).eval().to(given.device)
    module = DenoiserGraph(refiner).eval()
    rows.fact("window", " × ".join(map(str, config.window)))
    rows.fact("parameters", f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M")
    for batch in (1, 2):
        condition = torch.rand(batch, config.condition_channels, *config.window, device=given.device)
        one = torch.ones(batch, device=given.device)
        with torch.inference_mode():
            features = [feature.clone() for feature in ConditionerGraph(refiner)(condition)]
        held = {"x_t": torch.randn(batch, 3, *config.window, device=given.device), "condition": condition}
        held |= {"t": 500 * one, "c0": 0.6 * one, "c1": 0.4 * one}
        held |= {f"feature_{level}": feature for level, feature in enumerate(features)}

        def forward(values: dict[str, Any], levels: int = len(features)) -> tuple[Any, ...]:
            scales = [values[f"feature_{level}"] for level in range(levels)]
            return tuple(module(*(values[key] for key in ("x_t", "condition", "t", "c0", "c1")), scales))

        what = {"graph": "denoiser", "batch": batch}
        torch_rows(given, rows, what, forward, held, ["x_prev", "x0"], None, compiled=batch == 1)
        if batch > 1:
            continue
        del features
        with tempfile.TemporaryDirectory() as folder, rows.trying(**what, contestant="the engines"):
            specs = paper_graph(refiner.cpu(), Path(folder))
            arrays = {key: value.cpu().numpy() for key, value in held.items()}
            refiner.to(given.device)
            for name in engines_of(given.device):
                for precision in ("fp32", "fp16") if name != "torch" else ():
                    row = {**what, "contestant": f"{name} {precision}"}
                    with (
                        rows.trying(**row),
                        used_memory(given.device) as used,
                        open_engine(name, given.device, precision=precision) as engine,
                    ):
                        call, wait, _ = bound(engine, engine.load(specs[precision]), arrays, specs["fp32"])
                        rows.add(**row, **timed(call, wait, given.seconds), memory_MiB=used())


def window_of(given: Given, network: str) -> dict[str, Any]:
    """The change of a preset that `--window` is."""
    return {network: {"window": tuple(map(int, given.window.split(",")))}} if given.window else {}


def paper_graph(refiner: Any, folder: Path) -> dict[str, GraphSpec]:
    """The denoiser's file in fp32 and fp16."""
    from rediffinet.export.graphs import write_graph
    from rediffinet.export.precision import to_fp16
    from rediffinet.method.models import find_model
    from rediffinet.nets.graphs import network_graphs
    from rediffinet.task import TASKS

    source = network_graphs(find_model("rediffinet"), refiner, refiner.config.window, TASKS["glioma-2023"])[1]
    write_graph(source, folder / "denoiser.onnx", "float32")
    to_fp16(folder / "denoiser.onnx", folder / "denoiser-fp16.onnx")
    given, out = source.inputs, source.outputs
    return {
        "fp32": GraphSpec("denoiser", folder / "denoiser.onnx", given, out),
        "fp16": GraphSpec("denoiser", folder / "denoiser-fp16.onnx", given, out, "fp16"),
    }


# --- training --------------------------------------------------------------------------------------------------------


def training(given: Given, rows: Rows) -> None:
    """Steps per second of the default recipe's baseline on random windows; what `rediff train` waits for its loader."""
    import torch

    from rediffinet.nets.unet import UNet
    from rediffinet.training.config import resolve_config
    from rediffinet.training.losses import deep_supervision_loss

    config = resolve_config("unet", given.preset or "tiny-2mm", changes=window_of(given, "unet"))
    device = torch.device(given.device)
    rows.fact("window", " × ".join(map(str, config.unet.window)))
    rows.fact("batch", config.batch)
    image = torch.randn(config.batch, 4, *config.unet.window, device=device)
    regions = (torch.rand(config.batch, 3, *config.unet.window, device=device) > 0.9).float()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def rate(label: str, dtype: Any, *, last: bool = False, compiled: bool = False) -> None:
        with rows.trying(contestant=label):
            if dtype is not None and device.type == "cpu":
                raise RuntimeError(NO_HALF)
            if compiled and (given.no_compile or rows.left() < 45):
                raise RuntimeError(TOO_LATE)
            torch.manual_seed(0)
            net = UNet(config.unet).to(device).train()
            net = net.to(memory_format=torch.channels_last_3d) if last else net
            optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
            run = torch.compile(net) if compiled else net

            def step() -> None:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    loss = deep_supervision_loss(run(image), regions)
                loss.backward()
                optimizer.step()

            took = timed(step, wait, 2 * given.seconds)
            rows.add(contestant=label, **took, steps_per_second=1e3 / took["ms"])

    rate("fp32", None)
    rate("autocast bf16", torch.bfloat16)
    rate("autocast bf16, channels last", torch.bfloat16, last=True)
    with rows.trying(contestant="rediff train, loader"):
        loader_share(given, rows)
    rate("autocast bf16, compiled", torch.bfloat16, compiled=True)
    rate("autocast bf16, channels last, compiled", torch.bfloat16, last=True, compiled=True)


def loader_share(given: Given, rows: Rows) -> None:
    """Steps as `rediff train` takes them, on two phantoms: how long they wait for their batches."""
    from loader import once

    from rediffinet.phantom import write_phantoms
    from rediffinet.training.config import resolve_config
    from rediffinet.training.data import load_training_cases
    from rediffinet.training.objectives import make_objective
    from rediffinet.training.state import new_state

    if rows.left() < 20:
        raise RuntimeError(TOO_LATE)
    changes = {"device": given.device.partition(":")[0], **window_of(given, "unet")}
    config = resolve_config("unet", given.preset or "tiny-2mm", changes=changes)
    with tempfile.TemporaryDirectory() as folder:
        x, y, z = (int(size) for size in given.phantom.split(","))
        write_phantoms(Path(folder), 2, 1, shape=(x, y, z))
        objective = make_objective(config, load_training_cases([Path(folder)], config.preprocessing), None)
        state, steps = new_state(objective), 8
        once(objective, state, 2, 1)
        for threads in (0, 1, 4):
            waited, total = once(objective, state, steps, threads)
            label = f"rediff train, batches made {f'ahead, threads: {threads}' if threads else 'in turn'}"
            rows.add(contestant=label, ms=1e3 * total / steps, waiting_ms=1e3 * waited / steps, waiting=waited / total)
