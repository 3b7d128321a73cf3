"""Compiled hot loops: arrays in, arrays out, numpy only.

    checks, memory order, threads     compiled loops, no interpreter lock
    flip.py                           _flip.pyx         flip and decode, one pass over memory
    components.py                     _components.pyx   union-find over runs of voxels, dilation
    surfaces.py, surfels.py           _surface.pyx      bit-packed rows, exact nearest-surface search

`reference` holds numpy twins with the same signatures. They are the oracles of the tests and are never used in place
of the compiled code: a missing compiled module is an ImportError.
"""

try:
    from rediffinet.ext import _components, _flip, _surface  # noqa: F401
except ImportError as error:
    message = (
        f"the compiled modules of rediffinet.ext are missing or do not load ({error}). "
        "Install a C compiler and reinstall: pip install --force-reinstall --no-deps rediffinet"
    )
    raise ImportError(message) from error

from rediffinet.ext.components import component_boxes, component_sizes, dilate, label_components
from rediffinet.ext.flip import FlipResult, flip_and_decode
from rediffinet.ext.surfaces import Direction, SurfaceDistances, directions, joint_box, surface_distances
from rediffinet.ext.surfels import surfel_areas

__all__ = [
    "Direction",
    "FlipResult",
    "SurfaceDistances",
    "component_boxes",
    "component_sizes",
    "dilate",
    "directions",
    "flip_and_decode",
    "joint_box",
    "label_components",
    "surface_distances",
    "surfel_areas",
]
