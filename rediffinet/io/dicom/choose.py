"""Which series is which contrast, by the rules of `rediffinet.io.sequences`; refused with a table when not clear."""

from collections.abc import Mapping, Sequence

from rediffinet.errors import CaseError
from rediffinet.io.dicom.files import Series
from rediffinet.io.sequences import Guess, Signs, aligned, is_agent, remedy, sort_out
from rediffinet.io.sequences import guess as guess_from


def guess(series: Series) -> Guess:
    """The contrast of a series by its names first, then by its timing; where the two contradict it is none."""
    if series.problem:
        return Guess(None, series.problem)
    found = guess_from(_signs(series))
    image_type = {str(value).upper() for value in series.tag("ImageType") or []}
    if found.contrast and {"DERIVED", "SECONDARY"} <= image_type and image_type & {"MPR", "PROJECTION IMAGE"}:
        return Guess(None, "derived from another series")
    return found


def choose_series(
    all_series: Sequence[Series], given: Mapping[str, str] | None = None, *, allow_missing: bool = False
) -> dict[str, Series]:
    """The series of each contrast. given: number, UID or description of a series, by contrast.

    allow_missing: there may be no series of one contrast; several are unclear all the same.
    Raises CaseError with the table and the arguments that decide.
    """
    by_uid = {series.uid: series for series in all_series}
    named = {contrast: _named(all_series, contrast, text).uid for contrast, text in (given or {}).items()}
    guesses = {uid: guess(series) for uid, series in by_uid.items()}
    chosen, unclear = sort_out(guesses, named, lambda uid: str(by_uid[uid].number), allow_missing=allow_missing)
    if unclear:
        told = "; ".join(
            f"{contrast}: {which if which == 'none' else f'series {which}'}" for contrast, which in unclear.items()
        )
        message = f"It is not clear which series is which contrast ({told}).\n{table(all_series, guesses)}"
        raise CaseError(f"{message}\n{remedy(unclear, 'NUMBER')}")
    return {contrast: by_uid[uid] for contrast, uid in chosen.items()}


def table(all_series: Sequence[Series], guesses: Mapping[str, Guess] | None = None) -> str:
    """The series as lines: number, description, images, TR, TE, TI, agent, contrast, reason."""
    guesses = guesses or {series.uid: guess(series) for series in all_series}
    rows = [("series", "description", "images", "TR/TE/TI ms", "agent", "contrast", "why")]
    for series in all_series:
        signs = _signs(series)
        times = "/".join(f"{time or 0:g}" for time in (signs.repetition_ms, signs.echo_ms, signs.inversion_ms))
        images = sum(int(header.get("NumberOfFrames", 1) or 1) for header in series.headers)
        found = guesses[series.uid]
        agent = "yes" if signs.agent else "no"
        told = (series.description or "–")[:40]
        rows.append((str(series.number), told, str(images), times, agent, found.contrast or "–", found.reason))
    return aligned(rows)


def _signs(series: Series) -> Signs:
    return Signs(
        f"{series.description} {series.tag('ProtocolName') or ''}".lower(),
        _ms(series, "RepetitionTime"),
        _ms(series, "EchoTime"),
        _ms(series, "InversionTime"),
        is_agent(series.tag("ContrastBolusAgent")),
        str(series.tag("ScanningSequence") or ""),
    )


def _ms(series: Series, keyword: str) -> float | None:
    value = series.tag(keyword)
    if value is None:
        value = series.tag({"EchoTime": "EffectiveEchoTime", "InversionTime": "InversionTimes"}.get(keyword, keyword))
    try:
        return None if value is None else float(value[0] if isinstance(value, list | tuple) else value)
    except (TypeError, ValueError, IndexError):
        return None


def _named(all_series: Sequence[Series], contrast: str, text: str) -> Series:
    fitting = [one for one in all_series if text in (str(one.number), one.uid, one.description)]
    if len(fitting) == 1:
        return fitting[0]
    message = f"`{contrast}={text}` fits {len(fitting)} series.\n{table(all_series)}"
    raise CaseError(f"{message}\nGive the number or the UID of one.")
