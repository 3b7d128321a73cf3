"""What every request passes: whose page asks, who asks, how long it took; and headers that every answer has."""

import json
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rediffinet.clinic.service.logs import log, log_error
from rediffinet.clinic.service.problems import MEDIA_TYPE, problem
from rediffinet.clinic.service.tokens import TokenFile
from rediffinet.clinic.viewer.server import HEADERS

OPEN_TO_ALL = ("/healthz", "/readyz")
CHALLENGES = [  # a header each: of two in one, Chromium knows neither and does not ask
    ("www-authenticate", "Bearer"),
    ("www-authenticate", 'Basic realm="rediff: any name, the token as password", charset="UTF-8"'),
]
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class Gate:
    """ASGI middleware, below everything else. It does not touch bodies.

    Without tokens the service answers under the names of this machine alone: a page elsewhere whose name was made to
    point here (DNS rebinding) is refused, and so is a page of another origin, always.
    """

    def __init__(self, app: ASGIApp, tokens: TokenFile, *, local: bool, count: Callable[[str, int], None]) -> None:
        self._app = app
        self._tokens = tokens
        self._local = local
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = {name.lower() for name, _ in message["headers"]}
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in named)]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        try:
            if refusal is not None:
                await _refuse(answer, refusal, CHALLENGES if refusal["status"] == 401 else [])
            else:
                await self._app(scope, receive, answer)
        except Exception as error:
            log_error("request failed", error)
            if status:
                raise
            await _refuse(answer, problem(500, "An unexpected error. The log of the service tells where."), [])
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._count(route, status)
            spent = round(1000 * (time.monotonic() - started), 1)
            log("request", method=_method(scope), route=route, status=status, ms=spent)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> dict[str, Any] | None:
        tokens = self._tokens.now()
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if self._local and tokens.open and name not in LOOPBACK_NAMES:
            return problem(403, "This service answers on this machine alone, under localhost or 127.0.0.1.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return problem(403, "This service answers its own page alone, not one of another origin.")
        owner = tokens.owner(headers.get("authorization"))
        if owner is None and scope["path"] not in OPEN_TO_ALL:
            return problem(
                401,
                "The token is missing or not known. Send it as 'Authorization: Bearer TOKEN'; in a browser "
                "it is the password, with any name.",
            )
        scope.setdefault("state", {})["owner"] = owner
        return None


async def _refuse(send: Send, content: dict[str, Any], more: list[tuple[str, str]]) -> None:
    body = json.dumps(content).encode()
    headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(body))), ("connection", "close"), *more]
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": content["status"], "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
    return scope["method"] if scope["method"] in known else "other"
