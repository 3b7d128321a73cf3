"""A segmented toy case on disk: images, a reference that is a little off, and every output."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

CASE = "toy"
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader"),
    "--enable-unsafe-swiftshader",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Headless Chromium, which draws with the processor; without one the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("REDIFF_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium: apt install chromium, or set REDIFF_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


@dataclass(frozen=True)
class Segmented:
    """Where the images of a case and its results are."""

    images: Path
    out: Path

    def output(self, ending: str) -> Path:
        return self.out / f"{CASE}-{ending}"

    def labels(self, ending: str = "seg.nii.gz") -> np.ndarray:
        return np.asanyarray(nib.load(self.output(ending)).dataobj)


@pytest.fixture
def make_segmented(tmp_path: Path, toy_case: Any, make_toy_bundle: Any) -> Callable[..., Segmented]:
    """make_segmented(axes="LPS", uncertainty=True, margin=None) → Segmented: the toy case, stored along these axes.

    margin: whether it is written, of a bundle that has it; None: of one that has none.
    """
    from rediffinet.io.cases import load_case
    from rediffinet.io.outputs import OutputChoice, save_result
    from rediffinet.segmenter import Segmenter

    def make(axes: str = "LPS", uncertainty: bool = True, margin: bool | None = None) -> Segmented:
        images, out = tmp_path / "images", tmp_path / "out"
        toy_case.save(images)
        for path in images.glob("*.nii.gz"):
            image = nib.load(path)
            turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(axes)))
            nib.save(nib.Nifti1Image.from_bytes(image.as_reoriented(turn).to_bytes()), path)
        bundle = make_toy_bundle() if margin is None else make_toy_bundle(margin={"scale_mm": [30.0, 20.0, 10.0]})
        with Segmenter.open(bundle.path, "onnxruntime", threads=1) as segmenter:
            result = segmenter.segment(load_case(images))
        save_result(result, out, OutputChoice(uncertainty=uncertainty, margin=bool(margin)))
        stored = nib.load(out / f"{CASE}-seg.nii.gz")
        shifted = np.roll(np.asanyarray(stored.dataobj), 2, axis=0)
        nib.save(nib.Nifti1Image(shifted, stored.affine, stored.header), images / f"{CASE}-seg.nii.gz")
        return Segmented(images, out)

    return make


@pytest.fixture
def segment_again(make_toy_bundle: Any) -> Callable[[Segmented], None]:
    """segment_again(segmented): once more into the same folder, from an empty baseline: other maps, another report."""
    from rediffinet.io.cases import load_case
    from rediffinet.io.outputs import OutputChoice, save_result
    from rediffinet.segmenter import Segmenter

    def again(segmented: Segmented) -> None:
        with Segmenter.open(make_toy_bundle().path, "onnxruntime", threads=1) as segmenter:
            result = segmenter.segment(load_case(segmented.images), baseline=np.zeros_like(segmented.labels()))
        before = segmented.labels()
        save_result(result, segmented.out, OutputChoice(uncertainty=True, overwrite=True))
        assert (segmented.labels() != before).any()

    return again


@pytest.fixture
def segmented(make_segmented: Callable[..., Segmented]) -> Segmented:
    """The toy case, segmented."""
    return make_segmented()
