"""The packages of the extra, imported late."""

from importlib import import_module
from typing import Any

from rediffinet.errors import MissingExtraError


def library(name: str) -> Any:
    """pydicom, highdicom or a module of them. Raises MissingExtraError without the extra."""
    try:
        return import_module(name)
    except ImportError:
        raise MissingExtraError("DICOM", name.partition(".")[0], "dicom") from None
