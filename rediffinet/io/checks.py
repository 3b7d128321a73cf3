"""What can be wrong with the images of a case: errors where no segmentation makes sense, else warnings."""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rediffinet.errors import CaseError

LARGEST_BRAIN_ML = 2500.0
LARGEST_FILLED_FRACTION = 0.6
SMALLEST_COVERAGE = 0.9
LARGEST_NEGATIVE_FRACTION = 0.05
LARGEST_IMAGE_VOXELS = 2**27
"""512 × 512 × 512: a head at half a millimetre has half of them."""
LARGEST_CASE_VOXELS = 2**28
"""Of all images of a case together: four of 512 × 512 × 256."""
SAME_IMAGE = 0.99
"""Correlation in the brain from which two contrasts are one image, up to scale, offset and rounding; in real
examinations native and enhanced T1 reach 0.91."""
ENOUGH = 200_000
"""About how many voxels a correlation is taken from, at most: more would not change it."""


@dataclass(frozen=True)
class CaseWarning:
    """Something about a case that does not stop the work but bears on the result."""

    code: str
    message: str


@dataclass(frozen=True, eq=False)
class _Contrast:
    """What the checks need of one contrast (X, Y, Z): its brain (> 0), and what lies outside."""

    brain: npt.NDArray[np.bool_]
    voxels: int
    filled: int
    negative: int
    corners: int


RESAMPLING = """\
    import nibabel, nibabel.processing
    image = nibabel.load("in.nii.gz")
    nibabel.save(nibabel.processing.resample_to_output(image, (1, 1, 1), order=1), "out.nii.gz")"""
"""What the error about the spacing tells to run."""


def check_image_size(what: str, shape: Sequence[int]) -> None:
    """Raise CaseError for more voxels than one image may have; asked before they are read."""
    voxels = math.prod(shape)
    if voxels > LARGEST_IMAGE_VOXELS:
        raise CaseError(
            f"{what} announces {' × '.join(map(str, shape))} = {voxels / 1e6:,.0f} million voxels and cannot be read.\n"
            f"Expected at most {LARGEST_IMAGE_VOXELS / 1e6:.0f} million: an image of a head. Crop or resample it first."
        )


def check_case_size(shapes: Iterable[Sequence[int]]) -> None:
    """Raise CaseError for more voxels than the images of a case may have together; asked before they are read."""
    voxels = sum(math.prod(shape) for shape in shapes)
    if voxels > LARGEST_CASE_VOXELS:
        raise CaseError(
            f"The images of the case announce {voxels / 1e6:,.0f} million voxels together and cannot be read.\n"
            f"Expected at most {LARGEST_CASE_VOXELS / 1e6:.0f} million. Crop or resample the largest first."
        )


def check_spacing(name: str, spacing_mm: Sequence[float], accepted_mm: tuple[float, float]) -> None:
    """Raise CaseError unless the spacing lies within `accepted_mm` on every axis."""
    low, high = accepted_mm
    if all(low <= spacing <= high for spacing in spacing_mm):
        return
    message = (
        f"Case {name} has voxels of {' × '.join(f'{spacing:.3g}' for spacing in spacing_mm)} mm.\n"
        f"Expected {low:g} to {high:g} mm along each axis: the models are trained at 1 mm.\n"
        "Scans as they come from the scanner are made a case by `rediff prepare`.\n"
        f"Resample other images to 1 mm first, linearly (a cubic spline rings). With SciPy, in Python, for each file:\n"
        f"{RESAMPLING}"
    )
    raise CaseError(message)


def check_images(
    images: npt.NDArray[np.float32],
    voxel_ml: float,
    where: Sequence[str],
    pool: Executor,
    names: Sequence[str],
    hashes: Sequence[str] = (),
) -> tuple[CaseWarning, ...]:
    """Check images (C, X, Y, Z) of the contrasts `names`; `where` and `hashes` say what file each comes from, if any.

    Raises:
        CaseError: an image holds NaN or infinity, one value only, or no voxel above 0.
    """
    contrasts = list(pool.map(_check_contrast, images, names, where))
    union = contrasts[0].brain.copy()
    for contrast in contrasts[1:]:
        union |= contrast.brain
    brain = int(np.count_nonzero(union))
    return (
        *_not_skull_stripped(contrasts, brain * voxel_ml, images[0].size, names),
        *_partial(contrasts, brain, names),
        *_negative(contrasts, names),
        *_same_twice(images, contrasts, names, hashes, pool),
    )


