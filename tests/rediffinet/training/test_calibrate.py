"""Thresholds of the flip, chosen on other folds."""

import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")

from rediffinet.errors import TrainingError
from rediffinet.training.calibrate import (
    NEVER,
    Enhancing,
    check_model,
    choose_thresholds,
    choose_unsure_enhancement,
    choose_whole_components,
    without,
)

REGIONS = ("WT", "TC", "ET")


def rows(*scores: tuple[int, str, float, float, float]) -> list[dict[str, str]]:
    """(fold, region, Dice, surface Dice at 1 mm, HD95)."""
    columns = ("fold", "region", "dice", "surface_dice_1mm", "hd95_mm")
    return [dict(zip(columns, map(str, row), strict=True)) for row in scores]


def everywhere(dice: float, surface: float, hd95: float, folds: tuple[int, ...] = (0,)) -> list[dict[str, str]]:
    return rows(*((fold, region, dice, surface, hd95) for fold in folds for region in REGIONS))


def test_most_gain_whose_dice_is_not_lower() -> None:
    baseline = everywhere(0.8, 0.5, 10.0)
    swept = {
        0.3: everywhere(0.7, 0.9, 4.0),
        0.5: everywhere(0.8, 0.7, 6.0),
        0.7: everywhere(0.85, 0.6, 7.0),
    }
    assert choose_thresholds({**swept, NEVER: baseline}, REGIONS) == (0.5, 0.5, 0.5)


def test_not_at_the_edge_where_dice_is_just_not_lower() -> None:
    swept = {0.3: everywhere(0.8, 0.6, 5.9), 0.5: everywhere(0.85, 0.6, 6.0)}
    assert choose_thresholds({**swept, NEVER: everywhere(0.8, 0.5, 10.0)}, REGIONS) == (0.5, 0.5, 0.5)
    # of a region that the baseline never finds, the distance alone tells
    found = {0.5: everywhere(0.1, 0.1, 6.0), NEVER: everywhere(0.0, 0.0, 10.0)}
    assert choose_thresholds(found, REGIONS) == (0.5, 0.5, 0.5)


def test_the_farthest_piece_has_no_veto() -> None:
    swept = {0.5: everywhere(0.81, 0.6, 10.5), NEVER: everywhere(0.8, 0.5, 10.0)}
    assert choose_thresholds(swept, REGIONS) == (0.5, 0.5, 0.5)
    swept = {0.5: everywhere(0.81, 0.51, 20.0), NEVER: everywhere(0.8, 0.5, 10.0)}  # costs more than it brings
    assert choose_thresholds(swept, REGIONS) == (NEVER, NEVER, NEVER)


def test_never_where_nothing_helps() -> None:
    baseline = everywhere(0.8, 0.5, 10.0)
    swept = {0.5: everywhere(0.9, 0.5, 1.0), 0.7: everywhere(0.7, 0.9, 1.0)}
    assert choose_thresholds({**swept, NEVER: baseline}, REGIONS) == (NEVER, NEVER, NEVER)


def test_one_threshold_for_all_regions_that_it_helps_on_the_whole() -> None:
    baseline = rows((0, "WT", 0.8, 0.5, 10.0), (0, "TC", 0.8, 0.5, 20.0), (0, "ET", 0.8, 0.5, 50.0))
    swept = {
        # gains: 0.2 + 0.1 and 0.2 + 0.1, nothing from ET
        0.5: rows((0, "WT", 0.8, 0.6, 9.0), (0, "TC", 0.8, 0.6, 18.0), (0, "ET", 0.1, 0.9, 1.0)),
        # 0.4 + 0.4, nothing from TC and ET
        0.7: rows((0, "WT", 0.8, 0.7, 6.0), (0, "TC", 0.9, 0.4, 10.0), (0, "ET", 0.8, 0.5, 50.0)),
        # 0.02 + 0.01 and 0.02 + 0.005 and 0.02 + 0.18, most millimetres
        0.9: rows((0, "WT", 0.8, 0.51, 9.9), (0, "TC", 0.8, 0.51, 19.9), (0, "ET", 0.8, 0.51, 41.0)),
    }
    assert choose_thresholds({**swept, NEVER: baseline}, REGIONS) == (0.7, NEVER, NEVER)
    del swept[0.7]
    assert choose_thresholds({**swept, NEVER: baseline}, REGIONS) == (0.5, 0.5, NEVER)


def test_a_fold_has_no_say_in_its_own_threshold() -> None:
    # 0.5 is splendid on fold 0 and harmful on fold 1, 0.7 a little better than nothing on both
    baseline = everywhere(0.8, 0.5, 10.0, (0, 1))
    swept = {
        0.5: everywhere(0.9, 0.6, 1.0, (0,)) + everywhere(0.5, 0.2, 30.0, (1,)),
        0.7: everywhere(0.81, 0.51, 9.0, (0, 1)),
    }
    swept[NEVER] = baseline
    for fold, chosen in ((0, 0.7), (1, 0.5)):
        assert choose_thresholds(without(swept, fold), REGIONS) == (chosen,) * 3
    assert without(swept, None) == swept


def test_the_doubt_of_a_component_is_the_middle_of_the_best() -> None:
    baseline = everywhere(0.8, 0.5, 10.0)
    better, worse = everywhere(0.81, 0.5, 8.0), everywhere(0.7, 0.5, 12.0)
    for swept, limit in (
        ({0.1: worse, 0.15: better, 0.2: better, 0.3: better, 0.5: baseline}, 0.2),
        ({0.1: better, 0.15: baseline}, 0.1),
        ({0.1: worse, 0.2: everywhere(0.75, 0.5, 10.0)}, NEVER),
        # nothing to tell them apart by: the middle too, of those that flip at all
        ({0.1: baseline, 0.2: baseline, 0.3: baseline}, 0.2),
    ):
        assert choose_whole_components({**swept, NEVER: baseline}, REGIONS) == limit


@pytest.mark.parametrize(
    ("cases", "limit"),
    [
        ([(0.95, 0.9, False), (0.9, 0.8, False)], 0.0),  # nothing to win
        ([(0.96, 0.9, False), (0.72, 0.0, True)], 0.84),  # an invented one goes: the limit is midway to the true one
        ([(0.96, 0.9, False), (0.72, 0.0, True), (0.80, 0.0, False)], 0.76),  # one missed anyhow does not matter
        ([(0.72, 0.0, True), (0.70, 0.6, False)], 0.86),  # worth 0.4 more than the true one that goes with it
        ([(0.72, 0.0, True), (0.70, 0.6, False), (0.68, 0.5, False)], 0.0),
        ([(0.72, 0.0, True), (0.76, 0.5, False), (0.80, 0.0, True)], 0.9),
        ([(1.0, 1.0, True)], 0.0),
    ],
)
def test_how_sure_enhancing_tumour_must_be(cases: list[tuple[float, float, bool]], limit: float) -> None:
    assert choose_unsure_enhancement([Enhancing(0, *case) for case in cases]) == pytest.approx(limit)


@pytest.mark.parametrize("model", ["unet", "diff-unet"])
def test_models_that_flip_nothing(model: str) -> None:
    with pytest.raises(TrainingError, match=f"'{model}' changes no baseline"):
        check_model(model)
