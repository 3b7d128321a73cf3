"""Which DICOM objects are written for a result, and their files."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rediffinet.io.dicom.rtstruct import write_rtstruct
from rediffinet.io.dicom.volume import Stack
from rediffinet.io.dicom.write import Kind, Segmented, make_seg, stored, write_sr
from rediffinet.result import Result
from rediffinet.task import regions_of


@dataclass(frozen=True)
class DicomChoice:
    """A segmentation (and of which type), contours, a report of volumes. The report refers to a segmentation."""

    seg: Kind | None = None
    rtstruct: bool = False
    report: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is to be written."""
        return self.seg is not None or self.rtstruct or self.report


def dicom_objects(
    result: Result, stack: Stack, contrast: str, labels: npt.NDArray[np.uint8], choice: DicomChoice
) -> dict[str, tuple[str, bytes]]:
    """Name and content of each object, by kind. labels: uint8 (X, Y, Z) on the stack's grid.

    Raises OutputError for labels without a voxel, ConfigError for labels without a code.
    """
    report = result.report
    bundle = report.bundle
    segmented = Segmented(stack, labels, report.labels, bundle.name[:64], bundle.sha256[:16])
    made: dict[str, bytes] = {}
    if choice.seg is not None or choice.report:
        seg = make_seg(segmented, choice.seg or "BINARY")
        made["seg"] = stored(seg)
        if choice.report:
            made["sr"] = write_sr(segmented, seg)
    if choice.rtstruct:
        task = result.task
        regions = dict(zip(task.region_names, regions_of(labels, task), strict=True))
        made["rtstruct"] = write_rtstruct(stack, regions, segmented.description)
    return {
        f"dicom-{kind}-{contrast}": (f"{report.case}-{kind}-{contrast}.dcm", content) for kind, content in made.items()
    }
