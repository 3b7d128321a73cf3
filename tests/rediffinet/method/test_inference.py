"""All seven models on toy graphs in closed form: what each is fed, and what becomes of its answer."""

from typing import Any

import numpy as np
import pytest

from rediffinet.bundle import open_bundle
from rediffinet.engines import open_engine
from rediffinet.errors import ConfigError
from rediffinet.io.cases import Case
from rediffinet.method.inference import Loaded, infer, plan_sampling
from rediffinet.method.models import MODELS
from rediffinet.method.normalise import brain_box, normalise
from rediffinet.segmenter import Segmenter, SegmentOptions
from rediffinet.task import TASKS, regions_of

WINDOW = (10, 8, 12)


@pytest.fixture(params=MODELS)
def toy(request: pytest.FixtureRequest, make_toy_bundle: Any) -> Any:
    """The toy bundle of each model. Its whole-tumour segmentation is the sign of the t2w image, where it predicts one.

    thresholds that are not 1/2 tell a threshold from its complement.
    """
    kind = MODELS[request.param]
    changes: dict[str, Any] = {"decision": {"thresholds": (0.4, 0.45, 0.6)}} if kind.condition else {}
    if kind.target == "segmentation" and kind.condition:
        contrast = [[-0.4, 0, 0, 0, 0, -1, 0], [0, -0.5, 0, 0, -1.1, 0, 0], [0, 0, -0.6, -0.6, -0.8, 0, 0]]
        changes["contrast"] = np.float32(contrast)
    return make_toy_bundle(model=request.param, **changes)


def condition_of(model: str, image: np.ndarray, prior: np.ndarray, tumour: np.ndarray) -> np.ndarray:
    """The table of the paper, in plain NumPy: background is −1, and 0 before normalisation."""
    signed = 2.0 * prior - 1.0
    masked = (image + 1.0) * np.where(tumour, 1.0, 0.2) - 1.0
    return {
        "discrepancy-unet": lambda: np.concatenate([signed, image]),
        "diff-unet": lambda: image,
        "ua-diffusion-mask-only": lambda: signed,
        "ua-diffusion-concat": lambda: np.concatenate([signed, image]),
        "ua-diffusion-masked": lambda: masked,
        "rediffinet": lambda: np.concatenate([signed, image]),
    }[model]()


def test_every_model_segments_as_its_formula_says(toy: Any, toy_case: Case) -> None:
    model = toy.manifest["recipe"]["model"]
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        result = segmenter.segment(toy_case, options=SegmentOptions(refine_everywhere=True))
    image = normalise(toy_case.images[(slice(None), *brain_box(toy_case.images))]).astype(np.float64)
    probability = toy.formula.probability(image)
    mask = probability > 0.5
    if model == "diff-unet":
        mask = np.zeros_like(mask)
    expected, refined = mask, probability
    if model != "unet":
        x0 = toy.formula.x0(condition_of(model, image, probability, mask[0]))
        wrong = x0 if model in ("rediffinet", "discrepancy-unet") else abs(mask - x0)
        at = np.array((0.4, 0.45, 0.6)).reshape(3, 1, 1, 1)
        assert abs(wrong - at).min() > 1e-6
        expected, refined = mask ^ (wrong > at), abs(mask - wrong)
        assert (expected != mask).any()
    wt, tc, et = expected
    assert np.array_equal(result.crop_labels, np.select([et, tc, wt], [3, 1, 2], 0))
    assert np.allclose(result.crop_probability, refined, atol=1e-4)
    if model == "diff-unet":
        assert result.crop_baseline is None and result.baseline_labels is None
    else:
        wt, tc, et = mask
        assert np.array_equal(result.crop_baseline, np.select([et, tc, wt], [3, 1, 2], 0))
    assert result.labels.any()


