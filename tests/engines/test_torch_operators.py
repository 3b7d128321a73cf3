"""The torch engine's operators against the conformance cases of the ONNX standard (inputs and expected outputs)."""

import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="the torch engine needs torch")

from rediffinet.engines import Engine, GraphSpec, TensorSpec, open_engine
from rediffinet.engines.torch_operators import OPERATORS, Node, UnsupportedError
from rediffinet.errors import EngineError

DTYPES = {"float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"}


def arrays(values: list[Any]) -> list[Any]:
    return [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


@cache
def conformance_cases() -> dict[str, list[Any]]:
    """Cases by operator, of the opsets and dtypes the engine is for."""
    from onnx.backend.test.case import node

    ours, all_there = (
        {kind.lower() for kind in kinds}
        for kinds in (OPERATORS, (schema.name for schema in onnx.defs.get_all_schemas()))
    )
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name in all_there - ours:  # their cases take seconds to make, as they are on import
            patch.setitem(sys.modules, f"{node.__name__}.{name}", ModuleType(name))
        warnings.simplefilter("ignore")
        cases = node.collect_testcases(None)
    found: dict[str, list[Any]] = {kind: [] for kind in OPERATORS}
    for case in cases:
        case.data_sets[:] = [tuple(map(arrays, data)) for data in case.data_sets]
        kinds = {node.op_type for node in case.model.graph.node}
        values = [value for data in case.data_sets for side in data for value in side]
        if (
            len(kinds) == 1
            and kinds <= found.keys()
            and all(getattr(value, "dtype", np.dtype("O")).name in DTYPES and np.size(value) for value in values)
        ):
            kind = kinds.pop()
            opset = case.model.opset_import[0]
            if opset.version < 13 and onnx.defs.get_schema(kind, 18).since_version <= opset.version:
                opset.version = 18  # the operator has not changed since
            if opset.version >= 13:
                found[kind].append(case)
    return found


def spec(case: Any, path: Path, given: list[Any], expected: list[Any]) -> GraphSpec:
    onnx.save(case.model, path)
    sides = []
    for infos, values in ((case.model.graph.input, given), (case.model.graph.output, expected)):
        names = (info.name for info in infos)
        values = [np.asarray(value) for value in values]
        sides.append(tuple(TensorSpec(name, a.dtype.name, a.shape) for name, a in zip(names, values, strict=True)))
    return GraphSpec(case.name, path, *sides)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return open_engine("torch")


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_conforms_to_onnx(engine: Engine, kind: str, tmp_path: Path) -> None:
    passed = 0
    for case in conformance_cases()[kind]:
        (given, expected), *_ = case.data_sets
        description = spec(case, tmp_path / "case.onnx", given, expected)
        try:
            graph = engine.load(description)
        except EngineError as error:
            # Forms that are not implemented say so; a file whose shapes are symbolic cannot have a static spec.
            assert "cannot run" in str(error) or "the manifest describes" in str(error), error
            continue
        names = [tensor.name for tensor in description.inputs]
        got = graph(**dict(zip(names, map(np.asarray, given), strict=True)))
        for tensor, value in zip(description.outputs, expected, strict=True):
            np.testing.assert_allclose(got[tensor.name], value, rtol=case.rtol, atol=1e-5, err_msg=case.name)
        passed += 1
    assert passed, f"no conformance case of {kind} ran"


@pytest.mark.parametrize(
    ("kind", "attributes", "outputs", "message"),
    [
        ("Conv", {"auto_pad": b"SAME_UPPER"}, 1, "auto_pad = SAME_UPPER"),
        ("ConvTranspose", {"output_shape": [8, 8, 8]}, 1, "output_shape"),
        ("ConvTranspose", {"pads": [0, 0, 0, 1, 1, 1]}, 1, "pads"),
        ("MaxPool", {"kernel_shape": [2, 2, 2]}, 2, "Indices"),
        ("MaxPool", {"ceil_mode": 1}, 1, "ceil_mode = 1"),
        ("Resize", {"mode": b"cubic"}, 1, "mode = cubic"),
        ("Resize", {"mode": b"linear", "antialias": 1}, 1, "antialias = 1"),
        ("Cast", {"to": onnx.TensorProto.BFLOAT16}, 1, "bfloat16"),
    ],
)
def test_what_is_not_implemented_says_so(kind: str, attributes: dict[str, Any], outputs: int, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        OPERATORS[kind](Node(kind, attributes, outputs, SimpleNamespace(type="cpu")))  # type: ignore[arg-type]
