"""Refiners that learn in small windows: what is cut, what priors are shown, what a step depends on."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from rediffinet.errors import ConfigError
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.data import TrainingCase
from rediffinet.training.loop import advance
from rediffinet.training.objectives import make_objective
from rediffinet.training.out_of_fold import Prior
from rediffinet.training.state import new_state
from rediffinet.training.windows import WindowBatches

CPU = torch.device("cpu")
WINDOW = 16
PLAIN = (
    "windows.quarter_turns=false",
    "windows.resized=0",
    "windows.hardened=0",
    "windows.averages=0",
    "windows.given=0",
    *("logit_jitter=0", "simulated_errors=0", "lost_parts=0", "false_parts=0"),
    *("augmentation.flip_axes=[]", "augmentation.affine=0", "augmentation.gamma=0", "augmentation.gain=0"),
    *("augmentation.noise=0", "augmentation.bias_field=0", "augmentation.blur=0", "augmentation.drop_contrast=0"),
)


def config(*settings: str, model: str = "discrepancy-unet") -> TrainConfig:
    section = "refiner" if model == "rediffinet" else "unet"
    small = (f"{section}.features=4,8", f"{section}.window={WINDOW},{WINDOW},{WINDOW}", "batch=3", "steps=2")
    head = ("refiner.head_features=4",) if model == "rediffinet" else ()
    return resolve_config(model, "glioma-2mm-windows", {"folds": 2}, (*small, *head, "device=cpu", *settings))


@pytest.fixture
def case() -> TrainingCase:
    """A ball of tumour in a ball of brain; every voxel of the brain has its own values."""
    rng = np.random.default_rng(3)
    shape = (26, 30, 24)
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    far = np.sqrt(((at - np.array(shape)[:, None, None, None] / 2) ** 2).sum(0))
    image = rng.uniform(-3.0, 3.0, (4, *shape)).astype(np.float16)
    image[:, far > 11] = 0.0
    return TrainingCase("P", "P", image, np.stack([far < 7, far < 5, far < 3]))


def prior_of(case: TrainingCase, shift: int = 1) -> np.ndarray:
    """The regions moved by a voxel, not quite sure."""
    return (0.1 + 0.8 * np.roll(case.regions, shift, axis=1)).astype(np.float16)


def test_a_window_without_changes_is_a_piece_of_the_case(case: TrainingCase) -> None:
    batches = WindowBatches(config(*PLAIN), [case], [[Prior(prior_of(case))]], CPU)
    image, regions, prior = (part[0].numpy() for part in batches.draw(0, [2]))
    pad = WINDOW
    truth = np.pad(case.image.astype(np.float32), [(0, 0), *[(pad, pad)] * 3])
    places = sliding_window_view(truth[0], image.shape[1:])
    found = np.argwhere(np.abs(places - image[0]).max(axis=(3, 4, 5)) < 2e-3)
    assert len(found) == 1, "one place alone looks like this"
    where = (slice(None), *(slice(int(start), int(start) + WINDOW) for start in found[0]))
    np.testing.assert_allclose(image, truth[where], atol=2e-3)
    np.testing.assert_array_equal(regions > 0.5, np.pad(case.regions, [(0, 0), *[(pad, pad)] * 3])[where])
    wide = np.pad(prior_of(case).astype(np.float32), [(0, 0), *[(pad, pad)] * 3])
    np.testing.assert_allclose(prior, np.clip(wide[where], 1e-4, None), atol=2e-3)


@pytest.mark.parametrize("model", ["discrepancy-unet", "rediffinet"])
def test_an_example_depends_on_seed_step_and_slot_alone(case: TrainingCase, model: str) -> None:
    priors = [[Prior(prior_of(case)), Prior(prior_of(case, 2)), Prior(prior_of(case), missing=1)]]
    objective = make_objective(config("false_parts=0", model=model), [case], priors=priors)
    together, alone = objective.batch(5, [0, 1, 2]), objective.batch(5, [1])
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:2], one)
    assert not torch.equal(objective.batch(6, [1])[0], alone[0])


def test_a_missing_contrast_comes_with_the_prior_that_did_not_see_it(case: TrainingCase) -> None:
    lacking = np.full_like(prior_of(case), 0.25)
    settings = config(*PLAIN[:-1], "augmentation.drop_contrast=1")
    batches = WindowBatches(settings, [case], [[Prior(prior_of(case)), Prior(lacking, missing=2)]], CPU)
    image, _, prior = batches.draw(0, [0, 1, 2, 3])
    assert not image[:, 2].any() and all(image[:, other].any() for other in (0, 1, 3))
    inside = prior[prior > 0.01]
    torch.testing.assert_close(inside[inside > 0.24], torch.full_like(inside[inside > 0.24], 0.25), atol=2e-3, rtol=0)


@pytest.mark.parametrize("model", ["discrepancy-unet", "rediffinet"])
def test_an_untrained_network_flips_nothing_and_a_step_changes_it(case: TrainingCase, model: str) -> None:
    objective = make_objective(config(model=model), [case], priors=[[Prior(prior_of(case))]])
    state = new_state(objective)
    batch = objective.batch(0)
    arguments = (batch[0],) if model == "discrepancy-unet" else (batch[2], batch[0], batch[3])
    with torch.no_grad():
        assert float(torch.sigmoid(state.model(*arguments)).max()) <= 0.5
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    assert np.isfinite(advance(objective, state, [batch]))
    assert any(not torch.equal(before[name], value) for name, value in state.model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("unet.residual=null",), "residual=discrepancy"),
        (("unet.window=16,16,24",), "cube"),
        (("windows.errors=0.9", "windows.boundary=0.9"), "add up to"),
    ],
)
def test_settings_that_do_not_go_together(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(*settings)


def test_windows_are_for_models_that_refine() -> None:
    with pytest.raises(ConfigError, match="windows"):
        resolve_config("unet", "glioma-2mm-windows", {}, ("windows.errors=0.5",))
