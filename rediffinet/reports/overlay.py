"""The overlay of one case: what the refinement put right and what it broke, in three planes through the largest change.

Rows are the axial, coronal and sagittal plane; columns the reference, the baseline, the refined map and the change.
Radiological convention: the patient's right is on the left of axial and coronal planes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError, LabelError
from rediffinet.io.cases import Case, find_labels, load_case, load_label_map
from rediffinet.io.conventions import Conventions
from rediffinet.io.preview import PLANES, lesion_centre
from rediffinet.metrics import dice
from rediffinet.reports.drawing import check_figure_path, new_figure, write_figure
from rediffinet.task import DEFAULT_TASK, TASKS, Task, regions_of

WHAT = "The overlay figure"
SEEN_BEST = {True: ("t2f", "t2w"), False: ("t1c", "t1n")}
"""The contrasts in which the whole tumour, and any part of it, stand out; the task's first where it has neither."""
MARGIN_MM = 15.0
MASK_COLOUR, FIXED_COLOUR, BROKEN_COLOUR = "#F0E442", "#56B4E9", "#D55E00"  # told apart by the colour-blind as well

Mask = npt.NDArray[np.bool_]
Point = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Changes:
    """Voxels of one region, bool (X, Y, Z): fixed (wrong, then right), broken (right, then wrong), still wrong."""

    fixed: Mask
    broken: Mask
    still_wrong: Mask

    @property
    def counts(self) -> dict[str, int]:
        """Number of voxels: fixed, broken, still_wrong."""
        return {name: int(getattr(self, name).sum()) for name in ("fixed", "broken", "still_wrong")}


def find_changes(reference: Mask, baseline: Mask, refined: Mask) -> Changes:
    """What the step from baseline to refined changed, all bool (X, Y, Z)."""
    before, after = baseline != reference, refined != reference
    return Changes(before & ~after, ~before & after, before & after)


def change_centre(changes: Changes, tumour: Mask) -> Point:
    """The voxel through which the planes go: the middle of the largest connected change, else of the tumour."""
    changed = changes.fixed | changes.broken
    return lesion_centre((changed if changed.any() else tumour).astype(np.uint8))


def write_overlay(
    folder: Path,
    baseline: Path,
    refined: Path,
    out: Path,
    *,
    reference: Path | None = None,
    region: str | None = None,
    contrast: str | None = None,
    task: Task = TASKS[DEFAULT_TASK],
    convention: Task | None = None,
) -> dict[str, int]:
    """Write the figure of a case as PNG and return the counts of changed voxels.

    Args:
        folder: the case folder; its own segmentation is the reference unless another is named.
        region: one of the task's; by default the whole tumour.
        contrast: the background; by default the one in which the region stands out.
        task: the contrasts of the case, and what its regions are.
        convention: what the numbers in the label maps mean; None: the task's, or for gliomas BraTS 2021 or 2023.

    Raises:
        ConfigError: no such region or contrast, or the name does not end in .png.
        CaseError: the case or a label map cannot be read.
        LabelError: a label map is on another grid or in no known schema, or there is no reference.
        OutputError: the figure cannot be written.
        MissingExtraError: Matplotlib is not installed.
    """
    check_figure_path(out)
    region = region or task.region_names[task.role("whole") or 0]
    for what, value, known in (("region", region, task.region_names), ("contrast", contrast, task.contrasts)):
        if value is not None and value not in known:
            raise ConfigError(f"There is no {what} {value!r}.\nExpected one of {', '.join(known)}.")
    new_figure(1.0, 1.0, WHAT)  # a missing module is said before the images are read
    case = load_case(folder, spacing_range_mm=(0.0, math.inf), task=task)  # a picture has no need of 1 mm
    truth = reference or find_labels(folder, task)
    if truth is None:
        message = f"{folder} holds no segmentation, and what is right cannot be told without.\nGive `reference`."
        raise LabelError(message)
    index = task.region_names.index(region)
    masks = [
        regions_of(load_label_map(path, Conventions(task, convention), case.grid), task)[index]
        for path in (truth, baseline, refined)
    ]
    changes = find_changes(*masks)
    figure = draw_overlay(case, masks, changes, region, contrast or _seen_best(index, task))
    write_figure(figure, out)
    return changes.counts


