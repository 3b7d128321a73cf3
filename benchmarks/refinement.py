"""What a model does to its baseline on cases it has not seen: a study of `rediff crossval`, taken apart.

    python benchmarks/refinement.py STUDY --data DIR [--model rediffinet] [--part flips,oof,volumes,thresholds,sampling]
        [--steps 1,2,4,10] [--samples 1,4,10] [--thresholds 0.3,0.5,0.7,0.9] [--threshold 0.5 | --calibrated]
        [--only FOLDS]
    python benchmarks/refinement.py --join a.csv b.csv     # what --rows wrote, of other folds or other samplings

flips: voxels put right and spoilt, by region and by distance to the expert's boundary, with --calibrated by what
STUDY/calibrated says was chosen on the other folds. oof: how wrong the
baselines are on cases they have not seen and on cases they were trained on. volumes: what each baseline found, case by
case. thresholds, sampling: Dice and HD95 for every threshold, and for every number of steps and samples at some.
Everything is printed as Markdown. Distances are in mm, at the cases' own voxels.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from scipy.ndimage import distance_transform_edt
from timing import describe

from rediffinet.ext import component_sizes, label_components
from rediffinet.method.inference import infer, plan_sampling
from rediffinet.method.recipe import NEVER, Decision, Recipe, SmallComponents
from rediffinet.metrics import dice
from rediffinet.scoring.scores import ORDER
from rediffinet.task import TASKS, regions_of
from rediffinet.training.calibrate import Found, sweep
from rediffinet.training.calibrate_study import FOLDER, read_calibration
from rediffinet.training.crossval import Piece, Study, finished, gather, reopen
from rediffinet.training.memory import open_in_memory
from rediffinet.training.otherwise import weigh_evidence
from rediffinet.training.out_of_fold import predict_probability
from rediffinet.training.recipe import InferenceSettings, plain_decision
from rediffinet.training.run import open_run
from rediffinet.training.scoring import read_rows, write_rows

BRATS = TASKS["glioma-2023"]
REGIONS = BRATS.region_names
SCORED = "Dice WT | TC | ET | HD95 mm WT | TC | ET | surface Dice 1 mm WT | TC | ET"
BINS = (0.0, 1.5, 3.0, 6.0, 12.0, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=os.environ.get("REDIFF_REAL_DATA"))
    parser.add_argument("--model", default="rediffinet")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--part", default="flips,oof,volumes,thresholds,sampling")
    parser.add_argument("--steps", default="1,2,4,10")
    parser.add_argument("--samples", default="1,4,10")
    parser.add_argument("--min-fraction", type=float, default=0.0, help="as given to `rediff calibrate`")
    parser.add_argument("--unsure-enhancement", type=float, default=0.0, help="as given to `rediff calibrate`")
    parser.add_argument("--whole-components", type=float, default=1.0, help="as given to `rediff calibrate`")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the part flips")
    parser.add_argument("--calibrated", action="store_true", help="flips as `rediff calibrate` chose on other folds")
    parser.add_argument("--thresholds", type=numbers, default="0.3,0.5,0.7,0.9", help="of the part sampling")
    parser.add_argument("--rows", type=Path, help="CSV for the rows of the part sampling")
    parser.add_argument("--join", type=Path, nargs="+", help="print the table of such CSVs, and do nothing else")
    given = parser.parse_args()
    if given.join is not None:
        sampling_table([row for path in given.join for row in read_rows(path)])
        return
    if given.study is None or given.data is None:
        print("no study: give the OUT of a finished `rediff crossval` and --data")
        return
    only = tuple(int(fold) for fold in given.only.split(",") if fold)
    decision = plain_decision(
        BRATS,
        whole_components=given.whole_components,
        small_components=SmallComponents(min_fraction=given.min_fraction),
        unsure_enhancement=given.unsure_enhancement,
    )
    settings = InferenceSettings(decision=decision)
    study = replace(reopen(given.study, [given.data], inference=settings), only=only)
    pieces = finished(study, given.model, given.seed)
    recipe, found = gather(pieces)
    print(f"{describe(['torch', 'numpy'])}; {given.model}, seed {given.seed}, {len(found)} held-out cases\n")
    parts = given.part.split(",")
    if "flips" in parts:
        thresholds_of = (given.threshold,) * len(REGIONS)
        per_fold = {piece.fold: decision.changed(thresholds=thresholds_of) for piece in pieces}
        weighed = found
        if given.calibrated:
            calibration = read_calibration(given.study / FOLDER, given.model)
            chosen = calibration.metrics["decision_of_the_other_folds"]
            per_fold = {fold: Decision.model_validate(chosen[str(fold)]) for fold in per_fold}
            if calibration.decision.evidence is not None:
                weighed = weigh_evidence(pieces, found, recipe.with_decision(calibration.decision))
        flips(recipe, weighed, per_fold)
    if "oof" in parts:
        out_of_fold_errors(study, found, given.seed)
    if "volumes" in parts:
        volumes(found, recipe.decided_mm)
    if "thresholds" in parts:
        thresholds(recipe, found, decision)
    if "sampling" in parts:
        steps, samples = ([int(n) for n in numbers(text)] for text in (given.steps, given.samples))
        plans = [(step, sample) for step in steps for sample in samples]
        rows = sampling(study, found, given.model, plans, decision, given.thresholds)
        if given.rows is not None:
            write_rows(given.rows, rows, (*ORDER, "steps", "samples", "calls", "threshold"))
        sampling_table(rows)


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def flips(recipe: Recipe, found: Sequence[Found], per_fold: Mapping[int, Decision]) -> None:
    counts = np.zeros((len(REGIONS), len(BINS) - 1, 4), int)
    for one in found:
        decoded = one.decoded(recipe, per_fold[one.fold])
        truth = regions_of(one.reference, BRATS)
        assert decoded.baseline_regions is not None
        for region, (was, now, true) in enumerate(zip(decoded.baseline_regions, decoded.regions, truth, strict=True)):
            wrong, changed = was != true, was != now
            distance = to_boundary(true, one.spacing_mm)
            for index in range(len(BINS) - 1):
                here = (distance >= BINS[index]) & (distance < BINS[index + 1])
                fixed, spoilt = changed & wrong & here, changed & ~wrong & here
                counts[region, index] += [(wrong & here).sum(), fixed.sum(), spoilt.sum(), here.sum()]
    print("Flips, after postprocessing of both maps, voxels of all cases:\n")
    for fold, decision in sorted(per_fold.items()):
        print(f"- fold {fold}: {decision.described()}")
    print()
    print("| region | mm from the expert's boundary | baseline wrong | put right | spoilt | net |")
    print("|---|---|---|---|---|---|")
    for region, name in enumerate(REGIONS):
        for index in range(len(BINS) - 1):
            wrong, fixed, spoilt, _ = counts[region, index]
            print(
                f"| {name} | {BINS[index]:g}–{BINS[index + 1]:g} | {wrong} | {fixed} | {spoilt} | {fixed - spoilt:+d} |"
            )
        wrong, fixed, spoilt, _ = counts[region].sum(axis=0)
        print(f"| {name} | all | {wrong} | {fixed} | {spoilt} | {fixed - spoilt:+d} |")
    print()


def to_boundary(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm of every voxel centre to the nearest one on the other side; infinite where there is none."""
    if not mask.any() or mask.all():
        return np.full(mask.shape, np.inf)
    inside = distance_transform_edt(mask, spacing_mm)
    return np.where(mask, inside, distance_transform_edt(~mask, spacing_mm))


