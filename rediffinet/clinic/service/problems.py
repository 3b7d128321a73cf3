"""Refusals as problems of RFC 9457 (application/problem+json), each with a sentence that a person can act on."""

import re
from http import HTTPStatus
from typing import Any

_SERIES = re.compile(r"`(t1n|t1c|t2w|t2f)=(NUMBER|\d+)`(?: `(?:t1n|t1c|t2w|t2f)=(?:NUMBER|\d+)`)*")
_FIELDS = {"study": "examination", "save_margin": "margin"}
_STORED = re.compile(r"(?<![\w./-])(?:in/(\w+)\.nii(?:\.gz)?(?!\w)|archive/)")
"""Where the files of a case are kept: a part of the form, or what was in its archive."""
MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818 (the word of RFC 9457)
    """A refusal. detail: what was found, what was expected. headers: such as Retry-After."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return problem(self.status, self.detail, **self.more)


def in_fields(text: str) -> str:
    """The text of an error in the words of the form: arguments in backticks are its fields, files its parts."""

    def field(found: re.Match[str]) -> str:
        value = found[2].lower() if found[2] in ("True", "False") else found[2]
        return f"`{_FIELDS.get(found[1], found[1])}={value}`"

    text = _STORED.sub(lambda found: found[1] or "", text)
    text = _SERIES.sub(lambda found: f"`series={found[0].replace('`', '').replace(' ', ',')}`", text)
    return re.sub(r"`([a-z_]+)=([^`]*)`", field, text)


def problem(status: int, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem; `type` is about:blank, so the title is that of the status."""
    return {"type": "about:blank", "title": _title(status), "status": status, "detail": detail, **more}


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"
