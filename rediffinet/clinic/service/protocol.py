"""HTTP as uvicorn speaks it, but for clients that never come to the end of a request's head."""

import asyncio
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

from rediffinet.clinic.service.problems import MEDIA_TYPE, problem

HEAD_S = 20.0
"""The longest time from a connection, or from the first byte of a further request, to the end of the request's head."""


class PunctualProtocol(H11Protocol):
    """Closes connections that are open without a request; bodies have time limits of their own, see uploads."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """A request goes on, or a further one begins."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._end)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self._refuse(408, f"The request did not come within {HEAD_S:.0f} s.")

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP: a request, or what follows its head."""
        within = self.cycle is not None and not self.cycle.response_complete
        what = "body of a request" if within else "request"
        self._refuse(400, f"What came is no {what} of HTTP/1.1{'' if within else ', or its head is too long'}.")

    def _refuse(self, status: int, detail: str) -> None:
        """A problem, unless an answer has begun, and the end of the connection."""
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not self.transport.is_closing() and not begun:
            content = problem(status, detail)
            body = json.dumps(content).encode()
            head = f"HTTP/1.1 {status} {content['title']}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
            if self.cycle is not None:  # whoever reads the body finds nobody there, and answers no more
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        self.transport.close()
