"""What a report says of a decoded case: volumes, flips, uncertainty, warnings."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from rediffinet.io.cases import Case
from rediffinet.method.decode import Decoded
from rediffinet.method.recipe import NEVER, Recipe
from rediffinet.method.refine import Discrepancy
from rediffinet.method.resample import MILLIMETRE, Spacing, same_spacing
from rediffinet.report import InputInfo, PerRegionCount, PerRegionMl, UncertaintyInfo, Volumes, Warning_


class Findings(TypedDict):
    """Fields of the report that follow from the images and the result alone."""

    inputs: list[InputInfo]
    volumes_ml: Volumes
    flipped_voxels: PerRegionCount | None
    uncertainty: UncertaintyInfo
    warnings: list[Warning_]


def findings(case: Case, decoded: Decoded, found: Discrepancy | None, recipe: Recipe) -> Findings:
    """Measure a decoded case of a model with that recipe."""
    baseline, names = decoded.baseline_regions, recipe.task.region_names
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
            baseline=None if baseline is None else _millilitres(names, baseline, voxel_ml),
            refined=_millilitres(names, decoded.regions, voxel_ml),
        ),
        flipped_voxels=None
        if baseline is None
        else PerRegionCount.model_validate(_counts(names, decoded.regions != baseline)),
        uncertainty=_uncertainty(decoded, found, recipe, voxel_ml),
        warnings=[*_resampling(case, recipe.spacing_mm), *_warnings(case, decoded, recipe, voxel_ml)],
    )


def _counts(names: Sequence[str], regions: npt.NDArray[np.bool_]) -> dict[str, int]:
    return dict(zip(names, regions.reshape(len(regions), -1).sum(axis=1).tolist(), strict=True))


def _millilitres(names: Sequence[str], regions: npt.NDArray[np.bool_], voxel_ml: float) -> PerRegionMl:
    found = {name: round(count * voxel_ml, 3) for name, count in _counts(names, regions).items()}
    return PerRegionMl.model_validate(found)


def _uncertainty(decoded: Decoded, found: Discrepancy | None, recipe: Recipe, voxel_ml: float) -> UncertaintyInfo:
    tumour = recipe.whole(decoded.regions)
    disagreement = None if found is None else found.disagreement[found.sampled]
    return UncertaintyInfo(
        mean_in_tumour=float(decoded.uncertainty[tumour].mean()) if tumour.any() else 0.0,
        uncertain_ml=round(float((decoded.uncertainty > 0.25).sum()) * voxel_ml, 3),
        sample_disagreement=float(disagreement.mean()) if disagreement is not None and disagreement.size else 0.0,
    )


def _warnings(case: Case, decoded: Decoded, recipe: Recipe, voxel_ml: float) -> list[Warning_]:
    warnings = [Warning_(code=warning.code, message=warning.message) for warning in case.warnings]
    enhancing = recipe.task.role("enhancing")
    if not recipe.whole(decoded.regions).any():
        warnings.append(Warning_(code="no-tumour", message="No tumour was found; check the images and their order."))
    elif enhancing is not None and not decoded.regions[enhancing].any():
        warnings.append(Warning_(code="no-enhancing-tumour", message="No enhancing tumour was found."))
    if decoded.left_out_voxels:
        message = (
            f"{decoded.left_out_voxels * voxel_ml:.1f} ml that the baseline found as separate lesions are left out, "
            f"because {_why_left_out(recipe)}. Look at the baseline's map."
        )
        warnings.append(Warning_(code="components-doubted", message=message))
    removed_ml = decoded.removed_voxels * voxel_ml
    if removed_ml >= 1.0:
        message = f"Postprocessing removed {removed_ml:.1f} ml of separate components (`postprocess=False` keeps them)."
        warnings.append(Warning_(code="components-removed", message=message))
    dissolved_ml = decoded.dissolved_voxels * voxel_ml
    if dissolved_ml >= 1.0:
        message = (
            f"{dissolved_ml:.1f} ml of enhancing tumour or core in very small parts are called what is around them "
            "(`postprocess=False` keeps them)."
        )
        warnings.append(Warning_(code="parts-dissolved", message=message))
    if decoded.unsure_voxels:
        message = (
            f"{decoded.unsure_voxels * voxel_ml:.1f} ml that look like enhancing tumour are counted as core, because "
            "the networks are unsure of them as a whole. Look at t1c; `postprocess=False` keeps them."
        )
        warnings.append(Warning_(code="enhancing-unsure", message=message))
    return warnings


def _why_left_out(recipe: Recipe) -> str:
    evidence = recipe.decision.evidence
    if evidence is None:
        return "the refinement doubts them as a whole"
    alone = f"the baseline does not find them without each of {', '.join(evidence.without)}"
    return alone if recipe.decision.whole_components >= NEVER else f"{alone}, or the refinement doubts them as a whole"


def _resampling(case: Case, model_mm: Spacing) -> list[Warning_]:
    if same_spacing(case.spacing_mm, model_mm) or same_spacing(case.spacing_mm, MILLIMETRE):
        return []
    was, became = (" × ".join(f"{size:.3g}" for size in spacing) for spacing in (case.spacing_mm, model_mm))
    message = (
        f"The images have voxels of {was} mm; they were resampled to {became} mm for the model, and its result back. "
        "The models were trained on images of 1 mm."
    )
    return [Warning_(code="resampled", message=message)]
