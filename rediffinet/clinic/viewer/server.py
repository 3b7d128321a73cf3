"""A server for one case on this machine: the page, the files of the scene, and the place where corrections go.

It listens on loopback alone. Every address begins with a secret that is made at the start, so other users of the
machine and other pages of the browser do not reach the case. The paths behind the secret are those of `rediff serve`.
"""

import hashlib
import json
import math
import mimetypes
import secrets
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import nibabel as nib

from rediffinet.clinic.viewer.corrections import Origin, save_correction
from rediffinet.clinic.viewer.scene import Scene
from rediffinet.errors import CaseError, ChangedError, RediffError, TooManyError

DIST = Path(__file__).parent / "dist"
DRAIN = 2**28
"""Bytes of a refused body that are read, at most."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; img-src 'self' data: blob:; "
    "connect-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
METHODS = "GET, HEAD, POST"
PROBLEM = "application/problem+json"
TYPES = {
    ".js": "text/javascript",
    ".gz": "application/gzip",
    ".nii": "application/octet-stream",
    ".txt": "text/plain",
    ".dcm": "application/dicom",
}


class ViewerServer(ThreadingHTTPServer):
    """Serves one case until `shutdown`. Use as a context manager to free the port.

    open_scene: its scene as it is now, asked for once here and again each time that the page is loaded, as the case may
    be segmented again meanwhile. port: 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, open_scene: Callable[[], Scene], port: int = 0) -> None:
        self.open_scene = open_scene
        self.scene = open_scene()
        self.secret = secrets.token_urlsafe(18)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = str(error).rstrip(".")
            message = f"Port {port} of 127.0.0.1 cannot be used: {reason}. Leave `port` out to take a free one."
            raise CaseError(message) from None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that went away; tell the rest, which is ours to mend."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """The address of the page; whoever knows it sees the case."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.secret}/"

    @cached_property
    def page(self) -> Mapping[str, Path]:
        """Files of the built page by path."""
        return page_files()


def page_files() -> dict[str, Path]:
    """Files of the built page by their path below its address, `index.html` and what it loads."""
    return {path.relative_to(DIST).as_posix(): path for path in sorted(DIST.rglob("*")) if path.is_file()}


def content_type(name: str) -> str:
    """Media type of a file by its name, the same on every system."""
    return TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


