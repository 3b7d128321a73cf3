"""What the loop trains: batches and losses of the baseline and of the refiner."""

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch
from scipy.optimize import linprog
from torch import Tensor

from rediffinet.errors import ConfigError
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.data import TrainingCase
from rediffinet.training.objectives import BaselineObjective, RefinerObjective

STILL = {"flip_axes": [], "affine": 0.0, "gamma": 0.0, "gain": 0.0, "noise": 0.0}


def unet_config(**changes: object) -> TrainConfig:
    unet = {"features": (4, 8), "window": (16, 16, 16), "stem_stride": 1}
    return resolve_config("unet", changes={"unet": unet, "batch": 2, **changes})


def refiner_config(refiner: dict | None = None, **changes: object) -> TrainConfig:
    small = {"features": (4, 8), "head_features": 4, "time_features": 8, "window": (16, 16, 16), **(refiner or {})}
    return resolve_config("rediffinet", changes={"refiner": small, "batch": 2, **changes})


@pytest.fixture
def baseline_task(cases: list) -> BaselineObjective:
    return BaselineObjective(unet_config(), cases)


@pytest.fixture
def refiner_task(cases: list, predictions: list) -> RefinerObjective:
    return RefinerObjective(refiner_config(), cases, predictions)


def alpha_bar(t: int) -> float:
    return math.prod(1.0 - (1e-4 + (0.02 - 1e-4) * s / 999) for s in range(t + 1))


def equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["baseline_task", "refiner_task"])
def test_batches_depend_on_seed_and_step_alone(name: str, request: pytest.FixtureRequest) -> None:
    task = request.getfixturevalue(name)
    first, second = task.batch(0), task.batch(1)
    torch.manual_seed(99)
    np.random.seed(99)
    again = type(task)(task.config, task.cases, *([task.predictions] if name == "refiner_task" else []))
    assert equal(again.batch(1), second) and equal(again.batch(0), first)
    assert not equal(first, second)
    assert not torch.equal(first[0][0], first[0][1])
    reseeded = task.config.model_copy(update={"seed": 1})
    other = type(task)(reseeded, task.cases, *([task.predictions] if name == "refiner_task" else []))
    assert not equal(other.batch(0), first)


def test_baseline_batch_is_image_and_regions(baseline_task: BaselineObjective) -> None:
    image, regions = baseline_task.batch(3)
    assert image.shape == (2, 4, 16, 16, 16) and regions.shape == (2, 3, 16, 16, 16)
    assert image.dtype == regions.dtype == torch.float32
    assert image.min() >= -1.0 and image.max() <= 1.0
    assert set(torch.unique(regions).tolist()) <= {0.0, 1.0}
    # ET ⊂ TC ⊂ WT
    assert (regions[:, 2] <= regions[:, 1]).all() and (regions[:, 1] <= regions[:, 0]).all()


def test_baseline_windows_hold_tumour_in_the_asked_share(cases: list) -> None:
    small = {"features": (4, 8), "window": (4, 4, 4), "stem_stride": 1}

    def share(fraction: float) -> float:
        task = BaselineObjective(unet_config(unet=small, tumour_fraction=fraction, augmentation=STILL, batch=1), cases)
        return float(np.mean([bool(task.batch(step)[1].any()) for step in range(60)]))

    assert share(1.0) == 1.0
    assert share(0.0) < 0.8


def test_baseline_image_and_regions_stay_aligned_through_all_augmentation(cases: list) -> None:
    marked = []
    for case in cases:
        image = np.where(case.regions[0], 0.8, -0.8).astype(np.float16)[None].repeat(4, 0)
        marked.append(TrainingCase(case.name, case.patient, image, case.regions))
    rule = {"flip_axes": [0, 1, 2], "affine": 1.0, "gamma": 0.0, "gain": 0.0, "noise": 0.0}
    task = BaselineObjective(unet_config(augmentation=rule), marked)
    for step in range(10):
        image, regions = task.batch(step)
        bright = image[:, 0] > 0.0
        assert (bright == (regions[:, 0] > 0.5)).float().mean() > 0.97


def test_both_cases_are_drawn(cases: list) -> None:
    only = [TrainingCase(c.name, c.patient, np.full_like(c.image, 0.25 * i), c.regions) for i, c in enumerate(cases)]
    task = BaselineObjective(unet_config(augmentation=STILL, unet={"window": (16, 16, 16), "features": (4, 8)}), only)
    values = {float(image.max()) for step in range(10) for image in task.batch(step)[0]}
    assert values == {0.0, 0.25}