def _check_contrast(image: npt.NDArray[np.float32], contrast: str, where: str) -> _Contrast:
    lowest, highest = float(image.min()), float(image.max())
    problem, remedy = "", "Expected an image with a background of 0 and positive intensities in the brain."
    if not np.isfinite((lowest, highest)).all():
        count = int(image.size - np.isfinite(image).sum())
        problem = f"holds {count} voxels that are NaN, infinite or beyond float32"
        remedy = "Expected finite intensities; set such voxels of the background to 0, or export the image again."
    elif lowest == highest:
        problem = "is empty: every voxel is 0" if highest == 0 else f"is constant: every voxel is {highest:g}"
    elif highest <= 0:
        problem = f"has no brain: no voxel is above 0 (values from {lowest:g} to {highest:g})"
    if problem:
        raise CaseError(f"Contrast {contrast} {problem} ({where}).\n{remedy}")
    brain = image > 0
    voxels = int(np.count_nonzero(brain))
    one = image.ravel()[brain.argmax()]  # of one voxel of nearly every image it is told that not all are the same
    if lowest >= 0 and one == highest and np.count_nonzero(image == highest) == voxels:
        message = (
            f"Contrast {contrast} is constant: every voxel above 0 is {highest:g} ({where}).\n"
            "Expected intensities; this looks like a mask."
        )
        raise CaseError(message)
    filled = voxels if lowest >= 0 else int(np.count_nonzero(image))
    ends = image[tuple(slice(None, None, max(size - 1, 1)) for size in image.shape)]
    return _Contrast(brain, voxels, filled, filled - voxels, int(np.count_nonzero(ends)))


def _not_skull_stripped(
    contrasts: list[_Contrast], brain_ml: float, size: int, names: Sequence[str]
) -> list[CaseWarning]:
    signs = []
    for name, contrast in zip(names, contrasts, strict=True):
        if contrast.filled > LARGEST_FILLED_FRACTION * size:
            signs.append(f"{100 * contrast.filled / size:.0f} % of the voxels of {name} are not 0")
        elif contrast.corners:
            signs.append(f"{name} is not 0 in {contrast.corners} corners of the volume")
    if brain_ml > LARGEST_BRAIN_ML:
        signs.append(f"the voxels above 0 fill {brain_ml:.0f} ml, more than any brain")
    if not signs:
        return []
    message = (
        f"The images do not look skull-stripped ({'; '.join(signs)}). Intensities are normalised over all voxels above "
        "0, so skull or background shift them, and false tumour outside the brain is likely: "
        "strip the skull and set the background to 0."
    )
    return [CaseWarning("not-skull-stripped", message)]


def _partial(contrasts: list[_Contrast], brain: int, names: Sequence[str]) -> list[CaseWarning]:
    return [
        CaseWarning(
            "partial-contrast",
            f"{name} covers {100 * contrast.voxels / brain:.0f} % of the brain that the contrasts show together; "
            "where it is missing the segmentation is less reliable.",
        )
        for name, contrast in zip(names, contrasts, strict=True)
        if contrast.voxels < SMALLEST_COVERAGE * brain
    ]


def _negative(contrasts: list[_Contrast], names: Sequence[str]) -> list[CaseWarning]:
    return [
        CaseWarning(
            "negative-intensities",
            f"{100 * contrast.negative / contrast.filled:.0f} % of the voxels of {name} that are not 0 are negative "
            "and count as background; give images in scanner units, not z-scored.",
        )
        for name, contrast in zip(names, contrasts, strict=True)
        if contrast.negative > LARGEST_NEGATIVE_FRACTION * contrast.filled
    ]


def _same_twice(
    images: npt.NDArray[np.float32],
    contrasts: list[_Contrast],
    names: Sequence[str],
    hashes: Sequence[str],
    pool: Executor,
) -> list[CaseWarning]:
    """Contrasts that are one image, up to scale and offset, over the voxels where neither shows its background.

    Background is 0 and what the first corner of the volume holds: an offset may have been added everywhere.
    """
    flat = images.reshape(len(images), -1)

    def shown(image: npt.NDArray[np.float32], contrast: _Contrast) -> npt.NDArray[np.bool_]:
        if not (image[0] or contrast.negative):
            return contrast.brain.reshape(-1)
        return np.asarray((image != 0) & (image != image[0]))

    seen = list(pool.map(shown, flat, contrasts))
    found = []
    for j, other in enumerate(names):
        for i, name in enumerate(names[:j]):
            both = seen[i] & seen[j]
            step = 1 + np.count_nonzero(both) // ENOUGH
            at = step * np.flatnonzero(both[::step])
            one, two = flat[i, at].astype(np.float64), flat[j, at].astype(np.float64)
            correlation = _correlation(one, two)
            if abs(correlation) < SAME_IMAGE:
                continue
            same_file = len(hashes) == len(names) and hashes[i] == hashes[j]
            what = "the same file" if same_file else f"the same image, up to scale and offset (r = {correlation:.4f})"
            message = f"{name} and {other} are {what}; the models expect {len(names)} different contrasts."
            found.append(CaseWarning("identical-contrasts", message))
    return found


def _correlation(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> float:
    """Pearson's; 0 where there is too little to tell."""
    if len(one) < 2:
        return 0.0
    one, two = one - one.mean(), two - two.mean()
    scale = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / scale if scale > 0 else 0.0
