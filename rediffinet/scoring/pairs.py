"""Which prediction belongs to which reference: by the name of the case, exactly."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rediffinet.errors import CaseError

SUFFIXES = ("seg", "segmentation", "pred", "prediction", "label", "labels", "mask")
"""What the name of a label map may have after the name of its case, behind `-` or `_`."""

_NIFTI = re.compile(r"(?P<stem>.+)\.nii(?:\.gz)?", re.IGNORECASE)
_SUFFIX = re.compile(rf"(?:(?P<case>.+)[-_])?(?:{'|'.join(SUFFIXES)})", re.IGNORECASE)
_NO_LABELS = re.compile(
    r"(.+[-_])?(t1n|t1c|t2w|t2f|t1|t1ce|t2|flair|000\d|baseline|uncertainty|probabilities)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One case to score: its name and the two files; a file is None where no counterpart was found."""

    case: str
    prediction: Path | None
    reference: Path | None
    problem: str = ""
    """Why the pair cannot be scored, if that is known before reading."""


def find_pairs(predictions: Path, references: Path, suffix: str | None = None) -> list[Pair]:
    """Pair label maps by case name: two files, or two folders of files or of case folders.

    In folders, a label map is `CASE.nii[.gz]`, or CASE and one of SUFFIXES, there or one folder down; a file whose name
    is a suffix alone (`CASE/seg.nii.gz`) is named after its folder. Nothing else is taken off a name: `P1_FU2` is
    another case than `P1`. A file without counterpart gives a pair with a problem.

    suffix: what the names of the predictions have after CASE, instead; other files there do not count then.

    Raises:
        CaseError: a path does not exist, one is a file and the other a folder, or there is no label map to score.
    """
    for path in (predictions, references):
        if not path.exists():
            raise CaseError(f"{path} does not exist.\nExpected a label map, or a folder of label maps or case folders.")
    if predictions.is_file() and references.is_file():
        return [Pair(_case_of(references), predictions, references)]
    if predictions.is_file() or references.is_file():
        message = (
            f"{predictions} is a {_kind(predictions)} and {references} a {_kind(references)}.\n"
            "Expected two files or two folders."
        )
        raise CaseError(message)
    return _pair_up(_label_maps(predictions, suffix), _label_maps(references), predictions, references, suffix)


def _pair_up(
    predicted: Mapping[str, Sequence[Path]],
    referenced: Mapping[str, Sequence[Path]],
    predictions: Path,
    references: Path,
    suffix: str | None,
) -> list[Pair]:
    """A pair for each case of either side."""
    if not referenced:
        raise CaseError(f"No label map found in {references}.\nExpected CASE-seg.nii.gz or CASE.nii.gz.")
    pairs = []
    for case in sorted(predicted.keys() | referenced.keys()):
        found, expert = predicted.get(case, ()), referenced.get(case, ())
        if len(expert) > 1:
            pairs.append(Pair(case, None, None, _several(case, "references", expert)))
        elif len(found) > 1:
            pairs.append(Pair(case, None, expert[0] if expert else None, _several(case, "predictions", found)))
        elif not expert:
            problem = (
                f"{found[0]} has no reference in {references}.\nExpected a file such as {case}-seg.nii.gz there."
                f"{_near(case, referenced)}"
            )
            pairs.append(Pair(case, found[0], None, problem))
        elif not found:
            name = f"{case}{suffix or '-seg'}.nii.gz"
            problem = f"{case} has no prediction in {predictions}.\nExpected a file such as {name} there."
            pairs.append(Pair(case, None, expert[0], problem))
        else:
            pairs.append(Pair(case, found[0], expert[0]))
    return pairs


def _near(case: str, referenced: Mapping[str, Sequence[Path]]) -> str:
    """A sentence where a name goes on from a case's: it may name a program, or another examination."""
    begun = [other for other in referenced if case.startswith(other) and not case[len(other)].isalnum()]
    if not begun:
        return ""
    longest = max(begun, key=len)
    return (
        f" There is {longest}: only where {case[len(longest) :]!r} names the program and not another examination, give "
        f"`suffix={case[len(longest) :]}`."
    )


def _several(case: str, what: str, files: Sequence[Path]) -> str:
    return f"{case} has {len(files)} {what}: {', '.join(str(path) for path in files)}.\nExpected one."


def _label_maps(folder: Path, suffix: str | None = None) -> dict[str, list[Path]]:
    """Label maps in a folder and its subfolders by case.

    A subfolder with files that end in a suffix is a case folder: nothing else in it counts.
    """
    found: dict[str, list[Path]] = {}
    for place in (folder, *(child for child in sorted(folder.iterdir()) if child.is_dir() and _visible(child))):
        named, plain = _files(place, suffix)
        chosen = named if named and place != folder else [*named, *plain]
        for case, path in chosen:
            found.setdefault(case, []).append(path)
    return found


def _files(folder: Path, suffix: str | None) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Cases and files of a folder: those with a suffix, and those without."""
    named, plain = [], []
    for path in sorted(folder.iterdir()):
        stem = _stem(path)
        if stem is None or not _visible(path):
            continue
        if suffix is not None:
            if stem.endswith(suffix) or stem == suffix.lstrip("-_"):
                named.append((stem.removesuffix(suffix) if stem.endswith(suffix) else "", path))
        elif (match := _SUFFIX.fullmatch(stem)) is not None:
            named.append((match["case"] or "", path))
        elif not _NO_LABELS.fullmatch(stem):
            plain.append((stem, path))
    return [(case or folder.resolve().name, path) for case, path in named], plain


def _case_of(path: Path) -> str:
    stem = _stem(path) or path.name
    match = _SUFFIX.fullmatch(stem)
    return (match["case"] or path.resolve().parent.name) if match else stem


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _stem(path: Path) -> str | None:
    match = _NIFTI.fullmatch(path.name)
    return match["stem"] if match else None


def _kind(path: Path) -> str:
    return "file" if path.is_file() else "folder"
