"""One case in its own folder, without the processes around it: the files of the same case by itself."""

import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from rediffinet.clinic.case import Order, segment_case
from rediffinet.clinic.inputs import CaseInput
from rediffinet.clinic.service.archives import check_archive
from rediffinet.clinic.service.computing import finished_name, segment_received, told_result
from rediffinet.clinic.service.requests import parse_request
from rediffinet.clinic.service.settings import Settings
from rediffinet.errors import CaseError
from rediffinet.io.outputs import OutputChoice
from rediffinet.segmenter import Segmenter


@pytest.mark.parametrize("way", ["four files", "archive", "deep archive"])
def test_what_was_sent_becomes_what_can_be_fetched(
    toy_bundle: Any, images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    job, given = tmp_path / "job", tmp_path / "given"
    (job / "in").mkdir(parents=True)
    given.mkdir()
    for contrast, content in images.items():
        (given / f"P1-{contrast}.nii.gz").write_bytes(content)
        if way == "four files":
            (job / "in" / f"{contrast}.nii.gz").write_bytes(content)
    if way != "four files":
        with zipfile.ZipFile(job / "in" / "archive.zip", "w") as packed:
            packed.writestr("readme.txt", "one case")
            for path in given.iterdir():
                packed.write(path, f"{'a/b/c/d/e/f' if way == 'deep archive' else 'P1'}/{path.name}")
        check_archive(job / "in" / "archive.zip", 10, 2**30)
    texts = {"seed": "7", "html_report": "true", **({"name": "P1"} if way == "four files" else {})}
    stages = []
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        order = Order(tmp_path / "out", 7, choice=OutputChoice(uncertainty=True, html=True))
        segment_case(segmenter, CaseInput(folder=given), order)
        monkeypatch.chdir(job)
        assert finished_name(job) is None
        told = segment_received(
            segmenter, parse_request(texts), Settings(tmp_path), lambda stage, *_: stages.append(stage)
        )
        with pytest.raises(CaseError, match="alone"):
            segment_received(
                segmenter, parse_request({**texts, "dicom_seg": "true"}), Settings(tmp_path), lambda *_: None
            )
    assert told["case"] == finished_name(job) == "P1"
    assert told == told_result(job)
    assert {"load", "refine", "write"} <= set(stages)
    for kind, name in told["files"].items():
        content = (job / "out" / name).read_bytes()
        assert len(content) == told["bytes"][name]
        if kind not in ("report", "html"):
            assert content == (tmp_path / "out" / name).read_bytes(), kind
    assert {"segmentation", "baseline", "uncertainty", "preview", "report"} < set(told["files"])
    for contrast, path in told["inputs"].items():
        assert (job / path).read_bytes() == images[contrast]
    with zipfile.ZipFile(job / "out" / "results.zip") as packed:
        assert set(packed.namelist()) == set(told["files"].values())


@pytest.mark.parametrize("asked", [True, False])
def test_a_margin_is_written_when_it_is_asked_for(
    make_toy_bundle: Any, images: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    (tmp_path / "in").mkdir()
    for contrast, content in images.items():
        (tmp_path / "in" / f"{contrast}.nii.gz").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    texts = {"name": "P1", "preview": "false", **({"margin": "true"} if asked else {})}
    bundle = make_toy_bundle(margin={"scale_mm": [30.0, 20.0, 10.0]})
    with Segmenter.open(bundle.path, "onnxruntime", threads=1) as segmenter:
        told = segment_received(segmenter, parse_request(texts), Settings(tmp_path), lambda *_: None)
    assert told["files"].get("margin") == ("P1-margin.nii.gz" if asked else None)
    assert (tmp_path / "out" / "P1-margin.nii.gz").is_file() == asked
    with zipfile.ZipFile(tmp_path / "out" / "results.zip") as packed:
        assert ("P1-margin.nii.gz" in packed.namelist()) == asked
