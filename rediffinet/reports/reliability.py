"""Reliability diagram: how often voxels were wrong, against the stated probability that they are."""

from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.errors import ResultsError
from rediffinet.files import parse_json
from rediffinet.method.uncertainty import Reliability
from rediffinet.reports.drawing import check_figure_path, new_figure, write_figure

LABELS = {"before": "as stated", "after": "calibrated on other folds"}
WHAT = "The reliability diagram"


def read_diagrams(path: Path) -> dict[str, Reliability]:
    """The diagrams before and after calibration in a MODEL-uncertainty.json of `rediff calibrate`.

    Raises:
        ResultsError: the file cannot be read or holds something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        found = {}
        for key in LABELS:
            stated, observed, voxels = (
                np.asarray(content[key][column], np.float64) for column in ("stated", "observed", "voxels")
            )
            if not stated.shape == observed.shape == voxels.shape or stated.ndim != 1:
                raise ValueError(f"the columns of '{key}' are not of one length")
            found[key] = Reliability(stated, observed, voxels.astype(np.int64))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"Cannot read {path}: {error}.\nExpected a MODEL-uncertainty.json of rediff calibrate."
        raise ResultsError(message) from None
    return found


def write_reliability(path: Path, out: Path) -> None:
    """Draw the diagrams of a MODEL-uncertainty.json as PNG.

    Raises:
        ConfigError: the name does not end in .png.
        ResultsError: the file cannot be read.
        OutputError: the figure cannot be written.
        MissingExtraError: Matplotlib is not installed.
    """
    check_figure_path(out)
    write_figure(draw_reliability(read_diagrams(path)), out)


def draw_reliability(diagrams: dict[str, Reliability]) -> Any:
    """The figure: the diagrams and the diagonal on the left, how many voxels each group has on the right."""
    figure = new_figure(9.0, 4.2, WHAT)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.6", linewidth=1.0, linestyle="--", label="perfect")
    width = 0.4 / max(1, *(len(one.stated) for one in diagrams.values()))
    for k, (key, one) in enumerate(diagrams.items()):
        label = f"{LABELS[key]}, ECE {one.error:.3f}"
        left.plot(one.stated, one.observed, color=f"C{k}", marker="o", markersize=4, linewidth=1.5, label=label)
        right.bar(one.stated + (k - 0.5) * width, one.count, width=width, color=f"C{k}", label=LABELS[key])
    _name(left, "stated probability of a wrong label", "share of voxels that were wrong")
    _name(right, "stated probability of a wrong label", "voxels")
    left.set_xlim(0, 1)
    left.set_ylim(0, 1)
    right.set_yscale("log")
    return figure


def _name(panel: Any, x: str, y: str) -> None:
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)
