import numpy as np
import numpy.typing as npt

_Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint64]
_Indices = npt.NDArray[np.intp]
_Places = npt.NDArray[np.int32]
_Numbers = npt.NDArray[np.float64]

def outline(mask: _Bytes, filled: _Bytes, box: _Indices, columns: _Bytes) -> None: ...
def pack(mask: _Bytes, box: _Indices, filled: _Bytes, origin: _Indices, bits: _Words) -> None: ...
def find_surfels(bits: _Words, box: _Indices, surface: _Words, counts: _Places) -> int: ...
def find_border_voxels(bits: _Words, box: _Indices, surface: _Words, counts: _Places) -> int: ...
def list_elements(
    bits: _Words, box: _Indices, surface: _Words, counts: _Places, places: _Places, codes: _Bytes
) -> None: ...
def coarsen(places: _Places, cells: _Words, blocks: _Words, columns: _Places, first: _Places) -> None: ...
def nearest(
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
    places: _Places,
    distances: _Numbers,
    enough: float,
    start: int,
    stop: int,
) -> None: ...
