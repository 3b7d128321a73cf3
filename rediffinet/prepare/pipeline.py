"""Raw scans of one patient → a case: registered to the reference, upright at 1 mm, brain only.

Every voxel of the result is interpolated once: registration and the way to the standard orientation are one transform.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rediffinet.engines import open_engine
from rediffinet.errors import CaseError, LabelError
from rediffinet.ext import joint_box
from rediffinet.io.cases import Case
from rediffinet.io.geometry import GRID_SAME_MM, close_enough_mm, grid_distance_mm
from rediffinet.io.nifti import Image, NiftiSource, new_header
from rediffinet.io.source import SourceImage
from rediffinet.prepare.brain import extract_brain
from rediffinet.prepare.brain_bundle import open_brain_bundle
from rediffinet.prepare.checks import check_brain, check_series
from rediffinet.prepare.register import Registration, fixed_image, register
from rediffinet.prepare.report import BrainInfo, Preparation, SeriesInfo, SpaceInfo, to_rows
from rediffinet.prepare.space import IDENTITY, Space, Volume, covered, itk, resample, upright_space
from rediffinet.report import peak_rss_mb

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
REFERENCES = ("t1c", "t1n")
"""What the others are registered to: the first of these that is there. The brain network knows T1 only."""
LEAST_SHAPE = (240, 240, 155)
"""Of the prepared case, as BraTS has it; larger where the brain needs it."""
MARGIN = 4
HEAD_MARGIN = 12
"""Voxels around the brain that count for the registration: skull and skin move with it, the neck does not."""
AIR = 0.08
"""Share of a contrast's 99th percentile below which a voxel is air."""
LARGEST_FILLED = 0.6

