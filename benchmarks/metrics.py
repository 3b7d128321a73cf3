"""HD95 of full-volume pairs against other libraries, each by its own definition, and all metrics of a case.

    python benchmarks/metrics.py [--cases 3] [--only 0:3] [--repeats 5] [--data FOLDER] [--distances]

FOLDER holds CASE/CASE-seg.nii.gz, and the folder beside it named masks holds CASE-other-model.nii.gz; without it
(REDIFF_REAL_DATA, else ../shared/brats) two smooth random blobs with stray voxels stand in. --only 0:3 takes the first
three of these cases, so that many can be measured in pieces. One thread each; loading is not timed. scipy, edt and
SimpleITK bring a distance transform only: around it is what a careful user writes in numpy, borders and distances in
the joint box of the masks.
"""

import argparse
import os
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from timing import describe, interleaved, ratio, table

from rediffinet.ext import joint_box
from rediffinet.metrics import evaluate_case, hd95
from rediffinet.task import TASKS, regions_of

BRATS = TASKS["glioma-2023"]
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("rediffinet", "numpy", "scipy", "monai", "torch", "surface-distance", "medpy", "SimpleITK", "edt"),
    "connected-components-3d",
)
Mask = np.ndarray
Function = Callable[[Mask, Mask], float]


def pairs(data: Path, count: int, only: slice = slice(None)) -> Iterator[tuple[int, Mask, Mask]]:
    """Number and label maps (prediction, reference) of cases that are spread over the sizes, smallest file first."""
    masks = sorted((data.parent / "masks").glob("*-other-model.nii.gz"), key=lambda path: path.stat().st_size)
    if not masks:
        rng = np.random.default_rng(0)
        field = ndimage.gaussian_filter(rng.normal(size=(240, 240, 155)), 12)
        other = field + 0.3 * ndimage.gaussian_filter(rng.normal(size=field.shape), 12)
        maps = [np.asfortranarray((f > 3e-3).astype(np.uint8) + (f > 5e-3) + (f > 7e-3)) for f in (field, other)]
        maps[0][rng.random(field.shape) < 2e-6] = 2
        yield 1, maps[0], maps[1]
        return
    chosen = np.linspace(0, len(masks) - 1, count).round().astype(int)
    for number, k in list(enumerate(chosen, 1))[only]:
        case = masks[k].name.removesuffix("-other-model.nii.gz")
        files = masks[k], data / case / f"{case}-seg.nii.gz"
        pred, ref = (np.asanyarray(nib.load(path).dataobj) for path in files)
        yield number, pred, ref


def in_box(transform: Callable[[Mask], Mask], pooled: bool = False) -> Function:
    """HD95 from a distance transform (border → distances), in the joint box widened by a voxel."""

    def border(mask: Mask) -> Mask:
        inner = np.pad(mask, 1)
        cut = inner[1:-1, 1:-1, 1:-1].copy()
        for axis in range(3):
            for start in (0, 2):
                side = [slice(1, -1)] * 3
                side[axis] = slice(start, start + mask.shape[axis])
                cut &= inner[tuple(side)]
        return mask & ~cut

    def measure(a: Mask, b: Mask) -> float:
        either = a | b
        sides = (np.flatnonzero(either.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        box = tuple(slice(max(side[0] - 1, 0), side[-1] + 2) for side in sides)
        first, second = border(a[box]), border(b[box])
        there, back = transform(second)[first], transform(first)[second]
        if pooled:
            return float(np.percentile(np.hstack([there, back]), 95))
        return max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))

    return measure


def contestants() -> dict[str, dict[str, Function]]:
    """By definition: ours and the peers that are installed."""
    found: dict[str, dict[str, Function]] = {
        "surface": {"rediffinet": hd95},
        "max": {
            "rediffinet": lambda a, b: hd95(a, b, definition="max"),
            "scipy": in_box(lambda border: ndimage.distance_transform_edt(~border)),
        },
        "pooled": {"rediffinet": lambda a, b: hd95(a, b, definition="pooled")},
    }
    try:
        import surface_distance
    except ImportError:
        pass
    else:
        found["surface"]["surface-distance"] = lambda a, b: surface_distance.compute_robust_hausdorff(
            surface_distance.compute_surface_distances(b, a, (1, 1, 1)), 95
        )
    try:
        import edt
    except ImportError:
        pass
    else:
        found["max"]["edt"] = in_box(lambda border: edt.edt(np.asfortranarray(~border), parallel=1))
    try:
        import SimpleITK as sitk  # noqa: N813
    except ImportError:
        pass
    else:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

        def maurer(border: Mask) -> Mask:
            image = sitk.GetImageFromArray(border.astype(np.uint8))
            distances = sitk.SignedMaurerDistanceMap(image, False, False, False)
            return np.abs(sitk.GetArrayViewFromImage(distances))  # a view of memory that the image alone keeps

        found["max"]["SimpleITK"] = in_box(maurer)
    try:
        import torch
        from monai.metrics import compute_hausdorff_distance
    except ImportError:
        pass
    else:
        torch.set_num_threads(1)

        def monai(a: Mask, b: Mask) -> float:
            tensors = (torch.from_numpy(mask)[None, None] for mask in (a, b))
            return compute_hausdorff_distance(*tensors, include_background=True, percentile=95).item()

        found["max"]["MONAI"] = monai
    try:
        from medpy.metric import binary
    except ImportError:
        pass
    else:
        found["pooled"]["MedPy"] = binary.hd95
    return found


