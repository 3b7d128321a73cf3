import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rediffinet.training.calibrate_core import POOR, Core, choose_core_confidence, held_out_warnings

Pair = tuple[float, float]


def of(*pairs: Pair, fold: int = 0) -> list[Core]:
    return [Core(fold, confidence, dice) for confidence, dice in pairs]


@pytest.mark.parametrize(
    ("cases", "limit"),
    [
        ([(0.5, 0.2), (0.9, 0.9)], 0.7),  # midway between the two that it parts
        ([(0.5, 0.2), (0.7, 0.3), (0.9, 0.9), (0.95, 0.8)], 0.8),
        ([(0.5, 0.9), (0.9, 0.2)], None),  # surer of the wrong one: nothing to tell
        ([(0.5, 0.2), (0.5, 0.9)], None),  # not to be told apart
        ([(0.5, 0.2)], None),  # none to part it from
        ([(0.9, 0.9)], None),  # nothing to warn of
        ([], None),
        ([(0.4, 0.1), (0.6, 0.9), (0.8, 0.1), (0.9, 0.9)], 0.5),  # both limits miss or warn of one: the lower
    ],
)
def test_below_which_confidence_a_core_is_unsure(cases: list[Pair], limit: float | None) -> None:
    assert choose_core_confidence(of(*cases)) == (None if limit is None else pytest.approx(limit))


confidences = st.integers(0, 20).map(lambda number: number / 20)
some = st.lists(st.tuples(confidences, st.sampled_from([0.1, 0.9])), max_size=12)


@given(some)
def test_no_other_limit_parts_poor_cores_better(cases: list[Pair]) -> None:
    """Sensitivity + specificity against every limit of a fine grid."""
    confidence, dice = (np.array([case[axis] for case in cases]) for axis in (0, 1))
    poor = dice < POOR
    if not poor.any() or poor.all():
        assert choose_core_confidence(of(*cases)) is None
        return

    def both(limit: float) -> float:
        warned = confidence < limit
        return float(warned[poor].mean() + (~warned[~poor]).mean())

    limit = choose_core_confidence(of(*cases))
    best = max(both(other) for other in np.arange(0.0, 1.05, 0.025))
    assert both(limit or 0.0) == pytest.approx(best)
    assert (limit is None) == (best == pytest.approx(1.0))


def test_the_limit_for_a_fold_is_that_of_the_other_folds() -> None:
    """Fold 0 would choose 0.7 on its own cases, fold 1 0.4; each is warned of by the other's."""
    first, second = of((0.6, 0.2), (0.8, 0.9)), of((0.3, 0.2), (0.5, 0.9), fold=1)
    told = held_out_warnings([*first, *second])
    assert told["limits"] == {"0": pytest.approx(0.4), "1": pytest.approx(0.7)}
    assert (told["cases"], told["poor"], told["warned"], told["warned_and_poor"]) == (4, 2, 2, 1)
