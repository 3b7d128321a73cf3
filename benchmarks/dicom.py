"""DICOM in, DICOM out: where voxels end up, and what the whole way takes.

    python benchmarks/dicom.py                        # geometry, and a head phantom in four oblique series
    python benchmarks/dicom.py --raw FOLDER           # a raw case in NIfTI instead of the phantom, written as DICOM
    python benchmarks/dicom.py --geometry-only

Geometry: 48 storage orders × axis-parallel and oblique, anisotropic voxels, written as DICOM, read, labelled, stored
as a segmentation and read from that by its own tags: the largest distance at any corner, in the smallest voxel edge.
"""

import argparse
import io
import os
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from timing import describe, table

from rediffinet.io.dicom.files import read_series
from rediffinet.io.dicom.volume import stack_frames
from rediffinet.io.dicom.write import Segmented, make_seg, stored
from rediffinet.prepare.names import find_raw

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("numpy", "SimpleITK", "onnxruntime", "openvino", "pydicom", "highdicom")
SPACING = (0.9, 1.1, 4.7)
SHAPE = (9, 7, 5)
CONTRASTS = ("t1n", "t1c", "t2w", "t2f")


def helpers(path: str) -> dict[str, Any]:
    """The functions of a test's module: the writers of DICOM and the scanner of phantoms live there."""
    return runpy.run_path(str(ROOT / "tests" / "rediffinet" / path))


def turned(degrees: float) -> np.ndarray:
    """A rotation about a skew axis."""
    x, y, z = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(np.radians(degrees)) * cross + (1 - np.cos(np.radians(degrees))) * cross @ cross


def corners(shape: tuple[int, ...]) -> np.ndarray:
    """Indices (8, 3) of the corner voxels."""
    return np.array(list(product(*((0, size - 1) for size in shape))))


def seg_corners(content: bytes) -> np.ndarray:
    """RAS+ places of all voxels of the first segment, from the object's own tags."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    shared = dataset.SharedFunctionalGroupsSequence[0]
    down, across = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.array([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient])
    found = []
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    for plane, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        if int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) == 1:
            at = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
            found += [at + cosines[:3] * across * i + cosines[3:] * down * j for j, i in np.argwhere(plane)]
    return np.array(found) * (-1, -1, 1)


def geometry() -> tuple[int, float, float]:
    """Ways tried, and the largest error at a corner in voxels: read from DICOM, and read from the segmentation."""
    write = helpers("io/dicom/conftest.py")["write_single"]
    worst_in = worst_out = 0.0
    ways = list(product(permutations(range(3)), product((1, -1), repeat=3), (0.0, 23.0)))
    for axes, signs, degrees in ways:
        affine = np.eye(4)
        affine[:3, :3] = turned(degrees) @ np.eye(3)[:, axes] @ np.diag(signs) @ np.diag(SPACING)
        affine[:3, 3] = (12.5, -33.25, 7.75)
        at = corners(SHAPE)
        truth = at @ affine[:3, :3].T + affine[:3, 3]
        voxels = np.zeros(SHAPE, int)
        voxels[tuple(at.T)] = 7
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), voxels, affine)
            (series,) = read_series(Path(folder))
            stack = stack_frames(series)
            labels = np.zeros(stack.grid.shape, np.uint8)
            labels[tuple(corners(stack.grid.shape).T)] = 1
            read = corners(stack.grid.shape) @ stack.grid.affine[:3, :3].T + stack.grid.affine[:3, 3]
            written = seg_corners(stored(make_seg(Segmented(stack, labels, {"edema": 1}, "benchmark", "0"))))
        worst_in = max(worst_in, farthest(truth, read))
        worst_out = max(worst_out, farthest(truth, written))
    return len(ways), worst_in / min(SPACING), worst_out / min(SPACING)


def farthest(truth: np.ndarray, found: np.ndarray) -> float:
    """Largest distance in mm from a true place to the nearest found one, and the other way round."""
    apart = np.linalg.norm(truth[:, None] - found[None], axis=-1)
    return float(max(apart.min(axis=0).max(), apart.min(axis=1).max()))


def write_study(folder: Path, raw: Path | None) -> list[str]:
    """Four series as DICOM; their sizes in words."""
    write = helpers("io/dicom/conftest.py")["write_single"]
    if raw is None:
        from rediffinet.phantom import make_head_phantom

        scanned = helpers("prepare/conftest.py")["scan"](make_head_phantom(4, tumour="enhancing"), 11)
        series = {contrast: (image.voxels, image.grid.affine) for contrast, image in scanned.images.items()}
    else:
        import nibabel as nib

        images = {contrast: nib.load(path) for contrast, path in find_raw(raw).files.items()}
        series = {contrast: (np.asarray(image.dataobj), image.affine) for contrast, image in images.items()}
    told = []
    for number, contrast in enumerate(CONTRASTS, 1):
        voxels, affine = series[contrast]
        write(folder, np.clip(np.rint(voxels), 0, 65535), affine, contrast, number)
        size = " × ".join(f"{n}" for n in voxels.shape)
        mm = " × ".join(f"{edge:.1f}" for edge in np.linalg.norm(affine[:3, :3], axis=0))
        told.append(f"{contrast} {size} of {mm} mm")
    return told


def run(*arguments: object) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak memory in GB of a command of rediff, in a process of its own."""
    program = "import resource, sys; from rediffinet.cli.main import main\ntry: main()\nfinally: print('\\nPEAK', "
    program += "next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1], file=sys.stderr)"
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent, int(done.stderr.split("PEAK")[1].split()[0]) / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, help="folder of a raw case in NIfTI; default: a phantom")
    parser.add_argument("--geometry-only", action="store_true")
    given = parser.parse_args()
    print(describe(PACKAGES))
    ways, read, written = geometry()
    print(f"corners over {ways} ways: {read:.4f} voxels after reading, {written:.4f} voxels in the segmentation")
    if given.geometry_only:
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        print("; ".join(write_study(work / "study", given.raw)))
        rows = []
        for name, arguments in {
            "rediff prepare": ("prepare", work / "study", "-o", work / "case"),
            "DICOM → SEG, RTSTRUCT, SR": (
                *("segment", work / "study", "-o", work / "out"),
                *("--dicom-seg", "--dicom-rtstruct", "--dicom-sr"),
            ),
        }.items():
            load = os.getloadavg()[0]
            wall, spent, peak = run(*arguments)
            rows.append((name, f"{wall:.0f}", f"{spent:.0f}", f"{peak:.1f}", f"{load:.0f}"))
        print(table(("way", "seconds", "processor seconds", "peak GB", "load before"), rows))


if __name__ == "__main__":
    main()
