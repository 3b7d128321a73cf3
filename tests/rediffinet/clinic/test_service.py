"""`rediff serve` as its own process on loopback: what is accepted becomes done or is said to have failed, once."""

import io
import json
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
PROGRAM = "from rediffinet.cli.main import main; main()"


class Service:
    """A service on a free port; `start` after any end goes on with the same folder."""

    def __init__(self, data: Path, bundle: Path) -> None:
        self.data, self.bundle = data, bundle
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data.with_suffix(".log")

    def start(self, *options: str, program: str = PROGRAM) -> "Service":
        arguments = ["serve", "--data", str(self.data), "--bundle", str(self.bundle), "--port", str(self.port)]
        command = [sys.executable, "-c", program, *arguments, "--engine", "onnxruntime", "--threads", "1", *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.client.get("/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def wait(self, case_id: str, *states: str, seconds: float = 60.0) -> dict[str, Any]:
        wanted = states or ("done", "failed", "cancelled")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.client.get(f"/v1/cases/{case_id}").json()
            if found["state"] in wanted:
                return dict(found)
            time.sleep(0.05)
        raise AssertionError(f"{found}\n{self.log.read_text()}")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_toy: Any) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("images")
    make_toy().save(folder)
    return {contrast: (folder / f"toy-{contrast}.nii.gz").read_bytes() for contrast in CONTRASTS}


@pytest.fixture
def service(tmp_path: Path, toy_bundle: Any) -> Iterator[Service]:
    made = Service(tmp_path / "service", toy_bundle.path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()
    made.client.close()


def send(service: Service, images: dict[str, bytes], headers: dict[str, str] | None = None, **fields: str) -> Any:
    files = {name: (f"../../{name}", content) for name, content in images.items()}
    return service.client.post("/v1/cases", files=files, data=fields, headers=headers)


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
    assert service.client.delete(f"/v1/cases/{case['id']}").status_code == 204
    assert is_problem(service.client.get(f"/v1/cases/{case['id']}"), 404)
    assert not list((service.data / "cases").iterdir())
    assert service.end() == 0
    log = service.log.read_text()
    assert "P1" not in log and "t1n" not in log  # nothing that a client chose
    assert all(json.loads(line)["event"] for line in log.splitlines() if line.startswith("{"))
