"""What a plan really consists of, as the module's engine inspector tells: layers after fusion, and their precisions.

The inspector needs the plan opened, and that needs a GPU that the plan runs on. Without one there is nothing to ask,
and the network from before the build is all that can be told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

Layers = tuple[tuple[str, str, str], ...]
"""(name, type, dtype of its first output) of each."""

# The inspector's words, which differ between versions: "Float", "Row major linear FP16 format", "… row major Int8 …".
# Longer words first: "Half" and "FP16" are not "BFloat16".
_WORDS = (
    ("bfloat16", r"bf(loat)?16"),
    ("float8", r"f(loat|p)8"),
    ("float16", r"half|f(loat|p)16"),
    ("float32", r"float(32)?|fp32"),
    ("int64", r"int64"),
    ("int32", r"int32"),
    ("int8", r"int8"),
    ("uint8", r"uint8"),
    ("bool", r"bool"),
)
UNKNOWN = "unknown"


def inspect_plan(trt: Any, logger: Any, plan: bytes) -> Layers | None:
    """The plan's layers, with batch 1; None when it cannot be opened here or the inspector says nothing of layers."""
    try:
        runtime = trt.Runtime(logger)
    except TypeError:  # the factory behind the constructor returned a null pointer: there is no driver
        return None
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None:
        # With dynamic shapes the formats are known only in a context that was told the shapes.
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                context.set_input_shape(name, profile_shapes(engine, name)[1])
        inspector.execution_context = context
    return read_layers(str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


def profile_shapes(engine: Any, name: str) -> tuple[tuple[int, ...], ...]:
    """Smallest, best and largest shape of an input, from the first profile, which may say nothing of a static one."""
    shapes = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, 0))
    return shapes if all(shapes) and len(shapes) == 3 else (tuple(engine.get_tensor_shape(name)),) * 3


def read_layers(said: str) -> Layers | None:
    """Layers in the inspector's JSON; None when it lists none, or only their names."""
    try:
        content = json.loads(said)
    except ValueError:
        return None
    layers = content.get("Layers") if isinstance(content, dict) else None
    if not isinstance(layers, list):
        return None
    found = tuple(
        (str(layer.get("Name", "")), str(layer.get("LayerType", UNKNOWN)), _precision(layer))
        for layer in layers
        if isinstance(layer, dict)
    )
    return found or None


def _precision(layer: Mapping[str, Any]) -> str:
    outputs = layer.get("Outputs")
    for tensor in outputs if isinstance(outputs, list) else ():
        if isinstance(tensor, dict):
            words = (str(tensor[key]) for key in ("Format/Datatype", "Datatype", "Format") if key in tensor)
            return _dtype(words)
    return UNKNOWN


def _dtype(words: Iterable[str]) -> str:
    text = " ".join(words).lower()
    for dtype, pattern in _WORDS:
        if re.search(rf"\b({pattern})\b", text):
            return dtype
    return UNKNOWN
