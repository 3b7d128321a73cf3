"""A step in the back-ends' own terms, bound once by hand: what our engines are held against."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rediffinet.engines import TensorSpec

Arrays = dict[str, np.ndarray]
OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
"""What our own engine asks of OpenVINO at fp32."""


def raw_onnxruntime(
    path: Path, given: Arrays, outputs: Sequence[TensorSpec], threads: int
) -> tuple[Callable[[], None], Callable[[], Arrays]]:
    """ONNX Runtime with an I/O binding that is made once: a step, and its results."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    made = {}
    for tensor in outputs:
        shape = (1, *tensor.shape[1:])
        made[tensor.name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
        binding.bind_ortvalue_output(tensor.name, made[tensor.name])
    return (
        lambda: session.run_with_iobinding(binding),
        lambda: {name: value.numpy().copy() for name, value in made.items()},
    )


def raw_openvino(
    path: Path, given: Arrays, outputs: Sequence[TensorSpec], threads: int
) -> tuple[Callable[[], None], Callable[[], Arrays]]:
    """OpenVINO with one request whose tensors are set once: a step, and its results."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(path))
    model.reshape({name: list(array.shape) for name, array in given.items()})
    compiled = core.compile_model(model, "CPU", {**OPENVINO, "INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    for name, array in given.items():
        request.set_tensor(name, ov.Tensor(array))

    def run() -> None:
        request.start_async()
        request.wait()

    return run, lambda: {tensor.name: request.get_tensor(tensor.name).data.copy() for tensor in outputs}


RAW = {"onnxruntime": raw_onnxruntime, "openvino": raw_openvino}
