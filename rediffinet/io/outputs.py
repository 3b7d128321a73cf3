"""What is written for a case, and that it is written whole or not at all."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rediffinet.errors import OutputError
from rediffinet.files import new_files
from rediffinet.io.segmented import Segmented
from rediffinet.io.source import Map
from rediffinet.report import Report


@dataclass(frozen=True)
class OutputChoice:
    """Which files are written besides the label maps and the report."""

    preview: bool = True
    uncertainty: bool = False
    probabilities: bool = False
    overwrite: bool = False
    html: bool = False
    margin: bool = False

    def names(self, case: str, *, baseline: bool = True) -> dict[str, str]:
        """File name by kind, the report last: where it is, everything is. baseline: whether there is one to write."""
        names = {"segmentation": f"{case}-seg.nii.gz"}
        if baseline:
            names["baseline"] = f"{case}-baseline.nii.gz"
        if self.uncertainty:
            names["uncertainty"] = f"{case}-uncertainty.nii.gz"
        if self.probabilities:
            names["probabilities"] = f"{case}-probabilities.nii.gz"
        if self.margin:
            names["margin"] = f"{case}-margin.nii.gz"
        if self.preview:
            names["preview"] = f"{case}-preview.png"
        if self.html:
            names["html"] = f"{case}-report.html"
        return {**names, "report": f"{case}-report.json"}


def check_output(folder: Path, case: str, choice: OutputChoice) -> None:
    """Raise OutputError, before any work, when the outputs exist (without overwrite) or cannot be written."""
    names = all_names(case)
    if "\0" in str(folder):
        raise OutputError(f"output folder {str(folder)!r}: no name can hold a null character. Give another folder.")
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        _check_lengths(folder, nearest, case, names)
        existing = {kind for kind, name in names.items() if (folder / name).exists()}
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        message = f"output folder {folder}: {getattr(error, 'strerror', None) or error}. Give another folder."
        raise OutputError(message) from None
    if existing and not choice.overwrite:
        held = ", ".join(name for kind, name in names.items() if kind in existing)
        message = f"{folder} holds {held} already. Use `overwrite=True` to replace, or another output folder."
        raise OutputError(message)
    if "segmentation" in existing and "report" not in existing:
        # BraTS gives its reference the same name, and the default output folder may be the case's own
        message = (
            f"{folder / names['segmentation']} has no {names['report']} beside it: it may be a reference "
            "segmentation rather than an output, and is not replaced. Move it away, or give another output folder."
        )
        raise OutputError(message)
    if not nearest.is_dir():
        message = f"output folder {folder}: {nearest} is a file. Give another folder."
        raise OutputError(message)
    if not os.access(nearest, os.W_OK | os.X_OK):
        message = f"output folder {folder}: {nearest} is not writable. Give another folder."
        raise OutputError(message)


def _check_lengths(folder: Path, nearest: Path, case: str, names: dict[str, str]) -> None:
    """Raise OutputError for names longer than the file system takes: an input's may have no room for an ending."""
    longest = max((os.fsencode(name) for name in names.values()), key=len)
    most = _limit(nearest, "PC_NAME_MAX", 255)
    if len(longest) > most:
        message = (
            f"The case name {case[:40]}… is too long for its outputs: {longest.decode('utf-8', 'replace')[-30:]} would "
            f"have {len(longest)} bytes, and the file system of {nearest} takes {most}. "
            f"Give it one of at most {most - len(longest) + len(os.fsencode(case))} bytes: rename its files or folder."
        )
        raise OutputError(message)
    whole = os.fsencode(folder.absolute()) + b"/" + longest
    most = _limit(nearest, "PC_PATH_MAX", 4096) - 1
    if len(whole) > most:
        message = (
            f"The path of the outputs of case {case} would have {len(whole)} bytes, and the system takes {most}. "
            "Give an output folder with a shorter path."
        )
        raise OutputError(message)


def _limit(folder: Path, name: str, otherwise: int) -> int:
    try:
        return os.pathconf(folder, name)
    except (AttributeError, OSError, ValueError):  # Windows has no such question
        return otherwise


