"""What is shown and written of a segmented case. `rediffinet.Result` has it; nothing here knows how it was found."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rediffinet.io.source import Source
from rediffinet.report import Report
from rediffinet.task import Task

Labels = npt.NDArray[np.uint8]
Volume = npt.NDArray[np.float32]


class Segmented(Protocol):
    """A segmented case: maps on the input's own grid, (X, Y, Z), and `crop_` those around the brain, in LPS."""

    @property
    def source(self) -> Source:
        """Where it came from, in whose form maps are stored."""

    @property
    def report(self) -> Report:
        """What is told of it."""

    @property
    def task(self) -> Task:
        """What channels and labels are."""

    @property
    def labels(self) -> Labels:
        """Refined label map."""

    @property
    def baseline_labels(self) -> Labels | None:
        """Label map of the baseline alone; None for a model without one."""

    @property
    def probabilities(self) -> Volume:
        """Probabilities of the regions, (R, X, Y, Z)."""

    @property
    def uncertainty(self) -> Volume:
        """Probability that the voxel's label is wrong."""

    @property
    def margin(self) -> Labels | None:
        """Bands in which the boundaries lie, a bit a region; None where none was fitted."""

    @property
    def crop_image(self) -> Volume:
        """The contrasts around the brain, normalised, (C, x, y, z)."""

    @property
    def crop_labels(self) -> Labels:
        """Refined label map around the brain, (x, y, z)."""

    @property
    def crop_baseline(self) -> Labels | None:
        """The baseline's, or None."""

    @property
    def crop_uncertainty(self) -> Volume:
        """Probability of a wrong label around the brain."""

    @property
    def crop_margins(self) -> Sequence[object] | None:
        """One per region, or None where none was fitted."""
