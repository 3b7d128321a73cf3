"""Runs in memory against the networks called by hand, and which runs make a model."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="runs hold torch networks (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch
from pydantic import ValidationError

from rediffinet.engines.base import GraphSpec
from rediffinet.errors import ConfigError, EngineError, ExportError, TrainingError
from rediffinet.method.inference import infer, plan_sampling
from rediffinet.method.models import MODELS
from rediffinet.method.noise import window_noise
from rediffinet.method.normalise import Normalisation
from rediffinet.method.schedule import cumulative_alphas, linear_betas
from rediffinet.training import train as train_module
from rediffinet.training.config import applies, resolve_config
from rediffinet.training.memory import ModuleEngine, open_in_memory
from rediffinet.training.objectives import make_objective
from rediffinet.training.recipe import InferenceSettings, pair_runs, plain_decision, provenance, recipe_of
from rediffinet.training.run import Averaged, Provenance, Run, merge_runs

WINDOW = (16, 16, 24)
SIZES = {
    "unet": {"features": (4, 8), "window": WINDOW, "stem_stride": 1},
    "refiner": {"features": (4, 8), "head_features": 6, "time_features": 16, "window": WINDOW, "signal_scale": 0.4},
}
ALPHA_BAR = cumulative_alphas(linear_betas())


def make_run(model: str, seed: int = 0, **changes: Any) -> Run:
    """An untrained run."""
    torch.manual_seed(seed)
    given = {**SIZES, **changes}
    config = resolve_config(model, changes={key: given[key] for key in given if applies(MODELS[model], key)})
    net = make_objective(config, []).build().eval()
    provenance = Provenance(trained_on=("BraTS-GLI-00001-000",), held_out=(), folds=5, fold=None)
    return Run(Path(f"runs/{model}"), config, net, provenance, 2, "ab" * 32)


def runs_of(model: str, **changes: Any) -> tuple[Run, Run | None]:
    return make_run(model, **changes), make_run("unet", 1, **changes) if MODELS[model].refines else None


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 1, (4, *WINDOW)).astype(np.float32)


def by_hand(run: Run, condition: np.ndarray, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """x̂0 of the one window at the origin: mean and deviation of two samples of two DDIM steps, in plain torch.

    The second sample is drawn in the mirrored window.
    """
    given = torch.from_numpy(condition.astype(np.float32))[None]
    with torch.inference_mode():
        if run.config.model == "discrepancy-unet":
            return torch.sigmoid(run.model(given))[0].numpy(), np.zeros((3, *WINDOW))
        scale, found = run.config.refiner.signal_scale, []
        for k in range(2):
            turned = [2] if k == 1 else []
            x_t = torch.from_numpy(window_noise(seed, name, (0, 0, 0), k, (3, *WINDOW)))[None].flip(turned)
            for t, after in ((999, 499), (499, None)):
                x0 = torch.sigmoid(run.model(x_t, given.flip(turned), torch.tensor([float(t)])))
                signal = scale * (2 * x0 - 1)
                a, a_next = ALPHA_BAR[t], 1.0 if after is None else ALPHA_BAR[after]
                noise = (x_t - math.sqrt(a) * signal) / math.sqrt(1 - a)
                x_t = (math.sqrt(a_next) * signal + math.sqrt(1 - a_next) * noise).float()
            found.append(x0.flip(turned)[0].numpy())
    return np.mean(found, axis=0), np.std(found, axis=0)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_a_run_in_memory_is_the_network_called_by_hand(model: str, soft: bool, image: np.ndarray) -> None:
    kind = MODELS[model]
    sizes = {part: {**values, "soft_condition": soft} for part, values in SIZES.items()}
    run, baseline = runs_of(model, **sizes, mirror=True)
    loaded = open_in_memory(run, baseline, InferenceSettings(steps=2, samples=2))
    inferred = infer(loaded, image, plan_sampling(loaded.recipe, seed=7), "X", everywhere=True)
    probability, mask = np.zeros((3, *WINDOW), np.float32), np.zeros((3, *WINDOW), bool)
    if kind.has_baseline:
        net = (baseline or run).model
        given = torch.from_numpy(image)[None]
        with torch.inference_mode():
            both = torch.sigmoid(net(given)), torch.sigmoid(net(given.flip(2))).flip(2)
        probability = ((both[0] + both[1]) / 2)[0].numpy()
        mask = probability > 0.5
        assert inferred.probability is not None
        assert np.allclose(inferred.probability, probability, atol=1e-6)
    else:
        assert inferred.probability is None
    if model == "unet":
        assert inferred.found is None
        return
    assert inferred.found is not None and inferred.found.sampled.all()
    signed = 2 * (probability if soft else mask.astype(np.float32)) - 1
    masked = (image + 1) * np.where(mask[0], 1, 0.2) - 1
    parts = {"prior": signed, "image": image, "masked": masked}
    mean, deviation = by_hand(run, np.concatenate([parts[part] for part in kind.condition]), 7, "X")
    expected = mean if kind.target == "discrepancy" else abs(mask - mean)
    assert np.allclose(inferred.found.delta, expected, atol=2e-5)
    assert np.allclose(inferred.found.disagreement, deviation.mean(axis=0), atol=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_the_tensors_are_those_of_the_networks(model: str) -> None:
    graphs = pair_runs(*runs_of(model)).graphs
    assert tuple(graph.name for graph in graphs) == MODELS[model].graphs
    for graph in graphs:
        given = {t.name: torch.rand([2 if size == "batch" else int(size) for size in t.shape]) for t in graph.inputs}
        with torch.inference_mode():
            results = graph.run(given)
        assert [tuple(result.shape) for result in results] == [(2, *t.shape[1:]) for t in graph.outputs]


@pytest.mark.parametrize("model", MODELS)
def test_the_recipe_follows_the_configuration(model: str) -> None:
    run, baseline = runs_of(model, spacing_mm=(2.0, 2.0, 2.0), overlap=0.4)
    decision = plain_decision(run.config.task, unsure_enhancement=0.3).changed(thresholds=(0.1, 0.2, 0.3))
    settings = InferenceSettings(steps=3, samples=5, decision=decision, overlap=0.6)
    recipe = recipe_of(pair_runs(run, baseline), settings)
    assert (recipe.model, recipe.task, recipe.spacing_mm) == (model, run.config.task, (2.0, 2.0, 2.0))
    assert recipe.decision is decision and recipe.decision.removing == (0.1, 0.2, 0.3)
    if recipe.baseline is not None:
        assert (recipe.baseline.window, recipe.baseline.overlap) == (WINDOW, 0.4)
    if recipe.refiner is not None:
        assert (recipe.refiner.window, recipe.refiner.overlap) == (WINDOW, 0.6)
        assert recipe.refiner.margin == 3
    if recipe.diffusion is not None:
        assert (recipe.diffusion.steps, recipe.diffusion.samples) == (3, 5)
        assert recipe.diffusion.signal_scale == 0.4


def test_where_the_weights_come_from_is_kept() -> None:
    run, baseline = runs_of("rediffinet")
    told = provenance(pair_runs(run, baseline))
    assert [told[role]["model"] for role in ("baseline", "refiner")] == ["unet", "rediffinet"]


def test_the_baseline_alone_is_a_model_given_as_either() -> None:
    unet = make_run("unet")
    for given in ((unet, None), (None, unet)):
        pair = pair_runs(*given)
        assert (pair.refiner, pair.baseline, pair.model) == (None, unet, "unet")


@pytest.mark.parametrize(
    ("run", "baseline", "said"),
    [
        (None, None, "No run was given"),
        ("rediffinet", None, "runs/rediffinet.*refines a baseline.*`baseline`"),
        ("discrepancy-unet", None, "runs/discrepancy-unet.*refines a baseline.*`baseline`"),
        ("diff-unet", "unet", "'diff-unet', which refines no baseline. Leave runs/unet out"),
        ("unet", "unet", "'unet', which refines no baseline"),
        ("rediffinet", "diff-unet", "runs/diff-unet is a run of 'diff-unet', expected one of 'unet'"),
    ],
)
def test_runs_that_make_no_model(run: str | None, baseline: str | None, said: str) -> None:
    with pytest.raises(ExportError, match=f"(?s){said}"):
        pair_runs(run and make_run(run), baseline and make_run(baseline))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"normalisation": Normalisation(upper_percentile=99.0)}, {"spacing_mm": (2.0, 2.0, 2.0)}]
)
def test_runs_that_do_not_fit_together(change: dict[str, Any]) -> None:
    run, baseline = runs_of("rediffinet")
    assert baseline is not None
    other = replace(baseline, config=baseline.config.model_copy(update=change))
    with pytest.raises(ExportError, match=next(iter(change))):
        pair_runs(run, other)


def test_more_steps_than_were_trained() -> None:
    with pytest.raises(ConfigError, match="got 1001, expected 1 to 1000"):
        open_in_memory(*runs_of("rediffinet"), InferenceSettings(steps=1001))


def test_the_engine_knows_its_modules_and_closes() -> None:
    loaded = open_in_memory(make_run("unet"))
    assert repr(loaded.engine).startswith("<modules ")
    spec = loaded.graphs["baseline"].spec
    with pytest.raises(EngineError, match="'denoiser'.*expected one of baseline"):
        loaded.engine.load(GraphSpec("denoiser", spec.path, spec.inputs, spec.outputs))
    with pytest.raises(EngineError, match="expected float32"):
        loaded.graphs["baseline"](image=np.zeros((1, 4, 8, 8, 8), np.float32))
    loaded.engine.close()
    with pytest.raises(EngineError, match="closed"):
        loaded.graphs["baseline"](image=np.zeros((1, 4, *WINDOW), np.float32))
    assert ModuleEngine([]).provider == "CPU"


def member(model: str, index: int, **changes: Any) -> Run:
    """An untrained run of a fold, with its own weights and cases."""
    run = make_run(model, index, fold=index, **changes)
    provenance = Provenance(
        trained_on=(f"case-{index}", "case-9"),
        held_out=(f"held-{index}",),
        folds=5,
        fold=None,
        intensities={"t1n": (0.1 - index, 0.2 + index)},
    )
    config = run.config.model_copy(update={"seed": index})
    return replace(run, config=config, provenance=provenance, sha256=f"{index}" * 64)


@pytest.mark.parametrize("model", ["rediffinet", "discrepancy-unet"])
def test_runs_of_all_folds_make_one_model(model: str, image: np.ndarray) -> None:
    members = [member(model, index) for index in range(2)]
    baselines = [member("unet", index) for index in range(2)]
    merged, baseline = merge_runs(members), merge_runs(baselines)
    assert (merged.members, merged.config.fold, merge_runs(members[:1])) == (2, None, members[0])
    loaded = open_in_memory(merged, baseline, InferenceSettings(samples=1))
    inferred = infer(loaded, image, plan_sampling(loaded.recipe, seed=7), "X", everywhere=True)
    given = torch.from_numpy(image)[None]
    with torch.inference_mode():
        probability = torch.sigmoid(sum(run.model(given) for run in baselines) / 2)
        condition = torch.cat([2 * probability - 1, given], dim=1)
        if model == "rediffinet":
            x_t = torch.from_numpy(window_noise(7, "X", (0, 0, 0), 0, (3, *WINDOW)))[None]
            condition_and_time = (condition, torch.tensor([999.0]))
            logits = sum(run.model(x_t, *condition_and_time) for run in members) / 2
        else:
            logits = sum(run.model(condition) for run in members) / 2
    assert inferred.probability is not None and inferred.found is not None
    assert np.allclose(inferred.probability, probability[0].numpy(), atol=1e-6)
    assert np.allclose(inferred.found.delta, torch.sigmoid(logits)[0].numpy(), atol=1e-5)
    told = provenance(pair_runs(merged, baseline))["refiner"]
    assert told["trained_on"] == ["case-0", "case-1", "case-9"] and told["held_out"] == []
    assert [(one["fold"], one["seed"], one["held_out"]) for one in told["members"]] == [
        (0, 0, ["held-0"]),
        (1, 1, ["held-1"]),
    ]
    assert loaded.recipe.trust.intensities == {"t1n": (-0.9, 1.2)}
    for graph in pair_runs(merged, baseline).graphs:
        arrays = {t.name: torch.rand([1 if size == "batch" else int(size) for size in t.shape]) for t in graph.inputs}
        with torch.inference_mode():
            results = graph.run(arrays)
        assert [tuple(result.shape) for result in results] == [(1, *t.shape[1:]) for t in graph.outputs]


def test_what_the_members_are_averages_of_is_told_of_each() -> None:
    def averaged(index: int) -> Run:
        run = member("unet", index)
        parts = (Averaged(checkpoint_sha256=str(index), steps=3),)
        return replace(run, provenance=run.provenance.model_copy(update={"averaged": parts}))

    provenance = merge_runs([averaged(0), averaged(1)]).provenance
    assert "averaged" not in provenance.to_dict()
    assert [one["averaged"][0]["checkpoint_sha256"] for one in provenance.to_dict()["members"]] == ["0", "1"]


def test_provenance_is_the_json_that_it_was_read_from() -> None:
    stored = {
        "trained_on": ["a", "b"],
        "held_out": ["c"],
        "folds": 4,
        "fold": None,
        "intensities": {"t1n p10": [-1.5, 0.25]},
        "baselines": [{"sha256": "ab", "fold": None}],
        "begun_with": {"sha256": "cd", "patients": ["a"]},
        "members": [{"checkpoint_sha256": "ef", "seed": 0, "fold": 1, "held_out": ["c"], "begun_with": "cd"}],
        "other_masks": True,  # what no version of this has a field for
    }
    assert Provenance.model_validate(stored).to_dict() == stored
    with pytest.raises(ValidationError, match="held_out"):
        Provenance.model_validate({**stored, "held_out": 3})


def test_runs_that_make_no_ensemble() -> None:
    with pytest.raises(TrainingError, match="runs/unet is given twice"):
        merge_runs([member("unet", 0), member("unet", 0)])
    other = member("unet", 1, steps=7, mirror=True)
    with pytest.raises(TrainingError, match="cannot be one ensemble: they differ in mirror, steps"):
        merge_runs([member("unet", 0), other])


def test_a_warm_start_takes_the_baseline_of_its_own_fold() -> None:
    sizes = {**SIZES["refiner"], "head_features": 4, "residual": "discrepancy"}
    config = make_run("rediffinet", fold=1, refiner=sizes, warm_start=True).config
    baselines = [member("unet", index) for index in range(2)]
    start = train_module._start(config, baselines)
    assert start is baselines[1].model
    net = make_objective(config, [], None, start).build()
    given = baselines[1].model.state_dict()["down.1.conv1.conv.weight"]
    assert torch.equal(net.state_dict()["denoiser.encoder.blocks.1.conv1.weight"], given)
    with pytest.raises(TrainingError, match="no `baseline` of fold 1"):
        train_module._start(config, baselines[:1])
    assert train_module._start(config.model_copy(update={"warm_start": False}), baselines) is None
