"""What of a segmented case is shown: its report, its images and its maps, and nothing else of the disk."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np

from rediffinet.clinic.finished import is_whole
from rediffinet.clinic.viewer.corrections import Correction, read_corrections
from rediffinet.errors import CaseError, ChangedError, LabelError, RediffError
from rediffinet.files import file_sha256
from rediffinet.io.conventions import whole_labels
from rediffinet.io.geometry import corner_distance_mm
from rediffinet.io.naming import find_contrasts, find_labels
from rediffinet.io.nifti import FORM_TOLERANCE_MM, Image, read_nifti
from rediffinet.prepare.files import case_files
from rediffinet.prepare.report import find_preparation

SCHEMAS = ("rediffinet-report/",)
REPORT_END = "-report.json"
MAPS = {"refined": "segmentation", "baseline": "baseline", "uncertainty": "uncertainty", "margin": "margin"}


@dataclass(frozen=True)
class Scene:
    """A case to look at.

    images: file by contrast, each the very one that was segmented. maps: file by kind (`refined`, `baseline`,
    `uncertainty`, `margin`, `reference`). sha256: of each map. altered: the maps that are not as the
    run wrote them that the report is of. notes: what is not shown, and why.
    """

    case: str
    report: dict[str, Any]
    folder: Path
    images: dict[str, Path]
    maps: dict[str, Path]
    sha256: dict[str, str]
    altered: tuple[str, ...]
    notes: tuple[str, ...]

    def files(self) -> dict[str, Path]:
        """Every file that may be fetched, by the name it has in a URL; corrections are looked up each time."""
        outputs = {name: self.folder / name for name in self.report["outputs"].values()}
        images = {f"{contrast}{_suffix(path)}": path for contrast, path in self.images.items()}
        maps = {_map_name(kind, path): path for kind, path in self.maps.items()}
        corrections = {entry.file: self.folder / entry.file for entry in self.corrections()}
        report = {f"{self.case}{REPORT_END}": self.folder / f"{self.case}{REPORT_END}"}
        return {**outputs, **report, **images, **maps, **corrections}

    def corrections(self) -> list[Correction]:
        """The corrections that are saved beside the outputs, oldest first."""
        return read_corrections(self.folder, self.case)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what the page needs to begin.

        URLs are relative to the case's own address; those of maps ask for the very bytes that belong to the report.
        """
        return {
            "case": self.case,
            "report": self.report,
            "images": [
                {"contrast": contrast, "url": _url(f"{contrast}{_suffix(path)}")}
                for contrast, path in self.images.items()
            ],
            "maps": {kind: _url(_map_name(kind, path), self.sha256[kind]) for kind, path in self.maps.items()},
            "sha256": self.sha256,
            "altered": list(self.altered),
            "corrections": [
                {
                    **entry.model_dump(mode="json", by_alias=True),
                    "url": _url(entry.file, entry.sha256),
                    "current": current,
                }
                for entry, current in _with_currency(self.corrections(), set(self.sha256.values()))
            ],
            "notes": list(self.notes),
        }


