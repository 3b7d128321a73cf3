"""Synthetic glioma cases with BraTS names, geometry and labels: tests, demos and training without patient data."""

from rediffinet.phantom.case import BRATS_SHAPE, Phantom, make_phantom, phantom_name, write_phantoms
from rediffinet.phantom.head import HeadPhantom, make_head_phantom
from rediffinet.phantom.lesions import Tumour

__all__ = [
    "BRATS_SHAPE",
    "HeadPhantom",
    "Phantom",
    "Tumour",
    "make_head_phantom",
    "make_phantom",
    "phantom_name",
    "write_phantoms",
]
