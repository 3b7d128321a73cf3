"""Brain-tumour segmentation that gets the boundary right.

    from rediffinet import Segmenter, load_case

    with Segmenter.open() as segmenter:
        result = segmenter.segment(load_case("case_dir/"), seed=0)
        result.save("out/")

Research use only, not a medical device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rediffinet.io.cases import Case, load_case
    from rediffinet.result import Result
    from rediffinet.segmenter import Segmenter, SegmentOptions

__all__ = ["Case", "Result", "SegmentOptions", "Segmenter", "load_case"]

_HOMES = {
    "Case": "rediffinet.io.cases",
    "load_case": "rediffinet.io.cases",
    "Result": "rediffinet.result",
    "SegmentOptions": "rediffinet.segmenter",
    "Segmenter": "rediffinet.segmenter",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import rediffinet` alone loads nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("rediffinet")
    message = f"module 'rediffinet' has no attribute '{name}'"
    raise AttributeError(message)
