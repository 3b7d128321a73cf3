"""`rediff info`."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any


def test_it_says_what_the_bundle_is(rediff: Any, toy_bundle: Any) -> None:
    done = rediff("info", toy_bundle.path)
    assert (done.code, done.err) == (0, "")
    sha256 = hashlib.sha256((toy_bundle.path / "manifest.json").read_bytes()).hexdigest()
    for said in (
        "toy (rediffinet)",
        sha256,
        "hashes verified",
        "denoiser.onnx",
        "window 12×14×10",
        "2 of 1000 steps",
        "3 samples",
        "t1n, t1c, t2w, t2f",
        "Research use only",
    ):
        assert said in done.out


def test_json_is_the_manifest(rediff: Any, toy_bundle: Any) -> None:
    done = rediff("info", toy_bundle.path, "--json")
    assert done.code == 0
    values = json.loads(done.out)
    assert values["graphs"]["baseline"]["sha256"] == toy_bundle.manifest["graphs"]["baseline"]["sha256"]
    assert values["baseline"]["window"] == [12, 14, 10]
    assert values["sha256"] == hashlib.sha256((toy_bundle.path / "manifest.json").read_bytes()).hexdigest()


def test_an_altered_bundle_is_an_error_that_names_the_file(rediff: Any, toy_bundle: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy_bundle.path, tmp_path / "bundle"))
    with (folder / "denoiser.onnx").open("ab") as file:
        file.write(b"\0")
    done = rediff("info", folder)
    assert (done.code, done.out) == (2, "")
    assert "denoiser.onnx" in done.err
    assert "altered" in done.err
    assert "Traceback" not in done.err
