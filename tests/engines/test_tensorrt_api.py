"""What our code calls exists in the real modules, so that a typo does not wait for a machine with a GPU.

Runs on whatever of `tensorrt_rtx`, `tensorrt` (10 or 11) and `cuda.bindings` can be imported; none of them needs a GPU
for that. The bindings of `tensorrt` alone (without its libraries) do as well: they are `tensorrt_bindings`.
"""

import ast
import ctypes
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rediffinet.engines.tensorrt import build as tensorrt_build
from rediffinet.engines.tensorrt import cuda, plans

ENGINES = Path(plans.__file__).parent
SOURCES = ("build.py", "engine.py", "inspect.py")

# Asked for with hasattr, or after a question that only TensorRT-RTX answers with yes.
RTX_ONLY = {
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineInvalidityDiagnostics",
    "EngineValidity",
    "IRuntimeCache",
    "IBuilderConfig.num_compute_capabilities",
    "ICudaEngine.create_runtime_config",
    "IBuilderConfig.set_compute_capability",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.cuda_graph_strategy",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_runtime_cache",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "Runtime.get_engine_validity",
}

# Class and member → what its signature must contain; "" for properties and enumerations.
MEMBERS = {
    "Builder.__init__": "logger",
    "Builder.create_network": "flags",
    "Builder.create_builder_config": "",
    "Builder.create_optimization_profile": "",
    "Builder.build_serialized_network": "network.*, config",
    "INetworkDefinition.num_inputs": "",
    "INetworkDefinition.num_outputs": "",
    "INetworkDefinition.num_layers": "",
    "INetworkDefinition.get_input": "index",
    "INetworkDefinition.get_output": "index",
    "INetworkDefinition.get_layer": "index",
    "ILayer.name": "",
    "ILayer.type": "",
    "ILayer.num_outputs": "",
    "ILayer.get_output": "index",
    "ITensor.name": "",
    "ITensor.dtype": "",
    "ITensor.shape": "",
    "OnnxParser.__init__": "network.*, logger",
    "OnnxParser.parse": r"model.*, path.*-> bool",
    "OnnxParser.num_errors": "",
    "OnnxParser.get_error": "index",
    "ParserError.desc": "-> str",
    "ParserError.node_name": "-> str",
    "ParserError.node_operator": "-> str",
    "IBuilderConfig.set_memory_pool_limit": "pool.*, pool_size",
    "IBuilderConfig.clear_flag": "flag",
    "IBuilderConfig.profiling_verbosity": "",
    "IBuilderConfig.progress_monitor": "",
    "IBuilderConfig.hardware_compatibility_level": "",
    "IBuilderConfig.add_optimization_profile": r"profile.*-> int",
    "IBuilderConfig.create_timing_cache": r"serialized_timing_cache",
    "IBuilderConfig.set_timing_cache": r"cache.*, ignore_mismatch.*-> bool",
    "IBuilderConfig.get_timing_cache": "",
    "IBuilderConfig.num_compute_capabilities": "",
    "IBuilderConfig.set_compute_capability": r"-> bool",
    "ITimingCache.serialize": "IHostMemory",
    "IOptimizationProfile.set_shape": r"input.*, min.*, opt.*, max",
    "IProgressMonitor.phase_start": r"phase_name.*, parent_phase.*, num_steps",
    "IProgressMonitor.step_complete": r"phase_name.*, step.*-> bool",
    "IProgressMonitor.phase_finish": "phase_name",
    "ILogger.log": r"severity.*, msg",
    "Runtime.__init__": "logger",
    "Runtime.deserialize_cuda_engine": r"serialized_engine",
    "Runtime.get_engine_validity": r"buffer.*-> tuple",
    "ICudaEngine.num_io_tensors": "",
    "ICudaEngine.get_tensor_name": r"index.*-> str",
    "ICudaEngine.get_tensor_mode": r"name.*TensorIOMode",
    "ICudaEngine.get_tensor_dtype": r"name.*DataType",
    "ICudaEngine.get_tensor_shape": r"name.*Dims",
    "ICudaEngine.get_tensor_profile_shape": r"name.*, profile_index.*[Ll]ist",
    "ICudaEngine.get_device_memory_size_for_profile_v2": r"profile_index.*-> int",
    "ICudaEngine.create_runtime_config": "IRuntimeConfig",
    "ICudaEngine.create_execution_context": r"IExecutionContext",
    "ICudaEngine.create_engine_inspector": "EngineInspector",
    "EngineInspector.execution_context": "",
    "EngineInspector.get_engine_information": r"format.*-> str",
    "LayerInformationFormat.JSON": "",
    "IRuntimeConfig.create_runtime_cache": "IRuntimeCache",
    "IRuntimeConfig.set_runtime_cache": "IRuntimeCache",
    "IRuntimeConfig.cuda_graph_strategy": "",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "",
    "IRuntimeCache.serialize": "IHostMemory",
    "IRuntimeCache.deserialize": "-> bool",
    "IExecutionContext.set_input_shape": r"name.*, shape.*-> bool",
    "IExecutionContext.set_tensor_address": r"name.*, memory.*-> bool",
    "IExecutionContext.execute_async_v3": r"stream_handle.*-> bool",
    "DataType.FLOAT": "",
    "DataType.HALF": "",
    "DataType.INT8": "",
    "DataType.INT64": "",
    "LayerType.CONVOLUTION": "",
    "LayerType.DECONVOLUTION": "",
    "LayerType.QUANTIZE": "",
    "LayerType.CONSTANT": "",
}


