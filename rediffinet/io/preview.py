"""The preview: three planes through the largest lesion, what was found drawn over what was seen.

Rows are t1c, t2f and the uncertainty; columns axial, coronal, sagittal. Outlines of WT and TC: baseline in orange,
refined in cyan, the one outline of a model without a baseline. Radiological convention: the patient's right is on the
left of axial and coronal planes.
"""

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from rediffinet.ext import component_sizes, label_components
from rediffinet.io.segmented import Segmented
from rediffinet.task import Task

BASELINE_COLOUR = (255, 150, 30)
REFINED_COLOUR = (0, 220, 255)
SCALE = 2
BAR = 22
PLANES = ("axial", "coronal", "sagittal")

Plane = npt.NDArray[np.generic]


def render_preview(result: Segmented) -> Image.Image:
    """The preview as an RGB image."""
    before = _baseline(result)
    point = lesion_centre(result.crop_labels if result.crop_labels.any() else before)
    shown = shown_contrasts(result.task, result.report.missing_contrasts)
    rows = [_contrast_row(result, contrast, point) for contrast in shown]
    rows.append(_uncertainty_row(result, point))
    width = max(sum(tile.width for tile in row) for row in rows)
    heights = [max(tile.height for tile in row) for row in rows]
    canvas = Image.new("RGB", (width, sum(heights) + BAR * (len(rows) + 1)))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    top = 0
    for row, height, title in zip(rows, heights, (*shown, "probability of a wrong label"), strict=True):
        left = 0
        for tile, plane in zip(row, PLANES, strict=True):
            draw.text((left + 6, top + 3), f"{title}, {plane}", fill=(220, 220, 220), font=font)
            canvas.paste(tile, (left, top + BAR))
            left += tile.width
        top += height + BAR
    x = 6
    drawn = " and ".join(dict.fromkeys(_outlined_regions(result.task)))
    legend = [(f"{result.report.case}   outlines {drawn}:", (220, 220, 220))]
    if result.crop_baseline is None:
        legend.append(("segmentation", REFINED_COLOUR))
    else:
        legend += [("baseline", BASELINE_COLOUR), ("refined", REFINED_COLOUR)]
    if (margin := result.report.margin) is not None and (widths := margin.described()):
        legend.append((widths, (220, 220, 220)))
    for text, colour in (*legend, ("research use only", (150, 150, 150))):
        draw.text((x, top + 3), text, fill=colour, font=font)
        x += int(draw.textlength(text, font=font)) + 14
    return canvas


def encode_preview(result: Segmented) -> bytes:
    """The preview as the bytes of a PNG file."""
    content = BytesIO()
    render_preview(result).save(content, "PNG", compress_level=1)  # in half the time, for a fifth more bytes
    return content.getvalue()


def _baseline(result: Segmented) -> npt.NDArray[np.uint8]:
    """The baseline's labels (X, Y, Z); none of them for a model without a baseline."""
    return np.zeros_like(result.crop_labels) if result.crop_baseline is None else result.crop_baseline


def lesion_centre(labels: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """The voxel of the largest component through which the planes go: per axis the slice with most of it.

    The middle of the volume when there is no lesion. labels: (X, Y, Z).
    """
    components, count = label_components(labels > 0, 26)
    if count == 0:
        return (labels.shape[0] // 2, labels.shape[1] // 2, labels.shape[2] // 2)
    largest = components == int(np.argmax(component_sizes(components, count))) + 1
    x, y, z = (int(np.argmax(largest.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3))
    return (x, y, z)


def _slices(volume: npt.NDArray[np.generic], point: tuple[int, int, int]) -> list[Plane]:
    """Axial, coronal, sagittal planes of an LPS volume as images: rows down, anterior or superior up."""
    x, y, z = point
    return [volume[:, :, z].T, volume[:, y, ::-1].T, volume[x, :, ::-1].T]


def _contrast_row(result: Segmented, contrast: str, point: tuple[int, int, int]) -> list[Image.Image]:
    image = result.crop_image[result.task.contrasts.index(contrast)]
    shade = shading(image)
    return [
        outlined(np.stack([shade(plane)] * 3, axis=-1), before, after, result.task)
        for plane, before, after in zip(
            _slices(image, point), _slices(_baseline(result), point), _slices(result.crop_labels, point), strict=True
        )
    ]


def shading(image: npt.NDArray[np.float32]) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.uint8]]:
    """What gives any part of an image (X, Y, Z) its grey values, uint8 of the part's shape.

    They span all but the darkest and brightest 0.5 % of the whole image, and what is around the brain is black: what
    has the value of the first voxel, in a corner of the box about the brain.
    """
    around = image[0, 0, 0]
    inside = image[image != around]
    low, high = np.percentile(inside, (0.5, 99.5)) if inside.size else (0.0, 0.0)

    def shade(part: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        grey = np.clip((part - low) / (high - low), 0.0, 1.0) if high > low else np.ones_like(part)
        return np.where(part != around, 255 * grey, 0).astype(np.uint8)

    return shade


def _uncertainty_row(result: Segmented, point: tuple[int, int, int]) -> list[Image.Image]:
    tiles = []
    for wrong, before, after in zip(
        _slices(result.crop_uncertainty, point),
        _slices(_baseline(result), point),
        _slices(result.crop_labels, point),
        strict=True,
    ):
        heat = np.clip(2.0 * wrong.astype(np.float32), 0.0, 1.0)
        colour = np.stack([heat, heat**2, 0.35 * np.sqrt(heat) * (1.0 - heat)], axis=-1)
        tiles.append(outlined((255 * colour).astype(np.uint8), before, after, result.task))
    return tiles


def shown_contrasts(task: Task, missing: Sequence[str] = ()) -> tuple[str, ...]:
    """The two contrasts that show most: t1c and t2f in BraTS, else the first ones; none that is missing."""
    there = [name for name in task.contrasts if name not in missing]
    chosen = [name for name in ("t1c", "t2f") if name in there]
    return tuple(dict.fromkeys((*chosen, *there)))[:2]


def _outlined_regions(task: Task) -> tuple[str, ...]:
    """The whole tumour, all labels where the task names none, and the core, where there is one."""
    roles = task.roles
    return (roles.whole or "all", *((roles.core,) if roles.core else ()))


def outlined(rgb: npt.NDArray[np.uint8], before: Plane, after: Plane, task: Task) -> Image.Image:
    """An image (rows, columns, 3) uint8, scaled up, with one-pixel outlines of two label planes: whole tumour, core."""
    inside = {region.name: region.labels for region in task.regions} | {"all": tuple(task.label_names)}
    big = np.repeat(np.repeat(rgb, SCALE, axis=0), SCALE, axis=1)
    for labels, colour in ((before, BASELINE_COLOUR), (after, REFINED_COLOUR)):
        for name in _outlined_regions(task):
            mask = np.isin(labels, inside[name])
            big[_outline(np.repeat(np.repeat(mask, SCALE, axis=0), SCALE, axis=1))] = colour
    return Image.fromarray(np.ascontiguousarray(big))


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of the mask with a 4-neighbour outside it; the image edge counts as outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
