"""`rediff serve` as its own process on loopback: what is accepted becomes done or is said to have failed, once."""

import hashlib
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
PROGRAM = "from rediffinet.cli.main import main; main()"


Service = Any  # of conftest.py


def send(service: Service, images: dict[str, bytes], headers: dict[str, str] | None = None, **fields: str) -> Any:
    return service.send(images, headers, **fields)


def zipped(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


def is_problem(answer: Any, status: int, text: str = "") -> bool:
    content = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (content["status"], content["type"]) == (status, "about:blank")
    assert content["title"] and content["detail"]
    assert text in content["detail"]
    return True


def test_four_files_become_the_files_of_the_command_line(
    service: Service, images: dict[str, bytes], toy_bundle: Any, tmp_path: Path, rediff: Any
) -> None:
    service.start()
    answer = send(service, images, name="P1", seed="7")
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/cases/{answer.json()['id']}"
    case = service.wait(answer.json()["id"])
    assert case["state"] == "done", case
    folder = tmp_path / "P1"
    folder.mkdir()
    for contrast, content in images.items():
        (folder / f"P1-{contrast}.nii.gz").write_bytes(content)
    options = ("--seed", 7, "--engine", "onnxruntime", "--threads", 1, "--save-uncertainty")
    assert rediff("segment", folder, "-o", tmp_path / "out", "--bundle", toy_bundle.path, *options).code == 0
    for kind, entry in case["result"]["files"].items():
        content = service.client.get(f"/{entry['url']}").content
        assert len(content) == entry["bytes"]
        if kind != "report":
            assert content == (tmp_path / "out" / entry["name"]).read_bytes()
    for contrast, url in case["result"]["images"].items():
        assert service.client.get(f"/{url}").content == images[contrast]
    with zipfile.ZipFile(io.BytesIO(service.client.get(f"/{case['result']['zip']}").content)) as archive:
        assert set(archive.namelist()) == {entry["name"] for entry in case["result"]["files"].values()}
    scene = service.client.get(f"/v1/cases/{case['id']}/scene").json()
    assert scene["case"] == "P1"
    listed = service.client.get("/v1/cases").json()
    assert [entry["id"] for entry in listed["cases"]] == [case["id"]]
    assert 'rediff_cases{state="done"} 1.0' in service.client.get("/metrics").text
    assert service.client.get("/healthz").text == "ok\n"
    for path in ("/healthz", "/readyz", "/metrics"):
        probed = service.client.head(path)
        assert (probed.status_code, probed.content) == (200, b"")
    assert service.client.delete(f"/v1/cases/{case['id']}").status_code == 204
    assert is_problem(service.client.get(f"/v1/cases/{case['id']}"), 404)
    assert not list((service.data / "cases").iterdir())
    assert service.end() == 0
    log = service.log.read_text()
    assert "P1" not in log and "t1n" not in log  # nothing that a client chose
    assert all(json.loads(line)["event"] for line in log.splitlines() if line.startswith("{"))


# --- what is refused, each by its kind; one service for all of them ---


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, make_service: Any) -> Iterator[Service]:
    made = make_service(tmp_path_factory.mktemp("shared") / "service")
    made.start("--max-upload", "2", "--queue", "8", "--corrections", "1")
    yield made
    assert made.process is not None
    assert made.process.poll() is None, made.log.read_text()  # whatever came, it is there still
    assert made.end() == 0
    log = made.log.read_text()
    assert "Traceback" not in log
    assert '"status": 500' not in log
    made.client.close()


