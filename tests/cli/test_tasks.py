"""Other tumours from phantom to score: four regions, one of them apart, and two contrasts under their own names."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from rediffinet.scoring.results import read_results
from rediffinet.task import TASKS, Task

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

TWO = TASKS["glioma-2023"].model_copy(
    update={"name": "two", "contrasts": ("t2f", "t1c"), "suffixes": {"t2f": ("flair",), "t1c": ("t1ce",)}}
)
WINDOW = "32,32,32"
SETTINGS = {
    "unet": (
        *("steps=2", "warmup=1", "autocast=false", "spacing_mm=2,2,2", "unet.features=4,8", "unet.stem_stride=1"),
        f"unet.window={WINDOW}",
    ),
    "rediffinet": (
        *(
            "steps=2",
            "warmup=1",
            "autocast=false",
            "spacing_mm=2,2,2",
            "refiner.features=4,8",
            "refiner.head_features=4",
        ),
        *("refiner.time_features=8", f"refiner.window={WINDOW}"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", [TASKS["glioma-post-2024"], TWO], ids=lambda task: task.name)
def test_from_phantom_to_score(rediff: Any, tmp_path: Path, task: Task) -> None:
    file, data = tmp_path / "task.json", tmp_path / "data"
    file.write_text(task.model_dump_json())
    ran(rediff("phantom", data, "-n", 4, "-s", 3, "--shape", 64, 72, 56, "--tumour", "enhancing", "--task", file))
    runs = [tmp_path / f"u{fold}" for fold in (0, 1)]
    for fold, out in enumerate(runs):
        train(rediff, "unet", data, out, file, "--folds", 2, "--fold", fold)
    baselines = [argument for run in runs for argument in ("--baseline", run)]
    train(rediff, "rediffinet", data, tmp_path / "r", file, "--folds", 2, "--fold", 0, *baselines)
    bundle = tmp_path / "bundle"
    ran(rediff("export", tmp_path / "r", "--baseline", runs[0], "--out", bundle, "--steps", 1, "--samples", 1))

    out = tmp_path / "out"
    done = ran(rediff("segment", data, "--bundle", bundle, "--engine", "onnxruntime", "-o", out, "--json"))
    reports = json.loads(done.out)
    assert [set(report["volumes_ml"]["refined"]) for report in reports] == [set(task.region_names)] * 4
    for case in sorted(data.iterdir()):
        found = nib.load(out / f"{case.name}-seg.nii.gz")
        assert set(np.unique(found.dataobj)) <= {0, *task.label_names}
        assert found.shape == nib.load(case / f"{case.name}-{task.suffixes_of(task.contrasts[0])[0]}.nii.gz").shape

    ran(rediff("evaluate", out, data, "--task", file, "--out", tmp_path / "scores.csv"))
    results = read_results(tmp_path / "scores.csv")
    assert results.regions == (*task.region_names, "Avg")
    assert len(results.scores) == 4 * (len(task.regions) + 1)


def train(rediff: Any, model: str, data: Path, out: Path, task: Path, *arguments: object) -> None:
    changes = [argument for setting in SETTINGS[model] for argument in ("--set", setting)]
    ran(rediff("train", "--model", model, "--data", data, "--out", out, "--task", task, *changes, *arguments))


def ran(done: Any) -> Any:
    assert done.code == 0, done.err
    return done
