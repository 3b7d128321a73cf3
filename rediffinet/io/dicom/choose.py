"""Which series is which contrast: by the rules in `rules.json`, shown as a table, refused when it is not clear."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from rediffinet.errors import CaseError
from rediffinet.io.dicom.files import Series

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@dataclass(frozen=True)
class Guess:
    """What a series seems to be; contrast None with the reason."""

    contrast: str | None
    reason: str


@cache
def rules() -> dict[str, Any]:
    """The rule file of the package."""
    found: dict[str, Any] = json.loads((resources.files("rediffinet.io.dicom") / "rules.json").read_text("utf-8"))
    return found


def guess(series: Series) -> Guess:
    """The contrast of a series by its names first, then by its timing; where the two contradict it is none."""
    if series.problem:
        return Guess(None, series.problem)
    rule = rules()
    name = f"{series.description} {series.tag('ProtocolName') or ''}".lower()
    for pattern in rule["excluded"]:
        found = re.search(pattern, name)
        if found:
            return Guess(None, f"another kind of image ({found[0]})")
    image_type = [str(value).upper() for value in series.tag("ImageType") or []]
    if (
        "DERIVED" in image_type
        and "SECONDARY" in image_type
        and any(k in image_type for k in ("MPR", "PROJECTION IMAGE"))
    ):
        return Guess(None, "derived from another series")
    inversion, echo, repetition = (_ms(series, key) for key in ("InversionTime", "EchoTime", "RepetitionTime"))
    if re.search(rule["t1_flair"], name):
        return _t1(series, name)
    if re.search(rule["t2f"]["name"], name):
        low, high = rule["t2f"]["needs_inversion_ms"]
        if inversion and not low <= inversion <= high:
            return Guess(None, f"is called FLAIR, but its inversion time is {inversion:g} ms")
        sequence = str(series.tag("ScanningSequence") or "")
        if not inversion and sequence and "IR" not in sequence:
            return Guess(None, "is called FLAIR, but its tags know no inversion")
        return Guess("t2f", "by its name")
    if re.search(rule["t1"]["name"], name):
        return _t1(series, name)
    low, high = rule["t2f"]["needs_inversion_ms"]
    inverted = bool(inversion and low <= inversion <= high and (echo or 0) >= rule["t2w"]["echo_ms"][0])
    if re.search(rule["t2w"]["name"], name):
        if inverted:
            return Guess(None, f"is called T2, but has an inversion time of {inversion:g} ms, as FLAIR has")
        return Guess("t2w", "by its name")
    if inverted:
        return Guess("t2f", "by its inversion time")
    if _within(echo, rule["t1"]["echo_ms"]) and _within(repetition, rule["t1"]["repetition_ms"]):
        return _t1(series, name)
    if _within(echo, rule["t2w"]["echo_ms"]) and _within(repetition, rule["t2w"]["repetition_ms"]) and not inversion:
        return Guess("t2w", "by its timing")
    return Guess(None, "neither name nor timing tell what it is")


def choose_series(all_series: Sequence[Series], given: Mapping[str, str] | None = None) -> dict[str, Series]:
    """The series of each contrast. given: number, UID or description of a series, by contrast.

    Raises CaseError with the table and the flags that decide.
    """
    given = given or {}
    named = {contrast: _named(all_series, contrast, text) for contrast, text in given.items()}
    guesses = {series.uid: guess(series) for series in all_series}
    taken = {series.uid for series in named.values()}
    chosen: dict[str, Series] = {}
    unclear: list[str] = []
    for contrast in CONTRASTS:
        if contrast in named:
            chosen[contrast] = named[contrast]
            continue
        fitting = [one for one in all_series if guesses[one.uid].contrast == contrast and one.uid not in taken]
        if len(fitting) == 1:
            chosen[contrast] = fitting[0]
        else:
            which = ", ".join(str(series.number) for series in fitting)
            unclear.append(f"{contrast}: " + (f"series {which}" if fitting else "none"))
    if unclear:
        flags = " ".join(f"--{text.partition(':')[0]} NUMBER" for text in unclear)
        message = (
            f"It is not clear which series is which contrast ({'; '.join(unclear)}).\n{table(all_series, guesses)}"
        )
        raise CaseError(f"{message}\nSay which it is: {flags}.")
    return chosen


def table(all_series: Sequence[Series], guesses: Mapping[str, Guess] | None = None) -> str:
    """The series as lines: number, description, images, TR, TE, TI, agent, contrast, reason."""
    guesses = guesses or {series.uid: guess(series) for series in all_series}
    rows = [("series", "description", "images", "TR/TE/TI ms", "agent", "contrast", "why")]
    for series in all_series:
        times = "/".join(f"{_ms(series, key) or 0:g}" for key in ("RepetitionTime", "EchoTime", "InversionTime"))
        images = sum(int(header.get("NumberOfFrames", 1) or 1) for header in series.headers)
        found = guesses[series.uid]
        agent = "yes" if _agent(series) else "no"
        told = (series.description or "–")[:40]
        rows.append((str(series.number), told, str(images), times, agent, found.contrast or "–", found.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _t1(series: Series, name: str) -> Guess:
    rule = rules()
    said_no, said_yes = re.search(rule["contrast_no"], name), re.search(rule["contrast_yes"], name)
    agent = _agent(series)
    if said_no and agent:
        return Guess(None, f"its name says no contrast agent ({said_no[0]}), its tags name one")
    if said_no:
        return Guess("t1n", f"by its name ({said_no[0]})")
    if said_yes or agent:
        return Guess("t1c", "by its name" if said_yes else "by its contrast agent")
    return Guess("t1n", "T1 without sign of a contrast agent")


def _agent(series: Series) -> bool:
    text = str(series.tag("ContrastBolusAgent") or "").strip().lower()
    return bool(text) and text not in ("none", "no", "n/a", "na", "0")


def _ms(series: Series, keyword: str) -> float | None:
    value = series.tag(keyword)
    if value is None:
        value = series.tag({"EchoTime": "EffectiveEchoTime", "InversionTime": "InversionTimes"}.get(keyword, keyword))
    try:
        return None if value is None else float(value[0] if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError, IndexError):
        return None


def _within(value: float | None, limits: Sequence[float]) -> bool:
    return value is not None and limits[0] < value <= limits[1]


def _named(all_series: Sequence[Series], contrast: str, text: str) -> Series:
    fitting = [one for one in all_series if text in (str(one.number), one.uid, one.description)]
    if len(fitting) == 1:
        return fitting[0]
    message = f"--{contrast} {text} fits {len(fitting)} series.\n{table(all_series)}"
    raise CaseError(f"{message}\nGive the number or the UID of one.")