def nothing_is_left(service: Service) -> bool:
    kept = {entry["id"] for entry in service.client.get("/v1/cases", params={"limit": 500}).json()["cases"]}
    deadline = time.monotonic() + 10
    while {path.name for path in (service.data / "cases").iterdir()} - kept:
        assert time.monotonic() < deadline, list((service.data / "cases").iterdir())
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/json", "multipart/form-data", "", "multipart/mixed; boundary=x"]
)
def test_another_content_type(shared: Service, kind: str) -> None:
    assert is_problem(shared.client.post("/v1/cases", content=b"x", headers={"content-type": kind}), 415, "zip")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"t2f": None}, "holds the files t1c, t1n, t2w"),
        ({"archive": b"PK"}, "Expected t1n, t1c, t2w, t2f"),
        ({"t3": b"x"}, "not known"),
        ({"patient name": b"x"}, "not known"),
        ({"t1c": b"", "t2f": b""}, "t1c, t2f: the file is empty (0 bytes)"),
    ],
)
def test_parts_that_are_missing_too_many_or_unknown(
    shared: Service, images: dict[str, bytes], change: dict[str, bytes | None], said: str
) -> None:
    parts = {name: content for name, content in (images | change).items() if content is not None}
    assert is_problem(send(shared, parts), 422, said)
    assert nothing_is_left(shared)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "0"),
        ("steps", "1000000"),
        ("samples", "1000000000"),
        ("samples", "many"),
        ("seed", "-1"),
        ("seed", "1e400"),
        ("seed", "9" * 400),
        ("postprocess", "perhaps"),
        ("name", "../../etc/passwd"),
        ("name", "a/b"),
        ("name", "CON"),
        ("name", "nul.txt"),
        ("name", ".."),
        ("name", "a\0b"),
        ("name", "x" * 101),
        ("name", "x" * 5000),
        ("name", "trailing."),
    ],
)
def test_options_out_of_range_and_names_that_leave_the_folder(
    shared: Service, images: dict[str, bytes], field: str, value: str
) -> None:
    assert is_problem(send(shared, images, **{field: value}), 422, field)
    assert nothing_is_left(shared)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"--x\r\n", 400),
        (b'--x\r\nContent-Disposition: form-data; name="t1n"; filename="a"\r\n\r\nabc', 400),
        (b"nonsense", 400),
        (b"--x\r\nbroken header\r\n\r\nabc\r\n--x--\r\n", 400),
        (b"--x--\r\n", 422),
        (b"".join(b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n' for _ in range(10_000)), 422),
    ],
)
def test_malformed_multipart(shared: Service, body: bytes, status: int) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = shared.client.post("/v1/cases", content=body, headers=headers)
    assert answer.status_code in (status, 422) and is_problem(answer, answer.status_code)
    assert nothing_is_left(shared)


@pytest.mark.parametrize("boundary", ["a" * 5000, "a" * 300, '"' + "a b" * 200 + '"'])
def test_a_boundary_that_is_longer_than_one_may_be(shared: Service, boundary: str) -> None:
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    assert is_problem(shared.client.post("/v1/cases", content=b"--a--\r\n", headers=headers), 400, "malformed")
    assert nothing_is_left(shared)


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o120777 << 16
    return entry


