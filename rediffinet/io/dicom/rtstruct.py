"""Contours of the regions as an RT Structure Set: closed planar polygons in the planes of the source series."""

import io
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.io.dicom.library import library
from rediffinet.io.dicom.volume import Stack
from rediffinet.io.dicom.write import DISCLAIMER, SERIES_NUMBERS, to_lps

COLOURS = ((0, 114, 178), (213, 94, 0), (240, 228, 66), (0, 158, 115))
SMALLEST = 3
"""Points of a polygon."""


def write_rtstruct(stack: Stack, regions: dict[str, npt.NDArray[np.bool_]], description: str) -> bytes:
    """Masks bool (X, Y, Z) on the stack's grid, by name of the region; holes are polygons inside (even-odd rule)."""
    buffer = io.BytesIO()
    make_rtstruct(stack, regions, description).save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def contours(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Closed polygons (N, 2) of voxel indices around a plane's mask (X, Y), half way between its voxels and others."""
    padded = np.pad(mask, 1).astype(np.float64)
    lines = library("contourpy").contour_generator(z=padded.T).lines(0.5)
    return [np.asarray(line[:-1] - 1.0) for line in lines if len(line) > SMALLEST]


def make_rtstruct(stack: Stack, regions: dict[str, npt.NDArray[np.bool_]], description: str) -> Any:
    """The dataset that `write_rtstruct` stores."""
    pydicom = library("pydicom")
    dataset_of, uid = pydicom.dataset.Dataset, pydicom.uid
    first = stack.series.headers[0]
    out = dataset_of()
    out.file_meta = pydicom.dataset.FileMetaDataset()
    out.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = uid.RTStructureSetStorage
    out.SOPInstanceUID = out.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
        *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
    ):
        setattr(out, keyword, first.get(keyword, ""))
    if "SpecificCharacterSet" in first:
        out.SpecificCharacterSet = first.SpecificCharacterSet
    now = datetime.now()
    out.Modality, out.SeriesInstanceUID, out.SeriesNumber = "RTSTRUCT", uid.generate_uid(), SERIES_NUMBERS["rtstruct"]
    out.SeriesDescription, out.OperatorsName = f"{description}: contours"[:64], ""
    out.Manufacturer, out.ManufacturerModelName = "rediffinet", "rediffinet"
    out.InstanceCreationDate = out.StructureSetDate = now.strftime("%Y%m%d")
    out.InstanceCreationTime = out.StructureSetTime = now.strftime("%H%M%S")
    out.StructureSetLabel, out.StructureSetDescription, out.ApprovalStatus = "TUMOUR", DISCLAIMER, "UNAPPROVED"
    out.FrameOfReferenceUID = frame_of_reference = str(first.FrameOfReferenceUID)
    out.PositionReferenceIndicator = ""
    out.ReferencedFrameOfReferenceSequence = [_frame_of_reference(dataset_of, stack, frame_of_reference)]
    out.StructureSetROISequence, out.ROIContourSequence, out.RTROIObservationsSequence = [], [], []
    for number, (name, mask) in enumerate(regions.items(), 1):
        roi, drawn, observed = dataset_of(), dataset_of(), dataset_of()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "AUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = frame_of_reference
        drawn.ReferencedROINumber = number
        drawn.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
        drawn.ContourSequence = _contours(dataset_of, stack, mask)
        if not drawn.ContourSequence:
            del drawn.ContourSequence
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "GTV", ""
        out.StructureSetROISequence.append(roi)
        out.ROIContourSequence.append(drawn)
        out.RTROIObservationsSequence.append(observed)
    return out


def _contours(dataset_of: Any, stack: Stack, mask: npt.NDArray[np.bool_]) -> list[Any]:
    lps, found = to_lps(stack), []
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        for polygon in contours(mask[:, :, k]):
            places = np.column_stack([polygon, np.full(len(polygon), k), np.ones(len(polygon))]) @ lps[:3].T
            item = dataset_of()
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(places)
            item.ContourData = [f"{value:.6g}" if abs(value) < 1 else f"{value:.4f}" for value in places.ravel()]
            item.ContourImageSequence = [_reference(dataset_of, stack, int(k))]
            found.append(item)
    return found


def _reference(dataset_of: Any, stack: Stack, k: int) -> Any:
    header, item = stack.series.headers[stack.frames[k].instance], dataset_of()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if len(stack.series.headers) == 1:
        item.ReferencedFrameNumber = stack.frames[k].index + 1
    return item


def _frame_of_reference(dataset_of: Any, stack: Stack, uid: str) -> Any:
    series, study, frame = dataset_of(), dataset_of(), dataset_of()
    first = stack.series.headers[0]
    images = []
    for header in stack.series.headers:
        image = dataset_of()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        images.append(image)
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, images
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = first.StudyInstanceUID, [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = uid, [study]
    return frame
