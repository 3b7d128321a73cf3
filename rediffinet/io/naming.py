"""Which file of a folder is which contrast: names of BraTS 2023, BraTS ≤ 2021 and nnU-Net.

A case is a folder of its own, or one of several whose files lie together in a folder (nnU-Net's layout); such a case is
written `FOLDER/CASE`, where CASE is what its file names share.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path

from rediffinet.errors import CaseError, LabelError
from rediffinet.io.dicom.files import is_dicom
from rediffinet.task import DEFAULT_TASK, TASKS, Task

_NAME = re.compile(r"(?:(?P<case>.+)[-_])?(?P<token>[a-z0-9]+)\.nii(?:\.gz)?", re.IGNORECASE | re.DOTALL)
_NNUNET = re.compile(r"\d{4}")
_GLIOMA = TASKS[DEFAULT_TASK]
ENDINGS = (".nii", ".nii.gz", ".hdr", ".mha", ".mhd", ".nrrd", ".mgz", ".mgh")
"""What images end with, those of formats that are not read too."""
MOST_FILES = 10_000
"""In how many files of a folder an image is looked for."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def find_cases(path: str | PathLike[str], task: Task = _GLIOMA, *, allow_missing: bool = False) -> list[Path]:
    """Cases at `path`, sorted by name: the folder itself when it holds one, or each case whose files lie in it
    together (`FOLDER/CASE`), else its subfolders that hold one.

    A loose image beside case folders is no case, and hides none. allow_missing: a case may lack one contrast.

    Raises:
        CaseError: not a folder, cannot be read, or no case in it.
    """
    folder = Path(path)
    if not folder.is_dir() and _together(folder, task):
        return [folder]
    here = _by_case(_images(_children(folder), task), task)
    whole = [name for name, files in here.items() if len(files) >= len(task.contrasts) - int(allow_missing)]
    inside = {child: _names_in(child, task) for child in _children(folder) if child.is_dir()}
    inside = {child: names for child, names in inside.items() if names}
    if whole:  # a folder of the same case, or of files without a case's name, belongs to it: raw images, for one
        inside = {child: names for child, names in inside.items() if names - {None} - set(here)}
    elif inside:
        here = {}
    if (len(here) == 1 and not inside) or (here and not whole) or None in whole:
        return [folder]
    if not here and not inside:
        message = (
            f"No case found in {folder}: neither it nor a folder in it holds an image with a known name.\n"
            f"Expected a case folder, or a folder of case folders, with files such as "
            + ", ".join(f"ID-{contrast}.nii.gz" for contrast in task.contrasts)
            + "."
        )
        raise CaseError(message)
    return sorted([*(folder / name for name in here if name is not None), *inside])


def find_others(
    path: Path, cases: Iterable[Path], task: Task = _GLIOMA, apart: Iterable[Path | None] = ()
) -> tuple[list[Path], list[Path]]:
    """The folders beside the case folders of a cohort: (those that hold images somewhere, those that hold none).

    No image is a label map (`ID-seg`), nor anything in a folder of results. Both are empty where `path` is a case
    itself or where cases lie together in it: folders there belong to them. apart: folders that are left out.
    """
    cases, away = list(cases), {folder.resolve() for folder in apart if folder is not None}
    if path in cases or not all(case.is_dir() for case in cases):
        return [], []
    others = [
        child for child in _children(path) if child.is_dir() and child not in cases and child.resolve() not in away
    ]
    images = [child for child in others if next(_other_images(child, task), None) or is_dicom(child)]
    return images, [child for child in others if child not in images]


