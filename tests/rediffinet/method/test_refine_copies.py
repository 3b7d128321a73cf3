"""The sampling loop keeps its data on the device: the host's copies are counted through an engine that counts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the counted engine is onnxruntime's (extra 'cpu')")

from rediffinet.bundle import Bundle, open_bundle
from rediffinet.engines import open_engine
from rediffinet.engines.base import Array, Buffer, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.method.refine import Sampler
from rediffinet.method.schedule import cumulative_alphas, linear_betas, respace


class CountingEngine(Engine):
    """An engine as a GPU's is, with its own memory: whatever passes between the host and it is counted by shape."""

    name, device, provider, version = "counting", "cpu", "counting", "1"

    def __init__(self, inner: Engine) -> None:
        super().__init__()
        self.inner = inner
        self.uploads: Counter[tuple[int, ...]] = Counter()
        self.downloads: Counter[tuple[int, ...]] = Counter()
        self.reserved: Counter[tuple[int, ...]] = Counter()
        self.runs: Counter[str] = Counter()

    def _load(self, spec: GraphSpec) -> "CountingGraph":
        return CountingGraph(spec, self, self.inner.load(spec))

    def _upload(self, array: Array) -> Buffer:
        self.uploads[array.shape] += 1
        return self.inner.upload(array)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        self.reserved[shape] += 1
        return self.inner.empty(shape, dtype.name)

    def _download(self, value: Buffer) -> Array:
        self.downloads[value.shape] += 1
        return self.inner.download(value)


class CountingGraph(Graph):
    def __init__(self, spec: GraphSpec, engine: CountingEngine, inner: Graph) -> None:
        super().__init__(spec, engine)
        self.counting, self.inner = engine, inner

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self.inner._signature()

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self.counting.runs[self.spec.name] += 1
        self.inner.run({k: b.value for k, b in inputs.items()}, {k: b.value for k, b in outputs.items()})

    def _close(self) -> None:
        self.inner._close()


@pytest.fixture
def engine() -> Iterator[CountingEngine]:
    with open_engine("onnxruntime", threads=1) as inner:
        yield CountingEngine(inner)


@pytest.fixture
def opened(make_toy_bundle: Any) -> Bundle:
    return open_bundle(make_toy_bundle(noise=0.3, time=(1e-3, 0.0, -1e-3)).path)


@pytest.mark.parametrize(("steps", "samples"), [(1, 1), (4, 3), (10, 2)])
def test_no_copy_per_step(engine: CountingEngine, opened: Bundle, steps: int, samples: int) -> None:
    diffusion = opened.manifest.recipe.diffusion
    alphas = cumulative_alphas(linear_betas(diffusion.train_steps, diffusion.beta_first, diffusion.beta_last))
    graphs = {name: engine.load(opened.graph(name)) for name in ("conditioner", "denoiser")}
    sampler = Sampler(engine, graphs["conditioner"], graphs["denoiser"], respace(alphas, steps))
    reserved = engine.reserved.total()
    window = opened.manifest.recipe.refiner.window
    rng = np.random.default_rng(0)
    windows = 2
    for _ in range(windows):
        condition = rng.normal(size=(7, *window)).astype(np.float32)
        noises = [rng.normal(size=(3, *window)).astype(np.float32) for _ in range(samples)]
        sampler.window(condition, noises)
    assert engine.runs == {"conditioner": windows, "denoiser": windows * samples * steps}
    # a volume goes up once per condition and per noise, and comes down once per sample: never once per step
    assert engine.uploads[1, 7, *window] == windows
    assert engine.uploads[1, 3, *window] == windows * samples
    assert engine.downloads == {(1, 3, *window): windows * samples}
    # what is left are the schedule's numbers, each value once, whatever the number of windows
    assert set(engine.uploads) <= {(1, 7, *window), (1, 3, *window), (1,)}
    assert engine.uploads[(1,)] <= 3 * steps
    assert engine.reserved.total() == reserved  # and no buffer is made in the loop


def test_results_are_those_of_the_engine_itself(engine: CountingEngine, opened: Bundle) -> None:
    """So that what was counted is the loop that runs."""
    diffusion = opened.manifest.recipe.diffusion
    alphas = cumulative_alphas(linear_betas(diffusion.train_steps, diffusion.beta_first, diffusion.beta_last))
    window = opened.manifest.recipe.refiner.window
    rng = np.random.default_rng(1)
    condition = rng.normal(size=(7, *window)).astype(np.float32)
    noises = [rng.normal(size=(3, *window)).astype(np.float32)]
    found = []
    for one in (engine, engine.inner):
        graphs = {name: one.load(opened.graph(name)) for name in ("conditioner", "denoiser")}
        sampler = Sampler(one, graphs["conditioner"], graphs["denoiser"], respace(alphas, 3))
        found.append(sampler.window(condition, noises))
    np.testing.assert_array_equal(found[0], found[1])
