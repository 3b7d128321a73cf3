import numpy as np
import numpy.typing as npt

_Bytes = npt.NDArray[np.uint8]
_Values = npt.NDArray[np.float32] | npt.NDArray[np.uint16]

def flip_rows(
    delta: _Values,
    baseline: _Bytes,
    thresholds: _Values,
    label_values: _Bytes,
    membership: _Bytes,
    labels: _Bytes,
    counts: npt.NDArray[np.int64],
    start: int,
    stop: int,
) -> None: ...