def open_scene(target: Path, images: Path | None = None, reference: Path | None = None) -> Scene:
    """The scene of a case.

    target: a folder with the outputs of one case, `FOLDER/CASE` for one of several in a folder, or a report. images:
    the folder of the four images, when they are no longer where the report says. reference: a label map to compare
    with; by default the one that lies beside the images.

    Raises:
        CaseError: no report, or several; outputs or all images are gone, or are not those of the report.
        ChangedError: the case was segmented again while it was opened.
        LabelError: the reference given is no label map, or not on the grid of the result.
    """
    path = find_report(target)
    report = read_report(path)
    case, folder = str(report["case"]), path.parent
    maps = {kind: folder / report["outputs"][key] for kind, key in MAPS.items() if key in report["outputs"]}
    gone = [file.name for file in maps.values() if not file.is_file()]
    if gone or "refined" not in maps:
        message = (
            f"{path} tells of {', '.join(gone) or 'no label map'}, which is not beside it.\nSegment the case again."
        )
        raise CaseError(message)
    sizes = {folder / name: report.get("output_bytes", {}).get(kind) for kind, name in report["outputs"].items()}
    broken = [file.name for file in maps.values() if not is_whole(file, sizes[file])]
    if broken:
        message = f"{', '.join(broken)} in {folder} cannot be read: empty, cut off or damaged.\nSegment the case again."
        raise CaseError(message)
    found, notes = _find_images(report, folder, images)
    if not found:
        listed = "\n".join(f"  {note}" for note in notes)
        message = (
            f"None of the images of case {case} can be shown:\n{listed}\n"
            "Give the folder that holds them with `images`, or segment the case again."
        )
        raise CaseError(message)
    other, said = _find_reference(reference, next(iter(found.values())).parent, maps["refined"])
    if other is not None:
        maps["reference"] = other
    if "uncertainty" not in maps:
        notes.append("uncertainty: not written; to see it:  rediff segment … --save-uncertainty")
    if "margin" not in maps and report.get("margin") is not None:
        notes.append("margin: not written; to see it:  rediff segment … --save-margin")
    hashes = {kind: file_sha256(file) for kind, file in maps.items()}
    # a run takes its old report away before it writes anything, and puts the new one down last
    if not path.is_file() or read_report(path) != report:
        raise ChangedError(f"Case {case} was segmented again while it was opened.", hint="Open it again.")
    told = report.get("output_sha256", {})
    altered = tuple(kind for kind, key in MAPS.items() if kind in maps and told.get(key, hashes[kind]) != hashes[kind])
    return Scene(case, report, folder, found, maps, hashes, altered, (*notes, *said))