CANDIDATES = ("tensorrt_rtx", "tensorrt", "tensorrt_bindings")
INSTALLED = [name for name in CANDIDATES if importlib.util.find_spec(name)]
if "tensorrt" in INSTALLED:
    INSTALLED = [name for name in INSTALLED if name != "tensorrt_bindings"]


@pytest.fixture(scope="module", params=INSTALLED or ["none"])
def trt(request: pytest.FixtureRequest) -> Any:
    if request.param == "none":
        pytest.skip("neither tensorrt_rtx nor tensorrt is installed here (extras 'rtx' and 'tensorrt')")
    return importlib.import_module(request.param)


def resolve(module: Any, dotted: str) -> Any:
    found = module
    for part in dotted.split("."):
        found = getattr(found, part)
    return found


def chains() -> Iterator[str]:
    """Every `trt.A.B` of our sources, as "A.B"."""
    for name in SOURCES:
        for node in ast.walk(ast.parse((ENGINES / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                match = re.fullmatch(r"(?:self\._trt|self\.trt|trt)\.([A-Z][\w.]*)", ast.unparse(node))
                if match:
                    yield match[1]


def test_the_sources_are_read() -> None:
    found = set(chains())
    assert {"Builder", "Runtime", "BuilderFlag.TF32", "TensorIOMode.INPUT", "MemoryPoolType.WORKSPACE"} <= found


def test_every_name_exists(trt: Any) -> None:
    rtx = "rtx" in trt.__name__
    missing = []
    for chain in sorted(set(chains())):
        if not rtx and chain.partition(".")[0] in RTX_ONLY:
            continue
        try:
            resolve(trt, chain)
        except AttributeError as error:
            missing.append(f"{chain}: {error}")
    assert not missing


def test_members_and_their_signatures(trt: Any) -> None:
    wrong = []
    for member, signature in MEMBERS.items():
        if "rtx" not in trt.__name__ and RTX_ONLY & {member, member.partition(".")[0]}:
            continue
        try:
            said = str(resolve(trt, member).__doc__)
        except AttributeError as error:
            wrong.append(f"{member}: {error}")
            continue
        if not re.search(signature, said, re.DOTALL):
            wrong.append(f"{member}: expected '{signature}' in: {said.strip()[:300]}")
    assert not wrong


def test_severities_are_what_the_log_compares(trt: Any) -> None:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None: ...

    assert Logger()
    assert len({trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING, trt.ILogger.INFO}) == 4
    log = tensorrt_build.Log(trt)
    for severity, text in ((trt.ILogger.INFO, "hello"), (trt.ILogger.WARNING, "slow"), (trt.ILogger.ERROR, "wrong")):
        log.logger.log(severity, text)
    assert log.said() == "wrong"
    assert log.said() == "it gave no reason"


def test_a_machine_without_a_driver_is_an_error_not_a_crash(trt: Any, tmp_path: Path) -> None:
    """TensorRT cannot even make a builder; TensorRT-RTX can, and builds for a GPU that is not here."""
    from rediffinet.engines.tensorrt.build import BuildOptions, build
    from rediffinet.errors import ExportError

    try:
        pytest.skip(f"there is a driver here: {cuda.gpus()}")
    except Exception as error:
        if "driver" not in str(error):
            raise
    with pytest.raises(ExportError, match=r"cannot (read|build)"):
        build(trt, "graph 'g'", tmp_path / "g.onnx", b"no graph", BuildOptions())


def test_only_rtx_has_targets(trt: Any) -> None:
    targets = tensorrt_build.aot_targets(trt)
    if "rtx" in trt.__name__:
        assert {"sm75", "sm80", "sm86", "sm89", "sm120"} <= set(targets)
        assert "sm90" not in targets  # no H100
    else:
        assert targets == ()


KINDS = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "size_t": ctypes.c_size_t,
    "CUresult": ctypes.c_int,
    "CUdevice": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUdeviceptr": ctypes.c_uint64,
    "CUcontext": ctypes.c_void_p,
    "CUstream": ctypes.c_void_p,
    "CUevent": ctypes.c_void_p,
    "void*": ctypes.c_void_p,
    "const void*": ctypes.c_void_p,
    "char*": ctypes.c_char_p,
    "const char**": ctypes.POINTER(ctypes.c_char_p),
    "void**": ctypes.POINTER(ctypes.c_void_p),
    "int*": ctypes.POINTER(ctypes.c_int),
    "size_t*": ctypes.POINTER(ctypes.c_size_t),
    "CUdevice*": ctypes.POINTER(ctypes.c_int),
    "CUdeviceptr*": ctypes.POINTER(ctypes.c_uint64),
    "CUcontext*": ctypes.POINTER(ctypes.c_void_p),
    "CUstream*": ctypes.POINTER(ctypes.c_void_p),
    "CUevent*": ctypes.POINTER(ctypes.c_void_p),
    "CUstreamCaptureMode": ctypes.c_int,
    "CUgraph": ctypes.c_void_p,
    "CUgraph*": ctypes.POINTER(ctypes.c_void_p),
    "CUgraphExec": ctypes.c_void_p,
    "CUgraphExec*": ctypes.POINTER(ctypes.c_void_p),
    "unsigned long long": ctypes.c_ulonglong,
}


def test_driver_functions_have_the_signatures_that_nvidia_declares() -> None:
    bindings = pytest.importorskip("cuda.bindings", reason="NVIDIA's declarations come with cuda-bindings")
    declared = (Path(bindings.__path__[0]) / "cydriver.pxd").read_text(encoding="utf-8")
    for function, expected in cuda.driver.FUNCTIONS.items():
        # The declarations are of the newest version, under the name that the header gives it.
        name = re.sub(r"_v\d$|(?<=cuGraphInstantiate)WithFlags$", "", function)
        match = re.search(rf"^cdef CUresult {name}\((.*?)\) ", declared, re.MULTILINE)
        assert match, f"{name} is not declared"
        arguments = [argument.strip().rpartition(" ")[0] for argument in match[1].split(",")]
        assert tuple(KINDS[argument] for argument in arguments) == expected, function