def draw_overlay(case: Case, masks: list[Mask], changes: Changes, region: str, contrast: str) -> Any:
    """The figure of the masks (reference, baseline, refined), each bool (X, Y, Z) on the grid of the case."""
    tumour = masks[0] | masks[1] | masks[2]
    point = change_centre(changes, tumour)
    box = _around(tumour, point, case.spacing_mm)
    image = case.images[case.contrasts.index(contrast)]
    brain = image[image > 0]
    low, high = np.percentile(brain, (1.0, 99.5)) if brain.size else (0.0, 1.0)
    counts = changes.counts
    titles = [
        "reference",
        *(
            f"{name}, Dice {dice(mask, masks[0]):.3f}"
            for name, mask in zip(("baseline", "refined"), masks[1:], strict=True)
        ),
        "change" if counts["fixed"] or counts["broken"] else "nothing changed",
    ]
    figure = new_figure(11.0, 8.6, WHAT)
    from matplotlib.patches import Patch

    grid = figure.subplots(len(PLANES), len(titles), squeeze=False)
    layers = [[(mask, MASK_COLOUR)] for mask in masks]
    layers.append([(changes.fixed, FIXED_COLOUR), (changes.broken, BROKEN_COLOUR)])
    aspects = _aspects(case.spacing_mm)
    for column, (title, shown) in enumerate(zip(titles, layers, strict=True)):
        for row, (plane, aspect) in enumerate(zip(PLANES, aspects, strict=True)):
            panel = grid[row][column]
            panel.imshow(
                planes(image, point, box)[row], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), aspect=aspect
            )
            for mask, colour in shown:
                panel.imshow(_tint(planes(mask, point, box)[row], colour, 0.45 if column < 3 else 0.9), aspect=aspect)
            panel.set_xticks([])
            panel.set_yticks([])
            if row == 0:
                panel.set_title(title, fontsize=9)
            if column == 0:
                panel.set_ylabel(plane, fontsize=9)
    figure.suptitle(f"{case.name}: {region} on {contrast}; counts are of the whole volume", fontsize=11)
    legend = [
        Patch(color=MASK_COLOUR, label=region),
        Patch(color=FIXED_COLOUR, label=f"fixed: {counts['fixed']} voxels"),
        Patch(color=BROKEN_COLOUR, label=f"broken: {counts['broken']} voxels"),
        Patch(color="none", label=f"wrong before and after: {counts['still_wrong']} voxels"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend), fontsize=9, frameon=False)
    return figure


def planes(volume: npt.NDArray[Any], point: Point, box: Box) -> list[npt.NDArray[Any]]:
    """Axial, coronal, sagittal plane through `point` of an LPS volume, cut to `box`; anterior or superior is up."""
    x, y, z = point
    return [volume[box[0], box[1], z].T, volume[box[0], y, box[2]][:, ::-1].T, volume[x, box[1], box[2]][:, ::-1].T]


def _seen_best(region: int, task: Task) -> str:
    """The contrast in which a region stands out."""
    wanted = SEEN_BEST[region == task.role("whole")]
    return next((contrast for contrast in wanted if contrast in task.contrasts), task.contrasts[0])


def _around(tumour: Mask, point: Point, spacing: tuple[float, float, float]) -> Box:
    """The box of the tumour and the point with a margin; everything when there is no tumour."""
    if not tumour.any():
        return (slice(None), slice(None), slice(None))
    slices = []
    for axis in range(3):
        there = np.flatnonzero(tumour.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(MARGIN_MM / spacing[axis])
        first, last = min(int(there[0]), point[axis]), max(int(there[-1]), point[axis])
        slices.append(slice(max(0, first - margin), last + margin + 1))
    return (slices[0], slices[1], slices[2])


def _aspects(spacing: tuple[float, float, float]) -> list[float]:
    """Height over width of a pixel in each plane."""
    x, y, z = spacing
    return [y / x, z / x, z / y]


def _tint(mask: npt.NDArray[Any], colour: str, opacity: float) -> npt.NDArray[np.float64]:
    """RGBA image (rows, columns, 4): the colour where the mask is, transparent elsewhere."""
    rgba = np.zeros((*mask.shape, 4))
    rgba[mask] = [*(int(colour[i : i + 2], 16) / 255.0 for i in (1, 3, 5)), opacity]
    return rgba
