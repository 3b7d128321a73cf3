"""Every number of report.json against what a reader can recount from the files."""

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import rediffinet
from rediffinet.clinic.cohort import CaseInput, Order, segment_case
from rediffinet.io.outputs import OutputChoice
from rediffinet.report import Report, peak_rss_mb
from rediffinet.segmenter import Segmenter

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")

FIELDS = {
    "bundle": {"name", "sha256", "model"},
    "engine": {"requested", "used", "provider", "device", "precision"},
    "sampling": {"scheduler", "steps", "samples", "seed", "windows"},
    "seconds": {"load", "normalise", "baseline", "refine", "decode", "write", "total"},
    "volumes_ml": {"baseline", "refined"},
    "flipped_voxels": {"WT", "TC", "ET"},
    "uncertainty": {"mean_in_tumour", "uncertain_ml", "sample_disagreement"},
}
BASELINE = {"source", "path", "sha256", "labels"}
SINGLE = {"schema", "case", "rediffinet", "peak_rss_mb", "inputs", "warnings", "outputs"}


@pytest.fixture
def written(tmp_path: Path, toy_folder: Path, toy_bundle: Any) -> tuple[Path, dict[str, Any]]:
    """The output folder of the toy case, everything written, and its report."""
    out = tmp_path / "out"
    with Segmenter.open(toy_bundle.path, "auto", threads=1) as segmenter:
        choice = OutputChoice(uncertainty=True, probabilities=True)
        segment_case(segmenter, CaseInput(folder=toy_folder), Order(out, seed=11, choice=choice))
    return out, json.loads((out / "toy-report.json").read_text(encoding="utf-8"))


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def regions(labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"WT": labels > 0, "TC": np.isin(labels, (1, 3)), "ET": labels == 3}


def test_every_field_of_the_contract_is_there(written: Any) -> None:
    _, report = written
    assert report.keys() >= {*FIELDS, *SINGLE}
    for name, parts in FIELDS.items():
        assert report[name].keys() >= parts, name
    for part in ("baseline", "refined"):
        assert report["volumes_ml"][part].keys() == {"WT", "TC", "ET"}
    assert report["baseline"].keys() == BASELINE
    assert report["schema"] == "rediffinet-report/1"
    assert (report["case"], report["rediffinet"]) == ("toy", rediffinet.__version__)
    assert report["intended_use"].startswith("Research use only")


def test_inputs_are_the_files_that_were_read(written: Any, toy_folder: Path) -> None:
    _, report = written
    assert [entry["contrast"] for entry in report["inputs"]] == list(CONTRASTS)
    for entry in report["inputs"]:
        path = toy_folder / f"toy-{entry['contrast']}.nii.gz"
        assert Path(entry["path"]) == path
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        image = nib.load(path)
        assert tuple(entry["shape"]) == image.shape
        assert np.allclose(entry["spacing"], image.header.get_zooms())


def test_bundle_engine_and_sampling_are_what_ran(written: Any, toy_bundle: Any) -> None:
    _, report = written
    manifest = (toy_bundle.path / "manifest.json").read_bytes()
    assert report["bundle"] == {
        "name": "toy",
        "model": "rediffinet",
        "sha256": hashlib.sha256(manifest).hexdigest(),
    }
    engine = report["engine"]
    assert (engine["requested"], engine["used"], engine["device"]) == ("auto", "openvino", "cpu")
    assert "CPU" in engine["provider"] and engine["precision"] == "fp32"
    sampling = report["sampling"]
    assert (sampling["scheduler"], sampling["steps"], sampling["samples"], sampling["seed"]) == ("ddim", 2, 3, 11)
    assert sampling["windows"] > 0


def test_volumes_and_flips_are_those_of_the_written_maps(written: Any) -> None:
    out, report = written
    refined, baseline = (regions(read(out / f"toy-{kind}.nii.gz")) for kind in ("seg", "baseline"))
    for region in ("WT", "TC", "ET"):
        assert report["volumes_ml"]["refined"][region] == pytest.approx(refined[region].sum() / 1000)
        assert report["volumes_ml"]["baseline"][region] == pytest.approx(baseline[region].sum() / 1000)
        flipped = np.count_nonzero(refined[region] != baseline[region])
        assert report["flipped_voxels"][region] == flipped > 0


def test_uncertainty_is_that_of_the_written_map(written: Any) -> None:
    out, report = written
    wrong, labels = read(out / "toy-uncertainty.nii.gz"), read(out / "toy-seg.nii.gz")
    assert report["uncertainty"]["mean_in_tumour"] == pytest.approx(wrong[labels > 0].mean(), rel=1e-5)
    assert report["uncertainty"]["uncertain_ml"] == pytest.approx(np.count_nonzero(wrong > 0.25) / 1000)
    probabilities = np.moveaxis(read(out / "toy-probabilities.nii.gz"), -1, 0)
    member = np.stack(list(regions(labels).values()))
    brain = probabilities.any(axis=0)
    assert np.allclose(wrong[brain], np.where(member, 1 - probabilities, probabilities).max(axis=0)[brain], atol=1e-6)


def test_seconds_add_up_and_memory_is_measured(written: Any) -> None:
    _, report = written
    seconds = report["seconds"]
    stages = [value for stage, value in seconds.items() if stage != "total"]
    assert all(value > 0 for value in stages)
    assert sum(stages) <= seconds["total"] + 1e-6
    assert 30 < report["peak_rss_mb"] <= peak_rss_mb() + 2  # the kernel's counters are summed up loosely


def test_outputs_name_the_files_beside_the_report(written: Any) -> None:
    out, report = written
    assert {*report["outputs"].values(), "toy-report.json"} == {path.name for path in out.iterdir()}
    assert report["outputs"]["segmentation"] == "toy-seg.nii.gz"


def test_voxel_volume_follows_the_spacing(tmp_path: Path, toy_bundle: Any, make_toy_images: Any) -> None:
    from rediffinet.io.cases import Case

    affine = np.diag([-0.9, -1.1, 1.2, 1.0])
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        result = segmenter.segment(Case.from_arrays("toy", make_toy_images(), affine))
    expected = np.count_nonzero(result.labels) * 0.9 * 1.1 * 1.2 / 1000
    assert pytest.approx(expected, abs=5e-4) == result.report.volumes_ml.refined.WT


def test_the_json_reads_back_as_the_same_report(written: Any) -> None:
    out, report = written
    again = Report.model_validate_json((out / "toy-report.json").read_text(encoding="utf-8"))
    assert again.to_dict() == report
    with pytest.raises(ValueError, match="extra"):
        Report.model_validate({**report, "unknown": 1})


def test_a_report_of_before_there_were_other_baselines_reads_back(written: Any) -> None:
    _, report = written
    del report["baseline"]
    assert Report.model_validate(report).baseline.source == "bundle"