def test_background_that_float16_rounds_is_still_background(cases: list) -> None:
    recipe = {"background": -1.1}
    padded = []
    for case in cases:
        image = case.image.copy()
        image[image == -1.0] = np.float16(-1.1)
        padded.append(TrainingCase(case.name, case.patient, image, case.regions))
    rule = {**STILL, "gamma": 1.0, "gain": 1.0, "noise": 1.0}
    task = BaselineObjective(unet_config(normalisation=recipe, augmentation=rule), padded)
    images = torch.cat([task.batch(step)[0] for step in range(6)])
    outside = images < -1.0
    assert outside.any() and torch.unique(images[outside]).tolist() == [float(np.float16(-1.1))]


def test_refiner_batch_is_condition_discrepancy_noisy_and_time(refiner_task: RefinerObjective) -> None:
    condition, delta, x_t, t = refiner_task.batch(2)
    assert condition.shape == (2, 7, 16, 16, 16)
    assert delta.shape == x_t.shape == (2, 3, 16, 16, 16)
    assert t.shape == (2,) and ((t >= 0) & (t <= 999)).all() and (t == t.round()).all()
    assert {part.dtype for part in (condition, delta, x_t, t)} == {torch.float32}
    assert condition.min() >= -1.0 and condition.max() <= 1.0
    assert set(torch.unique(delta).tolist()) <= {0.0, 1.0}


def visible_regions(cases: list) -> list:
    """Cases whose first three contrasts show the regions WT, TC, ET as ±1, so that a window tells its own truth."""
    made = []
    for case in cases:
        image = np.concatenate([2.0 * case.regions - 1.0, np.full_like(case.image[:1], 0.5)]).astype(np.float16)
        made.append(TrainingCase(case.name, case.patient, image, case.regions))
    return made


@pytest.mark.parametrize("jitter", [0.0, 1.0])
@pytest.mark.parametrize("soft", [True, False])
def test_discrepancy_is_what_the_conditions_mask_gets_wrong(
    cases: list, predictions: list, jitter: float, soft: bool
) -> None:
    rule = {**STILL, "flip_axes": [0, 1, 2]}
    config = refiner_config({"soft_condition": soft}, logit_jitter=jitter, augmentation=rule)
    hesitant = [0.4 + 0.2 * prediction for prediction in predictions]  # so that the jitter turns some of them
    task = RefinerObjective(config, visible_regions(cases), hesitant)
    wrong = 0.0
    for step in range(8):
        condition, delta, _, _ = task.batch(step)
        prior, truth = condition[:, :3], (condition[:, 3:6] > 0).float()
        mask = (prior > 0).float()
        assert torch.equal(delta, (mask != truth).float())
        assert soft or set(torch.unique(prior).tolist()) <= {-1.0, 1.0}
        assert set(torch.unique(condition[:, 6]).tolist()) <= {0.5, -1.0}  # the fourth contrast, or padding
        wrong += float(delta.sum())
    assert wrong > 0


def test_jitter_moves_the_probabilities_and_without_it_they_are_the_baselines(cases: list, predictions: list) -> None:
    levels = [np.full_like(prediction, 0.25) for prediction in predictions]
    plain = RefinerObjective(refiner_config(logit_jitter=0.0, augmentation=STILL), cases, levels)
    moved = RefinerObjective(refiner_config(logit_jitter=1.0, augmentation=STILL), cases, levels)
    inside = lambda task, step: {round(float(c[0, 8, 8, 8]), 4) for c in task.batch(step)[0]}  # noqa: E731
    assert set.union(*(inside(plain, step) for step in range(4))) == {2 * 0.25 - 1}
    assert len(set.union(*(inside(moved, step) for step in range(4)))) > 4


def test_simulated_errors_are_a_prediction_that_is_empty_or_doubled_by_its_mirror_image(
    cases: list, predictions: list
) -> None:
    def drawn(share: float) -> list[tuple[Tensor, Tensor]]:
        config = refiner_config(logit_jitter=0.0, augmentation=STILL, simulated_errors=share)
        task = RefinerObjective(config, visible_regions(cases), predictions)
        batches = [task.batch(step) for step in range(12)]
        return [(c, d) for conditions, deltas, *_ in batches for c, d in zip(conditions, deltas, strict=True)]

    empty = doubled = 0
    for (plain, _), (changed, delta) in zip(drawn(0.0), drawn(1.0), strict=True):
        was, now = plain[:3] > 0, changed[:3] > 0
        truth = changed[3:6] > 0
        assert torch.equal(plain[3:], changed[3:]), "only the prediction changes"
        assert torch.equal(delta > 0, now != truth), "Δ follows the prediction that is shown"
        if not now.any() and was.any():
            empty += 1
        else:
            assert torch.equal(now, was | was.flip(1))
            doubled += 1
    assert empty and doubled


