"""Brain-tumour segmentation that gets the boundary right.

    from rediffinet import Segmenter, load_case

    with Segmenter.open() as segmenter:
        result = segmenter.segment(load_case("case_dir/"), seed=0)
        result.save("out/")

What is offered here is for use from outside, each with an example that runs: `Case` and `load_case` (images in),
`Segmenter`, `SegmentOptions` and `Result` (one case), `cohort` (files to files, many cases), `Task` and `find_task`
(the tumour as data), `metrics` (scores), `errors`. Everything else is internal.

Research use only, not a medical device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rediffinet import errors, metrics
    from rediffinet.clinic import cohort
    from rediffinet.io.cases import Case, load_case
    from rediffinet.result import Result
    from rediffinet.segmenter import Segmenter, SegmentOptions
    from rediffinet.task import Task, find_task

__all__ = [
    "Case",
    "Result",
    "SegmentOptions",
    "Segmenter",
    "Task",
    "cohort",
    "errors",
    "find_task",
    "load_case",
    "metrics",
]

_HOMES = {
    "Case": "rediffinet.io.cases",
    "load_case": "rediffinet.io.cases",
    "Result": "rediffinet.result",
    "SegmentOptions": "rediffinet.segmenter",
    "Segmenter": "rediffinet.segmenter",
    "Task": "rediffinet.task",
    "find_task": "rediffinet.task",
}
_MODULES = {"cohort": "rediffinet.clinic.cohort", "errors": "rediffinet.errors", "metrics": "rediffinet.metrics"}


def __getattr__(name: str) -> Any:
    """Import on first use: `import rediffinet` alone loads nothing."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name == "__version__":
        from importlib.metadata import version

        return version("rediffinet")
    message = f"module 'rediffinet' has no attribute '{name}'"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