class _Handler(BaseHTTPRequestHandler):
    """One request. Paths are looked up in tables of what is served: none is ever joined with a folder."""

    protocol_version = "HTTP/1.1"
    server_version = "rediff"
    sys_version = ""
    timeout = 60
    server: ViewerServer
    _read = False
    """Whether the body of the request was read."""

    def do_GET(self) -> None:
        """The page, the scene, or a file of it."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """What GET answers, without its body."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """A correction: gzip of the labels as the body; from, its sha256, who and note in the query."""
        self._answer(self._post)

    def _answer(self, method: Callable[[], None]) -> None:
        try:
            method()
        except (ConnectionError, TimeoutError):
            raise
        except RediffError as error:
            self._refuse(HTTPStatus.GONE, str(error))
        except (OSError, nib.filebasedimages.ImageFileError) as error:  # files that went away, or were cut off
            self._refuse(HTTPStatus.GONE, f"The results cannot be read any more: {error}. Segment the case again.")

    def _get(self) -> None:
        path = self._inside()
        if path is None:
            return
        scene = self.server.scene
        base = f"v1/cases/{scene.case}/"
        if path in ("", "index.html"):
            self._file(self.server.page.get("index.html"), "index.html")
        elif path == "v1/cases":
            self._json({"cases": [{"id": scene.case, "case": scene.case, "state": "done"}], "accepts": False})
        elif path == f"{base}scene":
            self.server.scene = self.server.open_scene()
            self._json(self.server.scene.to_dict())
        elif path.startswith(f"{base}files/"):
            name = path.removeprefix(f"{base}files/")
            self._file(scene.files().get(name), name, self._query().get("sha256"))
        else:
            self._file(self.server.page.get(path), path)

    def _post(self) -> None:
        self._read = False
        path = self._inside()
        if path is None:
            return
        scene = self.server.scene
        if path != f"v1/cases/{scene.case}/corrections":
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing at this address.")
            return
        limit = scene_bytes(scene)
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > limit:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected a body of known length, at most {limit} bytes."
            )
            return
        body, self._read = self.rfile.read(int(length)), True
        query = self._query()
        try:
            who, note = query.get("who", ""), query.get("note", "")
            origin = Origin(file=query.get("from", ""), sha256=query.get("sha256", ""))
            entry = save_correction(scene.folder, scene.report, origin, body, who=who, note=note)
        except RediffError as error:
            conflict = isinstance(error, ChangedError | TooManyError)
            self._refuse(HTTPStatus.CONFLICT if conflict else HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
            return
        self._json(entry.model_dump(mode="json", by_alias=True), HTTPStatus.CREATED)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library refuses by itself: methods that are not known, and what is no HTTP."""
        unknown = code == HTTPStatus.NOT_IMPLEMENTED
        status = HTTPStatus.METHOD_NOT_ALLOWED if unknown else HTTPStatus(code)
        detail = f"Expected {METHODS}, got {self.command}." if unknown else message or status.description
        problem = {"title": status.phrase, "status": int(status), "detail": detail}
        more = {"Connection": "close", **({"Allow": METHODS} if unknown else {})}
        self.close_connection = True
        self._send(status, json.dumps(problem).encode(), PROBLEM, more)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: addresses hold the secret."""

    def _inside(self) -> str | None:
        """The path behind the secret; None when the request was refused."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        secret, _, rest = path.partition("/")
        if host not in LOOPBACK or (origin is not None and origin != f"http://{self.headers.get('Host')}"):
            self._refuse(HTTPStatus.FORBIDDEN, "This server answers its own page alone.")
        elif not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            self._refuse(
                HTTPStatus.NOT_FOUND, "There is nothing at this address; use the one that rediff view printed."
            )
        elif path == secret and not self.path.endswith("/"):  # relative addresses need the slash
            self._send(HTTPStatus.PERMANENT_REDIRECT, b"", "text/plain", {"Location": f"/{quote(secret)}/"})
        else:
            return rest
        return None

    def _query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}

    def _file(self, path: Path | None, name: str, sha256: str | None = None) -> None:
        """sha256: of the only content that will do."""
        try:
            content = None if path is None else path.read_bytes()
        except OSError:
            content = None
        if sha256 is not None and (content is None or hashlib.sha256(content).hexdigest() != sha256):
            self._refuse(HTTPStatus.GONE, f"{name} was written again, or removed, since. Load the page again.")
        elif content is None:
            self._refuse(HTTPStatus.NOT_FOUND, f"{name} is not a file of this case.")
        else:
            self._send(HTTPStatus.OK, content, content_type(name), {"Cache-Control": "no-store"})

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", {"Cache-Control": "no-store"})

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """A problem of RFC 9457; then the connection ends. A body is read first: a browser that sends hears nothing."""
        self.close_connection = True
        length = self.headers.get("Content-Length", "")
        unread = min(int(length), DRAIN) if not self._read and length.isascii() and length.isdigit() else 0
        while unread > 0 and (chunk := self.rfile.read(min(unread, 2**20))):
            unread -= len(chunk)
        problem = {"title": status.phrase, "status": int(status), "detail": detail}
        more = {"Connection": "close", "Cache-Control": "no-store"}  # a browser keeps "gone" for ever otherwise
        self._send(status, json.dumps(problem).encode(), PROBLEM, more)

    def _send(self, status: HTTPStatus, content: bytes, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {**HEADERS, **more, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def scene_bytes(scene: Scene) -> int:
    """The most bytes that the gzip of a label map of this case can have."""
    refined: Any = nib.load(scene.maps["refined"])  # its header alone
    size = int(math.prod(refined.shape))
    return size + size // 1000 + 1024
