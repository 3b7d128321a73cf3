"""The TensorRT engine on a GPU that is not there.

The driver and the module are stand-ins. The driver's stream is lazy: nothing that is enqueued happens before someone
waits, so a forgotten wait, or pinned memory used again too early, gives wrong numbers. The module runs the ONNX file
inside its "plan" with ONNX's reference evaluator on the driver's memory. That the real ones have what is called here is
tested in test_tensorrt_api.py; that they do what it is called for, only on a GPU (tests/gpu).
"""

# ruff: noqa: N802, N815 (the names of the CUDA driver)

import ctypes
import enum
import gc
import hashlib
import importlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rediffinet.engines import Engine, GraphSpec, TensorSpec, open_engine
from rediffinet.engines.tensorrt import cuda
from rediffinet.engines.tensorrt.plans import DESCRIPTION, PlanEntry, PlanKey, PlanSet, read_plans
from rediffinet.errors import EngineError, ExportError

GPU_MEMORY = 64 << 20
MAGIC = b"PLAN"


class FakeDriver:
    """libcuda with one stream, which runs what was enqueued when someone waits."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.queue: list[Callable[[], None]] = []
        self.blocks: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.events: dict[int, bool] = {}
        self.numbers = itertools.count(1)
        self.current = threading.local()
        self.launches = 0
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.refuses_to_record = False
        self.before_waiting: Callable[[], None] | None = None
        self.broken = 0

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stand-in for libcuda has no {name}")

    def flush(self) -> None:
        assert self.recording is None, "waited while recording"
        with self.lock:
            while self.queue:
                self.queue.pop(0)()

    def used(self) -> int:
        return sum(len(block) for block in self.blocks.values())

    def enqueue(self, work: Callable[[], None]) -> None:
        assert self.stack(), "no CUDA context is current in this thread"
        with self.lock:
            (self.queue if self.recording is None else self.recording).append(work)

    def cuGetErrorName(self, code: int, out: Any) -> int:
        out._obj.value = b"CUDA_ERROR_FAKE"
        return 0

    def cuGetErrorString(self, code: int, out: Any) -> int:
        out._obj.value = b"stand-in"
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:
        out._obj.value = 13000
        return 0

    def cuDeviceGetCount(self, out: Any) -> int:
        out._obj.value = 1
        return 0

    def cuDeviceGet(self, out: Any, index: int) -> int:
        out._obj.value = index
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: Any) -> int:
        out.value = b"NVIDIA A40"
        return 0

    def cuDeviceGetAttribute(self, out: Any, which: int, device: Any) -> int:
        out._obj.value = {75: 8, 76: 6}[which]
        return 0

    def cuDeviceTotalMem_v2(self, out: Any, device: Any) -> int:
        out._obj.value = GPU_MEMORY
        return 0

    def cuDevicePrimaryCtxRetain(self, out: Any, device: Any) -> int:
        out._obj.value = 77
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:
        assert not self.queue and not self.blocks and not self.pinned and not self.events and not self.graphs
        return 0

    def stack(self) -> list[Any]:
        """The contexts of the calling thread, the current one last."""
        return self.current.__dict__.setdefault("stack", [])

    def cuCtxPushCurrent_v2(self, context: Any) -> int:
        self.stack().append(context)
        return 0

    def cuCtxPopCurrent_v2(self, out: Any) -> int:
        out._obj.value = getattr(self.stack().pop(), "value", None)
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = GPU_MEMORY - self.used(), GPU_MEMORY
        return 0

    def cuMemAlloc_v2(self, out: Any, size: int) -> int:
        assert self.recording is None, "allocated while recording"
        if self.used() + size > GPU_MEMORY:
            return 2
        block = ctypes.create_string_buffer(b"\xaa" * size, size)
        out._obj.value = ctypes.addressof(block)
        self.blocks[ctypes.addressof(block)] = block
        return 0

    def cuMemFree_v2(self, pointer: int) -> int:
        self.flush()  # as the real one waits for the device
        del self.blocks[pointer]
        return 0

    def cuMemHostAlloc(self, out: Any, size: int, flags: int) -> int:
        block = ctypes.create_string_buffer(size)
        out._obj.value = ctypes.addressof(block)
        self.pinned[ctypes.addressof(block)] = block
        return 0

    def cuMemFreeHost(self, pointer: int) -> int:
        del self.pinned[pointer]
        return 0

    def _copy(self, target: int, source: int, size: int) -> int:
        self.enqueue(lambda: ctypes.memmove(target, source, size) and None)
        return 0

    cuMemcpyHtoDAsync_v2 = cuMemcpyDtoHAsync_v2 = lambda self, target, source, size, stream: self._copy(
        target, source, size
    )

    def cuStreamCreate(self, out: Any, flags: int) -> int:
        assert flags == 1  # not ordered with the default stream
        out._obj.value = 5
        return 0

    def cuStreamSynchronize(self, stream: int) -> int:
        if self.broken:
            self.queue.clear()
            return self.broken
        self.flush()
        return 0

    def cuStreamDestroy_v2(self, stream: int) -> int:
        return 0

    def cuStreamBeginCapture_v2(self, stream: int, mode: int) -> int:
        assert (stream, mode) == (5, 1) and self.recording is None
        self.recording = []
        return 0

    def cuStreamEndCapture(self, stream: int, out: Any) -> int:
        recorded, self.recording = self.recording, None
        if self.refuses_to_record:
            return 901
        out._obj.value = next(self.numbers)
        self.graphs[out._obj.value] = recorded
        return 0

    def cuGraphInstantiateWithFlags(self, out: Any, graph: Any, flags: int) -> int:
        out._obj.value = next(self.numbers)
        self.graphs[out._obj.value] = list(self.graphs[graph.value])
        return 0

    def cuGraphLaunch(self, graph: int, stream: int) -> int:
        assert stream == 5
        for work in self.graphs[graph]:
            self.enqueue(work)
        return 0

    def cuGraphDestroy(self, graph: Any) -> int:
        del self.graphs[graph.value]
        return 0

    def cuGraphExecDestroy(self, graph: int) -> int:
        assert not self.queue  # the real one is asked only after the stream is empty
        del self.graphs[graph]
        return 0

    def cuEventCreate(self, out: Any, flags: int) -> int:
        out._obj.value = next(self.numbers)
        self.events[out._obj.value] = False
        return 0

    def cuEventRecord(self, event: Any, stream: int) -> int:
        number = event.value
        self.enqueue(lambda: self.events.__setitem__(number, True))
        return 0

    def cuEventQuery(self, event: Any) -> int:
        return 0 if self.events[event.value] else 600

    def cuEventSynchronize(self, event: Any) -> int:
        assert self.stack(), "no CUDA context is current in this thread"
        if self.before_waiting is not None:
            self.before_waiting()
        if self.broken:
            return self.broken
        self.flush()
        assert self.events[event.value]
        return 0

    def cuEventDestroy_v2(self, event: Any) -> int:
        del self.events[event.value]
        return 0


def fake_module(name: str, driver: FakeDriver) -> ModuleType:
    """`tensorrt` or `tensorrt_rtx`, whose plans are MAGIC and an ONNX file."""
    trt = ModuleType(name)
    kinds: dict[str, Any] = {}

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        def __init__(self) -> None:
            pass

    class Mode(enum.Enum):
        INPUT = 1
        OUTPUT = 2

    class Context:
        def __init__(self, engine: Any) -> None:
            self.engine, self.shapes, self.places = engine, {}, {}

        def set_input_shape(self, tensor: str, shape: tuple[int, ...]) -> bool:
            self.shapes[tensor] = tuple(shape)
            return True

        def set_tensor_address(self, tensor: str, place: int) -> bool:
            self.places[tensor] = place
            return True

        def execute_async_v3(self, stream: int) -> bool:
            assert stream == 5
            driver.launches += 1
            shapes, places = dict(self.shapes), dict(self.places)
            driver.enqueue(lambda: self.engine.run(shapes, places))
            return True

    class CudaEngine:
        def __init__(self, model: bytes) -> None:
            self.model = onnx.load_from_string(model)
            graph = self.model.graph
            self.tensors = [(value, Mode.INPUT) for value in graph.input]
            self.tensors += [(value, Mode.OUTPUT) for value in graph.output]
            self.by_name = {value.name: (value, mode) for value, mode in self.tensors}
            self.num_io_tensors = len(self.tensors)

        def get_tensor_name(self, index: int) -> str:
            return str(self.tensors[index][0].name)

        def get_tensor_mode(self, tensor: str) -> Mode:
            return self.by_name[tensor][1]

        def get_tensor_dtype(self, tensor: str) -> Any:
            kind = self.by_name[tensor][0].type.tensor_type.elem_type
            return SimpleNamespace(name={TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF"}[kind])

        def get_tensor_shape(self, tensor: str) -> tuple[int, ...]:
            sizes = self.by_name[tensor][0].type.tensor_type.shape.dim
            return tuple(-1 if size.dim_param else size.dim_value for size in sizes)

        def get_tensor_profile_shape(self, tensor: str, profile: int) -> list[tuple[int, ...]]:
            shape = self.get_tensor_shape(tensor)
            if all(size >= 0 for size in shape):
                return []  # a profile says nothing of a static input
            return [tuple(batch if size < 0 else size for size in shape) for batch in (1, 1, 2)]

        def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
            return int(kinds.get("scratch", 0))

        def create_execution_context(self, config: Any = None) -> Context | None:
            kinds["config"] = config
            return None if kinds.get("scratch", 0) else Context(self)

        def run(self, shapes: dict[str, Any], places: dict[str, int]) -> None:
            given = {}
            for value, mode in self.tensors:
                if mode is Mode.INPUT:
                    count = int(np.prod(shapes[value.name])) * 4
                    content = ctypes.string_at(places[value.name], count)
                    given[value.name] = np.frombuffer(content, np.float32).reshape(shapes[value.name])
            names = [value.name for value, mode in self.tensors if mode is Mode.OUTPUT]
            for tensor, array in zip(names, ReferenceEvaluator(self.model).run(names, given), strict=True):
                content = np.ascontiguousarray(array, np.float32).tobytes()
                ctypes.memmove(places[tensor], content, len(content))

        def create_runtime_config(self) -> Any:
            return SimpleNamespace(create_runtime_cache=Cache, set_runtime_cache=lambda cache: None)

    class Cache:
        def deserialize(self, content: bytes) -> bool:
            kinds["restored"] = content
            return True

        def serialize(self) -> bytes:
            return b"compiled"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
            if not plan.startswith(MAGIC):
                self.logger.log(ILogger.ERROR, "magic tag does not match")
                return None
            return CudaEngine(plan[len(MAGIC) :])

    trt.__version__ = "1.7.1" if name == "tensorrt_rtx" else "11.4.0"
    trt.ILogger, trt.TensorIOMode, trt.Runtime = ILogger, Mode, Runtime
    trt.kinds = kinds
    if name == "tensorrt_rtx":
        trt.IRuntimeCache = Cache
        trt.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
        trt.DynamicShapesKernelSpecializationStrategy = enum.Enum("Specialization", "LAZY EAGER NONE")
        trt.EngineValidity = enum.Enum("EngineValidity", "VALID SUBOPTIMAL INVALID")
        trt.EngineInvalidityDiagnostics = enum.IntFlag("Why", "VERSION_MISMATCH UNSUPPORTED_CC OLD_CUDA_DRIVER")
        verdict = (trt.EngineValidity.VALID, 0)
        Runtime.get_engine_validity = lambda self, plan: kinds.get("verdict", verdict)
    return trt


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver()
    monkeypatch.setattr(cuda.driver, "library", lambda: made)
    return made


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def engine(
    request: pytest.FixtureRequest, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Engine]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    module = request.param.replace("-", "_")
    monkeypatch.setitem(sys.modules, module, fake_module(module, driver))
    with open_engine(request.param, "cuda:0") as opened:
        yield opened


VOLUME = ("batch", 2, 3, 4, 5)


@pytest.fixture
def spec(tmp_path: Path, engine: Engine) -> GraphSpec:
    """y = w · x + c with plans for the GPU at hand."""
    rng = np.random.default_rng(1)
    tensors = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, VOLUME),
        helper.make_tensor_value_info("c", TensorProto.FLOAT, ["batch"]),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, VOLUME)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Unsqueeze", ["c", "axes"], ["k"]),
        helper.make_node("Add", ["h", "k"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.6, (2, 2, 1, 1, 1)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([1, 2, 3, 4]), "axes"),
    ]
    graph = helper.make_graph(nodes, "g", tensors, [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "g.onnx").write_bytes(model)
    inputs = (TensorSpec("x", "float32", VOLUME), TensorSpec("c", "float32", ("batch",)))
    made = GraphSpec("g", bundle / "g.onnx", inputs, (TensorSpec("y", "float32", VOLUME),), "fp32", bundle / "trt")
    write_plans(made, key(engine))
    return made


def key(engine: Engine, **changes: Any) -> PlanKey:
    rtx = engine.name == "tensorrt-rtx"
    made = PlanKey(engine.name.replace("-", "_"), engine.version, "sm86" if rtx else "NVIDIA A40", "fp32", 2, "8.6")
    return replace(made, **changes)


def write_plans(spec: GraphSpec, made: PlanKey, **changes: Any) -> PlanSet:
    """Write the plan of one graph, beside those that are there."""
    model = spec.path.read_bytes()
    plan = MAGIC + model
    assert spec.compiled is not None
    folder = spec.compiled / made.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{spec.name}.plan").write_bytes(plan)
    digests = hashlib.sha256(plan).hexdigest(), len(plan), hashlib.sha256(model).hexdigest()
    entry = replace(PlanEntry(f"{spec.name}.plan", *digests, 0.1, (), (), ()), **changes)
    others = read_plans(folder).plans if (folder / DESCRIPTION).is_file() else {}
    plans = PlanSet(folder, made, {**others, spec.name: entry})
    plans.write(folder)
    return plans


def arrays(batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(batch, *VOLUME[1:])).astype(np.float32),
        "c": rng.normal(size=batch).astype(np.float32),
    }


def reference(spec: GraphSpec, given: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(ReferenceEvaluator(str(spec.path)).run(["y"], given)[0])


def test_says_what_it_is(engine: Engine) -> None:
    assert engine.device == "cuda:0"
    assert engine.provider == f"{engine.name.replace('-', '_')} on NVIDIA A40 (sm86)"


@pytest.mark.parametrize("batch", [1, 2])
def test_equals_the_reference(engine: Engine, spec: GraphSpec, batch: int) -> None:
    graph = engine.load(spec)
    for seed in range(3):
        given = arrays(batch, seed)
        np.testing.assert_allclose(graph(**given)["y"], reference(spec, given), atol=1e-5)


def test_a_loop_copies_nothing_between_its_steps(engine: Engine, spec: GraphSpec, driver: FakeDriver) -> None:
    graph, given = engine.load(spec), arrays(2)
    held = {name: engine.upload(array) for name, array in given.items()}
    state = [held.pop("x"), engine.empty((2, *VOLUME[1:]), "float32")]
    before = list(engine.cuda.copies)
    expected = given["x"]
    for _ in range(10):
        graph.run({"x": state[0], **held}, {"y": state[1]})
        state.reverse()
        expected = reference(spec, {**given, "x": expected})
    assert engine.cuda.copies == before
    # TensorRT: two plain runs, two that are recorded, the rest launched from the recordings of the two directions
    assert driver.launches == (10 if engine.name == "tensorrt-rtx" else 4)
    np.testing.assert_allclose(engine.download(state[0]), expected, rtol=1e-4, atol=1e-4)
    assert engine.cuda.copies == [before[0], before[1] + 1]


def test_uploads_that_are_under_way_keep_their_own_pinned_memory(engine: Engine) -> None:
    sent = [np.full((64, 64), value, np.float32) for value in range(5)]
    buffers = [engine.upload(array) for array in sent]
    for array in sent:
        array[...] = -1
    for value, buffer in enumerate(buffers):
        np.testing.assert_array_equal(engine.download(buffer), np.full((64, 64), value, np.float32))


def test_memory_is_used_again(engine: Engine, driver: FakeDriver) -> None:
    for value in range(200):
        buffer = engine.upload(np.full(300_000, value, np.float32))
        result = engine.download(buffer)
        assert result[0] == result[-1] == value
    del buffer
    gc.collect()
    assert len(driver.blocks) <= 2
    assert len(driver.pinned) <= 3


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_upload_and_download_keep_the_dtype(engine: Engine, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(1).normal(size=shape) * 9).astype(dtype)
    got = engine.download(engine.upload(array.T))
    np.testing.assert_array_equal(got, array.T)
    assert got.dtype == dtype


def test_threads_run_one_graph_together(engine: Engine, spec: GraphSpec) -> None:
    graph = engine.load(spec)
    given = [arrays(1, seed) for seed in range(3)]
    expected = [reference(spec, each) for each in given]
    worst = [np.inf] * 3

    def work(index: int) -> None:
        differences = [np.abs(graph(**given[index])["y"] - expected[index]).max() for _ in range(8)]
        worst[index] = max(differences)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) < 1e-5


def test_gpu_without_memory(engine: Engine) -> None:
    held = engine.upload(np.zeros(40 << 20, np.uint8))
    with pytest.raises(EngineError, match=r"GPU out of memory on NVIDIA A40.*24 MiB of 64 MiB are free.*40 MiB more"):
        engine.upload(np.zeros(40 << 20, np.uint8))
    with pytest.raises(EngineError, match=r"needs 64 MiB more; a batch of 1 would fit, going by proportion"):
        engine.empty((4, 4, 128, 128, 64), "float32")
    with pytest.raises(EngineError, match=r"needs 64 MiB more; it does not fit; a window of 184 × 88 × 88 would"):
        engine.empty((1, 4, 256, 128, 128), "float32")
    del held
    engine.upload(np.zeros((40 << 20) + 5000, np.uint8))  # the block that is free now is given back for another size


def test_plan_that_does_not_fit_the_gpu_memory(engine: Engine, spec: GraphSpec) -> None:
    engine.trt.kinds["scratch"] = 100 << 20
    with pytest.raises(EngineError, match=r"window of 3 × 4 × 5 in a batch of 2 needs 100 MiB.*batch of 1 would fit"):
        engine.load(spec)
    engine.trt.kinds["scratch"] = 300 << 20
    with pytest.raises(EngineError, match="not even a batch of 1 would fit, nor would a smaller window: free the GPU"):
        engine.load(spec)


def test_batch_beyond_the_plan(engine: Engine, spec: GraphSpec) -> None:
    graph = engine.load(spec)
    with pytest.raises(EngineError, match=r"batch of 3, the plan was built for 1 to 2; .*--batch 3 --rebuild"):
        graph(**arrays(3))


def test_plan_that_is_missing(engine: Engine, spec: GraphSpec, tmp_path: Path) -> None:
    target = "sm86" if engine.name == "tensorrt-rtx" else "current"
    command = rf"rediff plan {tmp_path} --trt-target {target} --precision fp32 --rebuild"
    with pytest.raises(EngineError, match=rf"(?s)no plan for .* on NVIDIA A40 in fp32.*there is none.*{command}"):
        engine.load(replace(spec, compiled=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"target": "sm89"}, "built for sm89"),
        ({"version": "0.9"}, "built with tensorrt.* 0.9"),
        ({"module": "other"}, "built with other"),
    ],
)
def test_plan_of_another_machine(engine: Engine, spec: GraphSpec, changes: dict[str, Any], why: str) -> None:
    elsewhere = replace(spec, compiled=spec.compiled.parent / "elsewhere")
    write_plans(elsewhere, key(engine, **changes))
    with pytest.raises(EngineError, match=rf"(?s)no plan for.*{why}.*rediff plan"):
        engine.load(elsewhere)


def test_compatible_plan_of_another_gpu(engine: Engine, spec: GraphSpec) -> None:
    elsewhere = replace(spec, compiled=spec.compiled.parent / "elsewhere")
    write_plans(elsewhere, key(engine, target="NVIDIA A100", hardware_compatible=True))
    assert engine.load(elsewhere)(**arrays(1))["y"].shape == (1, *VOLUME[1:])


def test_plan_of_another_graph(engine: Engine, spec: GraphSpec) -> None:
    write_plans(spec, key(engine), graph_sha256="0" * 64)
    with pytest.raises(EngineError, match="built from another graph.*exported again"):
        engine.load(spec)


def test_plan_that_was_altered(engine: Engine, spec: GraphSpec) -> None:
    path = spec.compiled / key(engine).folder / "g.plan"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(EngineError, match=r"g\.plan was altered or cut.*rediff plan .* --rebuild"):
        engine.load(spec)
    path.unlink()
    with pytest.raises(EngineError, match=r"g\.plan cannot be read"):
        engine.load(spec)


def test_plan_json_that_cannot_be_read(engine: Engine, spec: GraphSpec) -> None:
    (spec.compiled / key(engine).folder / "plan.json").write_text("{")
    with pytest.raises(EngineError, match=r"plan\.json cannot be read.*build it again"):
        engine.load(spec)


def test_plan_that_the_module_refuses(engine: Engine, spec: GraphSpec) -> None:
    plans = write_plans(spec, key(engine))
    path = plans.path / "g.plan"
    path.write_bytes(b"rubbish")
    write = replace(plans.plans["g"], sha256=hashlib.sha256(b"rubbish").hexdigest())
    PlanSet(plans.path, plans.key, {"g": write}).write(plans.path)
    with pytest.raises(EngineError, match=r"does not take the plan: magic tag does not match\n.*--rebuild"):
        engine.load(spec)


def test_file_that_does_not_fit_the_spec(engine: Engine, spec: GraphSpec) -> None:
    x, c = spec.inputs
    with pytest.raises(EngineError, match=r"'x': got float32 \(\?, 2.*expected float32 \(batch, 7"):
        engine.load(replace(spec, inputs=(replace(x, shape=("batch", 7, 3, 4, 5)), c)))


def test_precision_that_was_not_asked_for(engine: Engine, spec: GraphSpec) -> None:
    with pytest.raises(EngineError, match="graph .g. is in fp16, engine .* was opened for fp32"):
        engine.load(replace(spec, precision="fp16"))


def test_closed_engine(engine: Engine, spec: GraphSpec, driver: FakeDriver) -> None:
    graph = engine.load(spec)
    buffer = engine.upload(np.zeros(3))
    engine.close()
    engine.close()
    assert not driver.blocks and not driver.pinned and not driver.events
    with pytest.raises(EngineError, match="closed"):
        graph(**arrays(1))
    del buffer  # its memory is gone already


def test_close_waits_for_a_download_in_another_thread(engine: Engine, driver: FakeDriver) -> None:
    """The memory that the download copies from is there until it has its array."""
    closing = threading.Event()
    buffer, got = engine.upload(np.arange(5000.0)), []

    def before_waiting() -> None:
        closer.start()
        closing.wait(10)
        for _ in range(50):  # close is at work now: it must not get to the memory
            assert driver.pinned and engine.cuda._waiting
            time.sleep(0.001)

    def close() -> None:
        closing.set()
        engine.close()

    closer = threading.Thread(target=close)
    driver.before_waiting = before_waiting
    reader = threading.Thread(target=lambda: got.append(engine.download(buffer)))
    reader.start()
    reader.join(20)
    closer.join(20)
    assert not reader.is_alive() and not closer.is_alive()
    np.testing.assert_array_equal(got[0], np.arange(5000.0))
    assert engine.cuda.closed and not driver.pinned and not driver.blocks and not driver.events


def test_gpu_in_an_error_state_is_let_go_of_completely(engine: Engine, spec: GraphSpec, driver: FakeDriver) -> None:
    """CUDA_ERROR_ILLEGAL_ADDRESS stays until the process ends: everything says no, and close still comes to its end."""
    graphs = [engine.load(spec) for _ in range(2)]
    for graph in graphs:
        steps(engine, graph, 6)
    released = []
    driver.cuDevicePrimaryCtxRelease_v2 = lambda device: released.append(device) or 700
    driver.broken = 700
    buffer = engine.upload(np.zeros(3))
    with pytest.raises(EngineError, match="cuEventSynchronize failed with 700"):
        engine.download(buffer)
    engine.close()
    assert engine.cuda.closed and len(released) == 1
    assert not driver.pinned and not driver.blocks and not driver.events and not driver.graphs
    assert [graph._context for graph in graphs] == [None, None]
    engine.close()
    assert len(released) == 1


def test_graph_that_is_refused_is_closed(
    engine: Engine, spec: GraphSpec, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rediffinet.engines.tensorrt.engine import TensorRtGraph

    closed, close = [], TensorRtGraph._close
    monkeypatch.setattr(TensorRtGraph, "_close", lambda graph: closed.append(graph) or close(graph))
    x, c = spec.inputs
    with pytest.raises(EngineError, match="expected float32"):
        engine.load(replace(spec, inputs=(replace(x, shape=("batch", 7, 3, 4, 5)), c)))
    engine.trt.kinds["scratch"] = 100 << 20
    with pytest.raises(EngineError, match="needs 100 MiB"):
        engine.load(spec)
    assert len(closed) == 2 and all(graph._engine is None for graph in closed)


def test_the_callers_context_is_current_again_after_every_call(
    engine: Engine, spec: GraphSpec, driver: FakeDriver
) -> None:
    """As in a process whose torch uses another GPU."""
    driver.cuCtxPushCurrent_v2("another GPU's")
    graph = engine.load(spec)
    steps(engine, graph, 6)
    with pytest.raises(EngineError, match="out of memory"):
        engine.empty((GPU_MEMORY + 1,), "uint8")
    engine.close()
    assert driver.stack() == ["another GPU's"]


def test_memory_that_is_kept_for_later_is_given_back_before_the_module_allocates(
    engine: Engine, spec: GraphSpec, driver: FakeDriver
) -> None:
    del engine.upload(np.zeros(30 << 20, np.uint8)).value
    gc.collect()
    assert driver.used() >= 30 << 20
    used: list[int] = []
    real = engine.runtime.deserialize_cuda_engine
    engine.runtime.deserialize_cuda_engine = lambda plan: used.append(driver.used()) or real(plan)
    engine.load(spec)
    assert used == [0]


def test_static_inputs_of_which_the_profile_says_nothing(engine: Engine, spec: GraphSpec) -> None:
    """A graph for a batch of 1 alone."""
    model = onnx.load(spec.path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    spec.path.write_bytes(model.SerializeToString())
    inputs, outputs = (tuple(replace(t, shape=(1, *t.shape[1:])) for t in of) for of in (spec.inputs, spec.outputs))
    static = replace(spec, inputs=inputs, outputs=outputs)
    write_plans(static, key(engine))
    given = arrays(1)
    np.testing.assert_allclose(engine.load(static)(**given)["y"], reference(static, given), atol=1e-5)


def test_gpu_for_which_tensorrt_rtx_is_not(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100 (sm90): no advice to build plans that do not exist."""
    trt: Any = fake_module("tensorrt_rtx", driver)
    trt.ComputeCapability = enum.Enum("ComputeCapability", "SM80 SM89 SM120")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    attributes = {75: 9, 76: 0}
    monkeypatch.setattr(
        driver, "cuDeviceGetAttribute", lambda out, which, device: setattr(out._obj, "value", attributes[which]) or 0
    )
    with pytest.raises(EngineError, match=r"is for sm80, sm89, sm120, not for sm90\.\nUse the engine tensorrt") as told:
        open_engine("tensorrt-rtx", "cuda:0")
    assert "trt-target" not in str(told.value)
    assert not driver.stack()


