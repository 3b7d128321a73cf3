"""When a result should not be trusted: what the images and the finding say against it, in words for the report.

What the files alone tell, a contrast that covers part of the brain for one, is in rediffinet.io.checks.
Nothing here changes a label. Each check has one number that trips it, kept in the recipe (`TrustSettings`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rediffinet.ext import component_sizes, joint_box, label_components
from rediffinet.io.cases import Case
from rediffinet.io.checks import CaseWarning
from rediffinet.method.postprocess import confidence
from rediffinet.method.preprocessing import Preprocessed
from rediffinet.method.recipe import Range, Recipe, TrustSettings

Mask = npt.NDArray[np.bool_]
QUANTILES = (10, 50, 90)
PAIR = "·"
"""Joins the names of two contrasts in the name of their correlation."""
ENOUGH = 200_000
"""Voxels that a profile is taken from, at most: more would not change it."""


def intensity_profile(image: npt.NDArray[np.floating], background: float, contrasts: Sequence[str]) -> dict[str, float]:
    """Numbers that tell one kind of scan from another, of a normalised image (C, X, Y, Z) of these contrasts.

    Per contrast three quantiles over the brain, per pair of contrasts their correlation: the normalisation takes scale
    and offset away, these are left.
    """
    brain = np.flatnonzero((image != background).any(axis=0))
    brain = brain[:: 1 + len(brain) // ENOUGH]
    values = image.reshape(len(image), -1)[:, brain].astype(np.float32)
    quantiles: npt.NDArray[np.floating] = np.percentile(values, QUANTILES, axis=1)
    profile = {
        f"{name} p{q}": float(quantiles[row, column])
        for column, name in enumerate(contrasts)
        for row, q in enumerate(QUANTILES)
    }
    with np.errstate(invalid="ignore"):
        together: npt.NDArray[np.float64] = np.atleast_2d(np.nan_to_num(np.corrcoef(values)))
    for j, other in enumerate(contrasts):
        for i, name in enumerate(contrasts[:j]):
            profile[f"{name}{PAIR}{other}"] = float(together[i, j])
    return profile


def profile_ranges(profiles: Sequence[Mapping[str, float]]) -> dict[str, Range]:
    """Smallest and largest of every number."""
    return {name: (min(p[name] for p in profiles), max(p[name] for p in profiles)) for name in profiles[0]}


def widest_ranges(ranges: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Range]:
    """The range of every number that holds all given ones: what any of several networks was trained on."""
    return {name: (min(r[name][0] for r in ranges), max(r[name][1] for r in ranges)) for name in ranges[0]}


def check_intensities(
    image: npt.NDArray[np.floating],
    background: float,
    settings: TrustSettings,
    contrasts: Sequence[str],
    missing: Sequence[str] = (),
) -> list[CaseWarning]:
    """`intensities-unlike-training`: a number of the profile lies outside the training range by more than the margin.

    The margin is a share of the range's width; for a correlation it ends half-way between the range and ±1, so that a
    contrast given twice is outside whatever the training cases were. image: normalised, (C, X, Y, Z).
    missing: contrasts that the case lacks, of which nothing is asked.
    """
    if settings.intensities is None:
        return []
    there = [index for index, name in enumerate(contrasts) if name not in missing]
    seen = image[there] if missing else image
    profile = intensity_profile(seen, background, [contrasts[index] for index in there])
    outside = {}
    for name, (low, high) in settings.intensities.items():
        if missing and name not in profile:
            continue
        margin = settings.intensity_margin * max(high - low, 1e-6)
        below, above = low - margin, high + margin
        if PAIR in name:
            below, above = max(below, (low - 1) / 2), min(above, (high + 1) / 2)
        if not below <= profile[name] <= above:
            outside[name] = f"{name} is {profile[name]:.2f}, training had {low:.2f} to {high:.2f}"
    if not outside:
        return []
    outside = dict(sorted(outside.items(), key=lambda item: PAIR not in item[0]))  # pairs tell most
    message = (
        f"The images do not look like those of training ({'; '.join(list(outside.values())[:3])}): other "
        "preprocessing, another scanner, or contrasts in the wrong order."
    )
    return [CaseWarning("intensities-unlike-training", message)]


def check_tumour(whole: Mask, spacing_mm: tuple[float, float, float], settings: TrustSettings) -> list[CaseWarning]:
    """`far-components` and `tumour-at-edge`, of the whole tumour found, bool (X, Y, Z) on the case's volume.

    far-components: two or more components of at least far_ml whose centres are farther apart than far_mm.
    tumour-at-edge: at least edge_voxels voxels on the outermost layer of the volume, beyond which nothing was seen.
    """
    return [*_far(whole, spacing_mm, settings), *_at_edge(whole, settings)]


def _far(whole: Mask, spacing_mm: tuple[float, float, float], settings: TrustSettings) -> list[CaseWarning]:
    components, count = label_components(whole[joint_box(whole, whole)], 26)
    least = settings.far_ml * 1000.0 / float(np.prod(spacing_mm))
    large = [index + 1 for index, size in enumerate(component_sizes(components, count)) if size >= least]
    if len(large) < 2:
        return []
    centres = np.array([np.argwhere(components == index).mean(axis=0) for index in large]) * spacing_mm
    apart = float(np.linalg.norm(centres[:, None] - centres[None], axis=-1).max())
    if apart <= settings.far_mm:
        return []
    message = (
        f"{len(large)} separate lesions of {settings.far_ml:g} ml or more were found, up to {apart:.0f} mm apart: "
        "several foci, or something else taken for tumour."
    )
    return [CaseWarning("far-components", message)]


def _at_edge(whole: Mask, settings: TrustSettings) -> list[CaseWarning]:
    inner = whole[1:-1, 1:-1, 1:-1]
    at_edge = int(np.count_nonzero(whole)) - int(np.count_nonzero(inner))
    if at_edge < settings.edge_voxels:
        return []
    message = f"The tumour reaches the edge of the images ({at_edge} voxels of it lie there): the rest is not in them."
    return [CaseWarning("tumour-at-edge", message)]


def check_disagreement(disagreement: float, settings: TrustSettings) -> list[CaseWarning]:
    """`samples-disagree`: the standard deviation of Δ̂ over the samples, where sampled, is above its limit."""
    if settings.disagreement is None or disagreement <= settings.disagreement:
        return []
    message = (
        f"The samples of the refinement disagree more than in nearly all cases it was tried on ({disagreement:.3f}, "
        f"limit {settings.disagreement:.3f}): compare with the baseline."
    )
    return [CaseWarning("samples-disagree", message)]


def check_core(core: Mask, probability: npt.NDArray[np.floating], settings: TrustSettings) -> list[CaseWarning]:
    """`core-unsure`: the mean probability of the baseline over the core that was found is below its limit.

    core: bool (X, Y, Z); probability: of the core, of the same shape.
    """
    if settings.core_confidence is None:
        return []
    found = confidence(core, probability)
    if found >= settings.core_confidence:
        return []
    message = (
        f"The tumour core is doubted as a whole (mean probability {found:.2f}, limit "
        f"{settings.core_confidence:.2f}): where it ends against the edema may be far off. Compare with t1c."
    )
    return [CaseWarning("core-unsure", message)]


def check_result(
    case: Case,
    prepared: Preprocessed,
    recipe: Recipe,
    regions: Mask,
    probability: npt.NDArray[np.floating] | None = None,
) -> list[CaseWarning]:
    """Every check that needs no samples, of a segmented case.

    regions: those found, bool (R, …) on the brain crop; probability: of the baseline, alike, None without one.
    """
    full = np.zeros(case.images.shape[1:], bool)
    full[prepared.box] = recipe.whole(regions)
    core = recipe.task.role("core")
    unsure = [] if core is None or probability is None else check_core(regions[core], probability[core], recipe.trust)
    return [
        *check_intensities(prepared.image, recipe.background, recipe.trust, recipe.task.contrasts, case.missing),
        *check_tumour(full, case.spacing_mm, recipe.trust),
        *unsure,
    ]
