"""Refusals as problems of RFC 9457 (application/problem+json), each with a sentence that a person can act on."""

from http import HTTPStatus
from typing import Any

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


def problem(status: int, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem; `type` is about:blank, so the title is that of the status."""
    return {"type": "about:blank", "title": _title(status), "status": status, "detail": detail, **more}


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Problem"
