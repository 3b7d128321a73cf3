"""HD95 of real pairs against the three libraries, each by its own definition."""

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from rediffinet.metrics import hd95
from rediffinet.task import TASKS, regions_of


def pairs(real_data: Path):
    for path in sorted((real_data.parent / "masks").glob("*-other-model.nii.gz")):
        case = path.name.removesuffix("-other-model.nii.gz")
        files = path, real_data / case / f"{case}-seg.nii.gz"
        pred, ref = (regions_of(np.asanyarray(nib.load(file).dataobj), TASKS["glioma-2023"]) for file in files)
        for region, a, b in zip(("WT", "TC", "ET"), pred, ref, strict=True):
            if a.any() and b.any():
                yield f"{case} {region}", a, b


@pytest.mark.slow
def test_every_real_pair(real_data):
    surface_distance = pytest.importorskip("surface_distance", reason="the oracle surface-distance is not installed")
    medpy = pytest.importorskip("medpy.metric.binary", reason="the oracle MedPy is not installed")
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    compared = 0
    for name, a, b in pairs(real_data):
        with warnings.catch_warnings(action="ignore"):
            theirs = surface_distance.compute_surface_distances(b, a, (1, 1, 1))
        expected = surface_distance.compute_robust_hausdorff(theirs, 95)
        assert hd95(a, b) == pytest.approx(expected, abs=1e-4), name
        tensors = (torch.from_numpy(mask)[None, None].float() for mask in (a, b))
        expected = metrics.compute_hausdorff_distance(*tensors, include_background=True, percentile=95).item()
        assert hd95(a, b, definition="max") == pytest.approx(expected, abs=1e-4), name
        assert hd95(a, b, definition="pooled") == pytest.approx(medpy.hd95(a, b), abs=1e-4), name
        compared += 1
    if not compared:
        pytest.skip(f"no real mask pairs beside {real_data}")
