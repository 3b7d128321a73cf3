"""What `rediff serve` takes: memory when idle and during many uploads at once, and how soon its pages answer.

    python benchmarks/service.py [--uploads 20] [--shape 240,240,155] [--chromium PROGRAM]

A service of the default bundle on loopback. Memory is PSS and RSS, see cohort.py, of the web process and of the
computing one: idle, and at its highest while the uploads arrive, of which each has four images of the shape. With
Chromium (package playwright): from the request of a finished case's page to its first picture and switches, and to the
last of its volumes.
"""

import argparse
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from cohort import PROGRAM, memory_mb
from timing import describe

from rediffinet.phantom import write_phantoms

NAMES = ("t1n", "t1c", "t2w", "t2f")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def wait_for(address: str, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=10).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def web_mb(root: int) -> float:
    """RSS of the web process alone."""
    status = Path(f"/proc/{root}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--shape", default="240,240,155")
    names = ("chromium", "chromium-browser", "google-chrome")
    parser.add_argument("--chromium", default=next(filter(None, map(shutil.which, names)), None))
    chosen = parser.parse_args()
    x, y, z = map(int, chosen.shape.split(","))
    print(describe(["fastapi", "uvicorn", "openvino", "onnxruntime"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_phantoms(folder / "cases", 1, seed=1, shape=(x, y, z))
        (case,) = (path for path in (folder / "cases").iterdir() if path.is_dir())
        images = {name: next(case.glob(f"*{name}.nii.gz")).read_bytes() for name in NAMES}
        command = [*PROGRAM, "serve", "--data", str(folder / "data"), "--port", address.rpartition(":")[2]]
        command += ["--queue", str(chosen.uploads + 1)]
        service = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            measure(service.pid, address, images, chosen)
        finally:
            service.terminate()
            service.wait()


def measure(root: int, address: str, images: dict[str, bytes], chosen: argparse.Namespace) -> None:
    wait_for(f"{address}/readyz")
    time.sleep(2.0)
    pss, rss = memory_mb(root)
    print(f"idle: PSS {pss:.0f} MiB, RSS {rss:.0f} MiB; the web process alone RSS {web_mb(root):.0f} MiB")
    with httpx.Client(base_url=address, timeout=600) as client:

        def send(number: int) -> str:
            answer = client.post("/v1/cases", files=dict(images), data={"name": f"c{number}"})
            answer.raise_for_status()
            return str(answer.json()["id"])

        first = send(0)
        while client.get(f"/v1/cases/{first}").json()["state"] not in ("done", "failed"):
            time.sleep(0.5)
        highest, ended = [web_mb(root)], threading.Event()

        def look() -> None:
            while not ended.wait(0.1):
                highest.append(web_mb(root))

        looking = threading.Thread(target=look)
        looking.start()
        started = time.perf_counter()
        with ThreadPoolExecutor(chosen.uploads) as pool:
            ids = list(pool.map(send, range(chosen.uploads)))
        ended.set()
        looking.join()
        size = sum(map(len, images.values())) * chosen.uploads / 2**20
        took = time.perf_counter() - started
        print(
            f"{len(set(ids))} of {chosen.uploads} uploads at once, {size:.0f} MiB in {took:.1f} s: web process RSS",
            end=" ",
        )
        print(f"{highest[0]:.0f} MiB before, at most {max(highest):.0f} MiB")
        for job in ids:
            client.post(f"/v1/cases/{job}/cancel")
    if chosen.chromium:
        look_at(address, first, chosen.chromium)


def look_at(address: str, case: str, program: str) -> None:
    """Seconds until the page of a case can be used."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for opened in ("first", "again"):
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.set_default_timeout(600_000)
            started = time.perf_counter()
            page.goto(f"{address}/#/{case}")
            page.wait_for_selector(".viewer .toolbar")
            switches = time.perf_counter() - started
            page.wait_for_selector(".segmented input:not([disabled])", state="attached")
            usable = time.perf_counter() - started
            page.wait_for_selector(".viewer[data-ready]")
            everything = time.perf_counter() - started
            print(f"page ({opened}): switches {switches:.2f} s, contrast {usable:.2f} s, all {everything:.2f} s")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
