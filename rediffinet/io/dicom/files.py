"""The MR series in a folder, a DICOMDIR or a zip: headers only, grouped, with what speaks against using one."""

import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rediffinet.errors import CaseError
from rediffinet.io.checks import LARGEST_IMAGE_VOXELS
from rediffinet.io.dicom.library import library

LARGEST_ZIP_BYTES = 16 * 2**30
LARGEST_DATASET_BYTES = 2 * LARGEST_IMAGE_VOXELS + 2**26
"""Of a deflated file, inflated: the largest image of 16 bits, and its header."""


class _Bounded(io.BufferedReader):
    """A file of which no more is inflated than it may hold.

    pydicom reads one thing to the end of the file and inflates it whole: a deflated dataset (PS3.5 A.5).
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file. Raises CaseError."""
        content = super().read(size)
        if size is None or size < 0:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                left, length = content, 0
                while left and not unpacker.eof and length <= LARGEST_DATASET_BYTES:
                    length += len(unpacker.decompress(left, 2**20))
                    left = unpacker.unconsumed_tail
            except zlib.error:
                length = 0  # damaged, or not deflated: pydicom says so
            if length > LARGEST_DATASET_BYTES:
                raise _too_large("inflates to")
        return content

    @property
    def name(self) -> str:  # type: ignore[override]
        """Where it is; nowhere, for what is in memory."""
        return str(getattr(self.raw, "name", ""))


def _too_large(does: str) -> CaseError:
    message = f"A DICOM file {does} more than {LARGEST_DATASET_BYTES >> 20} MiB.\n"
    return CaseError(message + "Expected images of a head. Leave the file out.")


@dataclass(frozen=True)
class Blob:
    """A DICOM file: on disk, or a member of a zip."""

    path: Path
    member: str | None = None

    def read(self, *, pixels: bool) -> Any:
        """Its dataset. Raises pydicom's InvalidDicomError for what is none, CaseError for a bomb, OSError."""
        pydicom = library("pydicom")
        raw: Any
        if self.member is None:
            raw, size = io.FileIO(self.path), self.path.stat().st_size
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as packed:
                content = packed.read(LARGEST_DATASET_BYTES + 1)
            raw, size = io.BytesIO(content), len(content)
        with _Bounded(raw) as file:
            if size > LARGEST_DATASET_BYTES and file.peek(132)[128:132] == b"DICM":
                raise _too_large("holds")
            dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
        dataset.buffer = None  # it keeps all that was inflated
        return dataset


@dataclass(frozen=True, eq=False)
class Series:
    """The instances of one MR series: their headers, and where to read them with pixels.

    problem: why it cannot be one of the contrasts, empty when nothing speaks against it.
    """

    uid: str
    headers: tuple[Any, ...]
    blobs: tuple[Blob, ...]
    problem: str = ""

    @property
    def number(self) -> int:
        """Number of the series in its study, 0 where it has none."""
        return int(getattr(self.headers[0], "SeriesNumber", None) or 0)

    @property
    def description(self) -> str:
        """What the scanner's user called it."""
        first = self.headers[0]
        words = (getattr(first, "SeriesDescription", ""), getattr(first, "ProtocolName", ""))
        return next((str(word).strip() for word in words if str(word or "").strip()), "")

    def tag(self, keyword: str) -> Any:
        """A value of the first instance, in a multi-frame one also of its functional groups; None where absent."""
        return find_value(self.headers[0], keyword)


def find_value(dataset: Any, keyword: str) -> Any:
    """A value at the top of a dataset, else anywhere in its shared functional groups, then in the first frame's."""
    value = dataset.get(keyword)
    if value not in (None, ""):
        return value
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(dataset.get(groups) or [])[:1]:
            for element in group.iterall():
                if element.keyword == keyword and element.value not in (None, ""):
                    return element.value
    return None


