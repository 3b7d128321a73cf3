"""Refiners that learn in small windows: what is cut, what priors are shown, what a step depends on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import ValidationError

from rediffinet.errors import ConfigError
from rediffinet.export.bundle import export_bundle
from rediffinet.io.cases import load_case
from rediffinet.method.recipe import Recipe
from rediffinet.segmenter import Segmenter
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.data import TrainingCase, load_training_cases
from rediffinet.training.loop import advance
from rediffinet.training.objectives import make_objective
from rediffinet.training.out_of_fold import Prior, collect_priors, out_of_fold
from rediffinet.training.recipe import InferenceSettings, make_recipe
from rediffinet.training.run import open_run
from rediffinet.training.scoring import score_run
from rediffinet.training.state import new_state
from rediffinet.training.train import train
from rediffinet.training.windows import WindowBatches

pytestmark = pytest.mark.usefixtures("small_gate", "traced_once")

CPU = torch.device("cpu")
WINDOW = 16
TINY = (
    *("unet.features=4,8", "unet.window=16,16,16", "steps=1", "batch=1"),
    *("device=cpu", "compile=false", "autocast=false"),
)
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
    exact = ("device=cpu", "autocast=false")
    return resolve_config(model, "glioma-2mm-windows", {"folds": 2}, (*small, *head, *exact, *settings))


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
    middle = (WINDOW // 2,) * 3
    alike = np.argwhere(np.abs(places[(..., *middle)] - image[0][middle]) < 2e-3)
    found = [start for start in alike if np.abs(places[tuple(start)] - image[0]).max() < 2e-3]
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


@pytest.mark.slow
def test_priors_of_baselines_lacking_contrasts_and_other_programs(phantoms: Path, tmp_path: Path) -> None:
    baselines = []
    for fold in (0, 1):
        settings = resolve_config("unet", "glioma-2mm-windows", {"folds": 2, "fold": fold}, TINY)
        train(settings, [phantoms], tmp_path / f"u{fold}", cache=tmp_path / "cache")
        baselines.append(tmp_path / f"u{fold}")
    masks = tmp_path / "masks"
    masks.mkdir()
    folder = sorted(path for path in phantoms.iterdir() if path.is_dir())[0]
    truth = next(folder.glob("*seg*"))
    (masks / f"{folder.name}-other.nii.gz").write_bytes(truth.read_bytes())
    settings = resolve_config("unet", "glioma-2mm-windows", {"folds": 2}, TINY)
    cases = load_training_cases([phantoms], settings.preprocessing, cache=tmp_path / "cache")
    runs = [open_run(path) for path in baselines]
    priors = collect_priors(cases, runs, tmp_path / "priors", missing=True, masks=masks)
    for case, known in zip(cases, priors, strict=True):
        assert [prior.missing for prior in known if not prior.given] == [None, 0, 1, 2, 3]
        assert [prior.given for prior in known if prior.given] == ([True] if case.name == folder.name else [])
        assert all(prior.probability.shape == case.regions.shape for prior in known)
    given = next(prior for prior in priors[0] if prior.given)
    np.testing.assert_array_equal(given.probability >= 0.5, cases[0].regions)
    corrector = resolve_config("discrepancy-unet", "glioma-2mm-windows", {"folds": 2, "fold": 0}, TINY)
    path = train(corrector, [phantoms], tmp_path / "d", baselines=baselines, cache=tmp_path / "cache", masks=masks)
    assert path.is_file() and open_run(tmp_path / "d").step == 1


def test_a_corrector_of_smaller_voxels_than_its_baseline(phantoms: Path, tmp_path: Path) -> None:
    fine = (*TINY, "spacing_mm=1,1,1")
    as_elsewhere = (*TINY, "unet.deep_supervision=true")  # one trace with test_crossval.py
    baselines = []
    for fold in (0, 1):
        settings = resolve_config("unet", "glioma-2mm-windows", {"folds": 2, "fold": fold}, as_elsewhere)
        train(settings, [phantoms], tmp_path / f"u{fold}", cache=tmp_path / "cache")
        baselines.append(tmp_path / f"u{fold}")
    runs = [open_run(path) for path in baselines]
    corrector = resolve_config("discrepancy-unet", "glioma-2mm-windows", {"folds": 2, "fold": 0}, fine)
    coarse = load_training_cases([phantoms], runs[0].config.preprocessing, cache=tmp_path / "cache")
    cases = load_training_cases([phantoms], corrector.preprocessing, cache=tmp_path / "cache")
    priors = [prior.probability for (prior,) in collect_priors(cases, runs, tmp_path / "priors")]
    said = out_of_fold(coarse, runs, tmp_path / "priors")
    for prior, case, small, small_prior in zip(priors, cases, coarse, said, strict=True):
        assert prior.shape == case.regions.shape != small.regions.shape
        whole = tuple(slice(4, 2 * (width // 2) - 4) for width in prior.shape[1:])  # borders are continued, not known
        inner = prior[(slice(None), *whole)].astype(np.float32)
        blocks = inner.reshape(3, inner.shape[1] // 2, 2, inner.shape[2] // 2, 2, inner.shape[3] // 2, 2)
        same = small_prior[(slice(None), *(slice(2, 2 + n) for n in blocks.shape[1::2]))]
        assert np.abs(blocks.mean((2, 4, 6)) - same).mean() < 0.02

    train(corrector, [phantoms], tmp_path / "d", baselines=baselines, cache=tmp_path / "cache")
    run = open_run(tmp_path / "d")
    folder = tmp_path / "d" / "scored"
    score_run(run, runs[0], cases[:1], priors[:1], InferenceSettings(), folder)
    both = export_bundle(run, runs[0], tmp_path / "both")
    alone = export_bundle(runs[0], None, tmp_path / "alone")
    recipe = both.manifest.recipe
    assert recipe.spacing_mm == (2.0, 2.0, 2.0) and recipe.decided_mm == (1.0, 1.0, 1.0)
    case = load_case(cases[0].folder)
    with Segmenter.open(both.path, "onnxruntime") as segmenter, Segmenter.open(alone.path, "onnxruntime") as before:
        refined, plain = segmenter.segment(case), before.segment(case)
        assert refined.report.sampling.windows > 0
        np.testing.assert_array_equal(refined.baseline_labels, plain.labels)
        given = segmenter.segment(case, baseline=plain.labels)  # at the case's own voxels, with nothing interpolated
        np.testing.assert_array_equal(given.baseline_labels, plain.labels)


def test_a_model_without_a_baseline_has_one_voxel_size() -> None:
    made = make_recipe(resolve_config("diff-unet", "tiny-2mm", {}))
    assert made.refiner is not None
    with pytest.raises(ValidationError, match="refines no baseline"):
        Recipe.model_validate({**made.model_dump(), "refiner": {**made.refiner.model_dump(), "spacing_mm": (1, 1, 1)}})
