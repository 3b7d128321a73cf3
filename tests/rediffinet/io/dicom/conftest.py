"""DICOM made of arrays: single-frame and enhanced MR series with any affine, of a person who does not exist."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PATIENT = {"PatientName": "Nobody^Phantom", "PatientID": "PHANTOM-1", "PatientBirthDate": "19000101", "PatientSex": "O"}
TIMING = {
    "t1n": ("t1_tse_tra", 500.0, 9.0, None),
    "t1c": ("t1_tse_tra+C", 500.0, 9.0, None),
    "t2w": ("t2_tse_tra", 5000.0, 100.0, None),
    "t2f": ("t2_tirm_tra_dark-fluid", 9000.0, 120.0, 2500.0),
}


def write_single(
    folder: Path, voxels: np.ndarray, affine: np.ndarray, contrast: str = "t1c", number: int = 1, **tags: Any
) -> list[Path]:
    """A classic MR series, one file per slice; `affine` is RAS+, voxels (X, Y, Z); files in no order of place."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]
    description, repetition, echo, inversion = TIMING[contrast]
    study = "1.2.826.0.1.3680043.8.498.1"
    series = generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(voxels.shape[2]):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in PATIENT.items():
            setattr(dataset, keyword, value)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, f"{study}.9"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20260101", "120000", "1", ""
        dataset.ReferringPhysicianName, dataset.PositionReferenceIndicator = "", ""
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "MR", number, k + 1
        dataset.Manufacturer, dataset.SeriesDescription = "none", description
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = (
            "SE" if not inversion else "IR",
            "SK",
            "",
        )
        dataset.MRAcquisitionType, dataset.EchoTrainLength = "2D", 1
        dataset.RepetitionTime, dataset.EchoTime = repetition, echo
        if inversion:
            dataset.InversionTime = inversion
        if contrast == "t1c":
            dataset.ContrastBolusAgent = "gadolinium"
        dataset.Rows, dataset.Columns = voxels.shape[1], voxels.shape[0]
        dataset.ImageOrientationPatient = [f"{value:.10f}"[:16] for value in (*row, *column)]
        dataset.ImagePositionPatient = [f"{value:.8f}"[:16] for value in (lps @ [0, 0, k, 1])[:3]]
        dataset.PixelSpacing = [f"{spacing[1]:.8f}"[:16], f"{spacing[0]:.8f}"[:16]]
        dataset.SliceThickness = f"{spacing[2]:.6f}"
        dataset.SpacingBetweenSlices = f"{spacing[2]:.6f}"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.PixelData = np.ascontiguousarray(voxels[:, :, k].T.astype("<u2")).tobytes()
        for keyword, value in tags.items():
            setattr(dataset, keyword, value(k) if callable(value) else value)
        path = folder / f"{contrast}-{number}-{(k * 7919) % 10007:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_enhanced(folder: Path, voxels: np.ndarray, affine: np.ndarray, order: np.ndarray) -> Path:
    """One enhanced MR image, its frames in any order, geometry in the functional groups."""
    import pydicom
    from pydicom import Dataset
    from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for keyword, value in PATIENT.items():
        setattr(dataset, keyword, value)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = generate_uid(), ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20260101", "120000", "1", ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "MR", 5, 1
    dataset.ImageType, dataset.SeriesDescription = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "t1 mprage post"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = voxels.shape[1], voxels.shape[0], voxels.shape[2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    shared, measures, orientation, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [float(spacing[1]), float(spacing[0])], float(spacing[2])
    directions = [lps[:3, 0] / spacing[0], lps[:3, 1] / spacing[1]]
    orientation.ImageOrientationPatient = [f"{value:.10f}"[:16] for value in np.concatenate(directions)]
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2.0, -5.0, "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [values]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in order:
        group, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [f"{value:.8f}"[:16] for value in (lps @ [0, 0, k, 1])[:3]]
        content.DimensionIndexValues = [int(k) + 1]
        group.PlanePositionSequence, group.FrameContentSequence = [position], [content]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = np.ascontiguousarray(voxels[:, :, order].transpose(2, 1, 0).astype("<u2")).tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    dataset.save_as(folder / "enhanced.dcm", enforce_file_format=True)
    return folder / "enhanced.dcm"


@pytest.fixture
def single() -> Callable[..., list[Path]]:
    return write_single


@pytest.fixture
def enhanced() -> Callable[..., Path]:
    return write_enhanced
