"""Figures without a window system and without Matplotlib's global state: a Figure on an Agg canvas, written as PNG."""

import io
from pathlib import Path
from typing import Any

from rediffinet.errors import ConfigError, MissingExtraError
from rediffinet.files import write_atomically

DPI = 150


def check_figure_path(path: Path) -> None:
    """Raise ConfigError unless the name ends in .png."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"Cannot tell the format of {path}.\nExpected a name that ends in .png.")


def new_figure(width: float, height: float, what: str) -> Any:
    """An empty figure, size in inches. Raises MissingExtraError, in which `what` needs Matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(what, str(error.name), "report") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Any, path: Path) -> None:
    """Write the figure as PNG, complete or not at all; equal figures give equal bytes.

    Raises:
        ConfigError: another ending.
        OutputError: the folder is absent or not writable.
    """
    check_figure_path(path)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(path, content.getvalue())
