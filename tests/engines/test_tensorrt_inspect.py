"""The engine inspector's JSON in the words of several versions, and when there is none."""

import contextlib
import json
from types import SimpleNamespace
from typing import Any

import pytest

from rediffinet.engines.tensorrt.inspect import inspect_plan, read_layers


def said(*formats: str, key: str = "Format/Datatype") -> str:
    layers = [
        {"Name": f"layer {index}", "LayerType": "CaskConvolution", "Outputs": [{"Name": "y", key: text}]}
        for index, text in enumerate(formats)
    ]
    return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ("Row major linear FP32", "float32"),
        ("Float", "float32"),
        ("Row major linear FP16 format", "float16"),
        ("Half", "float16"),
        ("Channel major FP16 format where channel % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("BFloat16", "bfloat16"),
        ("Row major linear BF16", "bfloat16"),
        ("FP8", "float8"),
        ("Int64", "int64"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_words_of_the_versions(words: str, dtype: str) -> None:
    assert read_layers(said(words)) == (("layer 0", "CaskConvolution", dtype),)


def test_layers_without_outputs_or_type() -> None:
    text = json.dumps({"Layers": [{"Name": "signal"}, {"Name": "none", "LayerType": "NoOp", "Outputs": []}]})
    assert read_layers(text) == (("signal", "unknown", "unknown"), ("none", "NoOp", "unknown"))


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "{}", '{"Layers": []}', '{"Layers": ["names", "only"]}'])
def test_nothing_to_tell(text: str) -> None:
    assert read_layers(text) is None


def module(*, runtime: bool = True, engine: bool = True, context: bool = True) -> tuple[Any, dict[str, Any]]:
    """A module with one dynamic input; what was asked of it is in the dictionary."""
    asked: dict[str, Any] = {}
    contexts = SimpleNamespace(set_input_shape=lambda name, shape: asked.update({name: shape}) or True)
    inspector = SimpleNamespace(execution_context=None)

    def tell(form: str) -> str:
        asked["format"], asked["in context"] = form, inspector.execution_context is contexts
        return said("Half" if inspector.execution_context is contexts else "N/A due to dynamic shapes")

    inspector.get_engine_information = tell
    opened = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
        get_tensor_profile_shape=lambda name, profile: [(1, 3), (2, 3), (4, 3)],
        create_engine_inspector=lambda: inspector,
        create_execution_context=lambda: contexts if context else None,
    )

    def start(logger: Any) -> Any:
        if not runtime:
            raise TypeError("factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: opened if engine else None)

    return (
        SimpleNamespace(
            Runtime=start,
            TensorIOMode=SimpleNamespace(INPUT="in"),
            LayerInformationFormat=SimpleNamespace(JSON="json"),
        ),
        asked,
    )


def test_formats_are_asked_for_at_the_best_shape() -> None:
    trt, asked = module()
    assert inspect_plan(trt, None, b"plan") == (("layer 0", "CaskConvolution", "float16"),)
    assert asked == {"x": (2, 3), "format": "json", "in context": True}


def test_without_a_context_the_layers_are_told_all_the_same() -> None:
    trt, _ = module(context=False)
    assert inspect_plan(trt, None, b"plan") == (("layer 0", "CaskConvolution", "unknown"),)


@pytest.mark.parametrize("lacks", ["runtime", "engine"])
def test_no_gpu_to_open_the_plan_on(lacks: str) -> None:
    assert inspect_plan(module(**{lacks: False})[0], None, b"plan") is None


def test_the_real_module_without_a_gpu() -> None:
    """TensorRT-RTX builds here and opens nothing: no crash, and no layers made up."""
    trt = pytest.importorskip("tensorrt_rtx", reason="extra 'rtx'")
    from rediffinet.engines.tensorrt import cuda
    from rediffinet.engines.tensorrt.build import Log
    from rediffinet.errors import EngineError

    with contextlib.suppress(EngineError):
        pytest.skip(f"there is a GPU here: {cuda.gpus()}")
    builder = trt.Builder(Log(trt).logger)
    network, config = builder.create_network(0), builder.create_builder_config()
    network.mark_output(network.add_identity(network.add_input("x", trt.float32, (1,))).get_output(0))
    assert inspect_plan(trt, Log(trt).logger, builder.build_serialized_network(network, config)) is None