def test_the_report_says_what_there_was(toy: Any, toy_case: Case) -> None:
    model = toy.manifest["recipe"]["model"]
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        report = segmenter.segment(toy_case, seed=4).report
    sampling, regions = report.sampling, ("WT", "TC", "ET")
    assert (report.bundle.model, sampling.seed) == (model, 4)
    if model in ("unet", "discrepancy-unet"):
        assert (sampling.scheduler, sampling.steps, sampling.samples, sampling.denoiser_calls) == (None, 0, 0, 0)
    else:
        assert (sampling.scheduler, sampling.steps, sampling.samples) == ("ddim", 2, 3)
        assert sampling.denoiser_calls == 6 * sampling.windows
    assert (sampling.windows == 0) == (model == "unet")
    assert report.uncertainty.sample_disagreement < 1e-6  # the toy listens to no noise
    if model == "diff-unet":
        assert report.baseline.source == "none"
        assert report.volumes_ml.baseline is None and report.flipped_voxels is None
    else:
        assert report.baseline.source == "bundle"
        assert report.volumes_ml.baseline is not None and report.flipped_voxels is not None
        flipped = [getattr(report.flipped_voxels, region) for region in regions]
        assert any(flipped) == (model != "unet")


def test_a_model_without_baseline_looks_everywhere_and_others_where_it_is_unsure(toy: Any, toy_case: Case) -> None:
    kind = MODELS[toy.manifest["recipe"]["model"]]
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        near = segmenter.segment(toy_case).report.sampling.windows
        everywhere = segmenter.segment(toy_case, options=SegmentOptions(refine_everywhere=True)).report.sampling.windows
    if kind.refines:
        assert 0 < near < everywhere
    else:
        assert near == everywhere


def test_known_probabilities_take_the_place_of_the_graph(make_toy_bundle: Any) -> None:
    toy = make_toy_bundle(model="discrepancy-unet")
    bundle = open_bundle(toy.path)
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (4, *WINDOW)).astype(np.float32)
    known = rng.uniform(0, 1, (3, *WINDOW)).astype(np.float32)
    with open_engine("onnxruntime", threads=1) as engine:
        graphs = {"discrepancy": engine.load(bundle.graph("discrepancy"))}  # the baseline is not even loaded
        plan = plan_sampling(bundle.manifest.recipe)
        said: list[tuple[str, int, int]] = []
        loaded = Loaded(engine, graphs, bundle.manifest.recipe)
        found = infer(loaded, image, plan, "X", probability=known, progress=lambda *now: said.append(now))
    assert found.probability is known and found.found is not None
    assert np.allclose(found.found.delta, toy.formula.x0(np.concatenate([2 * known - 1, image])), atol=1e-5)
    assert said == [("refine", 1, 1)]
    assert (found.found.windows, plan.steps, plan.samples) == (1, 0, 0)


def test_where_no_window_was_a_predicted_segmentation_changes_nothing(make_toy_bundle: Any) -> None:
    """A segmentation of 0 outside the windows must not read as a discrepancy of |U − 0|."""
    toy = make_toy_bundle(model="ua-diffusion-concat", refiner={"unsure": 0.95, "margin": 0})
    manifest = open_bundle(toy.path).manifest
    image = np.zeros((4, 30, 8, 12), np.float32)
    known = np.zeros((3, 30, 8, 12), np.float32)
    known[:, :4], known[:, 20:] = 0.99, 0.9
    with open_engine("onnxruntime", threads=1) as engine:
        graphs = {name: engine.load(open_bundle(toy.path).graph(name)) for name in manifest.graphs}
        found = infer(
            Loaded(engine, graphs, manifest.recipe), image, plan_sampling(manifest.recipe), "X", probability=known
        ).found
    assert found is not None and found.sampled[:10].all() and not found.sampled[10:].any()
    assert found.delta[:, :10].any() and not found.delta[:, 10:].any()


@pytest.mark.parametrize("model", ["rediffinet", "unet"])
@pytest.mark.parametrize("numbers", [{"steps": 0}, {"samples": 0}, {"steps": -1}])
def test_numbers_out_of_range(make_toy_bundle: Any, model: str, numbers: dict[str, int]) -> None:
    manifest = open_bundle(make_toy_bundle(model=model).path).manifest
    ((name, value),) = numbers.items()
    with pytest.raises(ConfigError, match=f"{name}: got {value}, expected 1"):
        plan_sampling(manifest.recipe, **numbers)


def test_regions_of_the_label_map_are_nested(toy: Any, toy_case: Case) -> None:
    with Segmenter.open(toy.path, "onnxruntime", threads=1) as segmenter:
        wt, tc, et = regions_of(segmenter.segment(toy_case).crop_labels, TASKS["glioma-2023"])
    assert (et <= tc).all() and (tc <= wt).all()