def archive_of(*entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return content.getvalue()


ARCHIVES = {
    "not a zip": b"hello",
    "cut off": archive_of(("a.nii", b"x" * 1000))[:60],
    "empty": archive_of(),
    "above": archive_of(("../evil.nii", b"x")),
    "far above": archive_of(("a/../../../../tmp/evil.nii", b"x")),
    "absolute": archive_of(("/tmp/evil.nii", b"x")),
    "backslash": archive_of(("..\\evil.nii", b"x")),
    "drive": archive_of(("C:evil.nii", b"x")),
    "symlink": archive_of((link("t1n.nii"), b"/etc/passwd")),
    "device": archive_of(("AUX", b"x")),
    "device with an ending": archive_of(("com1.nii.gz", b"x")),
    "stream": archive_of(("a.nii:hidden", b"x")),
    "control character": archive_of(("a\x07.nii", b"x")),
    "deep": archive_of(("/".join("a" * 20), b"x")),
    "long name": archive_of(("n" * 300 + ".nii", b"x")),
    "same name twice": archive_of(("a.nii", b"x"), ("A.nii", b"y")),
    "a file and a folder of one name": archive_of(("P/x", b"x"), ("P/x/y", b"y")),
    "a folder and a file of one name": archive_of(("P/x/y/z", b"x"), ("p/X", b"y")),
    "one name written twice": archive_of(("P//x", b"x"), ("P/x", b"y")),
    "bzip2, which makes much of little at once": archive_of(("a.nii", bytes(2**20)), method=zipfile.ZIP_BZIP2),
    "LZMA": archive_of(("a.nii", bytes(2**20)), method=zipfile.ZIP_LZMA),
    "10,000 files": lambda: archive_of(*((f"f{number}", b"") for number in range(10_000))),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_that_are_refused_before_they_are_unpacked(shared: Service, kind: str) -> None:
    headers, content = {"content-type": "application/zip"}, ARCHIVES[kind]
    made = content if isinstance(content, bytes) else content()  # what takes long to make is not made on import
    assert is_problem(shared.client.post("/v1/cases", content=made, headers=headers), 422, "archive")
    assert nothing_is_left(shared)
    assert not list(Path("/tmp").glob("evil*"))


def lying(archive: bytes, size: int) -> bytes:
    """The same archive, which says of its first file that it is `size` bytes long."""
    at = archive.index(b"PK\x01\x02") + 24
    return archive[:at] + size.to_bytes(4, "little") + archive[at + 4 :]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive_of(("t1n.nii.gz", b"x")), "missing"),
        (archive_of(("readme.txt", b"x")), "No case found"),
        (lambda: archive_of(("a.nii", bytes(60 * 2**20))), "unpacks to far more"),
        (lambda: lying(archive_of(("a.nii", bytes(60 * 2**20))), 10), "archive"),
        (archive_of(*((f"{case}/{case}-{c}.nii", b"x") for case in "AB" for c in CONTRASTS)), "holds 2 cases"),
        (archive_of(*((f"a/b/c/{case}/{case}-{c}.nii", b"x") for case in "AB" for c in CONTRASTS)), "holds 2 cases"),
        (archive_of(("P1-t1n.nii", b"x"), ("more.dat", archive_of(("P1-t1c.nii", b"x")))), "another archive"),
    ],
    ids=["one contrast", "no image", "bomb", "lying bomb", "two cases", "two cases below", "an archive in an archive"],
)
def test_archives_that_fail_when_they_are_unpacked(shared: Service, content: Any, said: str) -> None:
    made = content if isinstance(content, bytes) else content()
    answer = shared.client.post("/v1/cases", content=made, headers={"content-type": "application/zip"})
    assert answer.status_code == 202, answer.text
    case = shared.wait(answer.json()["id"])
    assert case["state"] == "failed"
    assert said in case["problem"]["detail"]
    assert str(shared.data) not in case["problem"]["detail"]
    left = shared.data / "cases" / case["id"]
    assert not (left / "out").exists() and not (left / "archive").exists()
    assert shared.client.delete(f"/v1/cases/{case['id']}").status_code == 204


def test_an_image_that_is_a_bomb_or_no_image(shared: Service, images: dict[str, bytes]) -> None:
    import gzip

    plain = gzip.decompress(images["t1n"])
    for content, said in (
        (gzip.compress(plain + bytes(2**28), 9), "longer than its header announces"),
        (gzip.compress(plain[:42] + b"\0\4\0\4\0\4" + plain[48:]), "million voxels"),
        (b"no image", "not a NIfTI"),
        (images["t1n"][:500], "truncated"),
    ):
        case = shared.wait(send(shared, images | {"t1n": content}).json()["id"])
        assert (case["state"], case["problem"]["status"]) == ("failed", 422)
        assert said in case["problem"]["detail"]
        assert "t1n" in case["problem"]["detail"]
        assert "in/" not in case["problem"]["detail"]  # where it was put here
        assert str(shared.data) not in case["problem"]["detail"]


def test_what_the_bundle_does_not_have_is_said_in_the_words_of_the_form(
    shared: Service, images: dict[str, bytes]
) -> None:
    three = {name: images[name] for name in ("t1n", "t1c", "t2w")}
    for sent, fields, said in (
        (images, {"margin": "true"}, "`margin=true`"),
        (three, {"allow_missing": "true"}, "t2f"),
        ({"archive": zipped(images)}, {"margin": "true"}, "`margin=true`"),
        ({"brain_mask": images["t1n"]}, {"study": "1.2.3", "margin": "true"}, "`margin=true`"),
        (images, {"channels": "t1n,t1c"}, "t2w"),
        (images, {"dicom_sr": "true"}, "DICOM"),
        (images | {"brain_mask": images["t1n"]}, {}, "`prepare=true`"),
    ):
        answer = send(shared, sent, **fields)
        assert is_problem(answer, 422, said)
        assert "--" not in answer.text and "True" not in answer.text
        assert str(shared.data) not in answer.text
    assert nothing_is_left(shared)
    assert is_problem(send(shared, three), 422, "t1c, t1n, t2w")  # as long as it is not asked for


