"""Options of ONNX Runtime's GPU providers, all said explicitly: their defaults are slow, inexact or not repeatable."""

from __future__ import annotations

from rediffinet.engines.base import GraphSpec
from rediffinet.files import cache_folder

MAX_BATCH = 8
"""Largest batch of the profiles; a larger one is built anew."""
WORKSPACE = 4 << 30


def cuda_options(index: int) -> dict[str, str]:
    """CUDA provider.

    Algorithm search: cuDNN's default algorithm is many times slower than its heuristic's choice for 3-D convolutions,
    and an exhaustive search slows the first run of every shape. TF32 off: the engine says fp32. CUDA graphs off: they
    need fixed addresses, and the sampling loop swaps two buffers.
    """
    return {
        "device_id": str(index),
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "use_tf32": "0",
        "enable_cuda_graph": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }


def tensorrt_options(index: int, precision: str, spec: GraphSpec | None = None) -> dict[str, str]:
    """TensorRT provider: plans and timings kept in the user's cache, a profile of batches 1 to `MAX_BATCH`.

    fp16 and int8 let TensorRT use the types that the graph of that precision has. Without a profile it would build
    anew whenever a batch is larger than those seen.
    """
    folder = str(cache_folder("onnxruntime-tensorrt"))
    options = {
        "device_id": str(index),
        "trt_fp16_enable": _flag(precision == "fp16"),
        "trt_int8_enable": _flag(precision == "int8"),
        "trt_bf16_enable": "0",
        "trt_max_workspace_size": str(WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_cuda_graph_enable": "0",
    }
    if spec is not None and _is_dynamic(spec):
        options |= {
            "trt_profile_min_shapes": profile(spec, 1),
            "trt_profile_opt_shapes": profile(spec, 1),
            "trt_profile_max_shapes": profile(spec, MAX_BATCH),
        }
    return options


def rtx_options(spec: GraphSpec | None = None) -> dict[str, str]:
    """TensorRT-RTX plugin: a runtime cache, and a profile; without one it assumes 0 to 32767 in every dimension."""
    options = {"nv_runtime_cache_path": str(cache_folder("onnxruntime-rtx")), "enable_cuda_graph": "0"}
    if spec is not None and _is_dynamic(spec):
        options |= {
            "nv_profile_min_shapes": profile(spec, 1),
            "nv_profile_opt_shapes": profile(spec, 1),
            "nv_profile_max_shapes": profile(spec, MAX_BATCH),
        }
    return options


def profile(spec: GraphSpec, batch: int) -> str:
    """Shapes of all inputs with dynamic dimensions as `batch`: "x_t:1x3x64x64x64,t:1"."""
    shapes = (
        f"{tensor.name}:{'x'.join(str(size if isinstance(size, int) else batch) for size in tensor.shape)}"
        for tensor in spec.inputs
    )
    return ",".join(shapes)


def _is_dynamic(spec: GraphSpec) -> bool:
    return any(isinstance(size, str) for tensor in spec.inputs for size in tensor.shape)


def _flag(value: bool) -> str:
    return "1" if value else "0"
