"""The engines that need no plans, and the driver layer beside torch, on a real GPU. Skipped with the reason without.

pytest -m gpu tests/gpu -rs -s
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.bundle import Bundle, open_bundle
from rediffinet.engines import open_engine
from rediffinet.engines.probe import prove
from rediffinet.engines.tensorrt import cuda
from rediffinet.engines.tensorrt.cuda import Cuda, GpuMemoryError, Launches
from rediffinet.errors import RediffError

pytestmark = pytest.mark.gpu

TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2}


@pytest.fixture(scope="module", autouse=True)
def gpu() -> cuda.Gpu:
    try:
        here = cuda.gpus()
    except RediffError as error:
        pytest.skip(f"no GPU: {str(error).splitlines()[0]}")
    if not here:
        pytest.skip("no GPU: the driver shows none")
    return here[0]


@pytest.fixture(params=["onnxruntime", "torch"])
def engine(request: pytest.FixtureRequest) -> str:
    try:
        open_engine(request.param, "cuda:0").close()
    except RediffError as error:
        pytest.skip(str(error).splitlines()[0])
    return str(request.param)


@pytest.fixture(scope="module")
def bundle(
    make_toy_bundle: Callable[..., Any], make_toy_images: Callable[..., np.ndarray], tmp_path_factory: Any
) -> Bundle:
    """The toy bundle in fp32 and fp16."""
    import shutil

    from rediffinet.export.variants import add_precisions
    from rediffinet.io.cases import Case

    folder: Path = tmp_path_factory.mktemp("gpu") / "bundle"
    shutil.copytree(make_toy_bundle(noise=0.3, time=[0.001, 0.002, 0.003]).path, folder)
    return add_precisions(open_bundle(folder), ("fp16",), [Case.from_arrays("toy", make_toy_images(), np.eye(4))])


def test_the_probe(engine: str) -> None:
    with open_engine(engine, "cuda:0") as opened:
        assert "cuda" in opened.provider.lower()
        prove(opened)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_graph_equals_the_cpu(engine: str, bundle: Bundle, precision: str, batch: int) -> None:
    rng = np.random.default_rng(0)
    with open_engine(engine, "cuda:0") as probe:
        if precision not in probe.precisions:
            pytest.skip(f"{engine} has no {precision} on a GPU")
    with open_engine(engine, "cuda:0", precision=precision) as opened, open_engine("onnxruntime", "cpu") as cpu:
        for name in bundle.manifest.graphs:
            spec = bundle.graph(name)
            given = {
                tensor.name: rng.standard_normal([batch, *(int(size) for size in tensor.shape[1:])], np.float32)
                for tensor in spec.inputs
            }
            got, expected = opened.load(bundle.graph(name, precision))(**given), cpu.load(spec)(**given)
            for output, array in expected.items():
                scale = max(float(np.abs(array).max()), 1e-6)
                assert np.abs(got[output] - array).max() / scale <= TOLERANCE[precision], (name, output)


def test_a_case_equals_the_cpu(engine: str, bundle: Bundle, toy_case: Any) -> None:
    from rediffinet import Segmenter

    with Segmenter.open(bundle.path, "onnxruntime") as segmenter:
        expected = segmenter.segment(toy_case)
    with Segmenter.open(bundle.path, engine, "cuda:0") as segmenter:
        result = segmenter.segment(toy_case)
    assert (result.labels != expected.labels).mean() < 1e-3
    assert result.report.engine.used == engine


# --- the driver layer, which the engines tensorrt and tensorrt-rtx stand on ------------------------------------------


@pytest.fixture
def device(gpu: cuda.Gpu) -> Iterator[Cuda]:
    opened = Cuda(0)
    yield opened
    opened.close()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (3, 5, 7), (2, 4, 64, 64, 64)])
def test_round_trips(device: Cuda, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).standard_normal(shape) * 50).astype(dtype)
    np.testing.assert_array_equal(device.download(device.upload(array), array.dtype, array.shape), array)


def test_round_trips_in_threads(device: Cuda) -> None:
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            array = rng.standard_normal((int(rng.integers(1, 40)), 1000)).astype(np.float32)
            if not np.array_equal(device.download(device.upload(array), array.dtype, array.shape), array):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_uploads_do_not_pile_up(device: Cuda) -> None:
    array = np.zeros((64, 1024, 64), np.float32)
    device.download(device.upload(array), array.dtype, array.shape)
    free, _ = device.memory_bytes()
    for _ in range(100):
        device.download(device.upload(array), array.dtype, array.shape)
    assert free - device.memory_bytes()[0] < 64 << 20


def test_memory_that_is_not_there(device: Cuda) -> None:
    with pytest.raises(GpuMemoryError, match="GPU out of memory"):
        device.allocate(2 * device.memory_bytes()[1])


def test_trim_gives_memory_back(device: Cuda) -> None:
    block = device.upload(np.zeros(256 << 20, np.uint8))
    del block
    device.synchronize()
    before, _ = device.memory_bytes()
    device.trim()
    assert device.memory_bytes()[0] - before >= 200 << 20


def test_close_while_another_thread_downloads(gpu: cuda.Gpu) -> None:
    """Many times: the copy is whole, or the engine says that it is closed."""
    array = np.arange(8 << 20, dtype=np.float32)
    for _ in range(10):
        opened = Cuda(0)
        block, got = opened.upload(array), []

        def read(opened: Cuda = opened, block: Any = block, got: list[Any] = got) -> None:
            try:
                got.append(opened.download(block, array.dtype, array.shape))
            except RediffError as error:
                got.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.002)
        opened.close()
        reader.join()
        assert "closed" in got[0] if isinstance(got[0], str) else np.array_equal(got[0], array)


def test_torch_in_the_same_process_is_left_alone(gpu: cuda.Gpu) -> None:
    """Its memory survives ours, its work on our stream can be recorded and launched again."""
    torch = pytest.importorskip("torch", reason="needs torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA here")
    mine = torch.ones(1000, device="cuda")
    device = Cuda(0)
    source, target = device.upload(np.arange(4096, dtype=np.float32)), device.allocate(4 * 4096)

    def seen(pointer: int) -> Any:
        interface = {"shape": (4096,), "typestr": "<f4", "data": (pointer, False), "version": 3}
        return torch.as_tensor(type("Shared", (), {"__cuda_array_interface__": interface})(), device="cuda")

    stream = torch.cuda.ExternalStream(device.stream)
    x, y = seen(source.pointer), seen(target.pointer)

    def work() -> None:
        with torch.cuda.stream(stream):
            torch.mul(x, 2.0, out=y)

    work()  # loads the kernel: nothing may be loaded while a stream is recorded
    device.synchronize()
    launches = Launches(device, enabled=True)
    for _ in range(20):
        with device.enqueue():
            launches.run((source.pointer, target.pointer), work)
    expected = 2 * np.arange(4096, dtype=np.float32)
    np.testing.assert_array_equal(device.download(target, np.dtype("float32"), (4096,)), expected)
    assert launches.replayed == 19, launches.why_not
    refused = Launches(device, enabled=True)
    for _ in range(3):
        with device.enqueue():
            refused.run((1,), device.synchronize)  # waiting cannot be recorded
    assert not refused.enabled and refused.plain == 3 and refused.why_not
    launches.clear()
    x = y = None
    device.close()
    assert float((mine * 2).sum()) == 2000
