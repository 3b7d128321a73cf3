"""The bundle in the package, and the README's example, as a user meets them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rediffinet import Segmenter, SegmentOptions, load_case
from rediffinet.bundle import INTENDED_USE, default_bundle, open_bundle
from rediffinet.io.cases import find_labels, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.phantom import write_phantoms
from rediffinet.task import TASKS

ROOT = Path(__file__).resolve().parents[2]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2.0 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.fixture(scope="module")
def segmenter():
    with Segmenter.open(engine="onnxruntime") as opened:
        yield opened


def test_the_default_bundle_is_small_honest_and_of_this_schema():
    bundle = open_bundle()
    assert bundle.path == default_bundle()
    assert sum(path.stat().st_size for path in bundle.path.iterdir()) <= 20e6
    manifest = bundle.manifest
    assert manifest.intended_use == INTENDED_USE
    for entry in manifest.graphs.values():
        assert entry.parity.graph <= entry.parity.graph_tolerance
        assert entry.parity.storage <= entry.parity.storage_tolerance
        assert entry.parity.onnxruntime <= entry.parity.onnxruntime_tolerance
        assert entry.parity.onnxruntime_mean <= entry.parity.onnxruntime_mean_tolerance


def test_every_member_of_the_ensemble_was_measured_on_cases_that_it_had_not_seen():
    manifest = open_bundle().manifest
    baselines, refiners = (manifest.training[role]["members"] for role in ("baseline", "refiner"))
    seeds = {member["seed"] for member in refiners}
    assert len(refiners) == len(baselines) * len(seeds)
    for seed in seeds:
        own = [member["held_out"] for member in refiners if member["seed"] == seed]
        assert own == [member["held_out"] for member in baselines]
    held_out = [name for member in baselines for name in member["held_out"]]
    assert len(held_out) == len(set(held_out)) == manifest.metrics["held_out_cases"] == 28
    assert set(held_out) == set(manifest.training["refiner"]["trained_on"]), "each held out once, seen by the others"
    assert manifest.metrics["decision"] == manifest.recipe.decision.model_dump(mode="json")


def test_the_scores_are_those_of_the_model_card():
    """Cross-validated, everything chosen on other folds: better boundaries, and no mean Dice is lower."""
    metrics = open_bundle().manifest.metrics
    card = (ROOT / "docs" / "model-card.md").read_text()
    for name in ("baseline", "refined"):
        for region in ("WT", "TC", "ET"):
            scores = [metrics[name][region][key] for key in ("dice", "hd95_mm", "lesion_dice", "lesion_hd95_mm")]
            cells = [
                f"{score['mean']:.{digits}f} ± {score['sd']:.{digits}f}"
                for score, digits in zip(scores, (3, 1, 3, 1), strict=True)
            ]
            assert f"| {name} | {region} | {' | '.join(cells)} |" in card
            surface = [metrics[name][region][f"surface_dice_{mm}mm"] for mm in (1, 2)]
            cells = [f"{score['mean']:.3f} ± {score['sd']:.3f}" for score in surface]
            assert f"| {name} | {region} | {' | '.join(cells)} |" in card
    for region, least in (("WT", 0.84), ("TC", 0.68), ("ET", 0.60)):
        baseline, refined = metrics["baseline"][region], metrics["refined"][region]
        assert baseline["dice"]["mean"] >= least
        assert refined["dice"]["mean"] >= baseline["dice"]["mean"]
        assert refined["surface_dice_1mm"]["mean"] >= baseline["surface_dice_1mm"]["mean"] + 0.05
        # what is farther than 2 mm from the boundary is not touched, and HD95 lives there
        assert refined["hd95_mm"]["mean"] <= 1.05 * baseline["hd95_mm"]["mean"]


def test_nothing_in_the_bundle_names_a_place_on_the_machine_it_was_made_on():
    text = json.dumps(open_bundle().manifest.model_dump(mode="json"))
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    for path in open_bundle().path.glob("*.onnx"):
        assert not re.search(rb"/(home|root|work|tmp|Users)/", path.read_bytes())


def test_the_readme_example_runs_as_printed(tmp_path, monkeypatch):
    """The block under "Embed it", on a phantom in case_dir/."""
    (folder,) = write_phantoms(tmp_path, 1, 4, shape=(96, 96, 80))
    folder.rename(tmp_path / "case_dir")
    monkeypatch.chdir(tmp_path)
    block = re.search(r"## Embed it\n+```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, object] = {}
    exec(block[1], names)
    written = sorted(path.name.split("-", 4)[-1] for path in (tmp_path / "out").iterdir())
    assert written == ["baseline.nii.gz", "preview.png", "report.json", "seg.nii.gz"]


@pytest.mark.slow
def test_it_finds_the_tumour_of_a_full_size_phantom(segmenter, tmp_path):
    (folder,) = write_phantoms(tmp_path, 1, 1)
    case = load_case(folder)
    reference = load_label_map(find_labels(folder), Conventions(TASKS["glioma-2023"]), case.grid)
    result = segmenter.segment(case, options=SegmentOptions(samples=1))
    found = np.zeros(reference.shape, bool)
    found[result.box] = result.crop_labels > 0
    assert dice(found, reference > 0) >= 0.7


@pytest.mark.slow
def test_it_segments_a_real_case(segmenter, real_data):
    """One that three of its four members were trained on: it must at least know that one."""
    folder = real_data / "Brats18_TCIA01_201_1"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    case = load_case(folder)
    reference = load_label_map(find_labels(folder), Conventions(TASKS["glioma-2023"]), case.grid)
    result = segmenter.segment(case)
    found = np.zeros(reference.shape, bool)
    found[result.box] = result.crop_labels > 0
    assert dice(found, reference > 0) >= 0.85
