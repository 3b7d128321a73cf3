"""The page in a browser: headless Chromium, which draws with the processor. Compared are pixels, files and SciPy."""

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
WAIT_MS = 120_000
CONTRASTS = ["t1n", "t1c", "t2w", "t2f"]  # in the order of their keys


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """open_page(segmented, width=…, …) → the page, everything loaded; what went wrong in it fails the test.

    With hold=PATTERN requests of that pattern wait in page.held and the page comes at once; page.let_go() answers them.
    """
    from rediffinet.clinic.viewer.scene import open_scene
    from rediffinet.clinic.viewer.server import ViewerServer

    wrong: list[str] = []
    ends: list[Callable[[], None]] = []

    def open_it(segmented: Any, **options: Any) -> Any:
        server = ViewerServer(lambda: open_scene(segmented.out))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        hold = options.pop("hold", None)
        size = {"width": options.pop("width", 1000), "height": options.pop("height", 620)}
        context = chromium.new_context(viewport=size, **options)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" and _ours(said) else None)
        page.on("request", lambda asked: wrong.append(f"asked for {asked.url}") if _outside(asked.url) else None)
        ends.extend([context.close, server.shutdown, thread.join, server.server_close])
        if hold is not None:
            held: list[Any] = []
            holds = threading.Event()
            holds.set()
            page.route(hold, lambda route: held.append(route) if holds.is_set() else route.continue_())

            def let_go() -> None:
                holds.clear()
                for route in held:
                    route.continue_()

            page.held, page.let_go = held, let_go
        page.goto(server.url)
        if hold is None:
            page.wait_for_selector(".viewer[data-ready]")
        return page

    def _ours(said: Any) -> bool:
        answered = ("507", "404", "409", "410", "422")  # what tests have the server answer
        return not any(status in said.text for status in answered)

    def _outside(url: str) -> bool:
        return not url.startswith(("http://127.0.0.1:", "blob:", "data:"))

    yield open_it
    for end in ends:
        end()
    assert not wrong


def pixels(page: Any) -> np.ndarray:
    """The stage as an image (rows, columns, 3) uint8."""
    from PIL import Image

    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = page.locator(".stage").screenshot(timeout=WAIT_MS)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


def differs(before: np.ndarray, after: np.ndarray) -> bool:
    return bool((np.abs(before.astype(int) - after).max(axis=-1) > 16).sum() > 20)


def coloured(image: np.ndarray) -> int:
    """Pixels that are not grey."""
    return int((np.ptp(image.astype(int), axis=-1) > 60).sum())


def crosshair_mm(page: Any) -> np.ndarray:
    numbers = re.match(r"(-?\d+), (-?\d+), (-?\d+) mm", page.inner_text(".where"))
    assert numbers
    return np.array([int(number) for number in numbers.groups()])


def voxel_of(segmented: Any, mm: np.ndarray) -> tuple[int, ...]:
    affine = nib.load(segmented.output("seg.nii.gz")).affine
    return tuple(np.rint(np.linalg.solve(affine, [*mm, 1])[:3]).astype(int).tolist())


def test_the_case_is_drawn_and_every_switch_changes_it(open_page: Any, segmented: Any) -> None:
    assert (segmented.labels() != segmented.labels("baseline.nii.gz")).any()
    page = open_page(segmented)
    assert page.title() == "toy – rediff"
    page.keyboard.press("a")
    page.keyboard.press("r")
    bare = pixels(page)
    assert (bare.max(axis=-1) > 32).mean() > 0.05
    page.keyboard.press("h")  # where something changed
    bare = pixels(page)
    for key in "rbwuf":
        page.keyboard.press(key)
        shown = pixels(page)
        assert differs(bare, shown), f"{key} shows nothing"
        page.keyboard.press(key)
        assert not differs(bare, pixels(page)), f"{key} does not take away what it showed"
    seen = [bare]
    for key in "134":
        page.keyboard.press(key)
        seen.append(pixels(page))
    for key in "csmvg":
        page.keyboard.press(key)
        if key == "g":
            page.wait_for_selector(".stage[data-panes='4']")
        seen.append(pixels(page))
    for number, one in enumerate(seen):
        assert not [other for other in seen[:number] if not differs(one, other)]