def plain_reading(pred: Mask, ref: Mask, measure: Function) -> list[tuple[float, float]]:
    """All metrics of a case as the rules are written: whole volumes, scipy, lesion by lesion.

    Stands in for the official script, which takes 10 to 17 s a case when run from its source.
    """
    element, full = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    results = []

    def distance_of(a: Mask, b: Mask) -> float:
        return measure(a, b) if a.any() and b.any() else 374.0 * (a.any() != b.any())

    for a, b in zip(regions_of(pred, BRATS), regions_of(ref, BRATS), strict=True):
        results.append((2 * (a & b).sum() / max(a.sum() + b.sum(), 1), distance_of(a, b)))
        components, component_count = ndimage.label(a, full)
        joined, count = ndimage.label(ndimage.binary_dilation(b, element, iterations=3), full)
        total, distance, kept, hits = 0.0, 0.0, 0, set()
        for lesion in range(1, count + 1):
            own = (joined == lesion) & b
            matched = np.unique(components[ndimage.binary_dilation(own, element, iterations=3)])
            matched = matched[matched > 0]
            hits |= set(matched.tolist())
            if own.sum() > 50:
                union = np.isin(components, matched)
                kept += 1
                total += 2 * (union & own).sum() / (union.sum() + own.sum())
                distance += distance_of(union, own)
        counted = kept + component_count - len(hits)
        distance += 374.0 * (component_count - len(hits))
        results.append((total / counted, distance / counted) if counted else (1.0, 0.0))
    return results


def extra_memory(a: Mask, b: Mask) -> tuple[int, int]:
    """Peak extra bytes of one hd95, and the voxels of the joint box."""
    tracemalloc.start()
    hd95(a, b)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, a[joint_box(a, b)].size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--only", default=":", help="FROM:TO, from 0, of the cases")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--distances", action="store_true", help="HD95 alone")
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("REDIFF_REAL_DATA", ROOT.parent / "shared" / "brats"))
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    functions = contestants()
    print(
        f"{arguments.repeats} interleaved runs, one thread, medians (ratios: medians / minima); {describe(PACKAGES)}\n"
    )
    distance_rows, case_rows, memory_rows = [], [], []
    only = slice(*(int(end) if end else None for end in arguments.only.split(":")))
    for number, pred, ref in pairs(arguments.data, arguments.cases, only):
        regions = list(zip(("WT", "TC", "ET"), regions_of(pred, BRATS), regions_of(ref, BRATS), strict=True))
        for region, a, b in regions:
            a, b = np.asfortranarray(a), np.asfortranarray(b)  # as files are loaded
            if not (a.any() and b.any()):
                continue
            for definition, peers in functions.items():
                timings = interleaved({name: partial(f, a, b) for name, f in peers.items()}, arguments.repeats)
                values = {name: f(a, b) for name, f in peers.items()}
                assert max(values.values()) - min(values.values()) < 1e-4, values
                ours = timings.pop("rediffinet")
                others = ", ".join(f"{name} {t.median:.0f}" for name, t in timings.items()) or "none installed"
                fastest = ratio(min(timings.values(), key=lambda t: t.median), ours) if timings else "–"
                distance_rows.append((f"pair {number}", region, definition, f"{ours.median:.1f}", fastest, others))
            if arguments.distances:
                continue
            peak, voxels = extra_memory(a, b)
            memory_rows.append((f"pair {number}", region, f"{voxels:,}", f"{peak / 1e6:.1f}", f"{peak / voxels:.2f}"))
        if arguments.distances:
            continue
        measure = functions["surface"].get("surface-distance", hd95)
        timings = interleaved(
            {"ours": partial(evaluate_case, pred, ref), "plain": partial(plain_reading, pred, ref, measure)},
            max(arguments.repeats // 2, 1),
        )
        expected = [(s.lesions.dice, s.lesions.hd95) for s in evaluate_case(pred, ref).values()]
        assert np.allclose(plain_reading(pred, ref, measure)[1::2], expected)
        plain, ours = timings["plain"], timings["ours"]
        case_rows.append((f"pair {number}", f"{ours.median:.0f}", f"{plain.median:.0f}", ratio(plain, ours)))
    print(table(("pair", "region", "definition", "ours ms", "fastest peer / ours", "peers ms"), distance_rows), "\n")
    if arguments.distances:
        return
    print(
        "All metrics of a case (3 regions: Dice, HD95, lesion-wise), 1 thread, against a plain reading of the rules:\n"
    )
    print(table(("pair", "ours ms", "plain reading ms", "ratio"), case_rows), "\n")
    print("Peak extra memory of hd95 (surface definition):\n")
    print(table(("pair", "region", "voxels of the joint box", "MB", "bytes per voxel"), memory_rows))


if __name__ == "__main__":
    main()
