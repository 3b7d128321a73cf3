"""Scores of a run on held-out cases, at the cases' own voxels, by the code that runs bundles."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt

from rediffinet.files import write_atomically
from rediffinet.io.cases import find_labels, load_case, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.method.decode import decode
from rediffinet.method.inference import Inferred, Loaded, infer, plan_sampling
from rediffinet.method.preprocessing import crop_box
from rediffinet.method.refine import Discrepancy
from rediffinet.method.resample import Spacing
from rediffinet.metrics import evaluate_case, find_protocol
from rediffinet.scoring.scores import AVERAGE, METRICS, ORDER, as_text, average_row, score_rows
from rediffinet.task import Task
from rediffinet.training.data import TrainingCase
from rediffinet.training.memory import open_in_memory
from rediffinet.training.out_of_fold import Stage
from rediffinet.training.recipe import InferenceSettings
from rediffinet.training.records import write_rows as write_table
from rediffinet.training.run import Run

SCORES = "scores.csv"
FOUND = "found"
ScoreRow = dict[str, str]


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
    and HD95 0, in one of them Dice 0 and HD95 374 mm; Avg is the mean of the regions.
    """
    loaded = open_in_memory(run, baseline, settings)
    plan = plan_sampling(loaded.recipe)
    rows: list[ScoreRow] = []
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
    original = load_case(case.folder, task=task)
    path = find_labels(case.folder, task)
    assert path is not None, "a case of a training set has labels"
    labels = load_label_map(path, Conventions(task), original.grid)
    return labels[crop_box(original.images)], original.spacing_mm


def case_rows(loaded: Loaded, inferred: Inferred, case: TrainingCase, run: Run) -> list[ScoreRow]:
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
) -> list[ScoreRow]:
    """Scores of one label map against the reference, both (X, Y, Z) with the task's labels, by the task's protocol.

    A row for each region and one for their mean, as text: the table of scores of `scoring.scores`.
    """
    protocol = find_protocol(task=task)
    scores = evaluate_case(found, reference, spacing_mm, protocol.name, task=task)
    rows = score_rows(scores, model=model, case=case, protocol=protocol, task=task, seed=seed, fold=fold)
    return [as_text(row) for row in (*rows, average_row(rows))]


def summary(rows: Sequence[ScoreRow], regions: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """{region: {score: {"mean", "sd"}}} over the cases, for the regions and their mean; JSON-ready."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for region in (*regions, AVERAGE):
        own = [row for row in rows if row["region"] == region]
        columns = {score: [float(row[score]) for row in own] for score in METRICS if all(row[score] for row in own)}
        found[region] = {
            score: {"mean": round(mean(values), 4), "sd": round(stdev(values), 4) if len(values) > 1 else 0.0}
            for score, values in columns.items()
        }
    return found


def write_rows(path: Path, rows: Sequence[ScoreRow], columns: Sequence[str] = ORDER) -> None:
    """Write a CSV whole; a column that a row of an earlier version lacks is empty."""
    write_table(path, columns, [[row.get(column, "") for column in columns] for row in rows])


def read_rows(path: Path) -> list[ScoreRow]:
    """Rows of a CSV by column name."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