def out_of_fold_errors(study: Study, found: Sequence[Found], seed: int) -> None:
    print("Share of the regions' voxels on which the baseline is wrong (wrong voxels per reference voxel):\n")
    print("| | " + " | ".join(REGIONS) + " |\n|---|---|---|---|")
    unseen, seen = [], []
    baselines = {fold: open_run(Piece(seed, fold, "unet").folder(study)) for fold in range(study.folds)}
    for one in found:
        unseen.append(errors(one.inferred.probability, one.case.regions))
        other = (one.fold + 1) % study.folds  # one that was trained on this case
        seen.append(errors(predict_probability(baselines[other], one.case), one.case.regions))
    for name, values in (("cases not seen in training", unseen), ("the same cases, by a baseline that saw them", seen)):
        total = np.sum(values, axis=0)
        print(f"| {name} | " + " | ".join(f"{wrong / size:.3f}" for wrong, size in total) + " |")
    print()


def errors(probability: np.ndarray | None, regions: np.ndarray) -> np.ndarray:
    """(3, 2): wrong voxels and reference voxels of each region."""
    assert probability is not None
    wrong = (probability > 0.5) != regions
    return np.array([(w.sum(), r.sum()) for w, r in zip(wrong, regions, strict=True)])


def volumes(found: Sequence[Found], spacing_mm: Sequence[float]) -> None:
    print("Volumes in ml at the model's voxels, baseline ← reference, and of the parts of WT that touch no tumour:\n")
    print("| case | WT | TC | ET | apart from any tumour | Dice WT / TC / ET | t1c in ET |")
    print("|---|---|---|---|---|---|---|")
    for one in sorted(found, key=lambda one: one.case.name):
        assert one.inferred.probability is not None
        mask, truth = one.inferred.probability > 0.5, np.asarray(one.case.regions)
        voxel_ml = float(np.prod(spacing_mm)) / 1000.0
        pieces, count = label_components(mask[0], 26)
        missed = np.setdiff1d(np.arange(1, count + 1), pieces[truth[0]])
        apart = component_sizes(pieces, count)[missed - 1].sum()
        sizes = [f"{m.sum() * voxel_ml:.1f} ← {t.sum() * voxel_ml:.1f}" for m, t in zip(mask, truth, strict=True)]
        overlaps = " / ".join(f"{dice(m, t):.2f}" for m, t in zip(mask, truth, strict=True))
        enhancing = f"{one.case.image[1][truth[2]].astype(np.float32).mean():.2f}" if truth[2].any() else "none"
        print(f"| {one.case.name} | {' | '.join(sizes)} | {apart * voxel_ml:.1f} | {overlaps} | {enhancing} |")
    print()