def find_contrasts(
    folder: str | PathLike[str],
    channels: Sequence[str] | None = None,
    task: Task = _GLIOMA,
    *,
    allow_missing: bool = False,
) -> dict[str, Path]:
    """File of each contrast of a case, keyed and ordered as the task's contrasts.

    folder: the case folder, or `FOLDER/CASE`. `channels` gives the contrasts behind nnU-Net's `_0000`, `_0001` …, as a
    sequence or as "t1n,t1c,t2w,t2f". allow_missing: one contrast may be absent, and is then no key.

    Raises:
        CaseError: a contrast is missing, has several candidate files, or the files carry different case names.
    """
    folder = Path(folder)
    order = parse_channels(channels, task)
    contrast_of = _contrast_of(task)
    found: dict[str, list[Path]] = {contrast: [] for contrast in task.contrasts}
    numbered = []
    for path in _files(folder, task):
        token = _token(path)
        if token is None:
            continue
        channel = _channel(token, task)
        if channel is not None:
            numbered.append(path)
            if order:
                found[order[channel]].append(path)
        elif token in contrast_of:
            found[contrast_of[token]].append(path)
    absent = [contrast for contrast, paths in found.items() if not paths]
    if any(len(paths) > 1 for paths in found.values()) or len(absent) > int(allow_missing):
        raise CaseError(_table(folder, found, order, numbered, task))
    files = {contrast: paths[0] for contrast, paths in found.items() if paths}
    names = {contrast: case_of(path, task) for contrast, path in files.items()}
    if len(set(names.values())) > 1:
        message = (
            f"The {len(files)} contrasts in {folder} carry different case names:\n"
            + "\n".join(f"  {contrast}  {path.name}" for contrast, path in files.items())
            + "\nExpected one case per folder. If they do belong together, give each file explicitly."
        )
        raise CaseError(message)
    return files


def find_labels(folder: str | PathLike[str], task: Task = _GLIOMA) -> Path | None:
    """The reference segmentation (`ID-seg` or `ID_seg`) of a case, or None. folder: as in `find_contrasts`.

    Raises:
        LabelError: more than one file has such a name.
    """
    found = [path for path in _files(Path(folder), task) if _token(path) in task.label_suffixes]
    if len(found) > 1:
        message = f"{folder} holds {len(found)} segmentations: {', '.join(p.name for p in found)}.\nExpected one."
        raise LabelError(message)
    return found[0] if found else None


def case_of(path: Path, task: Task = _GLIOMA) -> str | None:
    """Case name in a file name, or None when the name is a contrast alone or is not one of the known forms."""
    match = _NAME.fullmatch(path.name)
    token = match["token"].lower() if match else ""
    known = token in _contrast_of(task) or token in task.label_suffixes or _channel(token, task) is not None
    return match["case"] if match and known else None


def case_name(files: Mapping[str, Path], folder: Path, task: Task = _GLIOMA) -> str:
    """Name of a case: what its file names share, else the name of its folder (of the link, where that is one)."""
    names = {case_of(path, task) for path in files.values()}
    (name,) = names if len(names) == 1 else (None,)
    return printable(name or Path(os.path.abspath(folder)).name or "case")  # noqa: PTH100 (resolve follows links)


def check_name(name: object) -> str:
    """The name, if it can be that of a case; raises CaseError for one that is no string or no part of a file name."""
    if isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\") and name == printable(name):
        return name
    message = (
        f"The case name is {name!r}.\n"
        "Expected a string that can be part of a file name, without slashes and control characters."
    )
    raise CaseError(message)


def printable(text: str) -> str:
    """Text on one line that can be encoded: control characters and bytes that are no UTF-8 are written as `%FF`."""
    return _UNPRINTABLE.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", text)


def parse_channels(channels: Sequence[str] | None, task: Task = _GLIOMA) -> tuple[str, ...] | None:
    """Order of the contrasts in nnU-Net's channels, spelled in the task's names.

    Raises:
        CaseError: not each of the contrasts once.
    """
    if channels is None:
        return None
    given = channels.split(",") if isinstance(channels, str) else list(channels)
    contrast_of = _contrast_of(task)
    order = tuple(contrast_of.get(name.strip().lower(), name) for name in given)
    if sorted(order) != sorted(task.contrasts):
        message = (
            f"Channels are {','.join(given)!r}.\n"
            f"Expected each of {', '.join(task.contrasts)} once, in the files' order."
        )
        raise CaseError(message)
    return order


def _contrast_of(task: Task) -> dict[str, str]:
    own = {suffix: contrast for contrast in task.contrasts for suffix in task.suffixes_of(contrast)}
    return {**{contrast.lower(): contrast for contrast in task.contrasts}, **own}


def _files(case: Path, task: Task) -> list[Path]:
    """What may belong to a case: all that is in its folder, or the files of its name where cases lie together."""
    if case.is_dir() and (_images(_children(case), task) or not _together(case, task)):
        return _children(case)
    return _together(case, task) or _children(case)


