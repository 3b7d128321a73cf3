"""Scores of a bundle on the labelled cases it was not trained on: baseline and refined, side by side.

    python benchmarks/held_out.py [--data DIR] [--bundle DIR] [--engine NAME] [--steps S] [--samples K] [--out FILE.csv]

The cases are the labelled ones in DIR that the manifest does not list as seen by a network; the members of an ensemble
have seen all cases of their study, so give others. DIR defaults to REDIFF_REAL_DATA. Both label maps went through the
same postprocessing. Protocol brats2023-gli: a region that is empty in both maps scores Dice 1 and HD95 0, in one of
them Dice 0 and HD95 374.
"""

import argparse
import csv
import json
import os
import statistics
import sys
from pathlib import Path

from rediffinet import Segmenter, SegmentOptions, __version__, load_case
from rediffinet.io.cases import find_labels, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.metrics import evaluate_case, find_protocol
from rediffinet.task import TASKS

TASK = TASKS["glioma-2023"]
REGIONS = TASK.region_names
PROTOCOL = "brats2023-gli"
Row = dict[str, str | float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("REDIFF_REAL_DATA"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--out", type=Path, help="CSV, a row per case, map and region")
    parser.add_argument("--summary", type=Path, help="JSON of the means, for `rediff export --metrics`")
    given = parser.parse_args()
    if given.data is None:
        print("no data: give --data or set REDIFF_REAL_DATA to a folder of labelled cases")
        return
    with Segmenter.open(given.bundle, given.engine) as segmenter:
        rows = [
            row
            for case in held_out(segmenter, given.data)
            for row in score(segmenter, case, SegmentOptions(given.steps, given.samples))
        ]
        means = describe(segmenter, rows)
    if given.summary is not None:
        given.summary.write_text(json.dumps(means, indent=2) + "\n")
    if given.out is not None:
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def held_out(segmenter: Segmenter, data: Path) -> list[Path]:
    """Labelled case folders that neither network was trained on."""
    training = segmenter.bundle.manifest.training
    seen = {name for role in ("baseline", "refiner") for name in training[role]["trained_on"]}
    folders = [folder for folder in sorted(data.iterdir()) if folder.is_dir() and folder.name not in seen]
    labelled = [folder for folder in folders if find_labels(folder) is not None]
    if not labelled:
        sys.exit(f"{data} holds no labelled case that the bundle was not trained on; it saw {len(seen)} cases")
    return labelled


def score(segmenter: Segmenter, folder: Path, options: SegmentOptions) -> list[Row]:
    """One row per region and map."""
    case = load_case(folder)
    path = find_labels(folder)
    assert path is not None, f"{folder} has no label map"
    reference = load_label_map(path, Conventions(TASK), case.grid)
    result = segmenter.segment(case, options=options)
    rows: list[Row] = []
    for name, crop in (("baseline", result.crop_baseline), ("refined", result.crop_labels)):
        scores = evaluate_case(crop, reference[result.box], case.spacing_mm, PROTOCOL)
        # a label outside the brain box would be lost to the crop
        assert (reference > 0).sum() == (reference[result.box] > 0).sum()
        for region in REGIONS:
            lesions = scores[region].lesions
            assert lesions is not None
            rows.append(
                {
                    "case": case.name,
                    "map": name,
                    "region": region,
                    "dice": scores[region].dice,
                    "hd95_mm": scores[region].hd95,
                    "surface_dice_1mm": scores[region].surface_dice_1mm,
                    "surface_dice_2mm": scores[region].surface_dice_2mm,
                    "lesion_dice": lesions.dice,
                    "lesion_hd95_mm": lesions.hd95,
                    "reference_voxels": scores[region].ref_voxels,
                }
            )
    by = {(row["map"], row["region"]): row for row in rows}
    brief = "  ".join(
        f"{region} {by['baseline', region]['dice']:.3f}→{by['refined', region]['dice']:.3f} "
        f"{by['baseline', region]['hd95_mm']:.1f}→{by['refined', region]['hd95_mm']:.1f} mm"
        for region in REGIONS
    )
    print(f"{case.name}: {brief}  ({result.report.seconds.total:.0f} s)", flush=True)
    return rows


def describe(segmenter: Segmenter, rows: list[Row]) -> dict[str, object]:
    """Print the table of means with standard deviations; the same as JSON-ready values."""
    cases = len({row["case"] for row in rows})
    diffusion = segmenter.bundle.manifest.recipe.diffusion
    print(f"\nrediffinet {__version__}, bundle {segmenter.bundle.manifest.name} {segmenter.bundle.sha256[:12]}")
    defaults = "one call a window" if diffusion is None else f"{diffusion.steps} steps × {diffusion.samples} samples"
    print(f"{cases} held-out cases; {defaults}")
    print(find_protocol(PROTOCOL).describe())
    print("\n| | region | Dice | HD95 mm | lesion-wise Dice | lesion-wise HD95 mm |\n|---|---|---|---|---|---|")
    means: dict[str, object] = {"protocol": find_protocol(PROTOCOL).describe(), "held_out_cases": cases}
    for name in ("baseline", "refined"):
        for region in REGIONS:
            chosen = [row for row in rows if (row["map"], row["region"]) == (name, region)]
            cells = []
            for key, digits in (("dice", 3), ("hd95_mm", 1), ("lesion_dice", 3), ("lesion_hd95_mm", 1)):
                values = [float(row[key]) for row in chosen]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
                means[f"{name} {region} {key}"] = {"mean": round(statistics.mean(values), 4), "sd": round(spread, 4)}
            print(f"| {name} | {region} | {' | '.join(cells)} |")
    return means


if __name__ == "__main__":
    main()
