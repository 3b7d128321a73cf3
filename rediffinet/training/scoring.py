"""Scores of a run on held-out cases, at the cases' own voxels, by the code that runs bundles."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt

from rediffinet.files import write_atomically
from rediffinet.io.cases import find_labels, load_case, load_labels
from rediffinet.method.decode import decode
from rediffinet.method.inference import Inferred, Loaded, infer, plan_sampling
from rediffinet.method.normalise import brain_box
from rediffinet.method.refine import Discrepancy
from rediffinet.method.resample import Spacing
from rediffinet.metrics import evaluate_case, find_protocol
from rediffinet.task import Task, converted, find_task
from rediffinet.training.data import TrainingCase
from rediffinet.training.memory import open_in_memory
from rediffinet.training.out_of_fold import Stage
from rediffinet.training.recipe import InferenceSettings
from rediffinet.training.records import write_rows as write_table
from rediffinet.training.run import Run

SCORES = "scores.csv"
FOUND = "found"
PROTOCOL = "brats2023-gli"
COLUMNS = (
    "model",
    "seed",
    "fold",
    "case",
    "region",
    "dice",
    "hd95_mm",
    "lesion_dice",
    "lesion_hd95_mm",
    "reference_voxels",
    "definition",
)
Row = dict[str, str]


def score_run(
    run: Run,
    baseline: Run | None,
    cases: Sequence[TrainingCase],
    priors: Sequence[npt.NDArray[np.float16]] | None,
    settings: InferenceSettings,
    folder: Path,
    stage: Stage | None = None,
) -> None:
    """Segment the cases and write `scores.csv`, with what the model found in `found/`, into `folder`.

    priors[i]: float16 (3, X, Y, Z), the baseline's probabilities of cases[i]. A region empty in both maps scores Dice 1
    and HD95 0, in one of them Dice 0 and HD95 374 mm; Avg is the mean of the three regions.
    """
    loaded = open_in_memory(run, baseline, settings)
    plan = plan_sampling(loaded.recipe)
    rows: list[Row] = []
    (folder / FOUND).mkdir(parents=True, exist_ok=True)
    with loaded.engine:
        for index, case in enumerate(cases):
            prior = None if priors is None else priors[index].astype(np.float32)
            inferred = infer(loaded, case.image.astype(np.float32), plan, case.name, probability=prior)
            if inferred.found is not None:
                save_found(folder / FOUND / f"{case.name}.npz", inferred.found)
            rows += case_rows(loaded, inferred, case, run)
            if stage is not None:
                stage("scoring", index + 1, len(cases))
    write_rows(folder / SCORES, rows)


def save_found(path: Path, found: Discrepancy) -> None:
    """Keep Δ̂, the disagreement of the samples and where was sampled: float16 and bool, compressed."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        delta=found.delta.astype(np.float16),
        disagreement=found.disagreement.astype(np.float16),
        sampled=found.sampled,
        windows=found.windows,
    )
    write_atomically(path, content.getvalue())


def load_found(path: Path) -> Discrepancy:
    """What `save_found` kept."""
    with np.load(path) as file:
        return Discrepancy(
            file["delta"].astype(np.float32),
            file["disagreement"].astype(np.float32),
            file["sampled"],
            int(file["windows"]),
        )


def reference_of(case: TrainingCase, task: Task) -> tuple[npt.NDArray[np.uint8], Spacing]:
    """The expert's label map, labels of the task, on the brain crop at the case's own voxels, and their size in mm."""
    assert case.folder is not None, "a case that was read from a folder"
    original = load_case(case.folder)
    path = find_labels(case.folder)
    assert path is not None, "a case of a training set has labels"
    labels, schema = load_labels(path, original.grid)
    crop = labels[brain_box(original.images)]
    return converted(crop, find_task(schema.name), task), original.spacing_mm


def case_rows(loaded: Loaded, inferred: Inferred, case: TrainingCase, run: Run) -> list[Row]:
    """A row for each region and one for their mean."""
    task = loaded.recipe.task
    labels, spacing_mm = reference_of(case, task)
    found = decode(loaded.recipe, inferred, spacing_mm=spacing_mm, shape=labels.shape, postprocess=True).labels
    return rows_of(found, labels, spacing_mm, task, run.config.model, run.config.seed, run.config.fold, case.name)


def rows_of(
    found: npt.NDArray[np.uint8],
    reference: npt.NDArray[np.uint8],
    spacing_mm: Spacing,
    task: Task,
    model: str,
    seed: int,
    fold: int | None,
    case: str,
) -> list[Row]:
    """Scores of one label map against the reference, both (X, Y, Z) with the task's labels."""
    scores = evaluate_case(found, reference, spacing_mm, PROTOCOL)
    numbers = []
    for region in task.region_names:
        lesions = scores[region].lesions
        assert lesions is not None
        numbers.append([scores[region].dice, scores[region].hd95, lesions.dice, lesions.hd95])
    numbers.append([mean(column) for column in zip(*numbers, strict=True)])
    voxels = [str(scores[region].ref_voxels) for region in task.region_names] + [""]
    definition = find_protocol(PROTOCOL).describe()
    return [
        {
            "model": model,
            "seed": str(seed),
            "fold": "" if fold is None else str(fold),
            "case": case,
            "region": region,
            **{key: f"{value:.6g}" for key, value in zip(COLUMNS[5:9], values, strict=True)},
            "reference_voxels": count,
            "definition": definition,
        }
        for region, values, count in zip((*task.region_names, "Avg"), numbers, voxels, strict=True)
    ]


def summary(rows: Sequence[Row], regions: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """{region: {score: {"mean", "sd"}}} over the cases, for the regions and their mean; JSON-ready."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for region in (*regions, "Avg"):
        columns = {score: [float(row[score]) for row in rows if row["region"] == region] for score in COLUMNS[5:9]}
        found[region] = {
            score: {"mean": round(mean(values), 4), "sd": round(stdev(values), 4) if len(values) > 1 else 0.0}
            for score, values in columns.items()
        }
    return found


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write a CSV whole."""
    write_table(path, columns, [[row[column] for column in columns] for row in rows])


def read_rows(path: Path) -> list[Row]:
    """Rows of a CSV by column name."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
