"""What the local server answers, and to whom."""

import gzip
import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from urllib.request import urlopen

import pytest

from rediffinet.clinic.viewer import server as viewer
from rediffinet.clinic.viewer.scene import open_scene
from rediffinet.errors import CaseError

PAGE = Path(viewer.__file__).parent / "page"


@pytest.fixture
def server(segmented: Any) -> Iterator[viewer.ViewerServer]:
    with viewer.ViewerServer(lambda: open_scene(segmented.out)) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(
    server: viewer.ViewerServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def drawn_on(segmented: Any) -> str:
    """What a correction of the refined map says of it."""
    content = segmented.output("seg.nii.gz").read_bytes()
    return urlencode({"from": "toy-seg.nii.gz", "sha256": hashlib.sha256(content).hexdigest()})


def test_the_page_and_what_it_loads(server: viewer.ViewerServer) -> None:
    status, headers, content = ask(server, f"/{server.secret}/")
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert b"assets/index.js" in content
    assert ask(server, f"/{server.secret}/assets/index.js")[1]["Content-Type"] == "text/javascript"
    assert ask(server, f"/{server.secret}")[0] == 308


def test_every_file_of_the_scene_arrives_whole(server: viewer.ViewerServer, segmented: Any) -> None:
    base = f"/{server.secret}/v1/cases/toy/"
    told = json.loads(ask(server, f"{base}scene")[2])
    assert told["report"] == json.loads(segmented.output("report.json").read_text())
    for entry, image in zip(told["report"]["inputs"], told["images"], strict=True):
        assert hashlib.sha256(ask(server, base + image["url"])[2]).hexdigest() == entry["sha256"]
    assert ask(server, base + told["maps"]["refined"])[2] == segmented.output("seg.nii.gz").read_bytes()


def test_results_that_went_away_are_a_problem_in_words(server: viewer.ViewerServer, segmented: Any) -> None:
    segmented.output("seg.nii.gz").unlink()
    base = f"/{server.secret}/v1/cases/toy/"
    for path, method in (("scene", "GET"), ("corrections?from=refined&who=A", "POST")):
        status, headers, content = ask(server, base + path, method, b"x" if method == "POST" else None)
        assert (status, headers["Content-Type"]) == (410, "application/problem+json")
        assert "Segment the case again" in json.loads(content)["detail"]


def test_a_case_that_is_segmented_again_is_shown_whole_or_not_at_all(
    server: viewer.ViewerServer, segmented: Any, segment_again: Any
) -> None:
    base = f"/{server.secret}/v1/cases/toy/"

    def scene() -> dict[str, Any]:
        return dict(json.loads(ask(server, f"{base}scene")[2]))

    def report() -> dict[str, Any]:
        return dict(json.loads(segmented.output("report.json").read_text()))

    old = scene()
    segment_again(segmented)
    assert old["report"] != report()
    for kind in ("refined", "baseline"):  # a page that was loading
        status, _, content = ask(server, base + old["maps"][kind])
        assert (status, json.loads(content)["detail"].rpartition(". ")[2]) == (410, "Load the page again.")
    new = scene()
    assert new["report"] == report()
    for kind, url in new["maps"].items():
        assert hashlib.sha256(ask(server, base + url)[2]).hexdigest() == new["sha256"][kind]
    assert ask(server, base + new["maps"]["refined"])[2] == segmented.output("seg.nii.gz").read_bytes()
    body = gzip.compress(segmented.labels().tobytes(order="F"))
    about = {"from": "toy-seg.nii.gz", "who": "A"}
    for told, want in ((old, 409), (new, 201)):
        query = urlencode({**about, "sha256": told["sha256"]["refined"]})
        assert ask(server, f"{base}corrections?{query}", "POST", body)[0] == want


def test_results_of_another_case_in_the_same_folder_change_nothing(
    rediff: Any, segmented: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, bytes]] = []

    def look(url: str) -> bool:
        for path in segmented.out.glob("toy*"):
            path.with_name(path.name.replace("toy", "other")).write_bytes(path.read_bytes())
        with urlopen(f"{url}v1/cases/toy/scene", timeout=60) as answer:
            told.append((answer.status, answer.read()))
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", look)
    assert rediff("view", segmented.out).code == 0
    assert [(status, json.loads(content)["case"]) for status, content in told] == [(200, "toy")]


def test_one_case_is_listed_and_none_accepted(server: viewer.ViewerServer) -> None:
    listed = json.loads(ask(server, f"/{server.secret}/v1/cases")[2])
    assert listed == {"cases": [{"id": "toy", "case": "toy", "state": "done"}], "accepts": False}


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/cases", "/wrong/v1/cases", "/{s}/v1/cases/other/scene", "/{s}/v1/cases/toy/files/../../../etc/passwd",
        "/{s}/v1/cases/toy/files/..%2f..%2fetc%2fpasswd", "/{s}/../../etc/passwd", "/{s}/v1/cases/toy/files/",
        "/{s}/server.py", "/{s}/%2e%2e/scene.py",
    ],
)  # fmt: skip
def test_nothing_else_is_served(server: viewer.ViewerServer, path: str) -> None:
    status, headers, content = ask(server, path.replace("{s}", server.secret))
    assert status == 404
    assert headers["Content-Type"] == "application/problem+json"
    assert json.loads(content)["detail"]


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_other_pages_are_refused(server: viewer.ViewerServer, headers: dict[str, str]) -> None:
    """A page of another origin, and one whose name was made to point at this machine."""
    assert ask(server, f"/{server.secret}/v1/cases", **headers)[0] == 403


