"""Make one phantom case in memory, or write many of them in the BraTS-2023 layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from rediffinet.errors import ConfigError, OutputError
from rediffinet.files import new_files, new_folder
from rediffinet.phantom.anatomy import BOX_MM, BrainGrid, make_head
from rediffinet.phantom.fields import Shape, streams
from rediffinet.phantom.lesions import KINDS, Tumour, grow, plan_lesions, push_aside
from rediffinet.phantom.parts import check_drawable, with_regions
from rediffinet.phantom.scan import CONTRASTS, acquire, draw_contrasts, draw_textures
from rediffinet.phantom.tissues import make_tissues
from rediffinet.task import DEFAULT_TASK, TASKS, Task

BRATS_SHAPE: Shape = (240, 240, 155)
FIRST_PATIENT = 90_000
"""Patients of the real data have small numbers: a phantom cannot be mistaken for one."""
MAX_CASES = 100_000 - FIRST_PATIENT
_SMALLEST = 32
_PLACE = (0.5, 0.60, 0.08)  # share of the empty margin before the brain box, as in BraTS


@dataclass(frozen=True)
class Phantom:
    """A synthetic case.

    images: float32 (C, X, Y, Z), whole numbers, in the order of the task's contrasts, exactly 0 outside the brain;
    labels: uint8 (X, Y, Z), the task's values; affine: (4, 4) float64, voxel → world mm, LPS storage.
    """

    name: str
    images: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    task: Task = TASKS[DEFAULT_TASK]


def phantom_name(index: int) -> str:
    """BraTS-2023 name of case `index`."""
    return f"BraTS-GLI-{FIRST_PATIENT + index:05d}-000"


def make_phantom(
    seed: int,
    shape: Shape = BRATS_SHAPE,
    *,
    index: int = 0,
    name: str | None = None,
    tumour: Tumour = "random",
    task: Task = TASKS[DEFAULT_TASK],
) -> Phantom:
    """Draw case `index` of the series `seed`.

    The same (seed, index, shape, tumour) gives the same arrays, whatever else was made before. A smaller `shape`
    holds the same kind of brain at a lower resolution (stored as 1 mm). Another task has the same head and tumour, in
    its own contrasts and labels: see `phantom.parts`. Raises ConfigError.
    """
    _check(seed, index, shape, tumour, task)
    anatomy_rng, plan_rng, grow_rng, scan_rng, *image_rngs, parts_rng = streams(seed, index, 9)

    scale = min(1.0, *(0.97 * n / mm for n, mm in zip(shape, BOX_MM, strict=True)))
    box = [min(int(np.ceil(mm * scale)) + 1, n) for n, mm in zip(shape, BOX_MM, strict=True)]
    grid = BrainGrid((box[0], box[1], box[2]), scale)
    head = make_head(anatomy_rng, grid)
    lesions = plan_lesions(plan_rng, head, tumour)
    tissues = make_tissues(anatomy_rng, head, grid, push_aside(head.coords, head, lesions))
    growth = with_regions(parts_rng, grow(grow_rng, grid, tissues, lesions), task)

    corner = [round((n - b) * part) for n, b, part in zip(shape, box, _PLACE, strict=True)]
    x, y, z = (slice(c, c + b) for c, b in zip(corner, box, strict=True))
    images = np.zeros((len(task.contrasts), *shape), np.float32)
    labels = np.zeros(shape, np.uint8)
    labels[x, y, z] = growth.labels
    contrasts = draw_contrasts(scan_rng)
    textures = draw_textures(scan_rng, grid)
    stream = dict(zip(CONTRASTS, image_rngs, strict=True))
    for channel, contrast in enumerate(task.contrasts):
        images[channel, x, y, z] = acquire(stream[contrast], grid, contrasts[contrast], tissues, growth, textures)

    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = shape[1] - 1
    return Phantom(name or phantom_name(index), images, labels, affine, task)


def write_phantoms(
    out: Path,
    cases: int,
    seed: int,
    *,
    shape: Shape = BRATS_SHAPE,
    tumour: Tumour = "random",
    task: Task = TASKS[DEFAULT_TASK],
    overwrite: bool = False,
    on_case: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Write `cases` phantoms as `out/<name>/<name>-{t1n,t1c,t2w,t2f,seg}.nii.gz` and return the case folders.

    Another task's files have its own endings, the first that it knows for each contrast.

    A case appears whole or not at all. `on_case` is called with each finished folder. Raises, before anything is made,
    ConfigError, and OutputError when a case exists and `overwrite` is off or `out` cannot be written.
    """
    if not 1 <= cases <= MAX_CASES:
        message = f"cannot make {cases} cases; give a number from 1 to {MAX_CASES}"
        raise ConfigError(message)
    out = Path(out)
    folders = [out / phantom_name(index) for index in range(cases)]
    existing = [folder.name for folder in folders if folder.exists()]
    if existing and not overwrite:
        message = (
            f"{out} already holds {len(existing)} of the {cases} cases to write (first: {existing[0]}); "
            "choose another folder, or overwrite them with `overwrite=True`"
        )
        raise OutputError(message)
    _check(seed, 0, shape, tumour, task)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for index, folder in enumerate(folders):
            phantom = make_phantom(seed, shape, index=index, tumour=tumour, task=task)
            with new_files(folder) if folder.exists() else new_folder(folder) as temporary:
                _save(phantom, temporary, f"synthetic phantom, not a patient; seed {seed} case {index}")
            if on_case is not None:
                on_case(folder)
    except OSError as error:
        message = f"cannot write phantoms into {out}: {error.strerror or error}; choose a folder you may write to"
        raise OutputError(message) from error
    return folders


def _check(seed: int, index: int, shape: Shape, tumour: Tumour, task: Task) -> None:
    """Raise ConfigError for what cannot be drawn."""
    if seed < 0 or index < 0:
        message = f"seed and index must be 0 or more, got seed {seed}, index {index}"
        raise ConfigError(message)
    if len(shape) != 3 or min(shape) < _SMALLEST:
        message = f"a phantom of shape {tuple(shape)} is too small; give three sizes of at least {_SMALLEST} voxels"
        raise ConfigError(message)
    if tumour not in KINDS:
        message = f"tumour '{tumour}' is not known; choose one of {', '.join(KINDS)}"
        raise ConfigError(message)
    check_drawable(task, CONTRASTS)


def _save(phantom: Phantom, folder: Path, description: str) -> None:
    task = phantom.task
    arrays = {
        task.suffixes_of(contrast)[0]: image.astype(np.int16)
        for contrast, image in zip(task.contrasts, phantom.images, strict=True)
    }
    for suffix, array in {**arrays, task.label_suffixes[0]: phantom.labels}.items():
        nifti = nib.Nifti1Image(array, phantom.affine)
        nifti.set_sform(phantom.affine, code="scanner")
        nifti.set_qform(phantom.affine, code="scanner")
        nifti.header.set_xyzt_units("mm")
        nifti.header["descrip"] = description.encode()[:79]
        nib.save(nifti, folder / f"{phantom.name}-{suffix}.nii.gz")
