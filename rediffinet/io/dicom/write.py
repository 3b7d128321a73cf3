"""A result on the grid of a source series → DICOM: a segmentation, contours, a report of volumes.

What the standard wants of patient and study is copied from the source series by highdicom, into the objects alone.
"""

import io
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rediffinet.errors import OutputError
from rediffinet.io.dicom.codes import MORPHOLOGY, WHOLE, Finding, finding_of
from rediffinet.io.dicom.library import library
from rediffinet.io.dicom.volume import LPS, Stack

SERIES_NUMBERS = {"seg": 9001, "rtstruct": 9002, "sr": 9003}
DISCLAIMER = "Research use only, not for clinical decisions"

Labels = npt.NDArray[np.uint8]
Kind = Literal["BINARY", "LABELMAP"]


@dataclass(frozen=True, eq=False)
class Segmented:
    """What is written: labels uint8 (X, Y, Z) on the grid of the stack, name of each value, and who made them.

    model: name and version or hash of the bundle. description: of the new series.
    """

    stack: Stack
    labels: Labels
    names: dict[str, int]
    model: str
    model_version: str
    description: str = "rediffinet brain tumour segmentation"


def make_seg(result: Segmented, kind: Kind = "BINARY") -> Any:
    """A segmentation dataset: a segment per label and, for BINARY, one for the whole tumour that overlaps them.

    `stored` makes a file of it. Raises OutputError when nothing was found: a segmentation without a voxel is no valid
    object.
    """
    _check(result)
    hd = library("highdicom")
    found = findings_in(result)
    planes = _planes(result.stack, result.labels)
    if kind == "LABELMAP":
        values = {result.names[name]: number for number, (name, _) in enumerate(found, 1)}
        pixels = np.zeros(planes.shape, np.uint8)
        for value, number in values.items():
            pixels[planes == value] = number
        listed = [finding for _, finding in found]
    else:
        pixels = np.stack([*(planes == result.names[name] for name, _ in found), planes > 0], axis=-1).astype(np.uint8)
        listed = [*(finding for _, finding in found), WHOLE]
    return hd.seg.Segmentation(
        source_images=_sources(result.stack),
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues[kind],
        segment_descriptions=[_segment(hd, result, number, finding) for number, finding in enumerate(listed, 1)],
        series_number=SERIES_NUMBERS["seg"],
        content_label="BRAIN_TUMOUR",
        content_description=DISCLAIMER,
        series_description=result.description,
        **_identity(hd),
    )


def write_sr(result: Segmented, seg: Any) -> bytes:
    """A structured report (TID 1500) with the volume of each segment of `seg`, in ml."""
    return stored(make_sr(result, seg))


def make_sr(result: Segmented, seg: Any) -> Any:
    """The dataset that `write_sr` stores."""
    hd, codes = library("highdicom"), library("pydicom.sr.codedict").codes
    voxel_ml = float(abs(np.linalg.det(result.stack.grid.affine[:3, :3]))) / 1000
    voxels_of = {
        finding.name: np.count_nonzero(result.labels == result.names[name]) for name, finding in findings_in(result)
    }
    voxels_of[WHOLE.name] = np.count_nonzero(result.labels)
    measured = []
    for item in seg.SegmentSequence:
        number = int(item.SegmentNumber)
        if number == 0:  # the background of a label map
            continue
        voxels = voxels_of[str(item.SegmentLabel)]
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        measured.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=str(item.SegmentLabel)),
                referenced_segment=hd.sr.ReferencedSegment.from_segmentation(seg, segment_number=number),
                finding_type=hd.sr.CodedConcept(kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning),
                measurements=[
                    hd.sr.Measurement(
                        name=codes.SCT.Volume,
                        value=round(float(voxels) * voxel_ml, 4),
                        unit=hd.sr.CodedConcept("mL", "UCUM", "Milliliter"),
                    )
                ],
                algorithm_id=hd.sr.AlgorithmIdentification(result.model, result.model_version),
            )
        )
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(uid=hd.UID(), name="rediffinet"),
        )
    )
    report = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=hd.sr.CodedConcept("113091000", "SCT", "Magnetic resonance imaging"),
        imaging_measurements=measured,
        title=codes.DCM.ImagingMeasurementReport,
    )
    identity = _identity(hd)
    identity.pop("manufacturer_model_name")
    identity.pop("software_versions")
    identity.pop("device_serial_number")
    return hd.sr.Comprehensive3DSR(
        evidence=[seg, *_sources(result.stack)],
        content=report,
        series_number=SERIES_NUMBERS["sr"],
        is_complete=True,
        series_description=f"{result.description}: volumes",
        **identity,
    )


def findings_in(result: Segmented) -> list[tuple[str, Finding]]:
    """The labels that have a voxel, by value, with their codes."""
    by_value = sorted(result.names.items(), key=lambda item: item[1])
    return [(name, finding_of(name)) for name, value in by_value if (result.labels == value).any()]


def _check(result: Segmented) -> None:
    if result.labels.shape != result.stack.grid.shape:
        raise OutputError(f"Labels of shape {result.labels.shape} are not on the grid {result.stack.grid.shape}.")
    if not result.labels.any():
        raise OutputError("No tumour was found: there is no segment to store.\nLeave the DICOM objects out.")


def _segment(hd: Any, result: Segmented, number: int, finding: Finding) -> Any:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=finding.name,
        segmented_property_category=hd.sr.CodedConcept(*MORPHOLOGY),
        segmented_property_type=hd.sr.CodedConcept(finding.code, finding.scheme, finding.meaning),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=result.model,
            version=result.model_version,
            family=library("pydicom.sr.codedict").codes.DCM.ArtificialIntelligence,
        ),
        tracking_uid=hd.UID(),
        tracking_id=finding.name,
        display_color=hd.color.CIELabColor(*finding.colour),
    )


def _planes(stack: Stack, labels: Labels) -> Labels:
    """Planes (F, rows, columns) in the order that highdicom wants: that of the sources, or of a source's own frames."""
    if len(stack.series.headers) > 1:
        return np.ascontiguousarray(labels.transpose(2, 1, 0))
    planes = np.zeros((len(stack.frames), labels.shape[1], labels.shape[0]), np.uint8)
    for k, frame in enumerate(stack.frames):
        planes[frame.index] = labels[:, :, k].T
    return planes


def _sources(stack: Stack) -> list[Any]:
    """The headers of the source instances, in the order of the planes."""
    if len(stack.series.headers) == 1:
        return [stack.series.headers[0]]
    return [stack.series.headers[frame.instance] for frame in stack.frames]


def _identity(hd: Any) -> dict[str, Any]:
    return {
        "series_instance_uid": hd.UID(),
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "rediffinet",
        "manufacturer_model_name": "rediffinet",
        "software_versions": version("rediffinet"),
        "device_serial_number": "0",
    }


def stored(dataset: Any) -> bytes:
    """A dataset as the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def to_lps(stack: Stack) -> npt.NDArray[np.float64]:
    """Affine (4, 4) from voxel indices to DICOM's patient coordinates, mm."""
    return np.asarray(LPS @ stack.grid.affine, np.float64)
