"""Which file of a folder is which contrast: names of BraTS 2023, BraTS ≤ 2021 and nnU-Net."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from rediffinet.errors import CaseError, LabelError
from rediffinet.labels import CONTRASTS

ALIASES = {"t1n": ("t1n", "t1"), "t1c": ("t1c", "t1ce"), "t2w": ("t2w", "t2"), "t2f": ("t2f", "flair")}
_CONTRAST_OF = {alias: contrast for contrast, aliases in ALIASES.items() for alias in aliases}
_NAME = re.compile(r"(?:(?P<case>.+)[-_])?(?P<token>[a-z0-9]+)\.nii(?:\.gz)?", re.IGNORECASE)
_NNUNET = re.compile(r"000[0-3]")


def find_cases(path: str | PathLike[str]) -> list[Path]:
    """Case folders at `path`: itself when it holds images, else its subfolders that do, sorted by name.

    Raises:
        CaseError: not a folder, cannot be read, or no case in it.
    """
    folder = Path(path)
    if _holds_images(folder):
        return [folder]
    cases = [child for child in _children(folder) if child.is_dir() and _holds_images(child)]
    if not cases:
        message = (
            f"No case found in {folder}: neither it nor a folder in it holds an image with a known name.\n"
            f"Expected a case folder, or a folder of case folders, with files such as "
            + ", ".join(f"ID-{contrast}.nii.gz" for contrast in CONTRASTS)
            + "."
        )
        raise CaseError(message)
    return cases


def find_contrasts(folder: str | PathLike[str], channels: Sequence[str] | None = None) -> dict[str, Path]:
    """File of each contrast in a case folder, keyed and ordered t1n, t1c, t2w, t2f.

    `channels` gives the contrasts behind nnU-Net's `_0000` … `_0003`, as a sequence or as "t1n,t1c,t2w,t2f".

    Raises:
        CaseError: a contrast is missing, has several candidate files, or the files carry different case names.
    """
    folder = Path(folder)
    order = parse_channels(channels)
    found: dict[str, list[Path]] = {contrast: [] for contrast in CONTRASTS}
    numbered = []
    for path in _children(folder):
        token = _token(path)
        if token is None:
            continue
        if _NNUNET.fullmatch(token):
            numbered.append(path)
            if order:
                found[order[int(token)]].append(path)
        elif token in _CONTRAST_OF:
            found[_CONTRAST_OF[token]].append(path)
    if any(len(paths) != 1 for paths in found.values()):
        raise CaseError(_table(folder, found, order, numbered))
    files = {contrast: paths[0] for contrast, paths in found.items()}
    names = {contrast: case_of(path) for contrast, path in files.items()}
    if len(set(names.values())) > 1:
        message = (
            f"The four contrasts in {folder} carry different case names:\n"
            + "\n".join(f"  {contrast}  {files[contrast].name}" for contrast in CONTRASTS)
            + "\nExpected one case per folder. If they do belong together, give the four files explicitly."
        )
        raise CaseError(message)
    return files


def find_labels(folder: str | PathLike[str]) -> Path | None:
    """The reference segmentation (`ID-seg` or `ID_seg`) of a case folder, or None.

    Raises:
        LabelError: more than one file has such a name.
    """
    found = [path for path in _children(Path(folder)) if _token(path) == "seg"]
    if len(found) > 1:
        message = f"{folder} holds {len(found)} segmentations: {', '.join(p.name for p in found)}.\nExpected one."
        raise LabelError(message)
    return found[0] if found else None


def case_of(path: Path) -> str | None:
    """Case name in a file name, or None when the name is a contrast alone or is not one of the known forms."""
    match = _NAME.fullmatch(path.name)
    token = match["token"].lower() if match else ""
    known = token in _CONTRAST_OF or token == "seg" or _NNUNET.fullmatch(token)
    return match["case"] if match and known else None


def case_name(files: Mapping[str, Path], folder: Path) -> str:
    """Name of a case: what its file names share, else the name of its folder."""
    names = {case_of(path) for path in files.values()}
    (name,) = names if len(names) == 1 else (None,)
    return name or folder.resolve().name or "case"


def parse_channels(channels: Sequence[str] | None) -> tuple[str, ...] | None:
    """Order of the contrasts in nnU-Net's channels, spelled in today's names.

    Raises:
        CaseError: not each of the four contrasts once.
    """
    if channels is None:
        return None
    given = channels.split(",") if isinstance(channels, str) else list(channels)
    order = tuple(_CONTRAST_OF.get(name.strip().lower(), name) for name in given)
    if sorted(order) != sorted(CONTRASTS):
        message = (
            f"Channels are {','.join(given)!r}.\nExpected each of {', '.join(CONTRASTS)} once, in the files' order."
        )
        raise CaseError(message)
    return order


def _holds_images(folder: Path) -> bool:
    tokens = [_token(path) for path in _children(folder)]
    return any(token in _CONTRAST_OF or _NNUNET.fullmatch(token) for token in tokens if token)


def _token(path: Path) -> str | None:
    match = None if path.name.startswith(".") else _NAME.fullmatch(path.name)
    return match["token"].lower() if match and not path.is_dir() else None


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    except OSError as error:
        message = f"Cannot list {folder}: {error.strerror}.\nExpected a case folder, or a folder of case folders."
        raise CaseError(message) from error


def _table(folder: Path, found: dict[str, list[Path]], order: tuple[str, ...] | None, numbered: list[Path]) -> str:
    missing = [contrast for contrast, paths in found.items() if not paths]
    double = [contrast for contrast, paths in found.items() if len(paths) > 1]
    rows = [("contrast", "found", "names that match")]
    for contrast, paths in found.items():
        names = [f"ID-{ALIASES[contrast][0]}.nii.gz", f"ID_{ALIASES[contrast][1]}.nii.gz"]
        if order:
            names.append(f"ID_000{order.index(contrast)}.nii.gz")
        shown = [path.name for path in paths[:3]] + ([f"and {len(paths) - 3} more"] if len(paths) > 3 else [])
        rows.append((contrast, ", ".join(shown) or "nothing", " or ".join(names)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    said = [f"missing: {', '.join(missing)}"] if missing else []
    said += [f"more than one file: {', '.join(double)}"] if double else []
    lines = [f"The four contrasts are not all in {folder} exactly once ({'; '.join(said)}).", *table]
    if numbered and not order:
        lines.append(
            "Files with nnU-Net names are there: say which contrast each number is, as in --channels t1n,t1c,t2w,t2f."
        )
    lines.append("(.nii works as well as .nii.gz.) Rename or remove files, or give the four files explicitly.")
    return "\n".join(lines)
