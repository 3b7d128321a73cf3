"""A segmented case: numbers on the grid of its images, and how they are saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rediffinet.io.geometry import to_input_grid
from rediffinet.io.outputs import OutputChoice, save_result
from rediffinet.io.segmented import Labels, Volume
from rediffinet.io.source import Source
from rediffinet.method.margin import Margin, band
from rediffinet.method.normalise import Box
from rediffinet.report import Report
from rediffinet.task import Task

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Result:
    """A segmented case. The properties are on the input's own grid, (X, Y, Z); the `crop_` fields on `box`.

    `box` is in the canonical orientation (LPS). The baseline is None for a model without one. `source`: where the case
    came from, on whose grid and in whose form maps are stored. `task`: what the channels and labels are.
    `crop_margins`: of every region, the boundary that was found and its margin in mm; None where no margin was fitted
    for a result of this kind.

        >>> with Segmenter.open() as segmenter:
        ...     result = segmenter.segment(load_case("case_dir"))
        >>> result.labels.dtype, result.labels.shape == result.source.grid.shape
        (dtype('uint8'), True)
        >>> result.report.to_dict()["volumes_ml"]["refined"]["WT"] > 0  # ml
        True
        >>> sorted(path.name for path in result.save("out").values())
        ['P1-baseline.nii.gz', 'P1-preview.png', 'P1-report.json', 'P1-seg.nii.gz']
    """

    source: Source
    box: Box
    report: Report
    task: Task
    crop_image: Volume
    crop_labels: Labels
    crop_baseline: Labels | None
    crop_baseline_probability: Volume | None
    crop_probability: Volume
    crop_uncertainty: Volume
    crop_margins: tuple[Margin, ...] | None = None

    @property
    def labels(self) -> Labels:
        """Refined label map, uint8 (X, Y, Z)."""
        return self._on_input_grid(self.crop_labels)

    @property
    def baseline_labels(self) -> Labels | None:
        """Label map of the baseline alone, uint8 (X, Y, Z), after the same postprocessing; a given mask is as given."""
        return None if self.crop_baseline is None else self._on_input_grid(self.crop_baseline)

    @property
    def probabilities(self) -> Volume:
        """Probabilities of the regions after refinement, float32 (R, X, Y, Z)."""
        return self._on_input_grid(self.crop_probability)

    @property
    def uncertainty(self) -> Volume:
        """Probability that the voxel's label is wrong, float32 (X, Y, Z)."""
        return self._on_input_grid(self.crop_uncertainty)

    @property
    def margin(self) -> Labels | None:
        """Bands in which the boundaries lie, uint8 (X, Y, Z): bit k is that of the k-th region; None where unfitted."""
        if self.crop_margins is None:
            return None
        shape = (self.crop_labels.shape[0], self.crop_labels.shape[1], self.crop_labels.shape[2])
        bits = np.zeros(shape, np.uint8)
        for index, one in enumerate(self.crop_margins):
            bits |= band(one, shape, self.source.grid.canonical_spacing_mm).astype(np.uint8) << np.uint8(index)
        return self._on_input_grid(bits)

    def _on_input_grid(self, crop: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        grid = self.source.grid
        full = np.zeros((*crop.shape[:-3], *grid.canonical_shape), crop.dtype)
        full[(..., *self.box)] = crop
        return np.ascontiguousarray(to_input_grid(full, grid))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> dict[str, Path]:
        """Write label maps, preview and report; see rediffinet.io.outputs.save_result for more choices."""
        return save_result(self, Path(folder), OutputChoice(overwrite=overwrite)).paths