def test_a_lost_part_is_all_that_lies_beyond_a_plane_through_the_tumour(cases: list, predictions: list) -> None:
    def drawn(share: float) -> list[tuple[Tensor, Tensor]]:
        config = refiner_config({"window": (24, 32, 24)}, logit_jitter=0.0, augmentation=STILL, lost_parts=share)
        task = RefinerObjective(config, cases, predictions)
        return [(task.batch(step)[0][0, :3], task.batch(step)[1][0]) for step in range(8)]

    kept_shares = []
    for (plain, was), (cut, now) in zip(drawn(0.0), drawn(1.0), strict=True):
        gone = (cut == -1.0) & (plain > -1.0)
        assert torch.equal(cut[~gone], plain[~gone]), "what is not lost stays"
        assert torch.equal((plain > 0) ^ (was > 0.5), (cut > 0) ^ (now > 0.5)), "the truth stays"
        tumour = plain[0] > 0
        kept_shares.append(float((tumour & ~gone[0]).sum() / tumour.sum()))
        inside, outside = (torch.nonzero(part).numpy() for part in (tumour & ~gone[0], tumour & gone[0]))
        assert len(outside) and _a_plane_parts(inside, outside)
    assert min(kept_shares) < 0.5 < max(kept_shares)


def test_a_false_part_is_what_was_found_in_another_case_on_either_side(cases: list, predictions: list) -> None:
    def drawn(share: float) -> list[tuple[Tensor, Tensor]]:
        config = refiner_config({"window": (24, 32, 24)}, logit_jitter=0.0, augmentation=STILL, false_parts=share)
        task = RefinerObjective(config, cases, predictions)
        return [(task.batch(step)[0][0], task.batch(step)[1][0]) for step in range(12)]

    grown = 0
    for (plain, was), (more, now) in zip(drawn(0.0), drawn(1.0), strict=True):
        assert torch.equal(plain[3:], more[3:]), "the images stay"
        assert torch.equal((plain[:3] > 0) ^ (was > 0.5), (more[:3] > 0) ^ (now > 0.5)), "the truth stays"
        assert bool((more[:3] >= plain[:3]).all()), "nothing that was found is lost"
        added = (more[:3] > plain[:3]).any(0)
        brain = (plain[3:7] != plain[3:7, 0, 0, 0][:, None, None, None]).any(0)
        assert not bool((added & ~brain).any())
        grown += int(added.any())
    assert grown > 6