def test_an_upload_larger_than_the_limit_declared_or_not(shared: Service, images: dict[str, bytes]) -> None:
    large = os.urandom(3 * 2**20)
    assert is_problem(send(shared, images | {"t1n": large}), 413, "2 MiB")

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="t1n"; filename="a"\r\n\r\n'
        for _ in range(64):
            yield large[: 2**16]

    try:
        answer = shared.client.post(
            "/v1/cases", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert is_problem(answer, 413, "2 MiB")
    except httpx.TransportError:
        pass  # the connection is closed while the client is still sending
    assert nothing_is_left(shared)


def test_a_client_that_goes_away_in_the_middle(shared: Service) -> None:
    for _ in range(12):  # more often than there are places in the queue
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            head = (
                f"POST /v1/cases HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\nContent-Length: 1000000\r\n"
                "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
                '--x\r\nContent-Disposition: form-data; name="t1n"; filename="a"\r\n\r\nabc'
            )
            connection.sendall(head.encode())
            time.sleep(0.05)
    assert nothing_is_left(shared)


def test_an_upload_that_drips_past_its_time(service: Service, images: dict[str, bytes]) -> None:
    service.start("--upload-time", "2", "--queue", "1")
    head = f"POST /v1/cases HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nContent-Type: application/zip\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        connection.settimeout(0.2)
        said, deadline = b"", time.monotonic() + 60
        while not said.endswith(b"}") and time.monotonic() < deadline:
            try:
                connection.sendall(b"1\r\nP\r\n")
                said += connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
    assert said.startswith(b"HTTP/1.1 408") and b"application/problem+json" in said
    assert b"took longer than 2 s" in said
    assert nothing_is_left(service)
    assert send(service, images).status_code == 202  # its place is free again


def test_names_of_files_that_are_not_a_cases_own(shared: Service, images: dict[str, bytes]) -> None:
    case = shared.wait(send(shared, images).json()["id"])
    for name in (
        "../jobs.sqlite",
        "..%2f..%2fjobs.sqlite",
        "%2e%2e/tokens.json",
        "in",
        ".results.zip",
        "case-seg.nii.gz%00",
    ):
        assert is_problem(shared.client.get(f"/v1/cases/{case['id']}/files/{name}"), 404)
    for path in ("/v1/cases/../../etc/passwd", "/../jobs.sqlite", "/%2e%2e/%2e%2e/jobs.sqlite", "/v1/nothing"):
        with socket.create_connection(("127.0.0.1", shared.port)) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 404"


def test_pages_of_other_origins_and_names_that_were_made_to_point_here(shared: Service) -> None:
    assert is_problem(shared.client.get("/v1/cases", headers={"host": "evil.example"}), 403)
    assert is_problem(shared.client.post("/v1/cases", headers={"origin": "https://evil.example"}), 403)


def test_two_clients_with_one_name_and_one_that_sends_again(shared: Service, images: dict[str, bytes]) -> None:
    first, second = (send(shared, images, name="same").json()["id"] for _ in range(2))
    assert first != second
    assert {shared.wait(case_id)["state"] for case_id in (first, second)} == {"done"}
    headers = {"idempotency-key": "abc"}
    answers = [send(shared, images, headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 200, 200]
    assert len({answer.json()["id"] for answer in answers}) == 1
    shared.wait(answers[0].json()["id"])


def test_what_is_sent_again_is_read_to_its_end_and_the_connection_goes_on(
    shared: Service, images: dict[str, bytes]
) -> None:
    case = send(shared, images, {"idempotency-key": "again"}).json()["id"]
    body = os.urandom(2**20)
    head = f"POST /v1/cases HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\nIdempotency-Key: again\r\n"
    head += f"Content-Type: application/zip\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", shared.port)) as connection:
        connection.settimeout(60)
        answers = connection.makefile("rb")
        for _ in range(2):
            connection.sendall(head.encode() + body[: 2**19])
            assert not select.select([connection], [], [], 0.5)[0]  # no answer yet: it would start the next head
            connection.sendall(body[2**19 :])
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            told = dict(line.decode().strip().lower().split(": ", 1) for line in iter(answers.readline, b"\r\n"))
            assert "connection" not in told
            assert json.loads(answers.read(int(told["content-length"])))["id"] == case
    shared.wait(case)


def test_cancelling_what_is_done(shared: Service, images: dict[str, bytes]) -> None:
    case = shared.wait(send(shared, images).json()["id"])
    assert is_problem(shared.client.post(f"/v1/cases/{case['id']}/cancel"), 409, "done already")
    assert is_problem(shared.client.post("/v1/cases/none/cancel"), 404)


