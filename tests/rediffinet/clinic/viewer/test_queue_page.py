"""The service's page in a browser: cases are dropped, computed by the toy bundle, opened, corrected and removed."""

import gzip
import json
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")]
WAIT_MS = 60_000
NAMES = ("t1n", "t1c", "t2w", "t2f")


@pytest.fixture
def service(toy_bundle: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a service that computes with the toy bundle."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    program = "from rediffinet.cli.main import main; main()"
    options = ["--data", tmp_path / "service", "--bundle", toy_bundle.path, "--engine", "onnxruntime", "--threads", "1"]
    command = [sys.executable, "-c", program, "serve", "--port", address.rpartition(":")[2], *map(str, options)]
    log = tmp_path / "service.log"
    with log.open("wb") as stream:
        running = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        _wait_for(f"{address}/readyz", running, log)
        yield address
    finally:
        running.terminate()
        running.wait(timeout=60)


def _wait_for(address: str, running: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert running.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def page(chromium: Any, service: str) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1100, "height": 700})
    opened = context.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.goto(service)
    opened.wait_for_selector(".queue")
    yield opened
    context.close()


def drop(page: Any, paths: list[Path]) -> None:
    """The events of a browser when files or folders are dropped on the zone."""
    box = page.locator(".drop").bounding_box()
    where = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "data": data, **where})


def labels(address: str) -> np.ndarray:
    with urllib.request.urlopen(address, timeout=60) as answer:
        return np.asanyarray(nib.Nifti1Image.from_bytes(gzip.decompress(answer.read())).dataobj)


def test_a_case_from_drop_to_removal(page: Any, service: str, toy_folder: Path) -> None:
    drop(page, [toy_folder])
    page.wait_for_selector("tr[data-state='done']")
    row = page.locator("tr[data-state='done']")
    assert "toy" in row.inner_text()
    assert re.search(r"WT \d", row.inner_text())
    row.get_by_role("button", name="Open toy").click()
    page.wait_for_selector(".viewer[data-ready]")
    page.keyboard.press("a")
    page.keyboard.press("e")
    page.get_by_label("enhancing").check()
    box = page.locator(".stage canvas").first.bounding_box()
    page.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 0.3 * box["height"])
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('Saved')")
    case = f"{service}/v1/cases/{page.url.rpartition('/')[2]}/"
    with urllib.request.urlopen(f"{case}scene", timeout=60) as answer:
        scene = json.load(answer)
    (entry,) = scene["corrections"]
    before, after = labels(case + scene["maps"]["refined"]), labels(case + entry["url"])
    assert (entry["who"], entry["current"]) == ("A. Reader", True)
    assert entry["changed_voxels"] == np.count_nonzero(before != after) > 0
    assert set(np.unique(after[before != after])) == {3}
    page.get_by_role("button", name="All cases").click()
    page.wait_for_selector(".queue")
    with page.expect_download() as loading:
        page.get_by_role("link", name="Files of toy").click()
    assert loading.value.suggested_filename == "toy-results.zip"
    with zipfile.ZipFile(loading.value.path()) as archive:
        report = json.loads(archive.read("toy-report.json"))
    assert report["case"] == "toy"
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove toy").click()
    page.wait_for_selector("tr[data-state]", state="detached")


def test_a_token_is_asked_for_as_a_password(chromium: Any, service: str, toy_folder: Path, tmp_path: Path) -> None:
    from rediffinet.clinic.service.tokens import new_token

    token = new_token(tmp_path / "service" / "tokens.json", "anna")
    for password, status in (("wrong", 401), (token, 200)):
        context = chromium.new_context(http_credentials={"username": "anybody", "password": password})
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        assert page.goto(service).status == status
        if status == 200:
            page.wait_for_selector(".queue")
            drop(page, [toy_folder])
            page.get_by_role("button", name="Open toy").click()
            page.wait_for_selector(".viewer[data-ready]")
        context.close()