@dataclass(frozen=True)
class Saved:
    """What was written: the paths by kind, and the report as it was written, with its outputs and what writing took."""

    paths: dict[str, Path]
    report: Report


def encode_result(result: Segmented, choice: OutputChoice | None = None) -> dict[str, bytes]:
    """The outputs of a case in memory, keyed by file name, the report last: what `save_result` writes.

    Raises OutputError when a margin is asked for that the result does not have.
    """
    choice = choice or OutputChoice()
    started = time.perf_counter()
    names = _names_of(result, choice)
    contents = dict(_images(result, names))
    told = {kind: _told(names[kind], content) for kind, content in contents.items()}
    report = result.report.written(told, time.perf_counter() - started)
    files = {names[kind]: content for kind, content in contents.items()}
    return {**files, names["report"]: report.to_json().encode()}


def save_result(
    result: Segmented,
    folder: Path,
    choice: OutputChoice | None = None,
    more: Mapping[str, tuple[str, bytes]] | None = None,
) -> Saved:
    """Write the outputs of a case into a folder.

    more: further files that belong to the result, name and content by kind.

    All files are made in a temporary folder inside and then renamed, the report last; outputs of an earlier run that
    are not written again are removed. Raises OutputError, also when a margin is asked for that the result does not
    have, and then leaves nothing behind.
    """
    choice = choice or OutputChoice()
    case = result.report.case
    check_output(folder, case, choice)
    started = time.perf_counter()
    names = _names_of(result, choice)
    with new_files(folder, last=names["report"], stale=all_names(case).values()) as temporary:
        made = ((kind, names[kind], content) for kind, content in _images(result, names))
        added = ((kind, name, content) for kind, (name, content) in (more or {}).items())
        told = {}
        for kind, name, content in chain(added, made):
            (temporary / name).write_bytes(content)
            told[kind] = _told(name, content)
        report = result.report.written(told, time.perf_counter() - started)
        (temporary / names["report"]).write_bytes(report.to_json().encode())
    return Saved({kind: folder / name for kind, name in {**report.outputs, "report": names["report"]}.items()}, report)


def _names_of(result: Segmented, choice: OutputChoice) -> dict[str, str]:
    if choice.margin and result.crop_margins is None:
        message = (
            f"Case {result.report.case} has no margin in mm: it is fitted on results of the bundle's own baseline from "
            "all contrasts, where `rediff calibrate` was run. Leave `save_margin=True` out."
        )
        raise OutputError(message)
    return choice.names(result.report.case, baseline=result.crop_baseline is not None)


def all_names(case: str) -> dict[str, str]:
    """Every file that a case may have, by kind."""
    return OutputChoice(preview=True, uncertainty=True, probabilities=True, html=True, margin=True).names(case)


def _told(name: str, content: bytes) -> tuple[str, int, str]:
    """What the report tells of a file: its name, bytes and SHA-256."""
    return name, len(content), hashlib.sha256(content).hexdigest()


def _images(result: Segmented, names: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """(kind, content) of every output but the report, one in memory at a time."""
    labels = {value: name for name, value in result.report.labels.items()}
    yield "segmentation", _stored(result, Map(result.labels, labels=labels))
    baseline = result.baseline_labels
    if baseline is not None:
        yield "baseline", _stored(result, Map(baseline, labels=labels))
    if "uncertainty" in names:
        yield "uncertainty", _stored(result, Map(result.uncertainty, "probability that the label is wrong"))
    if "probabilities" in names:
        regions = ", ".join(result.task.region_names)
        yield "probabilities", _stored(result, Map(result.probabilities, f"probabilities of {regions}"))
    if "margin" in names and (bits := result.margin) is not None:
        regions_by_bit = {1 << index: name for index, name in enumerate(result.task.region_names)}
        yield "margin", _stored(result, Map(bits, labels=regions_by_bit))
    if "preview" in names:
        from rediffinet.io.preview import encode_preview

        yield "preview", encode_preview(result)
    if "html" in names:
        from rediffinet.io.html_report import encode_html_report

        yield "html", encode_html_report(result)


def _stored(result: Segmented, content: Map) -> bytes:
    return result.source.write_like(content)[".nii.gz"]
