"""`rediff figure`: exit codes, what goes to stdout, files."""

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