def test_opacity_and_outlines_change_what_is_drawn(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    page.keyboard.press("a")
    filled = pixels(page)
    page.get_by_label("Opacity of Refined").fill("1")
    opaque = pixels(page)
    page.get_by_label("Outlines only").check()
    outlined = pixels(page)
    assert differs(filled, opaque)
    assert differs(opaque, outlined)
    assert 0 < coloured(outlined) < 0.9 * coloured(opaque)


def test_places_are_the_largest_that_scipy_finds(open_page: Any, segmented: Any) -> None:
    from scipy import ndimage

    page = open_page(segmented)
    seg, baseline = segmented.labels(), segmented.labels("baseline.nii.gz")
    for key, mask, name in (("l", seg > 0, "Lesion"), ("h", seg != baseline, "Change")):
        parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
        if key == "l":  # the page has gone to the first by itself
            for _ in range(count - 1):
                page.keyboard.press("l")
        page.keyboard.press(key)
        said = page.inner_text(".status")
        assert said == f"{name} 1 of {count}: {sizes.max() / 1000:.1f} ml"
        assert sizes[parts[voxel_of(segmented, crosshair_mm(page))] - 1] == sizes.max()
    page.keyboard.press("d")
    doubt = np.asanyarray(nib.load(segmented.output("uncertainty.nii.gz")).dataobj)
    mean = ndimage.uniform_filter(doubt, 5, mode="constant")
    assert mean[voxel_of(segmented, crosshair_mm(page))] == pytest.approx(mean.max(), abs=1e-5)
    assert f"{100 * mean.max():.0f} %" in page.inner_text(".status")


def test_the_margin_is_shown_named_and_told_where_the_crosshair_is(open_page: Any, make_segmented: Any) -> None:
    segmented = make_segmented(margin=True)
    bits = segmented.labels("margin.nii.gz")
    page = open_page(segmented)
    for key in "arl":
        page.keyboard.press(key)
    bare = pixels(page)
    assert not page.get_by_text("boundary of WT, 90 %").is_visible()
    page.keyboard.press("n")
    shown = pixels(page)
    assert differs(bare, shown)
    assert page.get_by_text("boundary of WT, 90 %").is_visible()
    value = int(bits[voxel_of(segmented, crosshair_mm(page))])
    inside = ", ".join(name for bit, name in enumerate(("WT", "TC", "ET")) if value >> bit & 1) or "outside"
    assert page.inner_text(".where").endswith(f"margin: {inside}")
    page.get_by_label("Opacity of Margin").fill("0.2")
    assert differs(shown, pixels(page))
    page.keyboard.press("?")
    assert "margin" in page.inner_text("dialog")
    page.keyboard.press("n")
    assert not differs(bare, pixels(page))


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["LPS", "ASR"])
def test_a_correction_comes_back_as_it_was_drawn(open_page: Any, make_segmented: Any, axes: str) -> None:
    segmented = make_segmented(axes)
    before = segmented.output("seg.nii.gz").read_bytes()
    page = open_page(segmented)
    box = take_pen_of_one_voxel(page)
    places = []
    for across, down in ((0.45, 0.3), (0.55, 0.7), (0.5, 0.5)):
        page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])
        places.append(voxel_of(segmented, crosshair_mm(page)))
    drawn = pixels(page)
    page.keyboard.press("Control+z")  # the third is taken back
    assert differs(drawn, pixels(page)) or segmented.labels()[places[2]] == 3
    page.get_by_role("button", name="Save as a new map").click()
    assert not list(segmented.out.glob("*corrected*")), "saved without a name"
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_label("Note").fill("two voxels")
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('Saved')")
    want = segmented.labels().copy()
    want[places[0]] = want[places[1]] = 3
    np.testing.assert_array_equal(segmented.labels("corrected-1.nii.gz"), want)
    entry = json.loads(segmented.output("corrected-1.json").read_text())
    assert (entry["who"], entry["note"], entry["from"]["file"]) == ("A. Reader", "two voxels", "toy-seg.nii.gz")
    assert segmented.output("seg.nii.gz").read_bytes() == before
    shown = pixels(page)
    page.keyboard.press("k")
    assert differs(shown, pixels(page))


