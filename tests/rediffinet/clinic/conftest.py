"""A service as its own process on loopback, and the images of the toy case to send to it."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
PROGRAM = "from rediffinet.cli.main import main; main()"


class Service:
    """A service on a free port; `start` after any end goes on with the same folder."""

    def __init__(self, data: Path, bundle: Path) -> None:
        self.data, self.bundle = data, bundle
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        httpx = self.httpx = pytest.importorskip("httpx")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data.with_suffix(".log")

    def start(self, *options: str, program: str = PROGRAM) -> "Service":
        arguments = ["serve", "--data", str(self.data), "--bundle", str(self.bundle), "--port", str(self.port)]
        command = [sys.executable, "-c", program, *arguments, "--engine", "onnxruntime", "--threads", "1", *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.client.get("/readyz").status_code == 200:
                    return self
            except self.httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def send(self, images: dict[str, bytes], headers: dict[str, str] | None = None, **fields: str) -> Any:
        """A case whose files are called what no file may be called."""
        files = {name: (f"../../{name}", content) for name, content in images.items()}
        return self.client.post("/v1/cases", files=files, data=fields, headers=headers)

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(240)

    def wait(self, case_id: str, *states: str, seconds: float = 240.0) -> dict[str, Any]:
        wanted = states or ("done", "failed", "cancelled")
        deadline, pause = time.monotonic() + seconds, 0.05
        while time.monotonic() < deadline:
            found = self.client.get(f"/v1/cases/{case_id}").json()
            if found["state"] in wanted:
                return dict(found)
            time.sleep(pause)
            pause = min(1.1 * pause, 1.0)  # a machine that is slow is not asked all the time
        raise AssertionError(f"{found}\n{self.log.read_text()}")

    def gone(self) -> None:
        """Whatever state it is in: end it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.client.close()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, make_toy: Any) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("images")
    make_toy().save(folder)
    return {contrast: (folder / f"toy-{contrast}.nii.gz").read_bytes() for contrast in CONTRASTS}


@pytest.fixture(scope="session")
def make_service(toy_bundle: Any) -> Callable[[Path], Service]:
    """make_service(folder) → Service of the toy bundle, not started. Its maker ends it with `gone`."""
    for needed in ("fastapi", "prometheus_client"):
        pytest.importorskip(needed)
    return lambda data: Service(data, toy_bundle.path)


@pytest.fixture
def service(tmp_path: Path, make_service: Callable[[Path], Service]) -> Iterator[Service]:
    made = make_service(tmp_path / "service")
    yield made
    made.gone()


@pytest.fixture
def cohort_of(tmp_path: Path, toy_folder: Path) -> Callable[[str], Path]:
    """A cohort with a copy of the toy case under each of these one-letter names."""

    def make(names: str) -> Path:
        for name in names:
            folder = tmp_path / "cohort" / name
            folder.mkdir(parents=True)
            for contrast in CONTRASTS:
                shutil.copy(toy_folder / f"toy-{contrast}.nii.gz", folder / f"{name}-{contrast}.nii.gz")
        return tmp_path / "cohort"

    return make
