"""Label maps that a person corrected: each a new file with an entry of its own, never over the result.

`X-corrected-N.nii.gz` is the map, `X-corrected-N.json` says who made it, when, and from which. The entry is written
last: where it is, the map is.
"""

import unicodedata
import zlib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rediffinet.errors import CaseError, ChangedError, LabelError, OutputError, TooManyError
from rediffinet.files import file_sha256, write_atomically
from rediffinet.io.geometry import spacing_mm
from rediffinet.io.nifti import read_nifti, write_nifti

CORRECTION_SCHEMA = "rediffinet-correction/1"
NAME_LENGTH = 100
NOTE_LENGTH = 2000
MOST = 100
"""Of a case: each is as large as its result, and keeps it longer in a service."""


class Origin(BaseModel):
    """The label map that a correction began with."""

    model_config = ConfigDict(extra="forbid")

    file: str
    sha256: str


class Correction(BaseModel):
    """The entry of one corrected label map.

    when: UTC, ISO 8601. changed_voxels: voxels whose label differs from `from`. volumes_ml: regions before and after.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: str = Field(default=CORRECTION_SCHEMA, alias="schema")
    case: str
    file: str
    sha256: str
    who: str
    when: str
    note: str
    origin: Origin = Field(alias="from")
    changed_voxels: int
    volumes_ml: dict[str, dict[str, float]]
    rediffinet: str


def read_corrections(folder: Path, case: str) -> list[Correction]:
    """The corrections of a case, oldest first. One whose map is gone, or whose entry is damaged, is not listed."""
    found = []
    for path in folder.glob(f"{glob_escape(case)}-corrected-*.json"):
        try:
            entry = Correction.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        if entry.case == case and entry.file == f"{path.stem}.nii.gz" and (folder / entry.file).is_file():
            found.append((_number(path), entry))
    return [entry for _, entry in sorted(found, key=lambda one: one[0])]


def save_correction(
    folder: Path, report: dict[str, Any], origin: Origin, voxels: bytes, *, who: str, note: str = "", most: int = MOST
) -> Correction:
    """Save a corrected label map beside the outputs of a case and return its entry.

    report: the case's report as a dictionary. origin: the label map it was drawn on, `X-seg.nii.gz`,
    `X-baseline.nii.gz` or an earlier correction. voxels: gzip of one byte per voxel, in the order of that file (first
    axis fastest). most: how many there may be of the case, with this one.

    Raises:
        CaseError: no name was given, it or the note is too long or holds control characters; `origin` is not a label
            map of this case.
        ChangedError: the file of that name is another map by now.
        TooManyError: there are `most` already.
        LabelError: not one label of the schema per voxel.
        OutputError: it cannot be written.
    """
    case = str(report["case"])
    who, note = " ".join(who.split()), note.strip()
    if not who or len(who) > NAME_LENGTH or len(note) > NOTE_LENGTH:
        message = (
            f"A correction has the name of who made it (1 to {NAME_LENGTH} characters; {len(who)} given) and a note "
            f"of at most {NOTE_LENGTH} ({len(note)} given)."
        )
        raise CaseError(message)
    if any(unicodedata.category(letter) == "Cc" for letter in who + "".join(note.split())):
        raise CaseError("The name of who made the correction, or the note, holds control characters. Leave them out.")
    known = [report["outputs"].get("segmentation"), report["outputs"].get("baseline")]
    if origin.file not in [*known, *(entry.file for entry in read_corrections(folder, case))]:
        raise CaseError(f"{origin.file} is not a label map of case {case}: nothing was saved.")
    before = read_nifti(folder / origin.file)
    if before.sha256 != origin.sha256:
        found = f"{origin.file} was written again since the correction began: nothing was saved."
        raise ChangedError(found, hint="Load the page again to see the new map before it is corrected.")
    after = _decode(voxels, before.grid.shape, set(report["labels"].values()))
    regions = _regions(report)
    voxel_ml = float(np.prod(spacing_mm(before.grid.affine))) / 1000.0
    path = _reserve(folder, case)
    try:
        _check_room(path, case, most)
        described = ", ".join(f"{value} {name}" for name, value in report["labels"].items())
        write_nifti(path, after, before.grid, dtype=np.uint8, description=described, intent="label")
        entry = Correction.model_validate(
            {
                "case": case,
                "file": path.name,
                "sha256": file_sha256(path),
                "who": who,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
                "note": note,
                "from": origin,
                "changed_voxels": int((before.voxels != after).sum()),
                "volumes_ml": {
                    "before": _millilitres(before.voxels, regions, voxel_ml),
                    "after": _millilitres(after, regions, voxel_ml),
                },
                "rediffinet": version("rediffinet"),
            }
        )
        text = entry.model_dump_json(by_alias=True, indent=2) + "\n"
        write_atomically(path.with_name(f"{path.name.removesuffix('.nii.gz')}.json"), text.encode())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return entry


def glob_escape(name: str) -> str:
    """A name whose characters mean themselves in a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _decode(voxels: bytes, shape: tuple[int, int, int], labels: set[int]) -> npt.NDArray[np.uint8]:
    """Label map (X, Y, Z) from gzip; no more is unpacked than the grid holds."""
    size = int(np.prod(shape))
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(voxels, size + 1)
    except zlib.error as error:
        raise LabelError(f"The corrected labels did not arrive whole ({error}): nothing was saved.") from error
    if len(content) <= size and not unpacker.eof:
        raise LabelError("The corrected labels did not arrive whole (the gzip is cut off): nothing was saved.")
    if len(content) != size:
        held = f"{len(content)}" if len(content) < size else f"more than {size}"
        message = f"The corrected labels have {held} voxels, the result {size}: nothing was saved."
        raise LabelError(message)
    if unpacker.unused_data:
        held = f"{len(unpacker.unused_data)} bytes"
        raise LabelError(f"The corrected labels have {held} after the gzip, expected none: nothing was saved.")
    flat = np.frombuffer(content, np.uint8)
    unknown = sorted(set(np.unique(flat).tolist()) - labels - {0})
    if unknown:
        raise LabelError(f"The corrected labels hold {unknown}; the labels are {sorted(labels)}: nothing was saved.")
    return flat.reshape(shape, order="F")