def test_package_that_only_stands_for_tensorrt(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyPI has it without NVIDIA's index: imports, or names a library that is not there."""
    from rediffinet.engines import survey

    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(
        EngineError, match=r"stands for the library.*\n.*NVIDIA's own index:\npip install --extra-index"
    ):
        open_engine("tensorrt", "cuda:0")
    [row] = [row for row in survey(("cuda:0",)) if row.engine == "tensorrt"]
    assert not row.works and "--extra-index-url https://pypi.nvidia.com" in row.detail

    real = importlib.import_module

    def without_libraries(name: str, package: str | None = None) -> ModuleType:
        if name == "tensorrt":
            raise ImportError("libnvinfer.so.11: cannot open shared object file: No such file or directory")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without_libraries)
    with pytest.raises(EngineError, match=r"does not load: libnvinfer\.so\.11: cannot open(?s:.*)--extra-index-url"):
        open_engine("tensorrt", "cuda:0")


def test_gpu_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"cannot run on cuda:3: there is no cuda:3 here; .*cuda:0 NVIDIA A40 \(sm86"):
        open_engine(engine.name, "cuda:3")


@pytest.mark.parametrize("engine", ["tensorrt-rtx"], indirect=True)
def test_what_was_compiled_is_kept_for_the_next_time(engine: Engine, spec: GraphSpec, tmp_path: Path) -> None:
    engine.load(spec)
    assert engine.trt.kinds["config"].cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert "restored" not in engine.trt.kinds
    kept = list((tmp_path / "cache").rglob("*.cache"))
    assert [path.read_bytes() for path in kept] == [b"compiled"]
    engine.cuda_graphs = False
    engine.load(spec)
    assert engine.trt.kinds["config"].cuda_graph_strategy.name == "DISABLED"
    assert engine.trt.kinds["restored"] == b"compiled"