def is_dicom(path: Path) -> bool:
    """Whether there is DICOM at a path: a DICOMDIR, a DICOM file, a zip, or a folder with one somewhere below."""
    if path.is_file():
        return zipfile.is_zipfile(path) or _has_magic(path)
    return path.is_dir() and find_dicom(path) is not None


def find_dicom(folder: Path) -> Path | None:
    """The first DICOM file in a folder, at any depth."""
    return next((file for file in sorted(folder.rglob("*"))[:2000] if file.is_file() and _has_magic(file)), None)


def read_series(path: Path) -> list[Series]:
    """All MR series at a path, by number.

    Raises CaseError: nothing readable, no DICOM, or more than one patient.
    """
    by_series: dict[str, list[tuple[Any, Blob]]] = {}
    others: dict[str, int] = {}
    patients: set[tuple[str, str]] = set()
    for blob in _blobs(path):
        try:
            header = blob.read(pixels=False)
        except CaseError:
            raise
        except Exception:  # whatever the parser says of a file that is no DICOM
            continue
        if "SOPInstanceUID" not in header or "SeriesInstanceUID" not in header:
            continue
        patients.add((str(header.get("PatientID", "")), str(header.get("IssuerOfPatientID", ""))))
        modality = str(header.get("Modality", ""))
        if modality != "MR":
            others[modality or "none"] = others.get(modality or "none", 0) + 1
            continue
        by_series.setdefault(str(header.SeriesInstanceUID), []).append((header, blob))
    if len(patients) > 1:
        message = f"{path} holds images of {len(patients)} patients.\nExpected one; give a folder for each."
        raise CaseError(message)
    if not by_series:
        listed = ", ".join(f"{count} of modality {name}" for name, count in sorted(others.items())) or "no DICOM file"
        raise CaseError(f"{path} holds no MR series: {listed}.\nExpected the series of an examination of the head.")
    found = [_series(uid, items) for uid, items in by_series.items()]
    return sorted(found, key=lambda series: (series.number, series.uid))


def _series(uid: str, items: list[tuple[Any, Blob]]) -> Series:
    headers, blobs = zip(*items, strict=True)
    return Series(uid, headers, blobs, _problem(headers))


def _problem(headers: tuple[Any, ...]) -> str:
    first = headers[0]
    image_type = [str(value).upper() for value in first.get("ImageType") or []]
    if any(int(header.get("SamplesPerPixel", 1) or 1) != 1 for header in headers):
        return "colour images"
    if "LOCALIZER" in image_type:
        return "localiser"
    frames = sum(int(header.get("NumberOfFrames", 1) or 1) for header in headers)
    if frames == 1:
        return "one slice"
    if len({str(header.get("FrameOfReferenceUID", "")) for header in headers}) > 1:
        return "more than one frame of reference"
    return ""


def _blobs(path: Path) -> Iterator[Blob]:
    try:
        if path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file() and file.name != "DICOMDIR"):
                if zipfile.is_zipfile(file):
                    yield from _members(file)
                else:
                    yield Blob(file)
        elif path.name.upper().startswith("DICOMDIR"):
            fileset = library("pydicom.fileset").FileSet(path)
            yield from (Blob(Path(instance.path)) for instance in fileset)
        elif zipfile.is_zipfile(path):
            yield from _members(path)
        else:
            yield Blob(path)
    except OSError as error:
        message = f"Cannot read {path}: {error.strerror or error}.\nExpected a folder, a DICOMDIR or a zip with DICOM."
        raise CaseError(message) from error


def _members(path: Path) -> Iterator[Blob]:
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if sum(entry.file_size for entry in entries) > LARGEST_ZIP_BYTES:
        raise CaseError(f"{path} unpacks to more than {LARGEST_ZIP_BYTES >> 30} GiB.\nGive the folder instead.")
    yield from (Blob(path, entry.filename) for entry in entries if not entry.filename.endswith("DICOMDIR"))


def _has_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