# --- the queue ---

SLOW_WORKER = """
import time
import rediffinet.method.refine as refine
real = refine.Sampler.window

def window(self, condition, noises):
    time.sleep({seconds})
    return real(self, condition, noises)

refine.Sampler.window = window
"""


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """slow(s): every window of a service that is started afterwards takes so much longer."""

    def set_up(seconds: float) -> None:
        folder = tmp_path / "slow"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(SLOW_WORKER.format(seconds=seconds))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return set_up


def test_a_full_queue_and_cancelling_what_waits_and_what_is_computed(
    service: Service, images: dict[str, bytes], slow: Any
) -> None:
    slow(1.0)
    service.start("--queue", "2")
    first, second = (send(service, images).json()["id"] for _ in range(2))
    answer = send(service, images)
    assert is_problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    case = service.wait(first, "running")
    assert is_problem(service.client.delete(f"/v1/cases/{first}"), 409)
    assert service.client.post(f"/v1/cases/{second}/cancel").json()["state"] == "cancelled"
    assert not list((service.data / "cases" / second).iterdir())  # what was sent is of no use any more
    deadline = time.monotonic() + 120
    while (case := service.client.get(f"/v1/cases/{first}").json())["progress"]["stage"] != "refine":
        assert time.monotonic() < deadline
    assert case["progress"]["of"] > 1
    assert service.client.post(f"/v1/cases/{first}/cancel").json()["cancelling"]
    assert service.wait(first)["state"] == "cancelled"
    assert not (service.data / "cases" / first / "out").exists()
    while list((service.data / "cases" / first).iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert send(service, images).status_code == 202


@pytest.mark.slow
def test_a_case_past_its_time(service: Service, images: dict[str, bytes], slow: Any) -> None:
    slow(0.5)
    service.start("--case-time", "1")
    case = service.wait(send(service, images).json()["id"])
    assert (case["state"], case["problem"]["status"]) == ("failed", 504)
    assert "longer than 1 s" in case["problem"]["detail"]


def computing(service: Service, *before: int) -> int:
    """The process that computes, the child of the web process that runs spawn_main; another than those of before."""
    assert service.process is not None
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = status.read_text().rpartition(")")[2].split()[:2]
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            found = int(status.parent.name)
            ours = int(parent) == service.process.pid and b"spawn_main" in command
            if ours and state != "Z" and found not in before:
                return found
        time.sleep(0.05)
    raise AssertionError("no computing process")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_computing_process_that_dies_is_started_again_and_a_case_that_kills_it_twice_has_failed(
    service: Service, images: dict[str, bytes], slow: Any
) -> None:
    slow(0.3)
    service.start()
    first, second = (send(service, images).json()["id"] for _ in range(2))
    service.wait(first, "running")
    killed = computing(service)
    os.kill(killed, signal.SIGKILL)
    again = computing(service, killed)
    deadline = time.monotonic() + 240
    while service.log.read_text().count("case begun") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(again, signal.SIGKILL)
    case = service.wait(first)
    assert (case["state"], case["problem"]["status"]) == ("failed", 500)
    assert "2 times" in case["problem"]["detail"]
    assert service.wait(second)["state"] == "done"
    assert "rediff_restarts_total 2.0" in service.client.get("/metrics").text


def test_kill_9_of_everything_and_what_a_term_puts_back(service: Service, images: dict[str, bytes], slow: Any) -> None:
    slow(0.1)
    service.start()
    ids = [send(service, images, name=f"c{number}").json()["id"] for number in range(4)]
    service.wait(ids[0], "running")
    assert service.end(signal.SIGTERM) == 0
    service.start()
    assert service.client.get(f"/v1/cases/{ids[0]}").json()["state"] in ("queued", "running")
    service.wait(ids[1], "running", "done")
    service.end(signal.SIGKILL)
    slow(0.0)
    service.start()
    found = [service.wait(case_id) for case_id in ids]
    assert [case["state"] for case in found] == ["done"] * 4
    assert [case["case"] for case in found] == [f"c{number}" for number in range(4)]
    assert len(service.client.get("/v1/cases").json()["cases"]) == 4


@pytest.mark.slow
def test_twenty_uploads_at_once(service: Service, images: dict[str, bytes]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    service.start("--queue", "20")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: send(service, images, name=f"c{number}"), range(20)))
    assert [answer.status_code for answer in answers] == [202] * 20
    ids = [answer.json()["id"] for answer in answers]
    assert len(set(ids)) == 20
    found = [service.wait(case_id) for case_id in ids]
    assert [case["state"] for case in found] == ["done"] * 20
    assert sorted(case["case"] for case in found) == sorted(f"c{number}" for number in range(20))


