"""The picture to check a preparation by: contrasts in a checkerboard with the reference, the outline of the brain.

One row per contrast, in three planes through the middle of the brain. The reference's own row shows it alone. Where
edges go on from one square to the next, the registration holds. Radiological convention, as in the preview.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from rediffinet.prepare.pipeline import Prepared

OUTLINE = (255, 210, 0)
SQUARE = 24
BAR = 20
SCALE = 2
PLANES = ("axial", "coronal", "sagittal")

Plane = npt.NDArray[np.float32]


def draw_preparation(prepared: Prepared) -> Image.Image:
    """The picture as an RGB image, for images that were not passed through."""
    report = prepared.report
    contrasts = list(report.series)
    shades = [_shade(image, prepared.brain) for image in prepared.unmasked]
    reference = shades[contrasts.index(report.reference)]
    held = [np.flatnonzero(prepared.brain.any(axis=tuple(b for b in range(3) if b != axis))) for axis in range(3)]
    x, y, z = (int(axis[len(axis) // 2]) for axis in held)
    rows = []
    for contrast, shade in zip(contrasts, shades, strict=True):
        title = contrast if contrast == report.reference else f"{contrast} | {report.reference}"
        tiles = [
            _tile(one, other, inside)
            for one, other, inside in zip(
                _planes(shade, (x, y, z)),
                _planes(reference, (x, y, z)),
                _planes(prepared.brain, (x, y, z)),
                strict=True,
            )
        ]
        rows.append((title, tiles))
    width = max(sum(tile.width for tile in tiles) for _, tiles in rows)
    height = sum(max(tile.height for tile in tiles) + BAR for _, tiles in rows) + BAR
    canvas = Image.new("RGB", (width, height))
    draw, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(13), 0
    for title, tiles in rows:
        left = 0
        for tile, plane in zip(tiles, PLANES, strict=True):
            draw.text((left + 6, top + 2), f"{title}, {plane}", fill=(220, 220, 220), font=font)
            canvas.paste(tile, (left, top + BAR))
            left += tile.width
        top += max(tile.height for tile in tiles) + BAR
    text = f"{report.case}   outline: brain mask   research use only"
    draw.text((6, top + 2), text, fill=(170, 170, 170), font=font)
    return canvas


def save_picture(prepared: Prepared, path: Path) -> None:
    """Write the picture as PNG."""
    draw_preparation(prepared).save(path, format="PNG", optimize=True)


def _shade(image: Plane, brain: npt.NDArray[np.bool_]) -> Plane:
    high = float(np.percentile(image[brain], 99.5)) if brain.any() else float(image.max())
    return np.asarray(np.clip(image / max(high, 1e-6), 0.0, 1.0), np.float32)


def _planes(volume: npt.NDArray[np.generic], point: tuple[int, int, int]) -> list[npt.NDArray[np.generic]]:
    x, y, z = point
    return [volume[:, :, z].T, volume[:, y, ::-1].T, volume[x, :, ::-1].T]


def _tile(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic], brain: npt.NDArray[np.generic]) -> Image.Image:
    rows, columns = np.indices(one.shape) // SQUARE
    grey = (255 * np.where((rows + columns) % 2 == 0, one, other).astype(np.float32)).astype(np.uint8)
    big = np.repeat(np.repeat(np.stack([grey] * 3, axis=-1), SCALE, axis=0), SCALE, axis=1)
    mask = np.repeat(np.repeat(brain.astype(bool), SCALE, axis=0), SCALE, axis=1)
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    big[mask & ~inner] = OUTLINE
    return Image.fromarray(np.ascontiguousarray(big))
