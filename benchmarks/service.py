"""What `rediff serve` takes: memory when idle and during many uploads at once, and how soon its pages answer.

    python benchmarks/service.py [--case FOLDER] [--uploads 20] [--compute] [--pages 5] [--chromium PROGRAM]

A service of the default bundle on loopback. Memory is PSS and RSS, see cohort.py, of the web process and of the
computing one: idle, and at its highest while the uploads arrive, of which each has the four images of the case (a
phantom of 240 × 240 × 155 voxels without --case). Then the uploads are counted; with --compute all of them are computed
first. With Chromium (package playwright), as often as --pages says, each time in a new browser: from the request of a
finished case's page to its switches, to the answer of a key pressed as soon as they are there, to its first image and
to the last of its volumes; how long that key waited; and the longest time in which the page answered nothing.
"""

import argparse
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from cohort import PROGRAM, memory_mb
from timing import describe

from rediffinet.phantom import write_phantoms

NAMES = ("t1n", "t1c", "t2w", "t2f")
CLOCK = """
window.times = {}
window.longest = 0
const note = (name, value = performance.now()) => { times[name] ??= value }
addEventListener('keydown', ({ timeStamp }) => setTimeout(() => {
  note('first key answered')
  note('which waited', performance.now() - timeStamp)
}), true)
new PerformanceObserver((tasks) => {
  longest = Math.max(longest, ...tasks.getEntries().map(({ duration }) => duration))
}).observe({ type: 'longtask', buffered: true })
new MutationObserver(() => {
  if (document.querySelector('.toolbar')) note('switches')
  if (document.querySelector('input[name=contrast]:enabled')) note('first image')
}).observe(document, { subtree: true, childList: true, attributes: true })
"""
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
    parser.add_argument("--case", type=Path)
    parser.add_argument("--pages", type=int, default=5)
    parser.add_argument("--compute", action="store_true")
    names = ("chromium", "chromium-browser", "google-chrome")
    parser.add_argument("--chromium", default=next(filter(None, map(shutil.which, names)), None))
    chosen = parser.parse_args()
    print(describe(["fastapi", "uvicorn", "openvino", "onnxruntime"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        case = chosen.case
        if case is None:
            write_phantoms(folder / "cases", 1, seed=1, shape=(240, 240, 155))
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
        pss, rss = memory_mb(root)
        print(f"idle after a case: PSS {pss:.0f} MiB, RSS {rss:.0f} MiB; the web process alone {web_mb(root):.0f} MiB")
        before, highest, ended = web_mb(root), [0.0, 0.0], threading.Event()

        def look() -> None:
            while not ended.wait(0.1):
                highest[:] = max(highest[0], web_mb(root)), max(highest[1], memory_mb(root)[0])

        looking = threading.Thread(target=look)
        looking.start()
        started = time.perf_counter()
        with ThreadPoolExecutor(chosen.uploads) as pool:
            ids = list(pool.map(send, range(1, chosen.uploads + 1)))
        took = time.perf_counter() - started
        size = sum(map(len, images.values())) * chosen.uploads / 2**20
        if not chosen.compute:
            for job in ids[1:]:
                client.post(f"/v1/cases/{job}/cancel")
        while {"queued", "running"} & {state for _, state in cases(client)}:
            time.sleep(1.0)
        ended.set()
        looking.join()
        print(f"{chosen.uploads} uploads, {size:.0f} MiB in {took:.1f} s: the web process {before:.0f} MiB before,")
        print(f"at most {highest[0]:.0f} MiB; both processes PSS at most {highest[1]:.0f} MiB, until the last was done")
        names, states = zip(*cases(client), strict=True)
        doubled = len(names) - len(set(names))
        lost = len({f"c{number}" for number in range(chosen.uploads + 1)} - set(names))
        print(f"lost {lost}, doubled {doubled}; {dict(Counter(states))}")
    if chosen.chromium:
        visits = [look_at(f"{address}/#/{first}", chosen.chromium) for _ in range(chosen.pages)]
        for opened in ("first", "again"):
            print(
                f"page ({opened}), median (range) of {chosen.pages} visits: {summary([one[opened] for one in visits])}"
            )


def cases(client: httpx.Client) -> list[tuple[str, str]]:
    """(name, state) of every case the service knows."""
    return [(case["case"], case["state"]) for case in client.get("/v1/cases", params={"limit": 500}).json()["cases"]]


def look_at(page_address: str, program: str) -> dict[str, dict[str, float]]:
    """Milliseconds by name until the page of a case can be used, in a new browser: the first visit and the second."""
    from playwright.sync_api import sync_playwright

    found = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for opened in ("first", "again"):
            page = browser.new_page(viewport={"width": 1366, "height": 768})
            page.set_default_timeout(600_000)
            page.add_init_script(CLOCK)
            page.goto(page_address)
            page.wait_for_selector(".viewer .toolbar", state="attached")
            page.keyboard.press("a")
            page.wait_for_selector(".viewer[data-ready]")
            found[opened] = page.evaluate("() => ({...times, all: performance.now(), 'longest block': longest})")
            page.close()
        browser.close()
    return found


def summary(visits: list[dict[str, float]]) -> str:
    """Median (range) in s of every time, by name."""
    told = []
    for name in visits[0]:
        seconds = [visit[name] / 1000 for visit in visits]
        told.append(f"{name} {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    return ", ".join(told)


if __name__ == "__main__":
    main()
