"""A result back on the grids of the original series: soft maps are interpolated and decided there, never labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rediffinet.errors import ConfigError
from rediffinet.io.geometry import Grid, spacing_mm
from rediffinet.io.nifti import encode_nifti, gzipped
from rediffinet.prepare.report import Preparation
from rediffinet.prepare.space import Space, Volume, resample
from rediffinet.report import NativeInfo
from rediffinet.result import Result
from rediffinet.task import Task, regions_of

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class NativeResult:
    """A result on the grid of one original series, arrays (X, Y, Z) in its stored order.

    baseline: None for a model without one. soft: float32 (R, X, Y, Z), the regions as they were decided from.
    volumes_ml: of the regions of `labels`, by name.
    """

    contrast: str
    grid: Grid
    labels: Labels
    baseline: Labels | None
    uncertainty: Volume
    soft: Volume
    volumes_ml: dict[str, float]


def which_series(preparation: Preparation, asked: str) -> list[str]:
    """The contrasts of `t1c,t2f`, `reference`, `all` or `none`, in the order of the preparation. Raises ConfigError."""
    groups = {"none": [], "all": list(preparation.series), "reference": [preparation.reference]}
    names = groups.get(asked, [name.strip() for name in asked.split(",")])
    unknown = [name for name in names if name not in preparation.series]
    if unknown:
        message = (
            f"There is no series {', '.join(unknown)} to write results for.\nExpected all, none, reference, or some of "
        )
        raise ConfigError(message + ", ".join(preparation.series) + ".")
    return [name for name in preparation.series if name in names]


def to_native(result: Result, preparation: Preparation, contrasts: Sequence[str]) -> list[NativeResult]:
    """The result on the grids of these series."""
    box = result.box
    start = (box[0].start, box[1].start, box[2].start)
    whole = Space(result.source.grid.canonical_shape, result.source.grid.canonical_affine)
    x, y, z = result.crop_labels.shape
    crop = whole.cropped(start, (x, y, z))
    task = result.task
    soft = _soft(regions_of(result.crop_labels, task), result.crop_probability)
    before = None
    if result.crop_baseline is not None and result.crop_baseline_probability is not None:
        before = _soft(regions_of(result.crop_baseline, task), result.crop_baseline_probability)
    return [_on(result, preparation, contrast, crop, soft, before, task) for contrast in contrasts]


def _on(
    result: Result,
    preparation: Preparation,
    contrast: str,
    crop: Space,
    soft: Volume,
    before: Volume | None,
    task: Task,
) -> NativeResult:
    series = preparation.series[contrast]
    onto = series.grid.space
    to_case = np.linalg.inv(np.array(series.to_series))

    def bring(volume: npt.NDArray[np.generic]) -> Volume:
        return resample(np.asarray(volume, np.float32), crop.affine, onto, to_case)

    brought = np.stack([bring(region) for region in soft])
    labels = _decided(brought, task)
    return NativeResult(
        contrast=contrast,
        grid=Grid(onto.shape, onto.affine),
        labels=labels,
        baseline=None if before is None else _decided(np.stack([bring(region) for region in before]), task),
        uncertainty=np.clip(bring(result.crop_uncertainty), 0.0, 1.0),
        soft=brought,
        volumes_ml={
            name: float(np.count_nonzero(region)) * onto.voxel_ml
            for name, region in zip(task.region_names, regions_of(labels, task), strict=True)
        },
    )


def _soft(regions: npt.NDArray[np.bool_], probability: Volume) -> Volume:
    """The probability of what was decided: 1 − p where the labels say otherwise, so that postprocessing counts."""
    return np.where(regions == (probability > 0.5), probability, 1.0 - probability).astype(np.float32)


def _decided(soft: Volume, task: Task) -> Labels:
    """Soft regions → labels: each above 1/2 and inside the one around it, painted in the task's order."""
    labels = np.zeros(soft.shape[1:], np.uint8)
    inside: list[npt.NDArray[np.bool_]] = []
    for region, parent, value in zip(soft, task.parents, task.paint, strict=True):
        inside.append((region > 0.5) & (True if parent < 0 else inside[parent]))
        labels[inside[-1]] = value
    return labels


def with_native(
    result: Result, natives: Sequence[NativeResult], *, uncertainty: bool = False
) -> tuple[Result, dict[str, tuple[str, bytes]]]:
    """The result with the native volumes in its report, and the files to write beside it: name and content by kind."""
    case, files, told = result.report.case, {}, {}
    names = {value: name for name, value in result.report.labels.items()}
    described = ", ".join(f"{value} {name}" for value, name in names.items())
    for native in natives:
        maps = {"seg": native.labels, "baseline": native.baseline, "uncertainty": native.uncertainty}
        for what, voxels in maps.items():
            if voxels is None or (what == "uncertainty" and not uncertainty):
                continue
            labels = what != "uncertainty"
            content = encode_nifti(
                voxels,
                native.grid,
                dtype=voxels.dtype,
                description=described if labels else "probability that the label is wrong",
                intent="label" if labels else "none",
            )
            files[f"{what}-{native.contrast}"] = (f"{case}-{what}-{native.contrast}-native.nii.gz", gzipped(content))
        told[native.contrast] = NativeInfo(
            shape=native.grid.shape, spacing_mm=spacing_mm(native.grid.affine), volumes_ml=native.volumes_ml
        )
    report = result.report.model_copy(update={"native": told})
    return replace(result, report=report), files