@pytest.mark.parametrize("path", ["", "v1/cases/toy/scene", "v1/cases/toy/files/toy-seg.nii.gz", "nothing", "../x"])
def test_head_tells_what_get_does_without_a_body(server: viewer.ViewerServer, path: str) -> None:
    full, short = (ask(server, f"/{server.secret}/{path}", method) for method in ("GET", "HEAD"))
    assert short[0] == full[0] and short[2] == b""
    assert {key: value for key, value in short[1].items() if key != "Date"} == {
        key: value for key, value in full[1].items() if key != "Date"
    }


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_a_problem_that_names_those_there_are(server: viewer.ViewerServer, method: str) -> None:
    status, headers, content = ask(server, f"/{server.secret}/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD, POST")
    assert headers["Content-Type"] == "application/problem+json"
    assert method in json.loads(content)["detail"]


def test_what_is_no_http_is_a_problem_too(server: viewer.ViewerServer) -> None:
    for sent in (
        b"\x16\x03\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            connection.sendall(sent)
            said = connection.makefile("rb").read()
        assert b"<html" not in said.lower() and b'"detail"' in said


def test_a_client_that_goes_away_is_no_traceback(
    server: viewer.ViewerServer, segmented: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    big = segmented.out / "toy-uncertainty.nii.gz"
    big.write_bytes(bytes(2**25))  # more than what lies in between takes
    for _ in range(3):
        with socket.create_connection(server.server_address[:2], timeout=20) as connection:
            address = f"/{server.secret}/v1/cases/toy/files/{big.name}"
            connection.sendall(f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            connection.recv(100)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
    assert ask(server, f"/{server.secret}/")[0] == 200
    time.sleep(0.3)
    assert capfd.readouterr().err == ""


def test_a_correction_is_saved(server: viewer.ViewerServer, segmented: Any) -> None:
    body = gzip.compress(segmented.labels().tobytes(order="F"))
    path = f"/{server.secret}/v1/cases/toy/corrections?{drawn_on(segmented)}&who=A.%20Reader&note="
    status, _, content = ask(server, path, "POST", body)
    assert status == 201
    entry = json.loads(content)
    assert (entry["who"], entry["file"]) == ("A. Reader", "toy-corrected-1.nii.gz")
    (told,) = json.loads(ask(server, f"/{server.secret}/v1/cases/toy/scene")[2])["corrections"]
    assert ask(server, f"/{server.secret}/v1/cases/toy/{told['url']}")[0] == 200


def test_one_correction_too_many(server: viewer.ViewerServer, segmented: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "save_correction", partial(viewer.save_correction, most=0))
    path = f"/{server.secret}/v1/cases/toy/corrections?{drawn_on(segmented)}&who=A"
    status, _, content = ask(server, path, "POST", gzip.compress(segmented.labels().tobytes(order="F")))
    assert (status, json.loads(content)["detail"].splitlines()[0]) == (
        409,
        "Case toy has 0 corrections, as many as it may have: nothing was saved.",
    )
    assert not list(segmented.out.glob("*-corrected-*"))


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [(b"x", "who=A", 422), (b"", "who=A&from=", 422), (b"x", "who=A&sha256=", 409), (b"0" * 10**6, "", 413)],
)
def test_corrections_that_are_refused(
    server: viewer.ViewerServer, segmented: Any, body: bytes, query: str, status: int
) -> None:
    there = sorted(segmented.out.iterdir())
    query = urlencode({**dict(parse_qsl(drawn_on(segmented))), **dict(parse_qsl(query, keep_blank_values=True))})
    answer = ask(server, f"/{server.secret}/v1/cases/toy/corrections?{query}", "POST", body)
    assert (answer[0], json.loads(answer[2])["status"]) == (status, status)
    assert sorted(segmented.out.iterdir()) == there


def test_a_port_that_is_taken(server: viewer.ViewerServer) -> None:
    with pytest.raises(CaseError, match="cannot be used"):
        viewer.ViewerServer(server.open_scene, server.server_address[1])


def test_two_servers_have_two_secrets(server: viewer.ViewerServer) -> None:
    with viewer.ViewerServer(server.open_scene) as other:
        assert other.secret != server.secret


def test_the_page_was_built_from_these_sources() -> None:
    names = ["index.html", "package-lock.json", "vite.config.js"]
    names += [f"src/{name}" for name in sorted(path.name for path in (PAGE / "src").iterdir())]
    found = hashlib.sha256()
    for name in names:
        found.update(name.encode() + b"\0" + (PAGE / name).read_bytes() + b"\0")
    assert (viewer.DIST / "sources.sha256").read_text().strip() == found.hexdigest(), "run `make page`"


def test_what_is_shipped_is_small_and_has_its_licences() -> None:
    sizes = {name: path.stat().st_size for name, path in viewer.page_files().items()}
    assert max(sizes.values()) < 2 * 2**20
    assert sum(sizes.values()) < 3 * 2**20
    licences = (viewer.DIST / "LICENSES.txt").read_text(encoding="utf-8")
    for name in ("@niivue/niivue 0.69.0 (BSD-2-Clause)", "gl-matrix", "fflate", "nifti-reader-js"):
        assert name in licences