def _a_plane_parts(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the linear programme of a plane between two sets of points can be solved."""
    sides = np.concatenate([np.c_[one, np.ones(len(one))], -np.c_[other, np.ones(len(other))]])
    return bool(linprog(np.zeros(4), A_ub=sides, b_ub=-np.ones(len(sides)), bounds=[(None, None)] * 4).success)


def test_transplanted_tumours_bring_the_baselines_errors_along(cases: list, predictions: list) -> None:
    """Whatever is transplanted, the discrepancy is still what the mask gets wrong, and both occur together."""
    rule = {**STILL, "transplant": 1.0}
    two = [
        TrainingCase(cases[0].name, cases[0].patient, cases[0].image, np.roll(cases[0].regions, 4, axis=2)),
        cases[1],
    ]
    moved = [np.roll(predictions[0], 4, axis=2), predictions[1]]
    window = {"window": (24, 32, 24)}
    task = RefinerObjective(refiner_config(window, logit_jitter=0.0, augmentation=rule, batch=1), two, moved)
    volumes = set()
    for step in range(12):
        condition, x0, *_ = task.batch(step)
        regions = ((condition[0, :3] > 0).float() - x0[0]).abs()
        assert set(torch.unique(regions).tolist()) <= {0.0, 1.0}
        assert (regions[2] <= regions[1]).all() and (regions[1] <= regions[0]).all()
        volumes.add(int(regions[0].sum()))
    assert max(volumes) > max(int(case.regions[0].sum()) for case in cases), "two tumours in one brain"
    still = BaselineObjective(unet_config(augmentation={**STILL, "transplant": 0.0}), cases)
    assert equal(still.batch(0), BaselineObjective(unet_config(augmentation=STILL), cases).batch(0))


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_noisy_discrepancy_has_the_mean_and_variance_of_the_forward_process(
    cases: list, predictions: list, scale: float
) -> None:
    task = RefinerObjective(refiner_config({"signal_scale": scale}, noisiest_fraction=0.0), cases, predictions)
    residuals = []
    for step in range(20):
        _, delta, x_t, t = task.batch(step)
        for d, x, time in zip(delta, x_t, t, strict=True):
            ab = alpha_bar(int(time))
            noise = (x - math.sqrt(ab) * scale * (2.0 * d - 1.0)) / math.sqrt(1.0 - ab)
            assert abs(float(noise.mean())) < 0.05 and abs(float(noise.var()) - 1.0) < 0.06
            for value in (0.0, 1.0):
                if (d == value).sum() > 300:  # the same on both sides of the mask
                    assert abs(float(noise[d == value].mean())) < 0.25
            residuals.append(noise)
    stacked = torch.stack(residuals)
    assert abs(float(stacked.mean())) < 0.01 and abs(float(stacked.var()) - 1.0) < 0.01


def test_the_noisiest_step_is_drawn_in_its_share(cases: list, predictions: list) -> None:
    def times(fraction: float) -> np.ndarray:
        config = refiner_config({"window": (4, 4, 4)}, noisiest_fraction=fraction, batch=1, augmentation=STILL)
        task = RefinerObjective(config, cases, predictions)
        return np.array([float(task.batch(step)[3][0]) for step in range(200)])

    assert (times(1.0) == 999).all()
    assert 0.4 < (times(0.5) == 999).mean() < 0.6
    uniform = times(0.0)
    assert (uniform == 999).mean() < 0.03 and 420 < uniform.mean() < 580 and uniform.min() < 50


def test_windows_are_centred_on_errors_or_tumour_as_asked(cases: list, predictions: list) -> None:
    def share(**fractions: float) -> tuple[float, float]:
        config = refiner_config({"window": (4, 4, 4)}, augmentation=STILL, logit_jitter=0.0, batch=1, **fractions)
        task = RefinerObjective(config, visible_regions(cases), predictions)
        batches = [task.batch(step) for step in range(80)]
        wrong = [bool(delta.any()) for _, delta, _, _ in batches]
        tumour = [bool((c[:, 0] > 2 * 0.1 - 1).any() or (c[:, 3] > 0).any()) for c, *_ in batches]
        return float(np.mean(wrong)), float(np.mean(tumour))

    assert share(error_fraction=1.0)[0] == 1.0
    assert share(error_fraction=0.0, tumour_fraction=1.0)[1] == 1.0
    assert share(error_fraction=0.0, tumour_fraction=0.0)[1] < 0.9


def test_a_baseline_without_errors_still_gives_windows(cases: list) -> None:
    perfect = [case.regions.astype(np.float16) for case in cases]
    task = RefinerObjective(refiner_config(error_fraction=1.0, logit_jitter=0.0), cases, perfect)
    assert not task.batch(0)[1].any()


@pytest.mark.parametrize("name", ["baseline_task", "refiner_task"])
@pytest.mark.parametrize("autocast", [True, False])
def test_loss_is_a_scalar_that_reaches_every_weight(name: str, autocast: bool, request: pytest.FixtureRequest) -> None:
    task = request.getfixturevalue(name)
    task.config = task.config.model_copy(update={"autocast": autocast})
    model = task.build().train()
    loss = task.loss(model, task.batch(0))
    assert loss.shape == () and loss.dtype == torch.float32 and math.isfinite(loss.item())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_refiner_loss_is_smallest_for_the_true_discrepancy(refiner_task: RefinerObjective) -> None:
    batch = refiner_task.batch(1)
    answer = lambda sign: lambda x_t, condition, t: sign * 20.0 * (2.0 * batch[1] - 1.0)  # noqa: E731
    right = refiner_task.loss(answer(1.0), batch)  # type: ignore[arg-type]
    wrong = refiner_task.loss(answer(-1.0), batch)  # type: ignore[arg-type]
    assert float(right) < 0.01 < 2.0 < float(wrong)


@pytest.mark.parametrize("model", ["unet", "rediffinet"])
def test_the_first_steps_are_on_the_crop(model: str, cases: list, predictions: list) -> None:
    make, given = {"unet": (unet_config, ()), "rediffinet": (refiner_config, (predictions,))}[model]
    task = {"unet": BaselineObjective, "rediffinet": RefinerObjective}[model](
        make(crop=(8, 12, 8), crop_steps=2), cases, *given
    )
    shapes = [[tuple(part.shape[2:]) for part in task.batch(step) if part.ndim == 5] for step in range(4)]
    assert [set(shape) for shape in shapes] == [{(8, 12, 8)}] * 2 + [{(16, 16, 16)}] * 2
    plain = type(task)(make(), cases, *given)
    assert equal(plain.batch(3), task.batch(3))  # a step does not depend on those before it
    task.loss(task.build(), task.batch(0)).backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": (9, 8, 8), "crop_steps": 2}, "crop: got .*multiples of 2"),
        ({"crop": (2, 2, 2), "crop_steps": 2}, "crop: got .*single voxel"),
        ({"crop": (8, 8, 8)}, "both or neither"),
        ({"crop_steps": 2}, "both or neither"),
    ],
)
def test_crops_that_do_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unet_config(**changes)
