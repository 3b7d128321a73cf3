"""What an archive that answers wrongly is told as: a small server on loopback instead of an archive."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("python_multipart", reason="needs the extra [serve]")

from rediffinet.clinic.service.dicomweb import fetch_study, store_objects
from rediffinet.clinic.service.settings import Archive
from rediffinet.errors import ArchiveError, CaseError, ConfigError

SERIES = b'[{"0020000E": {"vr": "UI", "Value": ["1.2.3"]}}]'
RELATED = 'multipart/related; type="application/dicom"; boundary=b'
Answer = tuple[int, str, bytes]
Serve = Callable[[dict[str, Answer]], Archive]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve({path: (status, type, body)}) → the archive that answers so; requests without the password get 401."""
    servers = []

    def start(answers: dict[str, Answer]) -> Archive:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind, body = answers.get(self.path.removeprefix("/web/"), (404, "text/plain", b""))
                if self.headers.get("Authorization") != "Bearer secret":
                    status, body = 401, b""
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 (a name of the base class)

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # soon to end
        servers.append(server)
        return Archive(f"http://127.0.0.1:{server.server_address[1]}/web/", "Bearer secret")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def instances(*contents: bytes) -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n" % one for one in contents) + b"--b--\r\n"


def fetch(archive: Archive, folder: Path, files: int = 10, size: int = 1000) -> None:
    fetch_study(archive, "1.2", folder, files=files, size=size)


def answers(body: bytes, kind: str = RELATED, status: int = 200) -> dict[str, Answer]:
    return {
        "studies/1.2/series?Modality=MR": (200, "application/dicom+json", SERIES),
        "studies/1.2/series/1.2.3": (status, kind, body),
    }


def test_instances_come_byte_for_byte(serve: Serve, tmp_path: Path) -> None:
    contents = [b"one\r\n--not the boundary", b"", bytes(range(256))]
    fetch(serve(answers(instances(*contents))), tmp_path / "in")
    assert [path.read_bytes() for path in sorted((tmp_path / "in").iterdir())] == contents


@pytest.mark.parametrize(
    ("told", "error", "said"),
    [
        ({}, CaseError, "no such study"),
        ({"studies/1.2/series?Modality=MR": (200, "x", b"")}, CaseError, "no MR series"),
        ({"studies/1.2/series?Modality=MR": (200, "x", b"<html>")}, ArchiveError, "cannot be read"),
        ({"studies/1.2/series?Modality=MR": (200, "x", SERIES.replace(b"1.2.3", b"../x"))}, ArchiveError, "no UID"),
        ({"studies/1.2/series?Modality=MR": (500, "x", b"")}, ArchiveError, "500"),
        (answers(b"", status=503), ArchiveError, "503"),
        (answers(b"DICM", "application/dicom"), ArchiveError, "multipart"),
        (answers(instances(b"x")[:-6]), ArchiveError, "in the middle"),
        (answers(b"nonsense"), ArchiveError, "malformed"),
        (answers(instances(*[b"x"] * 11)), CaseError, "10 instances"),
        (answers(instances(bytes(1001))), CaseError, "larger"),
    ],
)
def test_answers_that_are_no_study(
    serve: Serve, tmp_path: Path, told: dict[str, Answer], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        fetch(serve(told), tmp_path / "in")


def test_an_archive_that_refuses_or_is_not_there(serve: Serve, tmp_path: Path) -> None:
    archive = serve(answers(instances(b"x")))
    with pytest.raises(ArchiveError, match="refuses"):
        fetch(Archive(archive.address), tmp_path / "a")
    with pytest.raises(ArchiveError, match="does not answer"):
        fetch(Archive("http://127.0.0.1:9/web"), tmp_path / "b")
    (tmp_path / "object.dcm").write_bytes(b"x")
    for status, fails in ((200, False), (202, True), (409, True)):
        archive = serve({"studies": (status, "application/dicom+json", b"{}")})
        if not fails:
            store_objects(archive, [tmp_path / "object.dcm"])
            continue
        with pytest.raises(ArchiveError, match=str(status)):
            store_objects(archive, [tmp_path / "object.dcm"])


@pytest.mark.parametrize("address", ["archive", "ftp://archive/", "http://", "http://archive/?x=1"])
def test_addresses_of_no_web_server(address: str) -> None:
    with pytest.raises(ConfigError, match="dicomweb"):
        Archive(address).check()
