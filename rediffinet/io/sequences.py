"""Which contrast an MR image is, by what it is called and how it was made: the rules in `sequences.json`."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


@dataclass(frozen=True)
class Signs:
    """What speaks for a contrast. name: all that it is called, lower case; times in ms; sequence as DICOM codes it."""

    name: str
    repetition_ms: float | None = None
    echo_ms: float | None = None
    inversion_ms: float | None = None
    agent: bool = False
    sequence: str = ""


@dataclass(frozen=True)
class Guess:
    """What an image seems to be; contrast None with the reason."""

    contrast: str | None
    reason: str


@cache
def rules() -> dict[str, Any]:
    """The rule file of the package."""
    found: dict[str, Any] = json.loads((resources.files("rediffinet.io") / "sequences.json").read_text("utf-8"))
    return found


def guess(signs: Signs) -> Guess:
    """The contrast of an image by its name first, then by its timing; where the two contradict it is none."""
    rule, name = rules(), signs.name
    inversion, echo = signs.inversion_ms, signs.echo_ms
    for pattern in rule["excluded"]:
        found = re.search(pattern, name)
        if found:
            return Guess(None, f"another kind of image ({found[0]})")
    if re.search(rule["t1_flair"], name):
        return _t1(signs)
    low, high = rule["t2f"]["needs_inversion_ms"]
    if re.search(rule["t2f"]["name"], name):
        if inversion and not low <= inversion <= high:
            return Guess(None, f"is called FLAIR, but its inversion time is {inversion:g} ms")
        if not inversion and signs.sequence and "IR" not in signs.sequence:
            return Guess(None, "is called FLAIR, but its tags know no inversion")
        return Guess("t2f", "by its name")
    if re.search(rule["t1"]["name"], name):
        return _t1(signs)
    inverted = bool(inversion and low <= inversion <= high and (echo or 0) >= rule["t2w"]["echo_ms"][0])
    if re.search(rule["t2w"]["name"], name):
        if inverted:
            return Guess(None, f"is called T2, but has an inversion time of {inversion:g} ms, as FLAIR has")
        return Guess("t2w", "by its name")
    if inverted:
        return Guess("t2f", "by its inversion time")
    if _timed(signs, rule["t1"]):
        return _t1(signs)
    if _timed(signs, rule["t2w"]) and not inversion:
        return Guess("t2w", "by its timing")
    return Guess(None, "neither name nor timing tell what it is")


def sort_out(
    guesses: Mapping[str, Guess], given: Mapping[str, str], called: Callable[[str], str], *, allow_missing: bool = False
) -> tuple[dict[str, str], dict[str, str]]:
    """One image per contrast, by key, and what is unclear: per contrast "none" or how the candidates are `called`.

    given: contrasts that are decided, by key. allow_missing: one contrast may have no candidate, and then nothing is
    unclear.
    """
    chosen: dict[str, str] = {}
    unclear: dict[str, str] = {}
    absent = 0
    for contrast in CONTRASTS:
        if contrast in given:
            chosen[contrast] = given[contrast]
            continue
        fitting = [key for key, found in guesses.items() if found.contrast == contrast and key not in given.values()]
        if len(fitting) == 1:
            chosen[contrast] = fitting[0]
        else:
            absent += not fitting
            unclear[contrast] = ", ".join(called(key) for key in fitting) or "none"
    return chosen, {} if allow_missing and absent == len(unclear) == 1 else unclear


def remedy(unclear: Mapping[str, str], what: str) -> str:
    """What to do about contrasts that are unclear. what: of each is to be named."""
    named = " ".join(f"`{contrast}={what}`" for contrast in unclear)
    alone = list(unclear.values()) == ["none"]
    return f"Say which it is: {named}." + (" To go on without it: `allow_missing=True`." if alone else "")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as indented lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _t1(signs: Signs) -> Guess:
    rule = rules()
    said_no, said_yes = re.search(rule["contrast_no"], signs.name), re.search(rule["contrast_yes"], signs.name)
    if said_no and signs.agent:
        return Guess(None, f"its name says no contrast agent ({said_no[0]}), its tags name one")
    if said_no:
        return Guess("t1n", f"by its name ({said_no[0]})")
    if said_yes or signs.agent:
        return Guess("t1c", "by its name" if said_yes else "by its contrast agent")
    return Guess("t1n", "T1 without sign of a contrast agent")


def is_agent(text: object) -> bool:
    """Whether what stands for the contrast agent names one."""
    said = str(text or "").strip().lower()
    return bool(said) and said not in ("none", "no", "n/a", "na", "0")


def _timed(signs: Signs, rule: Mapping[str, Any]) -> bool:
    return _within(signs.echo_ms, rule["echo_ms"]) and _within(signs.repetition_ms, rule["repetition_ms"])


def _within(value: float | None, limits: Sequence[float]) -> bool:
    return value is not None and limits[0] < value <= limits[1]
