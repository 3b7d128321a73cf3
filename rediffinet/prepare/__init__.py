"""Raw scans → a case, and a result back on the grids of the scans. Needs SimpleITK: the extra `prepare`.

from rediffinet.prepare import prepare, read_raw, to_native

name, images = read_raw(Path("raw/"))
prepared = prepare(name, images)
result = segmenter.segment(prepared.case)
(native,) = to_native(result, prepared.report, ["t1c"])
native.labels  # uint8 (X, Y, Z) on t1c's own grid
"""

from rediffinet.prepare.files import read_raw, save_prepared
from rediffinet.prepare.native import NativeResult, to_native
from rediffinet.prepare.pipeline import Prepared, prepare
from rediffinet.prepare.report import Preparation, find_preparation

__all__ = [
    "NativeResult",
    "Preparation",
    "Prepared",
    "find_preparation",
    "prepare",
    "read_raw",
    "save_prepared",
    "to_native",
]