# --- who may ask ---


def test_tokens_that_are_made_and_revoked_at_once_are_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from rediffinet.clinic.service import tokens

    path = tmp_path / "data" / "tokens.json"
    read = tokens._entries

    def slowly(path: Path) -> dict[str, dict[str, str]]:
        entries = read(path)
        time.sleep(0.05)
        return entries

    tokens.new_token(path, "old")
    monkeypatch.setattr(tokens, "_entries", slowly)
    names = [f"n{number}" for number in range(8)]
    with ThreadPoolExecutor(9) as pool:
        revoked = pool.submit(tokens.revoke_token, path, "old")
        made = dict(zip(names, pool.map(lambda name: tokens.new_token(path, name), names), strict=True))
    assert revoked.exception() is None
    known = tokens.read_tokens(path)
    assert {name: known.owner(f"Bearer {token}") for name, token in made.items()} == {name: name for name in names}
    assert sorted(known.names.values()) == names
    assert [entry.name for entry in path.parent.iterdir()] == ["tokens.json"]


def test_tokens_are_hashed_and_each_sees_its_own(service: Service, images: dict[str, bytes], rediff: Any) -> None:
    tokens = {}
    for name in ("a", "b"):
        done = rediff("serve", "--data", service.data, "--new-token", name)
        tokens[name] = done.out.strip()
    stored = (service.data / "tokens.json").read_text()
    assert not any(token in stored for token in tokens.values())
    service.start()
    assert is_problem(service.client.get("/v1/cases"), 401)
    assert is_problem(service.client.get("/metrics"), 401)
    assert service.client.get("/healthz").status_code == 200
    for wrong in ("Bearer nonsense", "Bearer", "Basic !!", f"Digest {tokens['a']}", f"Bearer {tokens['a']}x"):
        answer = service.client.get("/v1/cases", headers={"authorization": wrong})
        assert is_problem(answer, 401)
        schemes = [value.partition(" ")[0] for value in answer.headers.get_list("www-authenticate")]
        assert schemes == ["Bearer", "Basic"]  # of a header with both, Chromium understands neither
    mine = {"authorization": f"Bearer {tokens['a']}"}
    case_id = send(service, images, mine).json()["id"]
    assert len(service.client.get("/v1/cases", auth=("any", tokens["a"])).json()["cases"]) == 1
    other = {"authorization": f"Bearer {tokens['b']}"}
    assert service.client.get("/v1/cases", headers=other).json()["cases"] == []
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/files/results.zip"),
        ("GET", "/scene"),
    ):
        assert is_problem(service.client.request(method, f"/v1/cases/{case_id}{path}", headers=other), 404)
    assert tokens["a"] not in service.log.read_text()


def test_tokens_are_replaced_listed_and_revoked_while_the_service_runs(service: Service, rediff: Any) -> None:
    def ask(token: str) -> int:
        return int(service.client.get("/v1/cases", headers={"authorization": f"Bearer {token}"}).status_code)

    def command(*options: str) -> Any:
        return rediff("serve", "--data", service.data, *options)

    none = command("--list-tokens")
    assert (none.code, none.out) == (0, "") and "no token" in none.err
    service.start()
    assert service.client.get("/v1/cases").status_code == 200  # on loopback, as long as there is none
    first = command("--new-token", "clinic").out.strip()
    assert service.client.get("/v1/cases").status_code == 401
    assert ask(first) == 200
    second, other = command("--new-token", "clinic").out.strip(), command("--new-token", "ward").out.strip()
    assert [ask(token) for token in (first, second, other)] == [401, 200, 200]
    listed = command("--list-tokens").out
    kept = json.loads((service.data / "tokens.json").read_text())
    for line, (name, entry) in zip(listed.splitlines(), kept.items(), strict=True):
        assert line.startswith(name) and entry["made"] in line and entry["sha256"][:8] in line
    assert not any(token in listed for token in (first, second, other))
    assert command("--revoke-token", "ward").code == 0
    assert [ask(token) for token in (second, other)] == [200, 401]
    wrong = command("--revoke-token", "absent")
    assert wrong.code == 2 and "--revoke-token: there is no token 'absent', expected one of: clinic" in wrong.err
    (service.data / "tokens.json").write_text("nonsense")
    assert ask(second) == 401
    (service.data / "tokens.json").write_text(json.dumps(kept))
    assert [ask(token) for token in (second, other)] == [200, 200]
    for name in ("ward", "clinic"):
        command("--revoke-token", name)
    assert ask(second) == 401 and service.client.get("/v1/cases").status_code == 401  # it does not become open


