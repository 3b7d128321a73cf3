"""`rediff figure`: exit codes, what goes to stdout, files."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np


def test_overlay(rediff: Any, phantoms: Path, tmp_path: Path) -> None:
    folder = sorted(path for path in phantoms.iterdir() if path.is_dir())[0]
    (path,) = folder.glob("*-seg.nii.gz")
    image = nib.load(path)
    labels = np.asarray(image.dataobj).astype(np.uint8)
    enhancing = np.argwhere(labels == 3)
    before = labels.copy()
    before[tuple(enhancing[:5].T)] = 0
    nib.save(nib.Nifti1Image(before, image.affine, image.header), tmp_path / "before.nii.gz")
    done = rediff(
        "figure", "overlay", folder, tmp_path / "before.nii.gz", path, "-o", tmp_path / "o.png", "--region", "ET"
    )
    assert (done.code, done.out) == (0, "ET: 5 voxels fixed, 0 broken, 0 wrong before and after\n")
    assert done.err == f"wrote {tmp_path / 'o.png'}\n"
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    done = rediff("figure", "overlay", folder, path, path, "-o", tmp_path / "p.png", "--region", "all")
    assert done.code == 2
    assert done.err.startswith("error: There is no region 'all'")


def test_curves(rediff: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = rediff("figure", "curves", tmp_path / "run", "--out", tmp_path / "c.png")
    assert (done.code, done.out) == (2, "")
    assert "Cannot read" in done.err
    (tmp_path / "run" / "log.csv").write_text("step,loss,learning_rate,seconds\n1,2,0.1,3\n")
    done = rediff("figure", "curves", tmp_path / "run", "--out", tmp_path / "c.png")
    assert (done.code, done.out, done.err) == (0, "", f"wrote {tmp_path / 'c.png'}\n")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_reliability(rediff: Any, tmp_path: Path) -> None:
    file, png = tmp_path / "rediffinet-uncertainty.json", tmp_path / "r.png"
    done = rediff("figure", "reliability", file, "-o", png)
    assert (done.code, done.out) == (2, "") and "Expected a MODEL-uncertainty.json of rediff calibrate" in done.err
    part = {"expected_calibration_error": 0.1, "stated": [0.1, 0.5], "observed": [0.2, 0.6], "voxels": [30, 4]}
    file.write_text(json.dumps({"curve": None, "before": part, "after": {**part, "voxels": [1]}}))
    done = rediff("figure", "reliability", file, "-o", png)
    assert done.code == 2 and "'after' are not of one length" in done.err
    file.write_text(json.dumps({"curve": None, "before": part, "after": part}))
    done = rediff("figure", "reliability", file, "-o", png)
    assert (done.code, done.out, done.err) == (0, "", f"wrote {png}\n")
    assert png.read_bytes().startswith(b"\x89PNG")