@pytest.mark.slow
def test_what_was_discarded_is_not_saved(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    page.keyboard.press("a")
    page.keyboard.press("e")
    page.on("dialog", lambda dialog: dialog.accept())
    box = page.locator(".stage canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.press("Escape")
    page.wait_for_selector("#correct")
    assert not list(segmented.out.glob("*corrected*"))


@pytest.mark.slow
def test_a_correction_that_the_server_refuses_is_kept_and_told(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    page.keyboard.press("a")
    page.keyboard.press("e")
    page.get_by_label("Your name").fill("A. Reader")
    page.route("**/corrections*", lambda route: route.fulfill(status=507, json={"detail": "The disk is full."}))
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_selector("text=Not saved: The disk is full.")
    assert page.get_by_role("button", name="Save as a new map").is_enabled()


@pytest.mark.slow
def test_a_map_that_another_program_saved_over_is_warned_of(open_page: Any, segmented: Any) -> None:
    assert "map-altered" not in open_page(segmented).inner_text(".warnings, [aria-labelledby=warnings-title]")
    path = segmented.output("seg.nii.gz")
    stored = nib.load(path)
    nib.save(nib.Nifti1Image(np.zeros_like(stored.dataobj), stored.affine, stored.header), path)
    said = open_page(segmented).inner_text(".warnings")
    assert "map-altered toy-seg.nii.gz: not as the run wrote it" in said


@pytest.mark.slow
def test_the_tap_of_a_finger_draws_a_dot(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented, has_touch=True)
    box = take_pen_of_one_voxel(page)
    finger = page.context.new_cdp_session(page)
    at = {"x": box["x"] + 0.45 * box["width"], "y": box["y"] + 0.3 * box["height"]}
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
    page.wait_for_timeout(80)  # a finger stays about so long
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("() => !document.querySelector('.correct .buttons button').disabled")
    place = voxel_of(segmented, crosshair_mm(page))
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('Saved')")
    want = segmented.labels().copy()
    want[place] = 3
    np.testing.assert_array_equal(segmented.labels("corrected-1.nii.gz"), want)


def take_pen_of_one_voxel(page: Any) -> dict[str, float]:
    """Begin a correction in the axial plane with enhancing tumour; returns the box of the canvas."""
    page.keyboard.press("a")
    page.keyboard.press("e")
    page.get_by_label("Size in voxels").fill("1")
    page.get_by_label("enhancing").check()
    return dict(page.locator(".stage canvas").first.bounding_box())


def draw(page: Any, strokes: int = 1) -> None:
    """Begin a correction and click on as many places."""
    page.keyboard.press("a")
    page.keyboard.press("e")
    page.wait_for_selector(".correct")
    box = page.locator(".stage canvas").first.bounding_box()
    for stroke in range(strokes):
        across, down = 0.35 + 0.03 * (stroke % 10), 0.35 + 0.03 * (stroke // 10)
        page.mouse.click(box["x"] + across * box["width"], box["y"] + down * box["height"])


@pytest.mark.slow
def test_strokes_on_a_map_that_was_written_again_are_refused_and_stay(
    open_page: Any, segmented: Any, segment_again: Any
) -> None:
    page = open_page(segmented)
    draw(page)
    segment_again(segmented)
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_selector("text=/Not saved: toy-seg.nii.gz was written again since/")
    assert not list(segmented.out.glob("*corrected*"))
    assert page.get_by_role("button", name="Undo").is_enabled()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg", "baseline"])  # before anything is shown, and after
def test_a_case_that_is_segmented_again_while_it_loads_is_told(
    open_page: Any, segmented: Any, segment_again: Any, name: str
) -> None:
    page = open_page(segmented, hold=f"**/toy-{name}.nii.gz*")
    while not page.held:
        page.wait_for_timeout(50)
    segment_again(segmented)
    page.let_go()
    page.wait_for_selector(f"text=/toy-{name}.nii.gz was written again.* Load the page again/")
    page.unroute(f"**/toy-{name}.nii.gz*")
    page.get_by_role("button", name="Load the page again").click()
    page.wait_for_selector(".viewer[data-ready=true]")
    assert page.get_by_text("was written again").count() == 0


@pytest.mark.slow
def test_that_objects_hold_no_correction_is_told_where_there_are_objects(open_page: Any, segmented: Any) -> None:
    told = "no correction reaches them"
    assert told not in open_page(segmented).inner_text(".corrections")
    report = json.loads(segmented.output("report.json").read_text())
    report["outputs"]["dicom-seg-t1c"] = "toy-seg-t1c.dcm"
    segmented.output("report.json").write_text(json.dumps(report))
    assert told in open_page(segmented).inner_text(".corrections")


@pytest.mark.slow
def test_a_double_click_saves_one_map_and_a_refusal_gives_the_button_back(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    draw(page)
    page.get_by_label("Your name").fill("A. Reader")
    save = page.get_by_role("button", name="Save as a new map")
    held: list[Any] = []
    page.route("**/corrections*", lambda route: held.append(route))
    save.click()
    page.wait_for_function("() => document.querySelector('.correct .primary').disabled")
    while not held:
        page.wait_for_timeout(50)
    held.pop().fulfill(status=507, json={"detail": "The disk is full."})
    page.wait_for_selector("text=Not saved: The disk is full.")
    assert save.is_enabled()
    page.unroute("**/corrections*")
    save.dblclick()
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('Saved')")
    assert [path.name for path in segmented.out.glob("*corrected*.nii.gz")] == ["toy-corrected-1.nii.gz"]


@pytest.mark.slow
def test_undo_ends_with_the_oldest_stroke_that_is_kept_and_the_rest_is_asked_about(
    open_page: Any, segmented: Any
) -> None:
    page = open_page(segmented)
    draw(page, 66)
    undo = page.get_by_role("button", name="Undo")
    for _ in range(63):
        undo.click()
    assert undo.is_disabled()
    assert "No stroke before these is kept" in page.inner_text(".correct")
    left = pixels(page)
    page.keyboard.press("Control+z")
    assert not differs(left, pixels(page))
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.keyboard.press("Escape")
    page.wait_for_selector(".correct")
    assert asked == ["confirm"]
    page.close(run_before_unload=True)
    while len(asked) < 2:
        page.wait_for_timeout(50)
    assert asked == ["confirm", "beforeunload"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["/another", "/%E0%A4%A"])
def test_an_address_that_names_no_case_leaves_the_only_one(open_page: Any, segmented: Any, name: str) -> None:
    page = open_page(segmented)
    draw(page)
    page.evaluate("name => (location.hash = name)", name)
    page.wait_for_timeout(300)
    assert page.locator(".correct").is_visible()
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.wait_for_selector(".viewer[data-ready]")


@pytest.mark.slow
def test_a_correction_whose_file_is_gone_is_told(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    draw(page)
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('Saved')")
    page.reload()
    page.wait_for_selector(".viewer[data-ready]")
    segmented.output("corrected-1.nii.gz").unlink()
    told = "() => document.querySelector('.status').textContent.startsWith('toy-corrected-1.nii.gz cannot be shown')"
    page.keyboard.press("k")
    page.wait_for_function(told)
    page.keyboard.press("l")
    page.get_by_role("button", name="Show").click()
    page.wait_for_function(told)


@pytest.mark.slow
def test_what_was_drawn_on_a_result_that_is_gone_can_be_kept_as_a_file(open_page: Any, make_segmented: Any) -> None:
    segmented = make_segmented("ASR")
    page = open_page(segmented)
    box = take_pen_of_one_voxel(page)
    page.mouse.click(box["x"] + 0.45 * box["width"], box["y"] + 0.3 * box["height"])
    want, stored = segmented.labels().copy(), nib.load(segmented.output("seg.nii.gz"))
    want[voxel_of(segmented, crosshair_mm(page))] = 3
    other = nib.Nifti1Image(np.roll(want, 3, axis=1), stored.affine, stored.header)
    nib.save(other, segmented.output("seg.nii.gz"))  # as at the moment at which results are replaced
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_role("button", name="Save as a new map").click()
    page.wait_for_selector("text=was written again since the correction began")
    assert not list(segmented.out.glob("*corrected*"))
    with page.expect_download() as loading:
        page.get_by_role("link", name="Download what was drawn").click()
    kept = nib.Nifti1Image.from_bytes(loading.value.path().read_bytes())
    np.testing.assert_array_equal(np.asanyarray(kept.dataobj), want)
    np.testing.assert_allclose(kept.affine, stored.affine, atol=1e-4)


@pytest.mark.slow
def test_a_case_that_cannot_be_opened_is_asked_for_again(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    report = segmented.output("report.json")
    kept = report.rename(report.with_suffix(".kept"))
    page.reload()
    page.wait_for_selector("text=This cannot be shown")
    kept.rename(report)
    page.get_by_role("button", name="Load the page again").click()
    page.wait_for_selector(".viewer[data-ready]")


@pytest.mark.slow
def test_outlines_of_several_maps_have_colours_of_their_own(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    for key in "ao":
        page.keyboard.press(key)

    def pink() -> int:
        image = pixels(page).astype(int)
        return int(((image[..., 0] > 150) & (image[..., 2] > 120) & (image[..., 1] < image[..., 2] - 40)).sum())

    assert pink() == 0
    page.keyboard.press("b")
    assert pink() > 10
    legend = page.locator(".legend").last
    assert legend.inner_text() == "baseline"
    page.keyboard.press("r")  # alone, it has the colours of the labels
    assert pink() == 0
    assert legend.inner_text() == ""


@pytest.mark.slow
def test_the_correction_that_is_shown_is_named_and_the_pen_can_be_made_pale(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    for number in (1, 2):
        draw(page, number)
        if number == 1:
            shown = pixels(page)
            page.get_by_label("Opacity of the labels").fill("0")
            assert differs(shown, pixels(page))
            page.get_by_label("Opacity of the labels").fill("0.6")
            assert not differs(shown, pixels(page))
        page.get_by_label("Your name").fill("A. Reader")
        page.get_by_role("button", name="Save as a new map").click()
        page.wait_for_selector(f"text=Saved toy-corrected-{number}.nii.gz")
    assert page.locator("#map-corrected").inner_text().startswith("Corrected 2")
    page.locator(".entries li", has_text="toy-corrected-1").get_by_role("button", name="Show").click()
    page.wait_for_selector(".entries li[aria-current='true']:has-text('toy-corrected-1')")
    assert page.locator("#map-corrected").inner_text().startswith("Corrected 1")
    assert page.locator(".entries li[aria-current='true']").count() == 1
    page.keyboard.press("k")
    assert page.locator(".entries li[aria-current='true']").count() == 0, "none is shown"


@pytest.mark.slow
def test_the_focus_stays_in_the_corrections(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    page.locator("#correct").press("Enter")
    page.wait_for_selector(".correct")
    assert page.evaluate("() => document.activeElement.name") == "tool"
    page.get_by_label("Your name").fill("A. Reader")
    page.get_by_role("button", name="Save as a new map").press("Enter")
    page.wait_for_function("() => document.querySelector('.status').textContent.startsWith('Saved')")
    assert page.evaluate("() => document.activeElement.id") == "correct"
    page.keyboard.press("e")
    page.get_by_role("button", name="Discard").press("Enter")
    page.wait_for_selector("#correct")
    assert page.evaluate("() => document.activeElement.id") == "correct"


@pytest.mark.slow
def test_keys_with_caps_lock_alt_graph_and_command(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    draw(page)
    press = """keys => document.body.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, ...keys }))"""
    size, undo = page.get_by_label("Size in voxels"), page.get_by_role("button", name="Undo")
    for keys, want in (
        ({"key": "]", "ctrlKey": True, "altKey": True}, "4"),  # AltGr under Windows
        ({"key": "[", "altKey": True}, "3"),  # Option of a Mac
        ({"key": "X", "shiftKey": True}, "3"),
        ({"key": "z", "altKey": True}, "3"),  # of the browser's menu
    ):
        page.evaluate(press, keys)
        assert size.input_value() == want
    assert page.get_by_label("eraser").is_checked()
    assert undo.is_enabled()
    page.evaluate(press, {"key": "z", "metaKey": True})
    assert undo.is_disabled()


@pytest.mark.slow
def test_one_file_that_does_not_arrive_keeps_no_other_away_and_is_asked_for_again(
    open_page: Any, segmented: Any
) -> None:
    page = open_page(segmented, hold="**/files/t2w*")
    page.wait_for_selector("#map-reference input:enabled")
    missing = segmented.images / "toy-t2w.nii.gz"
    kept = missing.rename(missing.with_suffix(".kept"))
    page.let_go()
    again = page.get_by_role("button", name="Try again")
    again.wait_for()
    for there in ("#map-uncertainty input:enabled", "input[value=t2f]:enabled", "input[value=t2w]:disabled"):
        page.wait_for_selector(there, state="attached")
    page.keyboard.press(str(1 + CONTRASTS.index("t2w")))
    assert "T2: not everything could be loaded" in page.inner_text(".status")
    page.keyboard.press(str(1 + CONTRASTS.index("t2f")))
    assert page.inner_text(".status") == ""
    kept.rename(missing)
    again.click()
    page.wait_for_selector(".viewer[data-ready]")
    assert page.locator("input[value=t2w]").is_enabled()


@pytest.mark.slow
def test_a_key_right_after_the_help_was_closed_is_followed(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.evaluate(  # the focus stays in the closed help until the browser draws again
        """() => {
            document.querySelector('dialog').close()
            document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'e', bubbles: true }))
        }"""
    )
    page.wait_for_selector(".correct", timeout=10_000)


@pytest.mark.slow
def test_a_key_in_the_open_help_closes_it_and_is_followed(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("?")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("?")
    page.keyboard.press("e")
    page.wait_for_selector(".correct", timeout=10_000)
    assert page.locator("dialog").count() == 0


@pytest.mark.slow
def test_a_file_that_is_dropped_anywhere_leaves_the_page(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented)
    prevented = """name => {
        const data = new DataTransfer()
        data.items.add(new File(['x'], 'x.nii.gz'))
        return ['aside', 'h1', 'canvas'].map(place => {
            const event = new DragEvent(name, { bubbles: true, cancelable: true, dataTransfer: data })
            document.querySelector(place).dispatchEvent(event)
            return event.defaultPrevented
        })
    }"""
    for name in ("dragover", "drop"):
        assert page.evaluate(prevented, name) == [True] * 3


@pytest.mark.slow
def test_keys_before_their_files_are_there_are_told_and_then_followed(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented, hold="**/files/*")
    page.wait_for_selector(".toolbar")
    for key, told in (
        ("1", "T1"),
        ("u", "Uncertainty"),
        ("e", "Correcting"),
        ("x", "Correcting"),
        ("d", "Doubtful place"),
    ):
        page.keyboard.press(key)
        assert told in page.inner_text(".status")
    assert "follows as soon as it is loaded" in page.inner_text(".status")
    page.let_go()
    page.wait_for_selector(".viewer[data-ready]")
    assert page.get_by_label("eraser").is_checked()
    assert page.get_by_role("checkbox", name="Uncertainty").is_checked()
    assert page.locator("input[value=t1n]").is_checked()
    assert page.inner_text(".status").startswith("Doubtful place 1 of")


@pytest.mark.slow
def test_keys_before_the_case_is_there_are_followed(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented, hold="**/scene")
    page.wait_for_selector(".opening")
    for key in "ae":
        page.keyboard.press(key)
    page.let_go()
    page.wait_for_selector(".correct")
    assert page.locator("input[value=axial]").is_checked()


@pytest.mark.slow
def test_a_key_that_has_nothing_to_show_says_so(open_page: Any, make_segmented: Any) -> None:
    page = open_page(make_segmented(uncertainty=False))
    for key, told in (
        ("u", "Uncertainty: this case has none"),
        ("d", "Doubtful place: this"),
        ("x", "Correct labels (e) first"),
    ):
        page.keyboard.press(key)
        assert told in page.inner_text(".status")


@pytest.mark.slow
def test_a_file_that_cannot_be_loaded_leaves_the_rest_in_use(open_page: Any, segmented: Any) -> None:
    page = open_page(segmented, hold="**/*uncertainty*")
    page.wait_for_selector("#map-reference input:enabled")
    page.keyboard.press("u")
    segmented.output("uncertainty.nii.gz").unlink()
    page.let_go()
    page.wait_for_selector("text=Uncertainty: not everything could be loaded")
    page.keyboard.press("e")
    page.wait_for_selector(".correct")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1366, 768), (768, 1024)], ids=["laptop", "tablet"])
def test_axe_finds_no_fault(open_page: Any, segmented: Any, scheme: str, width: int, height: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(segmented, width=width, height=height, color_scheme=scheme)
    page.keyboard.press("a")

    def faults() -> list[str]:
        found = axe.run(page).response["violations"]
        return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]

    assert faults() == []
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    assert faults() == []
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.wait_for_selector(".correct")
    assert faults() == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