LOUD = """
import logging, os, threading, warnings
import rediffinet.clinic.service.jobs as jobs
import rediffinet.clinic.service.computing as computing

def loud(real):
    def call(*given, **named):
        warnings.warn("Nobody^Phantom")
        logging.getLogger("pydicom").warning("Nobody^%s", "Phantom")
        thread = threading.Thread(target=lambda: 1 / len(given[:0]))
        thread.start()
        thread.join()
        os.write(2, b"a library in C\\n")
        os.write(1, b"and what it prints\\n")
        print("print", flush=True)
        return real(*given, **named)
    return call

jobs.parse_request = loud(jobs.parse_request)
computing.pack = loud(computing.pack)
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_line_is_json_and_the_address_is_the_real_one(
    tmp_path: Path, images: dict[str, bytes], toy_bundle: Any, host: str
) -> None:
    """Warnings, records, prints of Python and of C, errors of threads, in both processes; what is no HTTP."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.bind((host, 0))
    except OSError:
        pytest.skip(f"needs the address {host}")
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "sitecustomize.py").write_text(LOUD)
    command = [sys.executable, "-c", PROGRAM, "serve", "--data", str(tmp_path / "new" / "data"), "--port", "0"]
    command += ["--host", host, "--bundle", str(toy_bundle.path), "--engine", "onnxruntime", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "loud")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        shown = f"[{host}]" if ":" in host else host
        assert address.startswith(f"http://{shown}:") and address.endswith("/") and ":0/" not in address
        with httpx.Client(base_url=address, timeout=60) as client:
            files = {name: (name, content) for name, content in images.items()}
            url = f"v1/cases/{client.post('v1/cases', files=files).json()['id']}"
            deadline = time.monotonic() + 240
            while client.get(url).json()["state"] not in ("done", "failed"):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert client.get(url).json()["state"] == "done"
            with socket.create_connection((host, httpx.URL(address).port)) as raw:
                raw.sendall(b"nonsense\r\n\r\n")
                raw.recv(100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all(line["event"] and line["time"] and line["level"] for line in lines)
    for event in (
        "service begins",
        "library warns",
        "library says",
        "uncaught error",
        "process prints",
        "service ends",
    ):
        times = [line["event"] for line in lines].count(event)
        assert times >= (1 if event.startswith("service") else 2), (event, times)  # each process by itself
    assert {line.get("text") for line in lines} >= {"a library in C", "and what it prints", "print"}
    assert "Nobody" not in (tmp_path / "log").read_text()
    begun = next(line for line in lines if line["event"] == "service begins")
    assert address.endswith(f":{begun['port']}/")
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "new" / "data").rglob("*")}
    assert modes == {0} and (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700


def test_listening_to_others_needs_a_token_or_a_word(rediff: Any, tmp_path: Path) -> None:
    done = rediff("serve", "--data", tmp_path / "s", "--host", "0.0.0.0")
    assert done.code == 2
    assert "--new-token" in done.err and "--without-token" in done.err


@pytest.mark.parametrize("wrong", ["port", "bundle", "damaged bundle", "engine", "twice", "folder"])
def test_what_keeps_a_service_from_starting_is_one_sentence(
    shared: Service, tmp_path: Path, rediff: Any, wrong: str
) -> None:
    """As a process of its own where it gets as far as listening, else in this one."""
    command = ["serve", "--data", str(tmp_path / "other"), "--bundle", str(shared.bundle)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if wrong == "port" else 0
        command += ["--port", str(port)]
        if wrong == "bundle":
            command += ["--bundle", str(tmp_path / "absent")]
        elif wrong == "damaged bundle":
            shutil.copytree(shared.bundle, tmp_path / "copy")
            graph = next((tmp_path / "copy").rglob("*.onnx"))
            graph.write_bytes(graph.read_bytes()[:-1])
            command += ["--bundle", str(tmp_path / "copy")]
        elif wrong == "engine":
            command += ["--engine", "absent"]
        elif wrong == "twice":
            command += ["--data", str(shared.data)]
        elif wrong == "folder":
            (tmp_path / "file").touch()
            command += ["--data", str(tmp_path / "file")]
        if wrong in ("port", "engine"):
            program = [sys.executable, "-c", PROGRAM, *command]
            done = subprocess.run(program, capture_output=True, text=True, timeout=300)
            code, out, errors = done.returncode, done.stdout, done.stderr
        else:
            mask = os.umask(0o022)  # which a service narrows
            try:
                ran = rediff(*command)
            finally:
                os.umask(mask)
            code, out, errors = ran.code, ran.out, ran.err
    assert code == 2, errors
    assert "error: " in errors
    assert out == "" or wrong in ("port", "engine")  # no address is told of what will not be
    assert "Traceback" not in errors


# --- time and space ---


def test_corrections_are_listed_packed_and_keep_a_case(shared: Service, images: dict[str, bytes]) -> None:
    import gzip

    import nibabel as nib
    import numpy as np

    case_id = send(shared, images, name="P1").json()["id"]
    first = shared.wait(case_id)
    fetched = shared.client.get(f"/{first['result']['files']['segmentation']['url']}").content
    voxels = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(fetched)).dataobj).astype(np.uint8)
    voxels[0, 0, 0] = 1
    saved, more = (
        shared.client.post(
            f"/v1/cases/{case_id}/corrections",
            params={"from": "P1-seg.nii.gz", "sha256": hashlib.sha256(fetched).hexdigest(), "who": "Dr Test"},
            content=gzip.compress(voxels.tobytes(order="F")),
        )
        for _ in range(2)
    )
    assert saved.status_code == 201, saved.text
    assert is_problem(more, 409, "has 1 corrections")
    assert str(shared.data) not in more.text
    files = shared.client.get(f"/v1/cases/{case_id}").json()["result"]["files"]
    new = {entry["name"] for entry in files.values()} - {entry["name"] for entry in first["result"]["files"].values()}
    assert new == {"P1-corrected-1.nii.gz", "P1-corrected-1.json"}
    packed = shared.client.get(f"/{first['result']['zip']}")
    assert packed.headers["content-disposition"] == 'attachment; filename="P1-results.zip"'
    archive = zipfile.ZipFile(io.BytesIO(packed.content))
    assert set(archive.namelist()) == {entry["name"] for entry in files.values()}
    for entry in files.values():
        content = shared.client.get(f"/{entry['url']}").content
        assert content == archive.read(entry["name"]) and len(content) == entry["bytes"]
    corrected = nib.Nifti1Image.from_bytes(gzip.decompress(archive.read("P1-corrected-1.nii.gz")))
    assert np.array_equal(np.asarray(corrected.dataobj), voxels)


