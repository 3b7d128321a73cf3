import numpy as np
import numpy.typing as npt

_Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.intp]
_Places = npt.NDArray[np.int32]
_Numbers = npt.NDArray[np.float64]

def bounds(mask: _Bytes, box: _Indices, columns: _Bytes) -> None: ...
def pack(mask: _Bytes, box: _Indices, margin: int, bits: _Words) -> None: ...
def find_surfels(bits: _Words, surface: _Words) -> int: ...
def find_border_voxels(bits: _Words, surface: _Words) -> int: ...
def list_elements(bits: _Words, surface: _Words, places: _Places, codes: _Bytes) -> None: ...
def coarsen(bits: _Words, shift: int, cells: _Words) -> None: ...
def nearest(
    places: _Places,
    surface: _Words,
    cells: _Words,
    blocks: _Words,
    columns: _Places,
    first: _Places,
    spacing: _Numbers,
    offsets: _Places,
    jumps: _Indices,
    reach: _Numbers,
    anchors: _Places,
    distances: _Numbers,
    start: int,
    stop: int,
) -> None: ...
