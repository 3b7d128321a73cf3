"""What windows of the refinement cost and give: calls and scores of a study's held-out cases.

    python benchmarks/windows.py --study STUDY --data DIR [--bundle DIR] [--margins 8,6,4] [--folds 0,1]

STUDY is a finished one of `rediff crossval` with the model of the bundle (the default one), whose decision is taken.
Each case is refined by the networks that have not seen it, in windows that hold every doubt and in windows that hold
what the decision can flip, with these margins around (voxels). Means over the cases; protocol brats2023-gli.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from timing import table

from rediffinet.bundle import open_bundle
from rediffinet.method.inference import Inferred, find_discrepancy, plan_sampling
from rediffinet.method.recipe import Decision
from rediffinet.training.crossval import Finished, finished, reopen
from rediffinet.training.memory import open_in_memory
from rediffinet.training.out_of_fold import predict
from rediffinet.training.recipe import InferenceSettings

METRICS = ("dice", "hd95_mm", "surface_dice_1mm")
Way = tuple[str, int]


def found(
    piece: Finished, settings: InferenceSettings, decision: Decision, margins: list[int]
) -> Iterator[tuple[Way, int, list[dict[str, str]]]]:
    """(what windows hold and their margin, how many they were, rows of scores) of every held-out case."""
    loaded = open_in_memory(piece.run, piece.baseline, settings)
    refiner = loaded.recipe.refiner
    assert refiner is not None
    plan = plan_sampling(loaded.recipe)
    ways: dict[Way, Decision | None] = {("doubt", margins[0]): None} | {
        ("can be flipped", m): decision for m in margins
    }
    with loaded.engine:
        for case in piece.held_out:
            prior = predict(piece.baseline, case, piece.predictions).astype(np.float32)
            image = case.image.astype(np.float32)
            for (what, margin), narrowed in ways.items():
                recipe = loaded.recipe.model_copy(update={"refiner": refiner.model_copy(update={"margin": margin})})
                model = loaded._replace(recipe=recipe)
                discrepancy = find_discrepancy(model, image, prior, plan, case.name, decision=narrowed)
                assert discrepancy is not None
                rows = piece.found(case, Inferred(prior, discrepancy)).rows(piece.recipe, decision)
                yield (what, margin), discrepancy.windows, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--margins", default="8,6,4")
    parser.add_argument("--folds")
    arguments = parser.parse_args()
    recipe = open_bundle(arguments.bundle).manifest.recipe
    margins = [int(margin) for margin in arguments.margins.split(",")]
    study = reopen(arguments.study, [arguments.data])
    if arguments.folds:
        study = replace(study, only=tuple(int(fold) for fold in arguments.folds.split(",")))
    windows: dict[Way, list[int]] = defaultdict(list)
    scores: dict[tuple[Way, str, str], list[float]] = defaultdict(list)
    for piece in finished(study, recipe.model, study.seeds[0]):
        for way, count, rows in found(piece, study.inference, recipe.decision, margins):
            windows[way].append(count)
            for row in rows:
                for metric in METRICS:
                    scores[way, metric, row["region"]].append(float(row[metric]))
    regions = recipe.task.region_names
    means = [
        (
            what,
            margin,
            f"{mean(counts):.1f}",
            *(
                " / ".join(f"{mean(scores[(what, margin), metric, region]):.4f}" for region in regions)
                for metric in METRICS
            ),
        )
        for (what, margin), counts in windows.items()
    ]
    print(f"{len(next(iter(windows.values())))} held-out cases")
    print(table(("windows hold", "margin", "windows a case", *METRICS), means))


if __name__ == "__main__":
    main()
