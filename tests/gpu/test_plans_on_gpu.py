"""Every plan, run on a real GPU and compared with the CPU. Skipped with the reason where there is no GPU.

    pytest -m gpu tests/gpu -rs -s

Times are printed, never asserted.
"""

import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rediffinet.bundle import Bundle, open_bundle
from rediffinet.engines import Engine, GraphSpec, open_engine
from rediffinet.engines.probe import prove
from rediffinet.engines.tensorrt import cuda
from rediffinet.engines.tensorrt.plans import list_plans
from rediffinet.errors import RediffError
from rediffinet.export.tensorrt import PRECISIONS, PlanSettings, build_plans
from rediffinet.export.variants import add_precisions
from rediffinet.io.cases import Case

pytestmark = pytest.mark.gpu

CEILING_MIB = 64
TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2, "int8": 0.2}
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@pytest.fixture(scope="module", params=sorted(MODULES))
def name(request: pytest.FixtureRequest) -> str:
    try:
        here = cuda.gpus()
    except RediffError as error:
        pytest.skip(f"no GPU: {str(error).splitlines()[0]}")
    if not here:
        pytest.skip("no GPU: the driver shows none")
    module = MODULES[request.param]
    pytest.importorskip(module, reason=f"{module} is not installed")
    if request.param == "tensorrt-rtx":
        from rediffinet.engines.tensorrt.build import aot_targets

        known = aot_targets(importlib.import_module(module))
        if here[0].target not in known:
            pytest.skip(f"TensorRT-RTX does not run on {here[0]}; it runs on {', '.join(known)}")
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(
    name: str,
    make_toy_bundle: Callable[..., Any],
    make_toy_images: Callable[..., np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """The toy bundle in fp32, fp16 and int8, or a copy of the one that REDIFF_GPU_BUNDLE names; plans for this GPU."""
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    named = os.environ.get("REDIFF_GPU_BUNDLE")
    shutil.copytree(named or make_toy_bundle(noise=0.3, time=[0.001, 0.002, 0.003]).path, folder)
    opened = open_bundle(folder)
    if not named:
        opened = add_precisions(opened, ("fp16", "int8"), [Case.from_arrays("toy", make_toy_images(), np.eye(4))])
    for outcome in build_plans(opened, PlanSettings(precisions=planned(opened), engine=name, rebuild=True)):
        print(f"\n{outcome.plans.path.name}: {outcome.seconds:.1f} s")
        for graph, entry in outcome.plans.plans.items():
            print(f"  {graph}: {len(entry.layers)} layers of the {entry.layers_from}, {entry.precisions}")
    return opened


def planned(bundle: Bundle) -> tuple[str, ...]:
    """The bundle's precisions that have plans: there is no bf16 in TensorRT."""
    return tuple(precision for precision in bundle.precisions if precision in PRECISIONS)


@pytest.fixture
def denoiser(bundle: Bundle) -> GraphSpec:
    if "denoiser" not in bundle.manifest.graphs:
        pytest.skip(f"a bundle of the model '{bundle.manifest.recipe.model}' has no sampling loop")
    return bundle.graph("denoiser")


@pytest.fixture
def engine(name: str) -> Iterator[Engine]:
    with open_engine(name, "cuda:0") as opened:
        yield opened


def inputs(spec: GraphSpec, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    given = {
        tensor.name: rng.standard_normal([batch, *(int(size) for size in tensor.shape[1:])]).astype(np.float32)
        for tensor in spec.inputs
    }
    fixed = {"t": 500.0, "c0": 0.6, "c1": 0.4}
    return given | {key: np.full(batch, value, np.float32) for key, value in fixed.items() if key in given}


def on_cpu(bundle: Bundle, graph: str, given: dict[str, np.ndarray], precision: str = "fp32") -> dict[str, np.ndarray]:
    with open_engine("onnxruntime", "cpu", precision=precision) as engine:
        return engine.load(bundle.graph(graph, precision))(**given)


def close(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> None:
    for output, array in expected.items():
        scale = max(float(np.abs(array).max()), 1e-6)
        assert np.abs(got[output] - array).max() / scale <= tolerance, output


def test_the_probe(engine: Engine) -> None:
    prove(engine)


@pytest.mark.parametrize("batch", [1, 2])
def test_every_plan_equals_the_cpu(name: str, bundle: Bundle, batch: int) -> None:
    """fp16 against fp32; int8 against the same int8 file, whose distance from fp32 is not the GPU's."""
    for precision in planned(bundle):
        with open_engine(name, "cuda:0", precision=precision) as engine:
            for graph in bundle.manifest.graphs:
                diffusion = bundle.manifest.recipe.diffusion
                given = inputs(bundle.graph(graph), min(batch, diffusion.samples if diffusion is not None else 1))
                got = engine.load(bundle.graph(graph, precision))(**given)
                expected = on_cpu(bundle, graph, given, "int8" if precision == "int8" else "fp32")
                close(got, expected, TOLERANCE[precision])


def test_plans_tell_their_real_layers(name: str, bundle: Bundle) -> None:
    """Where there is a GPU the inspector is asked, after fusion; without one plan.json has the network's."""
    for plans in list_plans(bundle.path / "trt"):
        for graph, entry in plans.plans.items():
            assert entry.layers and entry.layers_from == "inspector", graph


def loop(engine: Engine, bundle: Bundle, steps: int) -> tuple[np.ndarray, float]:
    """Denoise on the device: (the last x_t, seconds per step)."""
    spec = bundle.graph("denoiser", engine.precision)
    graph, given = engine.load(spec), inputs(spec, 1)
    held = {key: engine.upload(array) for key, array in given.items()}
    state = [held.pop("x_t"), engine.empty(given["x_t"].shape, "float32")]
    x0 = engine.empty(given["x_t"].shape, "float32")
    graph.run({"x_t": state[0], **held}, {"x_prev": state[1], "x0": x0})  # compiles, captures
    engine.download(state[1])
    started = time.perf_counter()
    for _ in range(steps):
        graph.run({"x_t": state[0], **held}, {"x_prev": state[1], "x0": x0})
        state.reverse()
    result = engine.download(state[0])
    seconds = (time.perf_counter() - started) / steps
    launches = graph.launches
    print(f"\n{launches.plain} plain launches, {launches.recorded} recorded, {launches.replayed} of recordings")
    if engine.name == "tensorrt" and engine.cuda_graphs:
        assert launches.replayed >= steps - 4, launches.why_not
    return result, seconds


def test_a_loop_is_the_same_with_and_without_cuda_graphs(name: str, bundle: Bundle, denoiser: GraphSpec) -> None:
    results = {}
    for graphs in (False, True):
        with open_engine(name, "cuda:0", cuda_graphs=graphs) as engine:
            results[graphs], seconds = loop(engine, bundle, 50)
            print(f"{name}, CUDA graphs {'on' if graphs else 'off'}: {1e3 * seconds:.3f} ms per step")
    np.testing.assert_allclose(results[True], results[False], rtol=1e-4, atol=1e-5)
    given = inputs(denoiser, 1)
    for _ in range(50):
        given["x_t"] = on_cpu(bundle, "denoiser", given)["x_prev"]
    close({"x": results[True]}, {"x": given["x_t"]}, 1e-2)


def test_many_repeats_stay_under_a_ceiling(engine: Engine, bundle: Bundle) -> None:
    graph = engine.load(bundle.graph(next(iter(bundle.manifest.graphs))))
    given = inputs(graph.spec, 1)
    expected = graph(**given)
    free, _ = engine.cuda.memory_bytes()
    for _ in range(300):
        got = graph(**given)
    for output in expected:
        np.testing.assert_array_equal(got[output], expected[output])
    left, _ = engine.cuda.memory_bytes()
    assert free - left < CEILING_MIB << 20


def test_a_case_equals_the_cpu(name: str, bundle: Bundle, toy_case: Any) -> None:
    from rediffinet import Segmenter

    with Segmenter.open(bundle.path, "onnxruntime") as segmenter:
        expected = segmenter.segment(toy_case)
    with Segmenter.open(bundle.path, name, "cuda:0") as segmenter:
        segmenter.segment(toy_case)
        started = time.perf_counter()
        result = segmenter.segment(toy_case)
        print(f"\n{name}: {time.perf_counter() - started:.3f} s for a case")
    assert (result.labels != expected.labels).mean() < 1e-3
    assert result.report.engine.used == name


def test_memory_that_is_not_there(engine: Engine) -> None:
    _, total = engine.cuda.memory_bytes()
    with pytest.raises(RediffError, match="GPU out of memory"):
        engine.empty((2 * total,), "uint8")