@pytest.mark.slow
def test_results_are_removed_when_their_time_is_over(service: Service, images: dict[str, bytes]) -> None:
    service.start()
    case_id = send(service, images).json()["id"]
    service.wait(case_id)
    assert service.end() == 0
    service.start("--retention", "0")
    deadline = time.monotonic() + 120
    while service.client.get(f"/v1/cases/{case_id}").status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not list((service.data / "cases").iterdir())


def test_a_disk_that_is_full_in_the_middle(
    service: Service, images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails with ENOSPC, in the place where files of uploads are written."""
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        """
import builtins, errno, io, pathlib
real = pathlib.Path.open

class Full(io.FileIO):
    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

def open(self, mode="r", *rest, **named):
    return Full(str(self), "xb") if self.name == "t2w.part" else real(self, mode, *rest, **named)

pathlib.Path.open = open
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    service.start()
    assert is_problem(send(service, images), 507, "disk")
    assert nothing_is_left(service)
    assert service.client.get("/readyz").status_code == 200


def test_an_upload_larger_than_a_file_may_be(service: Service, images: dict[str, bytes]) -> None:
    """As `ulimit -f` has it, or a file system."""
    pytest.importorskip("resource", reason="needs a system with limits of a process")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, 2**21)); "
    service.start(program=limit + PROGRAM)
    assert is_problem(send(service, images | {"t2w": os.urandom(2**22)}), 507, "disk")
    assert nothing_is_left(service)
    assert send(service, images).status_code == 202