def test_files_that_are_no_case_are_named(page: Any, toy_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    page.set_input_files(
        "#files", [toy_folder / "toy-t1n.nii.gz", toy_folder / "toy-t2w.nii.gz", tmp_path / "notes.txt"]
    )
    page.wait_for_selector(".problem")
    said = page.inner_text(".said")
    assert "toy: t1c, t2f missing" in said
    assert "notes.txt: not a zip" in said
    assert page.locator("tbody tr").count() == 0


def test_two_cases_at_once_and_a_bad_archive(page: Any, toy_folder: Path, tmp_path: Path) -> None:
    files = []
    for case in ("one", "two"):
        for name in NAMES:
            files.append(tmp_path / f"{case}_{name}.nii.gz")
            shutil.copy(toy_folder / f"toy-{name}.nii.gz", files[-1])
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    page.set_input_files("#files", [*files, tmp_path / "bad.zip"])
    page.wait_for_selector("tr[data-state='done'] >> nth=1")
    names = page.locator("tbody th").all_inner_texts()
    assert {"one", "two"} <= set(names)
    page.wait_for_selector("text=/bad/")
    assert page.locator("tr[data-state='failed']").count() + page.locator(".problem").count() == 1


def test_the_options_go_with_the_cases(page: Any, toy_folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for path in toy_folder.iterdir():
            packed.write(path, path.name)
    page.get_by_label("Raw scans").check()
    page.get_by_label("make a DICOM segmentation").check()
    page.set_input_files("#files", [tmp_path / "packed.zip"])
    page.wait_for_selector("tr[data-state='failed']")
    assert "DICOM objects are written for DICOM alone" in page.inner_text("tr[data-state='failed']")
    page.set_input_files("#files", [toy_folder / f"toy-{name}.nii.gz" for name in NAMES])
    page.wait_for_selector("tbody tr >> nth=1")
    with sqlite3.connect(tmp_path / "service" / "jobs.sqlite") as jobs:
        asked = [json.loads(row) for (row,) in jobs.execute("SELECT request FROM jobs ORDER BY seq")]
    assert [(one["name"], one["prepare"], one["dicom_seg"]) for one in asked] == [
        ("packed", True, True),
        ("toy", True, False),  # four files are never DICOM
    ]


def test_strokes_are_asked_about_before_their_case_is_left(page: Any, toy_folder: Path) -> None:
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    drop(page, [toy_folder])
    page.get_by_role("button", name="Open toy").click()
    page.wait_for_selector(".viewer[data-ready]")
    case = page.url
    page.keyboard.press("a")
    page.keyboard.press("e")
    page.wait_for_selector(".correct")
    box = page.locator(".stage canvas").first.bounding_box()
    page.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 0.3 * box["height"])
    asked: list[str] = []
    accepts: list[bool] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        if accepts:
            dialog.accept()
        else:
            dialog.dismiss()

    page.on("dialog", answer)
    ways = (
        lambda: page.get_by_role("button", name="All cases").click(),
        lambda: page.evaluate("() => history.back()"),
        lambda: page.evaluate("() => (location.hash = '/another')"),
    )
    for times, way in enumerate(ways, 1):
        way()
        while len(asked) < times:
            page.wait_for_timeout(50)
        page.wait_for_timeout(300)  # nothing more is asked
        assert asked == ["Discard what was drawn?"] * times
        page.wait_for_url(case)
        assert page.locator(".correct").is_visible()
    accepts.append(True)
    page.get_by_role("button", name="All cases").click()
    page.wait_for_selector(".queue")
    assert len(asked) == 4
    page.evaluate("() => (location.hash = '/%E0%A4%A')")
    page.wait_for_selector("text=The address names no case")
    page.get_by_role("button", name="All cases").click()
    page.wait_for_selector(".queue")
    assert wrong == []


def test_what_is_being_sent_is_kept_when_more_comes_and_asked_about(
    page: Any, toy_folder: Path, tmp_path: Path
) -> None:
    held: list[Any] = []
    page.route("**/v1/cases", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    page.set_input_files("#files", [toy_folder / f"toy-{name}.nii.gz" for name in NAMES])
    page.wait_for_selector("text=Sending toy")
    other = put(toy_folder, tmp_path / "other", NAMES, "other-")
    page.set_input_files("#files", [*sorted(other.iterdir()), toy_folder / "toy-t1n.nii.gz"])
    page.wait_for_selector("text=toy: t1c, t2w, t2f missing")
    said = page.inner_text(".drop")
    assert "Sending toy" in said
    assert "1 more to send" in said
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", answer)
    page.mouse.click(5, 5)  # without any act of the user, a browser does not ask
    page.close(run_before_unload=True)
    while not asked:
        page.wait_for_timeout(50)
    assert asked == ["beforeunload"]
    for sent in range(2):
        while len(held) <= sent:
            page.wait_for_timeout(50)
        held[sent].continue_()
    page.wait_for_selector("tbody tr >> nth=1")
    assert sent_cases(tmp_path) == ["toy", "other"]


def test_what_is_refused_while_another_case_is_looked_at_is_told_in_the_list(
    page: Any, toy_folder: Path, tmp_path: Path
) -> None:
    drop(page, [toy_folder])
    page.wait_for_selector("tr[data-state='done']")
    held: list[Any] = []
    page.route("**/v1/cases", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    drop(page, [put(toy_folder, tmp_path / name, NAMES) for name in ("one", "two", "three")])
    page.wait_for_selector("text=Sending one")
    page.get_by_role("button", name="Open toy").click()
    page.wait_for_selector(".viewer[data-ready]")
    held[0].fulfill(status=507, content_type="application/problem+json", body='{"detail": "The disk is full."}')
    while len(held) < 2:
        page.wait_for_timeout(50)
    page.get_by_role("button", name="All cases").click()
    page.wait_for_selector(".queue")
    said = page.inner_text(".drop")
    assert "one was not taken: The disk is full." in said
    assert "Sending two" in said
    assert "1 more to send" in said
    drop(page, [put(toy_folder, tmp_path / "four", NAMES)])
    page.wait_for_selector("text=2 more to send")
    assert "one was not taken" in page.inner_text(".said")
    for sent in (1, 2, 3):
        while len(held) <= sent:
            page.wait_for_timeout(50)
        assert len(held) == sent + 1  # one after the other
        held[sent].continue_()
    page.wait_for_selector("tbody tr >> nth=3")
    assert sent_cases(tmp_path) == ["toy", "two", "three", "four"]


def test_a_case_whose_answer_was_lost_is_sent_again_and_taken_once(page: Any, toy_folder: Path, tmp_path: Path) -> None:
    page.evaluate(
        """() => {
            const send = XMLHttpRequest.prototype.send
            XMLHttpRequest.prototype.send = function (body) {
                XMLHttpRequest.prototype.send = send
                this.onload = this.onerror
                send.call(this, body)
            }
        }"""
    )
    page.set_input_files("#files", [toy_folder / f"toy-{name}.nii.gz" for name in NAMES])
    page.wait_for_selector("text=The connection was lost: toy is sent again in 3 s")
    assert sent_cases(tmp_path) == ["toy"]
    page.wait_for_selector(".said progress", state="detached")
    assert page.inner_text(".said") == ""
    assert sent_cases(tmp_path) == ["toy"]


def test_older_cases_are_listed_when_they_are_asked_for(page: Any, tmp_path: Path) -> None:
    rows = [
        (f"id{number}", "", "cancelled", json.dumps({"name": f"case{number}"}), 1.8e9 + number) for number in range(101)
    ]
    with sqlite3.connect(tmp_path / "service" / "jobs.sqlite") as jobs:
        jobs.executemany("INSERT INTO jobs (id, owner, state, request, created) VALUES (?, ?, ?, ?, ?)", rows)
    page.wait_for_selector("tbody tr >> nth=49")
    for listed in (50, 100, 101):
        page.wait_for_selector(f"tbody tr >> nth={listed - 1}")
        names = page.locator("tbody th").all_inner_texts()
        assert names == [f"case{number}" for number in range(100, 100 - listed, -1)]
        more = page.get_by_role("button", name="Older cases")
        if listed < 101:
            more.click()
    more.wait_for(state="hidden")


def test_two_cases_of_one_name_are_told_apart_by_when_they_were_sent(page: Any, toy_folder: Path) -> None:
    for times in (1, 2):
        drop(page, [toy_folder])
        page.wait_for_selector(f"tr[data-state='done'] >> nth={times - 1}")
    moments = page.locator("tbody time").all_inner_texts()
    assert len(set(moments)) == 2
    for kind, role in (("Open", "button"), ("Files of", "link"), ("Remove", "button")):
        for moment in moments:
            assert page.get_by_role(role, name=f"{kind} toy, sent {moment}", exact=True).count() == 1
    asked: list[str] = []

    def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", answer)
    page.get_by_role("button", name=f"Remove toy, sent {moments[1]}").click()
    assert asked == [f"Remove toy, sent {moments[1]}, and all its files?"]
    page.get_by_role("button", name=f"Open toy, sent {moments[1]}").click()
    page.wait_for_selector(".viewer")
    assert moments[1] in page.inner_text(".viewer header")


def test_a_service_that_is_gone_is_told(page: Any, toy_folder: Path) -> None:
    page.set_input_files("#files", [toy_folder / f"toy-{name}.nii.gz" for name in NAMES])
    page.wait_for_selector("tr[data-state='done']")
    page.on("dialog", lambda dialog: dialog.accept())
    page.route("**/v1/cases**", lambda route: route.abort("connectionrefused"))
    page.get_by_role("button", name="Remove toy").click()
    page.wait_for_selector(".problem")
    assert page.inner_text(".problem") == "The service does not answer"


def put(toy_folder: Path, folder: Path, names: tuple[str, ...], prefix: str = "") -> Path:
    """The toy's images with bare names, or others before the contrast."""
    folder.mkdir(parents=True)
    for name in names:
        shutil.copy(toy_folder / f"toy-{name}.nii.gz", folder / f"{prefix}{name}.nii.gz")
    return folder


def sent_cases(tmp_path: Path) -> list[str]:
    with sqlite3.connect(tmp_path / "service" / "jobs.sqlite") as jobs:
        return [json.loads(row)["name"] for (row,) in jobs.execute("SELECT request FROM jobs ORDER BY seq")]


def test_images_of_two_folders_never_make_one_case(page: Any, toy_folder: Path, tmp_path: Path) -> None:
    one, other = put(toy_folder, tmp_path / "mA", NAMES), put(toy_folder, tmp_path / "mB", ("t1c",))
    marked = nib.load(other / "t1c.nii.gz")  # another patient's: of one value
    blank = np.full(marked.shape, 7, np.float32)
    nib.save(nib.Nifti1Image(blank, marked.affine), other / "t1c.nii.gz")
    drop(page, [one, other])
    page.wait_for_selector("tbody tr")
    assert "mB: t1n, t2w, t2f missing" in page.inner_text(".said")
    assert sent_cases(tmp_path) == ["mA"]
    page.wait_for_selector("tr[data-state='done']")
    used = list((tmp_path / "service").rglob("*t1c.nii.gz"))
    assert used
    assert {path.read_bytes() for path in used} == {(one / "t1c.nii.gz").read_bytes()}


def test_a_contrast_that_is_there_twice_is_told_and_nothing_is_sent(
    page: Any, toy_folder: Path, tmp_path: Path
) -> None:
    folder = put(toy_folder, tmp_path / "double", NAMES, "p-")
    shutil.copy(folder / "p-t1c.nii.gz", folder / "p-t1ce.nii.gz")
    drop(page, [folder])
    page.wait_for_selector(".problem")
    said = page.inner_text(".said")
    assert "double/p: t1c more than once (" in said
    assert "p-t1ce.nii.gz" in said
    page.set_input_files("#files", sorted(folder.iterdir()))
    page.wait_for_selector("text=/^p: t1c more than once/")
    assert sent_cases(tmp_path) == []


def test_what_systems_and_converters_put_beside_images_is_passed_over(
    page: Any, toy_folder: Path, tmp_path: Path
) -> None:
    folder = put(toy_folder, tmp_path / "w", NAMES, "w-")
    for name in (".DS_Store", "._w-t1n.nii.gz", "Thumbs.db", "desktop.ini", "w-t1n.json"):
        (folder / name).write_bytes(b"x")
    drop(page, [folder])
    page.wait_for_selector("tbody tr")
    assert page.inner_text(".said") == ""
    assert sent_cases(tmp_path) == ["w"]


@pytest.mark.parametrize("name", ["", ".DS_Store"])
def test_a_folder_without_any_image_is_told(page: Any, tmp_path: Path, name: str) -> None:
    inner = tmp_path / "empty" / "inner"
    inner.mkdir(parents=True)
    if name:
        (inner / name).write_bytes(b"x")
    drop(page, [tmp_path / "empty"])
    page.wait_for_selector(".problem")
    assert page.inner_text(".said").startswith("Nothing to send was found")


def test_an_image_without_a_byte_is_refused_by_its_contrast(page: Any, toy_folder: Path, tmp_path: Path) -> None:
    folder = put(toy_folder, tmp_path / "zero", NAMES, "zero-")
    (folder / "zero-t1c.nii.gz").write_bytes(b"")
    drop(page, [folder])
    page.wait_for_selector(".problem")
    assert page.inner_text(".said") == "zero was not taken: t1c: the file is empty (0 bytes)."
    assert sent_cases(tmp_path) == []


def test_bare_names_in_folders_are_cases_by_the_names_of_their_folders(
    page: Any, toy_folder: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    for folder in ("p1/anat", "p2/anat", "p3"):
        put(toy_folder, study / folder, NAMES)
    drop(page, [study])
    page.wait_for_selector("tbody tr >> nth=2")
    assert sorted(sent_cases(tmp_path)) == ["p3", "study-p1-anat", "study-p2-anat"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(chromium: Any, service: str, toy_folder: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = chromium.new_context(viewport={"width": 768, "height": 1024}, color_scheme=scheme)
    page = context.new_page()
    page.goto(service)
    page.wait_for_selector(".queue")
    page.set_input_files("#files", [toy_folder / f"toy-{name}.nii.gz" for name in NAMES])
    page.wait_for_selector("tr[data-state='done']", timeout=WAIT_MS)
    found = axe.run(page).response["violations"]
    assert [one["id"] for one in found] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    context.close()
