"""Which NIfTI file of a folder is which contrast: known names first, else the rules of `rediffinet.io.sequences`.

The rules see the file's name and what dcm2niix or BIDS wrote beside it, `NAME.json`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rediffinet.errors import CaseError
from rediffinet.io.naming import case_name, case_of, find_cases, find_contrasts, find_others, printable
from rediffinet.io.sequences import Guess, Signs, aligned, guess, is_agent, remedy, rules, sort_out

ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class RawFiles:
    """A raw case: its name and the file of each contrast."""

    name: str
    files: dict[str, Path]


def find_raw(
    folder: Path,
    channels: Sequence[str] | None = None,
    given: Mapping[str, str] | None = None,
    *,
    allow_missing: bool = False,
) -> RawFiles:
    """The contrasts of a folder of NIfTI files.

    given: file of a contrast, a path or a name in the folder, where names do not decide. allow_missing: one contrast
    may be absent. Raises CaseError with a table of the files and the flags that decide.
    """
    if not given:
        try:
            files = find_contrasts(folder, channels, allow_missing=allow_missing)
            return RawFiles(case_name(files, folder), files)
        except CaseError:
            if channels or not folder.is_dir():
                raise
    return _by_rules(folder, given or {}, allow_missing=allow_missing)


def list_raw(
    path: Path,
    channels: Sequence[str] | None = None,
    given: Mapping[str, str] | None = None,
    *,
    allow_missing: bool = False,
    apart: Iterable[Path | None] = (),
) -> tuple[list[tuple[Path, RawFiles | None]], list[Path]]:
    """(the raw case in a folder, or each folder of cases with what was found; folders without any image).

    None: told when it is its turn. apart: folders that are no cases, as that of the outputs.

    Raises CaseError for a folder that is no case and holds none.
    """
    try:  # one case first: a mask beside its images may look like another case
        return [(path, find_raw(path, channels, given, allow_missing=allow_missing))], []
    except CaseError as error:
        try:
            folders = find_cases(path, allow_missing=allow_missing)
        except CaseError:
            folders = []
        if given or folders in ([], [path]):
            raise error from None
    others, empty = find_others(path, folders, apart=apart)
    found: list[tuple[Path, RawFiles | None]] = []
    for folder in sorted([*folders, *others]):
        try:
            found.append((folder, find_raw(folder, channels, allow_missing=allow_missing)))
        except CaseError:
            found.append((folder, None))
    return found, empty


def _by_rules(folder: Path, given: Mapping[str, str], *, allow_missing: bool) -> RawFiles:
    if not folder.is_dir():
        raise CaseError(f"{folder} is no folder.\nExpected a folder of one NIfTI file of each contrast, or of DICOM.")
    there = {path.name: path for path in sorted(folder.iterdir()) if path.name.lower().endswith(ENDINGS)}
    there = {name: path for name, path in there.items() if not name.startswith(".") and path.is_file()}
    chosen = {contrast: _given(folder, contrast, text, there) for contrast, text in given.items()}
    if not there and not chosen:
        message = f"No image found in {folder}.\nExpected one NIfTI file of each contrast, or a folder of DICOM."
        raise CaseError(message)
    common = _common([_stem(name) for name in there])
    shared = len(common)
    guesses = {name: _guess(path, shared) for name, path in there.items()}
    taken = {contrast: path.name for contrast, path in chosen.items()}
    found, unclear = sort_out(guesses, taken, str, allow_missing=allow_missing)
    if unclear:
        told = "; ".join(f"{contrast}: {which}" for contrast, which in unclear.items())
        rows = [("file", "contrast", "why")]
        rows += [(name, one.contrast or "–", one.reason) for name, one in guesses.items()]
        message = f"It is not clear which file of {folder} is which contrast ({told}).\n{aligned(rows)}"
        raise CaseError(f"{message}\n{remedy(unclear, 'FILE')}")
    files = {contrast: chosen.get(contrast) or there[name] for contrast, name in found.items()}
    cases = {case_of(path) for contrast, path in files.items() if contrast not in chosen} - {None}
    cases = {case for case in cases if case and not case.isdigit()}  # numbers are those of series
    if len(cases) > 1:
        listed = "\n".join(f"  {contrast}  {path.name}" for contrast, path in files.items())
        message = f"The contrasts in {folder} carry different case names:\n{listed}"
        raise CaseError(f"{message}\nExpected one case. If they do belong together, give each file explicitly.")
    name = common.strip("-_ .") or Path(os.path.abspath(folder)).name  # noqa: PTH100 (as in case_name)
    return RawFiles(printable(name or "case"), files)


def _common(stems: Sequence[str]) -> str:
    """What several names begin with, in whole words: t1 and t2 share a letter."""
    first, last = min(stems, default=""), max(stems, default="")
    length = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return re.sub(r"[^-_ .]*$", "", first[:length])


def _given(folder: Path, contrast: str, text: str, there: Mapping[str, Path]) -> Path:
    for path in (there.get(text), Path(text), folder / text):
        if path is not None and path.is_file():
            return path
    message = (
        f"`{contrast}={text}` is no file, neither here nor in {folder}.\nIt holds {', '.join(there) or 'no image'}."
    )
    raise CaseError(message)


def _guess(path: Path, shared: int) -> Guess:
    own = _stem(path.name)[shared:].lower()
    beside = _sidecar(path)
    spaced = re.sub(r"[-_.]+", " ", own)
    not_image = re.search(rules()["no_image"], spaced)
    if not_image:
        return Guess(None, f"no image of a scanner ({not_image[0]})")
    words = [own, spaced, *(str(beside.get(key) or "").lower() for key in ("SeriesDescription", "ProtocolName"))]
    sequence = beside.get("ScanningSequence")
    return guess(
        Signs(
            " ".join(words),
            _ms(beside, "RepetitionTime"),
            _ms(beside, "EchoTime"),
            _ms(beside, "InversionTime"),
            any(is_agent(beside.get(key)) for key in ("ContrastBolusIngredient", "ContrastBolusAgent")),
            " ".join(map(str, sequence)) if isinstance(sequence, list) else str(sequence or ""),
        )
    )


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.with_name(f"{_stem(path.name)}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ms(beside: Mapping[str, Any], key: str) -> float | None:
    value = beside.get(key)
    return 1000.0 * value if isinstance(value, int | float) else None


def _stem(name: str) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", name, flags=re.IGNORECASE)