def _regions(report: dict[str, Any]) -> dict[str, list[int]]:
    """Labels of each region: those of the report's task, of BraTS, or each label by itself."""
    if report.get("task"):
        return {region["name"]: list(region["labels"]) for region in report["task"]["regions"]}
    labels = report["labels"]
    if set(labels) == {"edema", "necrosis", "enhancing"}:
        core = [labels["necrosis"], labels["enhancing"]]
        return {"WT": [*core, labels["edema"]], "TC": core, "ET": [labels["enhancing"]]}
    return {name: [value] for name, value in labels.items()}


def _millilitres(labels: npt.NDArray[Any], regions: dict[str, list[int]], voxel_ml: float) -> dict[str, float]:
    return {name: round(float(np.isin(labels, values).sum()) * voxel_ml, 3) for name, values in regions.items()}


def _number(path: Path) -> int:
    digits = path.name.removesuffix(".json").removesuffix(".nii.gz").rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _check_room(path: Path, case: str, most: int) -> None:
    """Raise TooManyError when a reserved map is one too many; of two that save at once the earlier number stays."""
    maps = path.parent.glob(f"{glob_escape(case)}-corrected-*.nii.gz")
    if sum(_number(other) <= _number(path) for other in maps) > most:
        found = f"Case {case} has {most} corrections, as many as it may have: nothing was saved."
        raise TooManyError(found, hint="Remove some from its folder, each with its entry.")


def _reserve(folder: Path, case: str) -> Path:
    """The next free name, taken by an empty file: two that save at once get two numbers."""
    taken = [_number(path) for path in folder.glob(f"{glob_escape(case)}-corrected-*.json")]
    number = max(taken, default=0) + 1
    while True:
        path = folder / f"{case}-corrected-{number}.nii.gz"
        try:
            path.open("xb").close()
        except FileExistsError:
            number += 1
        except OSError as error:
            message = f"Cannot write {path}: {error.strerror or error}. Make room, or make the folder writable."
            raise OutputError(message) from error
        else:
            return path
