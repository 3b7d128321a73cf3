"""Torch: runs the bundle's ONNX graphs node by node with torch functions.

A second implementation of every graph, independent of ONNX Runtime and from the same weights file: it checks the other
engines and runs wherever torch does. `run` may be called from many threads. `threads` sets torch's thread count, which
is one number for the whole process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from rediffinet.engines.advice import full_device, is_out_of_memory
from rediffinet.engines.base import Array, Buffer, Device, Engine, Graph, GraphSpec, TensorSpec
from rediffinet.engines.torch_operators import OPERATORS, Node, UnsupportedError, placed, torch_dtype
from rediffinet.errors import EngineError

OLDEST_OPSET = 13
_CUDA_LOCK = threading.Lock()

Values = dict[str, torch.Tensor | None]


@dataclass(frozen=True)
class Step:
    """One node made ready: what to call, the values it reads and writes, and those no later step reads."""

    label: str
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_use: tuple[str, ...] = ()

    def into(self, values: Values) -> None:
        """Compute the outputs and put them into `values`."""
        result = self.call(*(values[name] if name else None for name in self.inputs))
        for name, value in zip(self.outputs, result if isinstance(result, tuple) else (result,), strict=True):
            values[name] = value


class TorchEngine(Engine):
    """Torch on the CPU or one CUDA device; buffers are tensors."""

    name = "torch"

    def __init__(self, device: Device, threads: int | None) -> None:
        super().__init__()
        self.device = str(device)
        self.version = str(torch.__version__)
        self.torch_device = torch.device(self.device)
        if device.kind == "cuda":
            self.provider = _cuda_name(device)
        else:
            self.provider = "CPU"
        if threads is not None:
            torch.set_num_threads(threads)

    def _load(self, spec: GraphSpec) -> TorchGraph:
        model = _read(spec.name, spec.path)
        try:
            return TorchGraph(spec, self, model)
        except UnsupportedError as error:
            message = f"graph '{spec.name}': engine 'torch' cannot run {error}; use the engine 'onnxruntime'"
            raise EngineError(message) from error
        except Exception as error:  # whatever torch says of constants that do not fit together
            message = f"graph '{spec.name}': engine 'torch' cannot prepare {spec.path}: {error}"
            raise EngineError(message) from error

    def _upload(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.array(array, order="C", copy=True)).to(self.torch_device)

    def _empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        return torch.empty(shape, dtype=torch_dtype(dtype), device=self.torch_device)

    def _download(self, value: torch.Tensor) -> Array:
        array: Array = value.detach().cpu().numpy()
        return np.array(array, copy=True)


class TorchGraph(Graph):
    """The nodes of an ONNX graph in order, and its constants on the device."""

    def __init__(self, spec: GraphSpec, engine: TorchEngine, model: onnx.ModelProto) -> None:
        super().__init__(spec, engine)
        self._device = engine.torch_device
        graph = model.graph
        constants: Values = {
            tensor.name: placed(onnx.numpy_helper.to_array(tensor), self._device) for tensor in graph.initializer
        }
        self._inputs = tuple(_tensor(value) for value in graph.input if value.name not in constants)
        self._outputs = tuple(_tensor(value) for value in graph.output)
        kept = [tensor.name for tensor in self._outputs]
        with torch.inference_mode():
            steps = _fold([_step(node, self._device) for node in graph.node], constants)
        read = {name for step in steps for name in step.inputs} | set(kept)
        self._constants: Values | None = {name: value for name, value in constants.items() if name in read}
        self._steps = _with_last_uses(steps, keep={*kept, *self._constants})

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self._inputs, self._outputs

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        constants = self._constants
        if constants is None:
            return self.engine._check_open()
        with torch.inference_mode(), _true_fp32(self._device):
            values: Values = {**constants, **{name: buffer.value for name, buffer in inputs.items()}}
            for step in self._steps:
                try:
                    step.into(values)
                except Exception as error:
                    if is_out_of_memory(str(error)):
                        shapes = [buffer.shape for buffer in inputs.values()]
                        raise EngineError(
                            full_device(self.spec.name, self.engine.device, shapes, str(error))
                        ) from error
                    message = f"graph '{self.spec.name}', {step.label}: torch failed on {self.engine.device}: {error}"
                    raise EngineError(message) from error
                for name in step.last_use:
                    del values[name]
            for name, buffer in outputs.items():
                value = values[name]
                if value is None or tuple(value.shape) != buffer.shape:
                    got = "nothing" if value is None else tuple(value.shape)
                    message = f"graph '{self.spec.name}', output '{name}': computed {got}, expected {buffer.shape}"
                    raise EngineError(message)
                buffer.value.copy_(value)

    def _close(self) -> None:
        self._constants = None


def _cuda_name(device: Device) -> str:
    if not torch.cuda.is_available() or device.index >= torch.cuda.device_count():
        here = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        message = (
            f"engine 'torch' cannot run on {device}: torch {torch.__version__} sees {', '.join(['cpu', *here])}.\n"
            "Use one of these, or install a CUDA build of torch on a machine with an NVIDIA driver"
        )
        raise EngineError(message)
    return f"CUDA {torch.version.cuda} on {torch.cuda.get_device_name(device.index)}"


def _read(name: str, path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's, onnx's and the file system's errors
        message = f"graph '{name}': torch engine cannot load {path}: {error}"
        raise EngineError(message) from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        message = f"graph '{name}': {path} has ONNX opset {opset}, expected {OLDEST_OPSET} or newer; export it again"
        raise EngineError(message)
    return model


def _step(node: onnx.NodeProto, device: torch.device) -> Step:
    make = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if make is None:
        raise UnsupportedError(f"the operator {f'{node.domain}::' if node.domain else ''}{node.op_type}")
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    call = make(Node(node.op_type, attributes, len(node.output), device))
    label = f"node '{node.name}' ({node.op_type})" if node.name else node.op_type
    return Step(label, call, tuple(node.input), tuple(node.output))


def _fold(steps: list[Step], constants: Values) -> list[Step]:
    """Compute once what depends on constants alone (float16 weights and their Cast), into `constants`."""
    left = []
    for step in steps:
        if all(not name or name in constants for name in step.inputs):
            step.into(constants)
        else:
            left.append(step)
    return left


def _with_last_uses(steps: list[Step], keep: set[str]) -> list[Step]:
    seen = set(keep)
    done = []
    for step in reversed(steps):
        last = tuple({name for name in (*step.inputs, *step.outputs) if name and name not in seen})
        seen.update(last)
        done.append(Step(step.label, step.call, step.inputs, step.outputs, last))
    return done[::-1]


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in kind.shape.dim)
    return TensorSpec(value.name, dtype, tuple(sizes))


@contextlib.contextmanager
def _true_fp32(device: torch.device) -> Iterator[None]:
    """Keep convolutions and products on a GPU in fp32: torch rounds convolutions to TF32 unless told otherwise.

    The switches belong to the process, so calls on a GPU launch one at a time, and each is put back as it was.
    """
    if device.type == "cpu":
        yield
        return
    with _CUDA_LOCK:
        switches = _fp32_switches()
        before = [getattr(place, name) for place, name, _ in switches]
        try:
            for place, name, value in switches:
                setattr(place, name, value)
            yield
        finally:
            for (place, name, _), value in zip(switches, before, strict=True):
                setattr(place, name, value)


def _fp32_switches() -> tuple[tuple[Any, str, Any], ...]:
    """(where, name, value) of what makes fp32 exact.

    From torch 2.9 on these are `fp32_precision`, and reading the older `allow_tf32` raises once anyone has set them.
    """
    products, convolutions = torch.backends.cuda.matmul, getattr(torch.backends.cudnn, "conv", None)
    if convolutions is not None and hasattr(products, "fp32_precision"):
        return (products, "fp32_precision", "ieee"), (convolutions, "fp32_precision", "ieee")
    return (products, "allow_tf32", False), (torch.backends.cudnn, "allow_tf32", False)
