"""When a registration or a brain mask looks wrong: one limit and one sentence each."""

from rediffinet.prepare.report import BrainInfo, PreparationWarning, SeriesInfo

LEAST_SIMILARITY = 1.02
LARGEST_MOVE_MM = 40.0
LARGEST_TURN_DEGREES = 25.0
LEAST_COVERAGE = 0.9
LEAST_OVERLAP = 0.75
BRAIN_ML = (800.0, 2100.0)
LARGEST_LEFT_OUT = 0.03
LARGEST_AT_EDGE = 0.25
THICKEST_MM = 7.0


def check_series(contrast: str, reference: str, series: SeriesInfo) -> list[PreparationWarning]:
    """What looks wrong about one contrast."""
    found = []

    def warn(code: str, message: str) -> None:
        found.append(PreparationWarning(code=code, contrast=contrast, message=message))

    before, after = series.similarity_before, series.similarity_after
    if before is not None and after is not None and (after < LEAST_SIMILARITY or after < before - 1e-3):
        warn(
            "registration-doubtful",
            f"{contrast} is little like {reference} after registration (normalised mutual information {after:.3f}, "
            f"before {before:.3f}): look at the checkerboard, and whether both are of the same head.",
        )
    if series.moved_mm > LARGEST_MOVE_MM or series.degrees > LARGEST_TURN_DEGREES:
        warn(
            "registration-far",
            f"{contrast} was moved by {series.moved_mm:.0f} mm and turned by {series.degrees:.0f}° onto {reference}: "
            "look at the checkerboard.",
        )
    if series.head_overlap is not None and series.head_overlap < LEAST_OVERLAP:
        warn(
            "heads-differ",
            f"what is not air in {contrast} and in {reference} overlaps by a Dice of {series.head_overlap:.2f} only: "
            "the registration may have failed, or one of them is of another body part.",
        )
    if series.coverage < LEAST_COVERAGE:
        warn(
            "partial-coverage",
            f"{contrast} shows {100 * series.coverage:.0f} % of the brain; where it is missing the segmentation is "
            "less reliable.",
        )
    thickest = max(series.grid.space.spacing_mm)
    if thickest > THICKEST_MM:
        warn("thick-slices", f"{contrast} has voxels of {thickest:.1f} mm in one direction; small lesions may be lost.")
    return found


def check_brain(reference: str, brain: BrainInfo) -> list[PreparationWarning]:
    """What looks wrong about the brain mask."""
    found = []
    low, high = BRAIN_ML
    if not low <= brain.volume_ml <= high:
        message = (
            f"the brain mask holds {brain.volume_ml:.0f} ml, brains have {low:.0f} to {high:.0f}: look at its outline; "
            "another mask can be given."
        )
        found.append(PreparationWarning(code="brain-volume", message=message))
    if brain.left_out > LARGEST_LEFT_OUT:
        message = (
            f"the brain was found in several pieces, and {100 * brain.left_out:.0f} % of it is not in the largest, "
            "which is kept: look at the outline of the mask."
        )
        found.append(PreparationWarning(code="brain-in-pieces", message=message))
    if brain.at_edge > LARGEST_AT_EDGE:
        message = (
            f"the brain reaches the edge of {reference} ({100 * brain.at_edge:.0f} % of its outermost slice is brain): "
            "part of the brain was not imaged."
        )
        found.append(PreparationWarning(code="brain-cut-off", contrast=reference, message=message))
    return found