Mask = npt.NDArray[np.bool_]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared case, its brain bool (X, Y, Z) on the case's grid, and what was done.

    unmasked: float32 (C, X, Y, Z), the images before the brain was cut out, for the picture; empty when passed through.
    """

    case: Case
    brain: Mask
    report: Preparation
    unmasked: Volume


def prepare(
    name: str,
    images: Mapping[str, Image],
    *,
    brain_mask: Image | None = None,
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    progress: Tell | None = None,
    allow_missing: bool = False,
) -> Prepared:
    """Prepare the contrasts of one patient, each on a grid of its own.

    brain_mask: a mask on the reference's grid instead of the network's. Images that are prepared already (one grid,
    about 1 mm, no skull) are passed through untouched. allow_missing: one contrast may be absent; without t1c, t1n is
    the reference.

    Raises:
        CaseError: a contrast is missing, has one slice, or no brain is found. LabelError: the mask is on another grid
        or empty. MissingExtraError without SimpleITK. EngineError: the engine cannot run here.
    """
    tell = progress or (lambda stage, done, of: None)
    images = {contrast: images[contrast] for contrast in CONTRASTS if contrast in images}
    _check(name, images, allow_missing=allow_missing)
    ready = already_prepared(name, images)
    if ready is not None and brain_mask is None:
        return _passed_through(ready, images)
    itk()
    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(stage: str) -> None:
        seconds[stage] = round(time.perf_counter() - started - sum(seconds.values()), 3)

    reference = next(contrast for contrast in REFERENCES if contrast in images)
    fixed = images[reference]
    field = upright_space(_space(fixed).corners)
    tell("brain", 0, 1)
    upright = resample(fixed.voxels, fixed.grid.affine, field)
    if brain_mask is None:
        bundle = open_brain_bundle()
        with open_engine(engine, device, threads=threads) as opened:
            found = extract_brain(upright, bundle, opened)
            ran = f"{opened.name} {opened.version} on {opened.device} ({opened.precision})"
        brain, left_out = found.mask, found.left_out
        made_by = {"source": "network", "name": bundle.manifest.name, "sha256": bundle.sha256}
    else:
        brain, left_out, ran = _given_mask(brain_mask, fixed, field), 0.0, ""
        made_by = {"source": "file", "name": brain_mask.path.name, "sha256": brain_mask.sha256}
    lap("brain")
    others = [contrast for contrast in images if contrast != reference]
    found_by: dict[str, Registration] = {}
    onto = fixed_image(fixed.voxels, fixed.grid.affine, (_grown(brain, HEAD_MARGIN), field.affine))
    for done, contrast in enumerate(others):
        tell("register", done, len(others))
        image = images[contrast]
        found_by[contrast] = register(onto, image.voxels, image.grid.affine)
    lap("register")
    tell("resample", 0, 1)
    space, brain = _around_brain(field, brain)
    unmasked = np.empty((len(images), *space.shape), np.float32)
    series: dict[str, SeriesInfo] = {}
    reach: dict[str, Mask] = {}
    for out, (contrast, image) in zip(unmasked, images.items(), strict=True):
        registration = found_by.get(contrast)
        to_series = IDENTITY if registration is None else registration.to_moving
        out[:] = resample(image.voxels, image.grid.affine, space, to_series)
        reach[contrast] = covered(_space(image), space, to_series)
        series[contrast] = _series_info(image, registration, brain, reach[contrast])
    _add_overlaps(series, dict(zip(images, unmasked, strict=True)), reach, reference)
    voxels = np.where(brain, np.maximum(unmasked, 0.0), np.float32(0))
    lap("resample")
    told = BrainInfo.model_validate(
        {
            **made_by,
            "volume_ml": float(np.count_nonzero(brain)) * space.voxel_ml,
            "left_out": left_out,
            "at_edge": _share_at_edge(brain, space, _space(fixed)),
        }
    )
    report = Preparation(
        case=name,
        reference=reference,
        space=SpaceInfo.of(space),
        series=series,
        brain=told,
        engine=ran,
        registration=f"SimpleITK {itk().Version.VersionString()}, rigid, mutual information",
        seconds={**seconds, "total": round(time.perf_counter() - started, 3)},
        peak_rss_mb=peak_rss_mb(),
        warnings=[
            *check_brain(reference, told),
            *(warning for contrast, info in series.items() for warning in check_series(contrast, reference, info)),
        ],
    )
    return Prepared(_case(name, voxels, space, images), brain, report, unmasked)


def already_prepared(name: str, images: Mapping[str, Image]) -> Case | None:
    """The case that these images are as they stand, or None when something is left to prepare.

    Prepared is: all on one grid, voxels of about 1 mm, and nothing but 0 outside a brain.
    """
    first = next(iter(images.values()))
    if any(
        image.grid.shape != first.grid.shape or grid_distance_mm(first.grid, image.grid) > GRID_SAME_MM
        for image in images.values()
    ):
        return None
    corner = np.ix_(*([0, size - 1] for size in first.grid.shape))
    for image in images.values():
        if np.count_nonzero(image.voxels) > LARGEST_FILLED * image.voxels.size or np.any(image.voxels[corner]):
            return None
    try:
        voxels = {contrast: np.asarray(image.voxels, np.float32) for contrast, image in images.items()}
        case = _from_arrays(name, voxels, first.grid.affine)
    except CaseError:
        return None
    case = replace(case, source=NiftiSource(first.grid, first.header, _provenance(images)))
    return None if any(warning.code == "not-skull-stripped" for warning in case.warnings) else case


def _check(name: str, images: Mapping[str, Image], *, allow_missing: bool) -> None:
    missing = [contrast for contrast in CONTRASTS if contrast not in images]
    if len(missing) > int(allow_missing):
        but = " but one" if allow_missing else ""
        message = (
            f"Case {name} has no {', '.join(missing)}.\nExpected an image for each of {', '.join(CONTRASTS)}{but}."
        )
        raise CaseError(message)
    for contrast, image in images.items():
        if min(image.grid.shape) < 2:
            message = (
                f"Contrast {contrast} of case {name} has {' × '.join(map(str, image.grid.shape))} voxels: one slice "
                f"({image.path.name}).\nExpected a series that covers the brain; choose another."
            )
            raise CaseError(message)
        if not np.isfinite(image.voxels.astype(np.float32)).all():
            message = f"Contrast {contrast} of case {name} holds voxels that are no numbers.\nExport it again."
            raise CaseError(message)


def _passed_through(case: Case, images: Mapping[str, Image]) -> Prepared:
    space = Space(case.grid.shape, np.asarray(case.grid.affine, np.float64))
    report = Preparation(
        case=case.name,
        passed_through=True,
        reference=next(contrast for contrast in REFERENCES if contrast in images),
        space=SpaceInfo.of(space),
        series={
            contrast: SeriesInfo(
                path=str(image.path),
                sha256=image.sha256,
                grid=SpaceInfo.of(_space(image)),
                to_series=to_rows(IDENTITY),
            )
            for contrast, image in images.items()
        },
    )
    brain = np.asarray((case.images > 0).any(axis=0), np.bool_)
    return Prepared(case, brain, report, np.zeros((0, *brain.shape), np.float32))


def _space(image: Image) -> Space:
    return Space(image.grid.shape, np.asarray(image.grid.affine, np.float64))


def _given_mask(mask: Image, fixed: Image, field: Space) -> Mask:
    where = _space(fixed)
    if mask.grid.shape != where.shape or grid_distance_mm(mask.grid, fixed.grid) > close_enough_mm(fixed.grid):
        message = (
            f"The brain mask {mask.path} is on another grid than the reference: it has "
            f"{' × '.join(map(str, mask.grid.shape))} voxels, the reference {fixed.path.name} "
            f"{' × '.join(map(str, where.shape))}.\n"
            f"Expected a mask of the very grid of {fixed.path.name} (shape and affine), before any preparation."
        )
        raise LabelError(message)
    inside = mask.voxels > 0
    if not inside.any() or inside.all():
        said = "empty" if not inside.any() else "1 everywhere"
        raise LabelError(
            f"The brain mask {mask.path} is {said}.\nExpected voxels above 0 in the brain and 0 elsewhere."
        )
    return resample(inside.astype(np.float32), mask.grid.affine, field) > 0.5


def _grown(mask: Mask, by: int) -> Mask:
    """The mask with all voxels within `by` steps along the axes in turn: a box-shaped margin, cheap and wide enough."""
    grown = mask.copy()
    for axis in range(3):
        counts = np.cumsum(np.pad(grown, [(by + 1, by) if a == axis else (0, 0) for a in range(3)]), axis, np.int32)
        size = mask.shape[axis]
        last = np.take(counts, range(2 * by + 1, 2 * by + 1 + size), axis)
        grown = last - np.take(counts, range(size), axis) > 0
    return grown


def _around_brain(field: Space, brain: Mask) -> tuple[Space, Mask]:
    """The grid of the case: voxels of `field`, the brain in the middle, and the brain on it."""
    start, shape, put, take = [], [], [], []
    for held, least, extent in zip(joint_box(brain, brain), LEAST_SHAPE, brain.shape, strict=True):
        size = max(least, held.stop - held.start + 2 * MARGIN)
        begin = (held.start + held.stop - size) // 2
        low, high = max(begin, 0), min(begin + size, extent)
        start.append(begin)
        shape.append(size)
        put.append(slice(low - begin, high - begin))
        take.append(slice(low, high))
    space = field.cropped((start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
    out = np.zeros(space.shape, bool)
    out[tuple(put)] = brain[tuple(take)]
    return space, out


def _series_info(image: Image, registration: Registration | None, brain: Mask, inside: Mask) -> SeriesInfo:
    info = SeriesInfo(
        path=str(image.path),
        sha256=image.sha256,
        grid=SpaceInfo.of(_space(image)),
        to_series=to_rows(IDENTITY if registration is None else registration.to_moving),
        coverage=float(int(np.count_nonzero(brain & inside)) / max(int(np.count_nonzero(brain)), 1)),
    )
    if registration is not None:
        info.similarity_before, info.similarity_after = registration.before, registration.after
        info.moved_mm, info.degrees = registration.moved_mm, registration.degrees
    return info


def _add_overlaps(
    series: dict[str, SeriesInfo], unmasked: Mapping[str, Volume], reach: Mapping[str, Mask], reference: str
) -> None:
    """Dice of the heads, where both images reach."""
    head = _not_air(unmasked[reference])
    for contrast, image in unmasked.items():
        if contrast == reference:
            continue
        both = reach[reference] & reach[contrast]
        one, other = head & both, _not_air(image) & both
        total = np.count_nonzero(one) + np.count_nonzero(other)
        series[contrast].head_overlap = float(2 * np.count_nonzero(one & other) / total) if total else 0.0


def _not_air(image: Volume) -> Mask:
    return np.asarray(image > AIR * float(np.percentile(image[image > 0], 99)) if (image > 0).any() else image > 0)


def _share_at_edge(brain: Mask, space: Space, fixed: Space) -> float:
    """How much of the fullest of the six outermost slices of the reference is brain."""
    on_fixed = resample(brain.astype(np.float32), space.affine, fixed) > 0.5
    ends = [np.take(on_fixed, at, axis) for axis in range(3) for at in (0, -1)]
    return float(max(end.mean() for end in ends))


def _case(name: str, voxels: Volume, space: Space, images: Mapping[str, Image]) -> Case:
    try:
        case = _from_arrays(name, dict(zip(images, voxels, strict=True)), space.affine)
    except CaseError as error:
        raise CaseError(f"The prepared images of case {name} cannot be used: {error}") from None
    return replace(case, source=NiftiSource(case.grid, new_header(space.affine), _provenance(images)))


def _from_arrays(name: str, voxels: Mapping[str, Volume], affine: npt.NDArray[np.floating]) -> Case:
    missing = [contrast for contrast in CONTRASTS if contrast not in voxels]
    stack = np.zeros((len(CONTRASTS), *next(iter(voxels.values())).shape), np.float32)
    for contrast, image in voxels.items():
        stack[CONTRASTS.index(contrast)] = image
    return Case.from_arrays(name, stack, affine, missing=missing)


def _provenance(images: Mapping[str, Image]) -> tuple[SourceImage, ...]:
    return tuple(
        SourceImage(contrast, str(image.path), image.sha256, image.grid.shape, _space(image).spacing_mm)
        for contrast, image in images.items()
    )
