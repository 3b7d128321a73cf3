"""The fit of the margin in mm on boundaries whose errors are known."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rediffinet.method.margin import BoundaryMargin, band, boundary_voxels, margins
from rediffinet.training.calibrate_margin import BoundaryError, boundary_errors, fit_margin, held_out_coverage

ONE = (1.0, 1.0, 1.0)


def ball(radius: float, side: int = 41) -> np.ndarray:
    at = np.indices((side,) * 3) - side // 2
    return np.asarray((at**2).sum(axis=0) <= radius**2)


class _Found:
    """A held-out case of a sphere of which another radius was found; no doubt anywhere but where it is given."""

    def __init__(self, name: str, fold: int, truth: np.ndarray, found: np.ndarray, probability: np.ndarray) -> None:
        self.case, self.fold, self.spacing_mm = SimpleNamespace(name=name), fold, ONE
        self.reference = truth.astype(np.uint8) * 2  # edema: the whole tumour alone
        nothing = np.zeros_like(found)
        self.made = SimpleNamespace(
            regions=np.stack([found, nothing, nothing]), probability=np.stack([probability, *[nothing * 0.0] * 2])
        )

    def decoded(self, recipe: Any, decision: Any) -> Any:
        return self.made


def errors_of(cases: list[_Found], task: Any) -> list[BoundaryError]:
    recipe: Any = SimpleNamespace(task=task)
    return boundary_errors(recipe, cases, {case.fold: None for case in cases})  # type: ignore[arg-type,misc]


@pytest.fixture
def task() -> Any:
    from rediffinet.task import find_task

    return find_task("glioma-2023")


def test_what_is_counted_is_what_the_band_holds(task: Any) -> None:
    truth, found = ball(9), np.roll(ball(8), 3, 0)
    probability = np.where(found, 0.8, 0.1).astype(np.float32)
    (error,) = errors_of([_Found("a", 0, truth, found, probability)], task)
    assert error.needed is not None
    points = boundary_voxels(truth)
    assert len(error.needed) == len(points)
    for scale in (5.0, 15.0, 30.0):
        settings = BoundaryMargin(scale_mm=(scale,))
        inside = band(margins(found[None], probability[None], settings, ONE)[0], truth.shape, ONE)
        held = inside[tuple(points.T)]
        sure = np.abs(error.needed - scale) > 1e-4  # at the edge of a ball rounding decides
        assert np.array_equal((error.needed <= scale)[sure], held[sure])


def test_the_scale_holds_the_share_asked_for_each_case_weighing_the_same() -> None:
    rng = np.random.default_rng(3)
    cases = [np.abs(rng.normal(0, size, n)) for size, n in ((1, 4000), (2, 100), (8, 900), (3, 700))]
    errors = [BoundaryError(str(k), k, 0, needed, np.zeros(1, np.float32)) for k, needed in enumerate(cases)]
    fitted = fit_margin(errors, 1, 0.8)
    assert fitted is not None and fitted.share == 0.8
    assert np.mean([(needed <= fitted.scale_mm[0]).mean() for needed in cases]) == pytest.approx(0.8, abs=0.01)
    assert np.concatenate(cases).mean() < np.mean([case.mean() for case in cases])


def test_a_fold_is_measured_with_the_margin_of_the_others() -> None:
    """Fold 0 is off by 2 mm, the others by 1 mm: their margin holds nothing of it."""
    errors = [
        BoundaryError(f"{fold}{k}", fold, 0, np.full(50, 2.0 if fold == 0 else 1.0), np.zeros(9, np.float32))
        for fold in range(3)
        for k in range(2)
    ]
    errors.append(BoundaryError("missed", 1, 0, None, np.zeros(0, np.float32)))
    told = held_out_coverage(errors, ["WT"])["regions"]["WT"]
    assert told["by_fold"] == {"0": 0.0, "1": 1.0, "2": 1.0}
    assert (told["cases"], told["missed"], told["reached"], told["least"]) == (6, 1, 4, 0.0)
    assert told["coverage"] == pytest.approx(2 / 3, abs=1e-4)


def test_a_region_that_is_found_in_no_case_gives_no_margin(task: Any) -> None:
    truth = ball(6)
    errors = errors_of([_Found("a", 0, truth, truth, np.where(truth, 1.0, 0.0).astype(np.float32))], task)
    assert fit_margin(errors, 1) is not None
    assert fit_margin(errors, 3) is None
    assert fit_margin([], 1) is None