def thresholds(recipe: Recipe, found: Sequence[Found], decision: Decision) -> None:
    print("Thresholds of the flip:\n")
    header()
    for threshold, rows in sweep(recipe, found, decision).items():
        line(f"{threshold}" if threshold < NEVER else "never (the baseline, but for whole components)", rows)
    print()


def sampling(
    study: Study,
    found: Sequence[Found],
    model: str,
    plans: Iterable[tuple[int, int]],
    decision: Decision,
    thresholds: Sequence[float],
) -> list[dict[str, str]]:
    """Rows of every case at every (steps, samples) and threshold, the same one for all regions."""
    rows = []
    for fold in sorted({one.fold for one in found}):
        run = open_run(Piece(found[0].seed, fold, model).folder(study))
        baseline = open_run(Piece(found[0].seed, fold, "unet").folder(study))
        loaded = open_in_memory(run, baseline, study.inference)
        for one in (one for one in found if one.fold == fold):
            image = one.case.image.astype(np.float32)
            for steps, samples in plans:
                plan = plan_sampling(loaded.recipe, steps, samples)
                inferred = infer(loaded, image, plan, one.case.name, probability=one.inferred.probability)
                assert inferred.found is not None
                settings = {"steps": str(steps), "samples": str(samples)}
                settings["calls"] = str(inferred.found.windows * steps * samples)
                again = replace(one, inferred=inferred)
                for threshold in thresholds:
                    scores = again.rows(loaded.recipe, decision.changed(thresholds=(threshold,) * len(REGIONS)))
                    rows += [{**row, **settings, "threshold": str(threshold)} for row in scores]
            print(f"{one.case.name} done", file=sys.stderr, flush=True)
    return rows


def sampling_table(rows: Sequence[dict[str, str]]) -> None:
    cases = len({row["case"] for row in rows})
    print(f"Steps × samples × threshold, {cases} held-out cases; denoiser calls a case:\n")
    print(f"| steps × samples | threshold | calls | {SCORED} |\n|---|---|---|{'---|' * 9}")
    kinds = {(int(row["steps"]), int(row["samples"]), float(row["threshold"])) for row in rows}
    for steps, samples, threshold in sorted(kinds):
        key = (str(steps), str(samples), str(threshold))
        chosen = [row for row in rows if (row["steps"], row["samples"], row["threshold"]) == key]
        calls = mean(float(row["calls"]) for row in chosen)
        line(f"{steps} × {samples} | {threshold} | {calls:.0f}", chosen)
    print()


def header() -> None:
    print(f"| | {SCORED} |\n|---|{'---|' * 9}")


def line(name: str, rows: Sequence[dict[str, str]]) -> None:
    cells = [
        f"{mean(float(row[key]) for row in rows if row['region'] == region):.{digits}f}"
        for key, digits in (("dice", 3), ("hd95_mm", 1), ("surface_dice_1mm", 3))
        for region in REGIONS
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