def find_report(target: Path) -> Path:
    """The report that a path means: itself, the only one in a folder, or `CASE-report.json` for `FOLDER/CASE`.

    Raises:
        CaseError: there is none, or there are several.
    """
    if target.is_file():
        return target
    named = target.parent / f"{target.name}{REPORT_END}"
    if target.name and named.is_file():
        return named
    found = sorted(target.glob(f"*{REPORT_END}")) if target.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        cases = ", ".join(str(target / path.name.removesuffix(REPORT_END)) for path in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise CaseError(f"{target} holds the results of {len(found)} cases. Name one: {cases}{more}.")
    message = (
        f"No result in {target}: no file CASE{REPORT_END}.\n"
        "Expected a folder that `rediff segment` wrote, FOLDER/CASE, or a report."
    )
    raise CaseError(message)


def read_report(path: Path) -> dict[str, Any]:
    """A report as a dictionary. Its paths are names in its own folder: a report that says otherwise is refused.

    Raises:
        CaseError: it cannot be read, or is not a report of a case.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        known = str(report["schema"]).startswith(SCHEMAS)
        names = [str(report["case"]), *report["outputs"].values()]
        _ = {**report.get("output_bytes", {}), **report.get("output_sha256", {})}  # TypeError: not told by kind
        told = [entry[key] for entry in report["inputs"] for key in ("contrast", "path", "sha256")]
        if not all(isinstance(text, str) and "\0" not in text for text in told):
            raise TypeError("the inputs are not told by text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        message = f"{path} is not the report of a case ({reason}).\nExpected one that rediff segment wrote."
        raise CaseError(message) from error
    if not known:
        message = f"{path} has schema {report['schema']}, which this version does not read. Update rediffinet."
        raise CaseError(message)
    if not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise CaseError(f"{path} names outputs outside its own folder: {names}. It was not written by rediff segment.")
    return dict(report)


def _is_plain(name: str) -> bool:
    """Whether a name stays in its folder on every system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _find_images(report: dict[str, Any], folder: Path, given: Path | None) -> tuple[dict[str, Path], list[str]]:
    """File by contrast, and a sentence for each that is not shown."""
    prepared = prepared_images(report, folder) if given is None else {}
    if prepared:
        return {contrast: path.resolve() for contrast, path in prepared.items()}, []
    try:
        refined: Any = nib.load(folder / report["outputs"][MAPS["refined"]])
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise CaseError(f"The label map of the case cannot be read: {error}.\nSegment the case again.") from None
    replaced = {} if given is None else find_contrasts(given)
    found: dict[str, Path] = {}
    notes = []
    for entry in report["inputs"]:
        contrast = entry["contrast"]
        stored = Path(entry["path"])
        there = [place for place in _places(stored, folder) if place.is_file()]
        there = [replaced[contrast]] if contrast in replaced else there
        path = next((place for place in there if file_sha256(place) == entry["sha256"]), next(iter(there), None))
        if path is None and stored.is_dir():
            notes.append(f"{contrast}: {stored} is a series of files, which the page does not show; it reads NIfTI.")
        elif path is None:
            notes.append(f"{contrast}: {stored} is not there any more.")
        elif file_sha256(path) != entry["sha256"]:
            notes.append(f"{contrast}: {path} is not the image that was segmented (its hash is not the report's).")
        elif not _lies_on(refined, path):
            notes.append(f"{contrast}: {path} is a raw scan; what was prepared from it is not beside the result.")
        else:
            found[contrast] = path.resolve()
    return found, notes


def _places(stored: Path, folder: Path) -> list[Path]:
    """Where an image may be that a report in `folder` tells: a relative path begins somewhere above the report, for
    the folder in which the case was segmented is not told; by itself beside the report; last from the current folder.
    """
    if stored.is_absolute():
        return [stored, folder / stored.name]
    home = folder.resolve()
    return [*(above / stored for above in (home, *home.parents)), folder / stored.name, stored]


def prepared_images(report: dict[str, Any], folder: Path) -> dict[str, Path]:
    """File by contrast of a case that was prepared on the way, beside its result; empty when it was not.

    Raises CaseError when what is told of the preparation is damaged.
    """
    case = str(report["case"])
    place = folder / f"{case}-prepared"
    told = find_preparation(place, case)
    hashes = {entry["contrast"]: entry["sha256"] for entry in report["inputs"]}
    if told is None or told.passed_through or {name: one.sha256 for name, one in told.series.items()} != hashes:
        return {}
    names = case_files(case, list(told.series))
    images = {contrast: place / names[contrast] for contrast in told.series}
    return images if all(path.is_file() for path in images.values()) else {}


def _lies_on(refined: Any, image: Path) -> bool:
    """Whether an image is on the grid of the result, within a voxel: grids that differ a little are taken."""
    try:
        other: Any = nib.load(image)
    except (OSError, nib.filebasedimages.ImageFileError):
        return False
    spacing = float(np.linalg.norm(refined.affine[:3, :3], axis=0).max())
    shape = refined.shape[:3]
    return tuple(other.shape[:3]) == shape and corner_distance_mm(shape, refined.affine, other.affine) <= spacing


def _find_reference(given: Path | None, images: Path, refined: Path) -> tuple[Path | None, list[str]]:
    """The reference label map, when there is one on the grid of the result."""
    try:
        path = find_labels(images) if given is None else given
        if path is None or (given is None and path.samefile(refined)):
            return None, []
        other = read_nifti(path)
        whole_labels(other.voxels, str(path))
        _check_same_grid(other, read_nifti(refined))
    except RediffError as error:
        if given is not None:
            raise
        return None, [f"reference: {error}"]
    return path.resolve(), []


def _check_same_grid(reference: Image, refined: Image) -> None:
    mine, other = refined.grid, reference.grid
    if mine.shape == other.shape and corner_distance_mm(mine.shape, mine.affine, other.affine) <= FORM_TOLERANCE_MM:
        return
    message = (
        f"The reference {reference.path} has {' × '.join(map(str, other.shape))} voxels and is not on the grid of the "
        f"result ({' × '.join(map(str, mine.shape))}). Expected a label map of the same images."
    )
    raise LabelError(message)


def _with_currency(entries: list[Correction], current: set[str]) -> Iterator[tuple[Correction, bool]]:
    """Each correction and whether it goes back to a label map that lies there now. current: SHA-256 of those."""
    for entry in entries:
        if entry.origin.sha256 in current:
            current = current | {entry.sha256}
        yield entry, entry.sha256 in current


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"


def _map_name(kind: str, path: Path) -> str:
    return f"reference{_suffix(path)}" if kind == "reference" else path.name


def _url(name: str, sha256: str = "") -> str:
    return f"files/{quote(name)}{f'?sha256={sha256}' if sha256 else ''}"
