"""The report as a page of HTML, read by the parser of the standard library."""

import io
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rediffinet.io.html_report import encode_html_report
from rediffinet.io.outputs import OutputChoice, save_result
from rediffinet.report import Warning_
from rediffinet.segmenter import Result, Segmenter


class Read(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def pictures(self) -> list[Image.Image]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(b64decode(source.partition(",")[2]))) for source in sources]


@pytest.fixture
def result(toy_case: Any, toy_bundle: Any) -> Result:
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        return segmenter.segment(toy_case)


def reported(result: Result, **changes: Any) -> Result:
    return replace(result, report=result.report.model_copy(update=changes))


def test_it_is_alone(result: Result) -> None:
    """Nothing is loaded from anywhere and nothing runs: every source is in the file."""
    page = Read(encode_html_report(result))
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "form", "a"}
    sources = [value or "" for _, attributes in page.tags for name, value in attributes.items() if name == "src"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert b"url(" not in encode_html_report(result)


def test_numbers_are_those_of_the_report(result: Result) -> None:
    report = result.report
    page = Read(encode_html_report(result))
    assert report.volumes_ml.baseline is not None
    for region in ("WT", "TC", "ET"):
        before, after = (getattr(one, region) for one in (report.volumes_ml.baseline, report.volumes_ml.refined))
        assert f"{region} {before:.1f} {after:.1f} {after - before:+.1f}" in page.text
    for said in (report.bundle.sha256, report.engine.version, report.intended_use, *(i.sha256 for i in report.inputs)):
        assert said in page.text


def test_pictures_are_described_and_show_both_outlines(result: Result) -> None:
    page = Read(encode_html_report(result))
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    for picture in page.pictures():
        colours = {tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()}
        assert {(255, 150, 30), (0, 220, 255)} <= colours


def test_names_and_messages_are_text(result: Result) -> None:
    bad = '<script>alert("x")</script>&amp;'
    page = Read(encode_html_report(reported(result, case=bad, warnings=[Warning_(code="<b>", message=bad)])))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(bad) >= 2


def test_no_warnings_no_baseline_no_tumour(result: Result) -> None:
    report = result.report
    volumes = report.volumes_ml.model_copy(update={"baseline": None})
    plain = reported(result, warnings=[], flipped_voxels=None, volumes_ml=volumes)
    empty = replace(plain, crop_baseline=None, crop_labels=np.zeros_like(result.crop_labels))
    page = Read(encode_html_report(empty))
    assert "None." in page.text
    assert "Baseline " not in page.text.partition("What ran")[0]
    assert len(page.pictures()) == 2


def test_it_is_written_with_the_others_and_removed_with_them(result: Result, tmp_path: Path) -> None:
    saved = save_result(result, tmp_path, OutputChoice(html=True))
    assert saved.report.outputs["html"] == "toy-report.html"
    assert (tmp_path / "toy-report.html").read_bytes().startswith(b"<!doctype html>")
    save_result(result, tmp_path, OutputChoice(overwrite=True))
    assert not (tmp_path / "toy-report.html").exists()


def test_rediff_segment_writes_it_when_it_is_asked_to(
    rediff: Any, toy_folder: Path, toy_bundle: Any, tmp_path: Path
) -> None:
    choice = ("--bundle", toy_bundle.path, "--engine", "onnxruntime", "-o", tmp_path / "out", "--html-report")
    assert rediff("segment", toy_folder, *choice).code == 0
    assert (tmp_path / "out" / "toy-report.html").is_file()