def _together(case: Path, task: Task) -> list[Path]:
    """The files of the case `FOLDER/CASE` in FOLDER, where several cases lie together; none where they do not."""
    files = [path for path in _children_or_none(case.parent) if case_of(path, task) == case.name]
    return files if _images(files, task) else []


def _images(files: Iterable[Path], task: Task) -> list[Path]:
    """Those whose name is that of a contrast."""
    known = _contrast_of(task)
    tokens = ((path, _token(path)) for path in files)
    return [path for path, token in tokens if token and (token in known or _channel(token, task) is not None)]


def _other_images(folder: Path, task: Task) -> Iterator[Path]:
    """Files in a folder, at any depth, that are images by their ending alone."""
    if any(folder.glob("*-report.json")):  # results
        return
    for path in sorted(islice(folder.rglob("*"), MOST_FILES)):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.name.lower().endswith(ENDINGS) and not hidden and _token(path) not in task.label_suffixes:
            yield path


def _by_case(images: Iterable[Path], task: Task) -> dict[str | None, list[Path]]:
    found: dict[str | None, list[Path]] = {}
    for path in images:
        found.setdefault(case_of(path, task), []).append(path)
    return found


def _names_in(folder: Path, task: Task) -> set[str | None]:
    """Case names of the images in a folder; its own for one that cannot be listed, which is told when it is loaded."""
    try:
        return set(_by_case(_images(_children(folder), task), task))
    except CaseError:
        return {folder.name}


def _channel(token: str, task: Task) -> int | None:
    """The channel of a name of nnU-Net, `0000` for the first."""
    return int(token) if _NNUNET.fullmatch(token) and int(token) < len(task.contrasts) else None


def _token(path: Path) -> str | None:
    match = None if path.name.startswith(".") else _NAME.fullmatch(path.name)
    return match["token"].lower() if match and not path.is_dir() else None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"Cannot list {folder}: {reason}.\nExpected a case folder, or a folder of case folders."
        raise CaseError(message) from error


def _children_or_none(folder: Path) -> list[Path]:
    try:
        return _children(folder)
    except CaseError:
        return []


def _table(
    folder: Path, found: dict[str, list[Path]], order: tuple[str, ...] | None, numbered: list[Path], task: Task
) -> str:
    missing = [contrast for contrast, paths in found.items() if not paths]
    double = [contrast for contrast, paths in found.items() if len(paths) > 1]
    rows = [("contrast", "found", "names that match")]
    for contrast, paths in found.items():
        names = [f"ID{'_' if k else '-'}{suffix}.nii.gz" for k, suffix in enumerate(task.suffixes_of(contrast))]
        if order:
            names.append(f"ID_{order.index(contrast):04d}.nii.gz")
        shown = [path.name for path in paths[:3]] + ([f"and {len(paths) - 3} more"] if len(paths) > 3 else [])
        rows.append((contrast, ", ".join(shown) or "nothing", " or ".join(names)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    said = [f"missing: {', '.join(missing)}"] if missing else []
    said += [f"more than one file: {', '.join(double)}"] if double else []
    others = (
        []
        if len(missing) < len(found) or numbered
        else [str(p.relative_to(folder)) for p in _other_images(folder, task)]
    )
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        said.append(f"there is {', '.join(others[:3])}{more}, of no known name")
    lines = [f"The {len(found)} contrasts are not all in {folder} exactly once ({'; '.join(said)}).", *table]
    if numbered and not order:
        lines.append(
            "Files with nnU-Net names are there: say which contrast each number is, as in "
            f'`channels="{",".join(task.contrasts)}"`.'
        )
    files = [path for paths in (*found.values(), numbered) for path in paths]
    names = sorted({case_of(path, task) or "" for path in files} - {""})
    if len(names) > 1 and len(files) > len(found):
        lines.append(f"The files of {len(names)} cases lie together here: name one of them as {folder / names[0]}.")
    if len(missing) == 1 and not double:
        lines.append(f"To segment without {missing[0]}, where the bundle has scores of that: `allow_missing=True`.")
    lines.append("(.nii works as well as .nii.gz.) Rename or remove files, or give each file explicitly.")
    return "\n".join(lines)
