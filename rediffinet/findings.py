"""What a report says of a decoded case: volumes, flips, uncertainty, warnings."""

from typing import TypedDict

import numpy as np
import numpy.typing as npt

from rediffinet.cases import Case
from rediffinet.decode import Decoded
from rediffinet.labels import REGIONS
from rediffinet.refine import Discrepancy
from rediffinet.report import InputInfo, PerRegionCount, PerRegionMl, UncertaintyInfo, Volumes, Warning_


class Findings(TypedDict):
    """Fields of the report that follow from the images and the result alone."""

    inputs: list[InputInfo]
    volumes_ml: Volumes
    flipped_voxels: PerRegionCount
    uncertainty: UncertaintyInfo
    warnings: list[Warning_]


def findings(case: Case, decoded: Decoded, found: Discrepancy) -> Findings:
    """Measure a decoded case."""
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000.0
    return Findings(
        inputs=[
            InputInfo(
                contrast=source.contrast,
                path=source.path,
                sha256=source.sha256,
                shape=source.shape,
                spacing=source.spacing_mm,
            )
            for source in case.sources
        ],
        volumes_ml=Volumes(
            baseline=_millilitres(decoded.baseline_regions, voxel_ml),
            refined=_millilitres(decoded.regions, voxel_ml),
        ),
        flipped_voxels=_count(decoded.regions != decoded.baseline_regions),
        uncertainty=_uncertainty(decoded, found, voxel_ml),
        warnings=_warnings(case, decoded, voxel_ml),
    )


def _count(regions: npt.NDArray[np.bool_]) -> PerRegionCount:
    counts = regions.reshape(len(regions), -1).sum(axis=1).tolist()
    return PerRegionCount(**dict(zip(REGIONS, counts, strict=True)))


def _millilitres(regions: npt.NDArray[np.bool_], voxel_ml: float) -> PerRegionMl:
    counts = _count(regions).model_dump()
    return PerRegionMl(**{name: round(count * voxel_ml, 3) for name, count in counts.items()})


def _uncertainty(decoded: Decoded, found: Discrepancy, voxel_ml: float) -> UncertaintyInfo:
    tumour = decoded.regions[0]
    return UncertaintyInfo(
        mean_in_tumour=float(decoded.uncertainty[tumour].mean()) if tumour.any() else 0.0,
        uncertain_ml=round(float((decoded.uncertainty > 0.25).sum()) * voxel_ml, 3),
        sample_disagreement=float(found.disagreement[found.sampled].mean()) if found.sampled.any() else 0.0,
    )


def _warnings(case: Case, decoded: Decoded, voxel_ml: float) -> list[Warning_]:
    warnings = [Warning_(code=warning.code, message=warning.message) for warning in case.warnings]
    if not decoded.regions[0].any():
        warnings.append(Warning_(code="no-tumour", message="No tumour was found; check the images and their order."))
    elif not decoded.regions[2].any():
        warnings.append(Warning_(code="no-enhancing-tumour", message="No enhancing tumour was found."))
    removed_ml = decoded.removed_voxels * voxel_ml
    if removed_ml >= 1.0:
        message = f"Postprocessing removed {removed_ml:.1f} ml of separate components (--no-postprocess keeps them)."
        warnings.append(Warning_(code="components-removed", message=message))
    return warnings