@pytest.mark.parametrize("engine", ["tensorrt-rtx"], indirect=True)
def test_plan_that_is_invalid_says_why(engine: Engine, spec: GraphSpec) -> None:
    why = engine.trt.EngineInvalidityDiagnostics
    engine.trt.kinds["verdict"] = (engine.trt.EngineValidity.INVALID, int(why.OLD_CUDA_DRIVER))
    with pytest.raises(EngineError, match=r"cannot run the plan on NVIDIA A40.*old cuda driver \(driver for CUDA"):
        engine.load(spec)
    engine.trt.kinds["verdict"] = (engine.trt.EngineValidity.SUBOPTIMAL, 0)
    engine.load(spec)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_the_cpu_is_refused_before_a_package_is_asked_for(name: str) -> None:
    with pytest.raises(EngineError, match=rf"'{name}' cannot run on cpu: it runs on a GPU only"):
        open_engine(name, "cpu")


def test_rtx_on_turing_convolves_no_volumes_in_fp32(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its probe, too, is then one that it can build."""
    for name, capability, volumes in (("tensorrt_rtx", 7, False), ("tensorrt_rtx", 8, True), ("tensorrt", 7, True)):
        trt: Any = fake_module(name, driver)
        if name == "tensorrt_rtx":
            trt.ComputeCapability = enum.Enum("ComputeCapability", "SM75 SM85 SM86")
        monkeypatch.setitem(sys.modules, name, trt)
        monkeypatch.setattr(
            driver,
            "cuDeviceGetAttribute",
            lambda out, which, device, major=capability: setattr(out._obj, "value", {75: major, 76: 5}[which]) or 0,
        )
        with open_engine(name.replace("_", "-"), "cuda:0") as engine:
            assert (engine.probe is None) is volumes


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    cuda.driver.library.cache_clear()
    with pytest.raises(EngineError, match=r"no NVIDIA driver here: .* cannot be loaded.*\n.*'cpu'"):
        cuda.gpus()


def library_with(functions: set[str], init: int = 0) -> Any:
    """A libcuda that has only these functions; cuInit gives `init`."""

    class Function:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self, *arguments: Any) -> int:
            return init if self.name == "cuInit" else 0

    return SimpleNamespace(**{name: Function(name) for name in functions})


def test_driver_that_lacks_a_function_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    old = library_with(cuda.driver.FUNCTIONS.keys() - {"cuGraphInstantiateWithFlags"})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: old)
    cuda.driver.library.cache_clear()
    with pytest.raises(EngineError, match=r"driver is too old: .* has no cuGraphInstantiateWithFlags; install .*535"):
        cuda.gpus()


@pytest.mark.parametrize(("code", "why"), [(803, "different releases"), (804, "newer than the driver"), (100, "")])
def test_driver_that_does_not_start(code: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library_with(set(cuda.driver.FUNCTIONS), code))
    cuda.driver.library.cache_clear()
    with pytest.raises(EngineError, match=rf"cuInit failed with {code} .*{why}"):
        cuda.gpus()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_driver_that_is_too_old_for_the_module(
    name: str, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The module's factory gives a null pointer, which its bindings turn into a TypeError, and says why in its log."""
    trt: Any = fake_module(name.replace("-", "_"), driver)

    def refuse(logger: Any) -> None:
        logger.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    trt.Runtime = refuse
    monkeypatch.setitem(sys.modules, trt.__name__, trt)
    with pytest.raises(EngineError, match=rf"engine '{name}' cannot run on NVIDIA A40.*driver for CUDA 13.*error: 35"):
        open_engine(name, "cuda:0")
    assert not driver.blocks


# --- CUDA graphs ----------------------------------------------------------------------------------------------------

only_tensorrt = pytest.mark.parametrize("engine", ["tensorrt"], indirect=True)


def steps(engine: Engine, graph: Any, count: int, batch: int = 2) -> np.ndarray:
    """A loop on two buffers, as the sampler's."""
    given = arrays(batch)
    held = {name: engine.upload(array) for name, array in given.items()}
    state = [held.pop("x"), engine.empty((batch, *VOLUME[1:]), "float32")]
    for _ in range(count):
        graph.run({"x": state[0], **held}, {"y": state[1]})
        state.reverse()
    return engine.download(state[0])


@only_tensorrt
def test_cuda_graphs_change_nothing_but_the_launches(engine: Engine, spec: GraphSpec, driver: FakeDriver) -> None:
    results = {}
    for on in (True, False):
        engine.cuda_graphs = on
        graph = engine.load(spec)
        results[on] = steps(engine, graph, 9)
        assert (graph.launches.plain, graph.launches.recorded, graph.launches.replayed) == (
            (2, 2, 7) if on else (9, 0, 0)
        )
        assert graph.launches.why_not == ("" if on else "switched off")
    np.testing.assert_array_equal(results[True], results[False])


@only_tensorrt
def test_open_engine_switches_cuda_graphs(engine: Engine, driver: FakeDriver) -> None:
    assert engine.cuda_graphs
    with open_engine("tensorrt", "cuda:0", cuda_graphs=False) as other:
        assert not other.cuda_graphs
    with pytest.raises(EngineError, match="engine 'onnxruntime' has no option cuda_graphs; it has none"):
        open_engine("onnxruntime", cuda_graphs=False)


def test_graph_without_plans_is_compiled_for_the_batches_that_were_asked_for(
    engine: Engine, spec: GraphSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def build(*arguments: Any) -> None:
        asked.append(arguments[-1].batch)
        raise ExportError("seen")

    monkeypatch.setattr("rediffinet.engines.tensorrt.engine.build", build)
    for batch in (1, 4):
        options = {"batch": batch} if batch > 1 else {}
        with open_engine(engine.name, "cuda:0", **options) as other, pytest.raises(EngineError, match="seen"):
            other.load(replace(spec, compiled=None))
    assert asked == [1, 4]


@only_tensorrt
def test_recordings_are_forgotten_when_the_shape_changes(engine: Engine, spec: GraphSpec, driver: FakeDriver) -> None:
    graph = engine.load(spec)
    first = steps(engine, graph, 6)
    steps(engine, graph, 6, batch=1)
    assert len(driver.graphs) == 2  # those of the last shape only
    np.testing.assert_array_equal(steps(engine, graph, 6), first)


@only_tensorrt
def test_module_that_cannot_be_recorded_is_launched_plainly(
    engine: Engine, spec: GraphSpec, driver: FakeDriver
) -> None:
    expected = steps(engine, engine.load(spec), 6)
    driver.refuses_to_record = True
    graph = engine.load(spec)
    np.testing.assert_array_equal(steps(engine, graph, 6), expected)
    assert (graph.launches.plain, graph.launches.replayed) == (6, 0)
    assert "cuStreamEndCapture failed with 901" in graph.launches.why_not


@only_tensorrt
def test_a_loop_longer_than_what_is_kept_is_not_recorded(
    engine: Engine, spec: GraphSpec, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rediffinet.engines.tensorrt.cuda import launches

    monkeypatch.setattr(launches, "KEPT", 3)
    graph, given = engine.load(spec), arrays(1)
    x, out = engine.upload(given["x"]), engine.empty((1, *VOLUME[1:]), "float32")
    scalars = [engine.upload(np.float32([value])) for value in range(5)]
    for _ in range(3):
        for value, scalar in enumerate(scalars):
            graph.run({"x": x, "c": scalar}, {"y": out})
            expected = reference(spec, {"x": given["x"], "c": np.float32([value])})
            np.testing.assert_allclose(engine.download(out), expected, atol=1e-5)
    assert (graph.launches.plain, graph.launches.recorded) == (15, 0)
    for _ in range(3):
        graph.run({"x": x, "c": scalars[0]}, {"y": out})
    for scalar in scalars[1:]:
        graph.run({"x": x, "c": scalar}, {"y": out})
    assert graph.launches.recorded == 1 and not driver.graphs  # recorded, then pushed out


def test_the_samplers_loop_copies_nothing_per_step(engine: Engine, make_toy_bundle: Callable[..., Any]) -> None:
    """The real loop of `rediff segment`, on plans, counted at the driver: the same copies for 2 and for 7 steps."""
    from rediffinet.bundle import open_bundle
    from rediffinet.method.refine import Sampler
    from rediffinet.method.schedule import cumulative_alphas, linear_betas, respace

    opened = open_bundle(make_toy_bundle(noise=0.3, time=(1e-3, 0.0, -1e-3)).path)
    diffusion, window = opened.manifest.recipe.diffusion, opened.manifest.recipe.refiner.window
    alphas = cumulative_alphas(linear_betas(diffusion.train_steps, diffusion.beta_first, diffusion.beta_last))
    specs = [opened.graph(name) for name in ("conditioner", "denoiser")]
    for spec in specs:
        write_plans(spec, key(engine))
    rng = np.random.default_rng(0)
    condition = rng.normal(size=(7, *window)).astype(np.float32)
    noises = [rng.normal(size=(3, *window)).astype(np.float32) for _ in range(3)]
    copies, results = {}, {}
    for count in (2, 7):
        schedule = respace(alphas, count)
        sampler = Sampler(engine, *(engine.load(spec) for spec in specs), schedule)
        sampler.window(condition, noises)  # uploads the schedule's numbers
        before = list(engine.cuda.copies)
        results[count] = sampler.window(condition, noises)
        copies[count] = [now - then for now, then in zip(engine.cuda.copies, before, strict=True)]
        with open_engine("onnxruntime", threads=1) as cpu:
            expected = Sampler(cpu, *(cpu.load(spec) for spec in specs), schedule).window(condition, noises)
        np.testing.assert_allclose(results[count], expected, atol=1e-4)
    assert copies[2] == copies[7] == [1 + len(noises), len(noises)]
