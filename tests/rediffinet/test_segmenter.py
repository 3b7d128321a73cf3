"""The segmenter on the toy bundle, whose answer is a formula of each voxel: computed here once more in plain NumPy."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff, ornt2axcodes
from scipy import ndimage

from rediffinet.bundle import open_bundle
from rediffinet.engines.base import Graph
from rediffinet.errors import ConfigError, EngineError, MissingExtraError
from rediffinet.io.cases import Case
from rediffinet.method.refine import refinement_windows
from rediffinet.method.windows import plan_windows
from rediffinet.opened import Opened
from rediffinet.segmenter import Segmenter, SegmentOptions

AFFINE = np.array([[-1, 0, 0, 7], [0, -1, 0, 40], [0, 0, 1, -12], [0, 0, 0, 1.0]])


@dataclass
class Expected:
    """What the formula says, on the crop `box`."""

    box: tuple[slice, ...]
    labels: np.ndarray
    baseline: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray
    windows: int


def decode(regions: np.ndarray) -> np.ndarray:
    """Regions WT, TC, ET → BraTS-2023 labels; ET wins over TC, TC over WT."""
    wt, tc, et = regions
    return np.select([et, tc, wt], [3, 1, 2], 0).astype(np.uint8)


def expect(toy: Any, images: np.ndarray, segmenter: Segmenter, *, everywhere: bool = False) -> Expected:
    box = ndimage.find_objects((images > 0).any(axis=0).astype(int))[0]
    crop = images[(slice(None), *box)]
    normalised = np.full(crop.shape, -1.0)
    for channel, image in enumerate(crop):
        brain = image > 0
        low, high = np.percentile(image[brain].astype(np.float64), (0.5, 99.5))
        normalised[channel][brain] = 2 * (np.clip(image[brain], low, high) - low) / (high - low) - 1
    probability = toy.formula.probability(normalised)

    settings = segmenter.bundle.manifest.recipe.refiner
    unsure = (probability > settings.unsure).any(axis=0)
    starts = (
        plan_windows(unsure.shape, settings.window, settings.overlap)
        if everywhere
        else refinement_windows(unsure, settings)
    )
    reached = np.zeros(crop.shape[1:], bool)
    for start in starts:
        reached[tuple(slice(max(0, s), s + w) for s, w in zip(start, settings.window, strict=True))] = True

    baseline_at = np.array(segmenter.bundle.manifest.recipe.baseline.thresholds).reshape(3, 1, 1, 1)
    flip_at = np.array(segmenter.bundle.manifest.recipe.decision.adding).reshape(3, 1, 1, 1)
    mask = probability > baseline_at
    prior = probability if settings.condition == "probability" else mask
    delta = np.where(reached, toy.formula.x0(np.concatenate([2.0 * prior - 1.0, normalised])), 0)
    # far enough from every threshold that float32 and the blending cannot decide
    assert abs(probability - baseline_at).min() > 1e-6
    assert abs(delta - flip_at).min() > 1e-6

    labels = decode(mask ^ (delta > flip_at))
    refined = np.where(reached, abs(mask - delta), probability)
    regions = np.stack([labels > 0, (labels == 1) | (labels == 3), labels == 3])
    wrong = np.where(regions, 1 - refined, refined).max(axis=0)
    return Expected(box, labels, decode(mask), refined, wrong, len(starts))


@pytest.fixture
def segmenter(toy_bundle: Any) -> Iterator[Segmenter]:
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as opened:
        yield opened


def assert_as_expected(result: Any, expected: Expected, shape: tuple[int, int, int]) -> None:
    def full(crop: np.ndarray) -> np.ndarray:
        out = np.zeros((*crop.shape[:-3], *shape), crop.dtype)
        out[(..., *expected.box)] = crop
        return out

    assert np.array_equal(result.labels, full(expected.labels))
    assert np.array_equal(result.baseline_labels, full(expected.baseline))
    assert np.allclose(result.probabilities, full(expected.probability), atol=1e-4)
    assert np.allclose(result.uncertainty, full(expected.uncertainty), atol=1e-4)
    assert (result.labels.dtype, result.probabilities.dtype, result.uncertainty.dtype) == ("u1", "f4", "f4")
    assert result.report.sampling.windows == expected.windows


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "refiner": {"overlap": 0.6},
            "decision": {"thresholds": (0.9, 0.2, 0.6)},
            "baseline": {"thresholds": (0.6, 0.4, 0.3)},
        },
        {"refiner": {"condition": "mask"}, "diffusion": {"steps": 1, "samples": 1}},
    ],
    ids=["default", "other thresholds", "mask condition"],
)
def test_labels_probabilities_and_uncertainty_are_the_formula(
    make_toy_bundle: Any, toy_case: Case, changes: dict[str, Any], everywhere: bool
) -> None:
    toy = make_toy_bundle(**changes)
    with Segmenter.open(toy.path, threads=1) as segmenter:
        expected = expect(toy, toy_case.images, segmenter, everywhere=everywhere)
        result = segmenter.segment(toy_case, options=SegmentOptions(refine_everywhere=everywhere))
    assert np.count_nonzero(expected.labels != expected.baseline) > 100  # the refinement has something to show
    assert_as_expected(result, expected, (26, 30, 24))


@pytest.fixture
def two_lesions(make_toy_images: Any) -> Case:
    """A larger brain with the tumour, and far from it 7 voxels that only the refiner takes for tumour."""
    images = make_toy_images((40, 46, 36), (14, 16, 12))
    for step in ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)):
        images[(2, *np.add(step, (28, 32, 25)))] = 330
    return Case.from_arrays("toy", images, AFFINE)


def test_refining_everywhere_flips_what_the_windows_do_not_reach(
    toy_bundle: Any, segmenter: Segmenter, two_lesions: Case
) -> None:
    near = segmenter.segment(two_lesions)
    everywhere = segmenter.segment(two_lesions, options=SegmentOptions(refine_everywhere=True))
    for result, all_of_it in ((near, False), (everywhere, True)):
        expected = expect(toy_bundle, two_lesions.images, segmenter, everywhere=all_of_it)
        assert_as_expected(result, expected, (40, 46, 36))
    assert (near.labels[28, 32, 25], everywhere.labels[28, 32, 25]) == (0, 2)
    assert everywhere.report.sampling.windows > near.report.sampling.windows


@pytest.mark.parametrize(
    ("shape", "centre"),
    [((26, 30, 24), (4, 15, 11)), ((26, 30, 24), (12, 15, 21)), ((9, 26, 8), (4, 13, 4)), ((9, 8, 8), (4, 4, 4))],
    ids=["left edge", "upper edge", "thinner than a window", "smaller than a window"],
)
def test_tumours_at_the_edge_and_small_volumes(
    toy_bundle: Any, segmenter: Segmenter, make_toy_images: Any, shape: Any, centre: Any
) -> None:
    images = make_toy_images(shape, centre)
    result = segmenter.segment(Case.from_arrays("toy", images, AFFINE))
    assert result.labels.any()
    assert_as_expected(result, expect(toy_bundle, images, segmenter), shape)


def test_no_tumour_means_no_windows_and_a_warning(make_toy_bundle: Any, toy_case: Case) -> None:
    toy = make_toy_bundle(bias=np.full(3, -60, np.float32))
    with Segmenter.open(toy.path, threads=1) as segmenter:
        result = segmenter.segment(toy_case)
    assert not result.labels.any()
    assert not result.baseline_labels.any()
    assert (result.report.sampling.windows, result.report.sampling.denoiser_calls) == (0, 0)
    assert [warning.code for warning in result.report.warnings] == ["no-tumour"]
    assert result.report.volumes_ml.refined.WT == result.report.uncertainty.mean_in_tumour == 0
    assert result.uncertainty.max() < 1e-6


def test_tumour_without_an_enhancing_part_is_said(make_toy_bundle: Any, toy_case: Case) -> None:
    toy = make_toy_bundle(
        bias=np.float32([-1, -1.5, -90]),
        contrast=np.float32([[0] * 5 + [1, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 9] + [0] * 4]),
    )
    with Segmenter.open(toy.path, threads=1) as segmenter:
        result = segmenter.segment(toy_case)
    assert result.report.volumes_ml.refined.TC > 0
    assert result.report.volumes_ml.refined.ET == 0
    assert [warning.code for warning in result.report.warnings] == ["no-enhancing-tumour"]


# --- reproducibility ---


@pytest.fixture(scope="module")
def noisy(make_toy_bundle: Any) -> Any:
    """A denoiser that listens to the noise."""
    return make_toy_bundle(noise=1.5, time=(0.001, 0.0, -0.001), signal_scale=0.5)


def test_the_seed_and_the_name_fix_the_result(noisy: Any, toy_case: Case, make_toy_images: Any) -> None:
    with Segmenter.open(noisy.path, threads=1) as segmenter:
        first = segmenter.segment(toy_case, seed=5)
        other_seed = segmenter.segment(toy_case, seed=6)
        other_name = segmenter.segment(Case.from_arrays("other", make_toy_images(), AFFINE), seed=5)
        again = segmenter.segment(toy_case, seed=5)
    assert np.array_equal(first.uncertainty, again.uncertainty)
    assert np.array_equal(first.labels, again.labels)
    for other in (other_seed, other_name):
        assert not np.array_equal(first.uncertainty, other.uncertainty)
        assert np.array_equal(first.baseline_labels, other.baseline_labels)
    assert first.report.uncertainty.sample_disagreement > 0.01


def test_engines_agree(noisy: Any, toy_case: Case) -> None:
    """The noise is drawn on the host, so that another engine starts from the same x_T."""
    results = []
    for engine in ("onnxruntime", "torch"):
        try:
            with Segmenter.open(noisy.path, engine, threads=1) as segmenter:
                results.append(segmenter.segment(toy_case, seed=1))
        except MissingExtraError as error:
            pytest.skip(f"engine not installed here: {error}")
    one, other = results
    assert np.allclose(one.probabilities, other.probabilities, atol=1e-5)
    doubtful = abs(one.probabilities - 0.5).min(axis=0) < 1e-4
    assert np.array_equal(one.labels[~doubtful], other.labels[~doubtful])
    assert doubtful.mean() < 0.001
    assert [result.report.engine.used for result in results] == ["onnxruntime", "torch"]


def test_threads_at_once_give_what_one_gives(noisy: Any, toy_case: Case) -> None:
    with Segmenter.open(noisy.path, threads=1) as segmenter:
        alone = [segmenter.segment(toy_case, seed=seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda seed: segmenter.segment(toy_case, seed=seed), range(4)))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.uncertainty, other.uncertainty)
        assert one.report.uncertainty == other.report.uncertainty


@pytest.mark.parametrize(
    "order",
    [[(0, 1), (1, 1), (2, 1)], [(2, -1), (0, 1), (1, -1)], [(1, 1), (0, -1), (2, -1)], [(0, -1), (2, 1), (1, 1)]],
    ids=lambda order: "".join(ornt2axcodes(order)),
)
@pytest.mark.parametrize("oblique", [False, True])
def test_storage_order_does_not_move_the_tumour(
    noisy: Any, make_toy_images: Any, order: list[tuple[int, int]], oblique: bool
) -> None:
    turn = np.eye(4)
    if oblique:
        turn[:3, :3] = nib.eulerangles.euler2mat(0.2, -0.15, 0.1)
    affine = turn @ AFFINE
    images = make_toy_images()
    stored = np.stack([apply_orientation(image, order) for image in images])
    stored_affine = affine @ inv_ornt_aff(np.array(order), images.shape[1:])

    def points(labels: np.ndarray, to_world: np.ndarray) -> dict[tuple[float, ...], int]:
        inside = np.argwhere(labels)
        world = nib.affines.apply_affine(to_world, inside).round(3) + 0.0
        return dict(zip(map(tuple, world.tolist()), labels[tuple(inside.T)].tolist(), strict=True))

    with Segmenter.open(noisy.path, threads=1) as segmenter:
        plain = segmenter.segment(Case.from_arrays("toy", images, affine))
        turned = segmenter.segment(Case.from_arrays("toy", stored, stored_affine))
    assert turned.labels.shape == turned.uncertainty.shape == stored.shape[1:]
    assert turned.probabilities.shape == (3, *stored.shape[1:])
    assert points(turned.labels, stored_affine) == points(plain.labels, affine)
    assert np.array_equal(turned.uncertainty, apply_orientation(plain.uncertainty, order))


# --- what is counted and reported ---


@pytest.mark.parametrize(("steps", "samples"), [(None, None), (1, 2), (4, 1)])
def test_graphs_run_as_often_as_reported(
    segmenter: Segmenter, toy_case: Case, monkeypatch: pytest.MonkeyPatch, steps: int | None, samples: int | None
) -> None:
    calls: Counter[str] = Counter()
    run = Graph.run

    def counted(graph: Graph, *arguments: Any) -> None:
        calls[graph.spec.name] += 1
        run(graph, *arguments)

    monkeypatch.setattr(Graph, "run", counted)
    stages: list[tuple[str, int, int]] = []
    options = SegmentOptions(steps=steps, samples=samples)
    sampling = segmenter.segment(toy_case, options=options, progress=lambda *now: stages.append(now)).report.sampling
    assert (sampling.steps, sampling.samples) == (steps or 2, samples or 3)
    assert calls["conditioner"] == sampling.windows  # once per window, whatever the steps and samples
    assert calls["denoiser"] == sampling.denoiser_calls == sampling.windows * sampling.samples * sampling.steps
    assert list(dict.fromkeys(stage for stage, _, _ in stages)) == ["normalise", "baseline", "refine", "decode"]
    assert [now for now in stages if now[0] == "refine"] == [
        ("refine", i + 1, sampling.windows) for i in range(sampling.windows)
    ]
    assert [done for stage, done, _ in stages if stage == "baseline"][-1] == calls["baseline"]


def test_postprocessing_removes_small_components_of_both_maps(make_toy_bundle: Any, two_lesions: Case) -> None:
    toy = make_toy_bundle(decision={"small_components": {"connectivity": 6, "min_voxels": 8, "min_fraction": 0.0}})
    with Segmenter.open(toy.path, threads=1) as segmenter:
        raw = segmenter.segment(two_lesions, options=SegmentOptions(refine_everywhere=True, postprocess=False))
        clean = segmenter.segment(two_lesions, options=SegmentOptions(refine_everywhere=True))
    for before, after in ((raw.labels, clean.labels), (raw.baseline_labels, clean.baseline_labels)):
        components, _ = ndimage.label(before > 0)
        sizes = np.bincount(components.ravel())
        assert np.array_equal(after, np.where((sizes >= 8)[components], before, 0))
    assert (raw.labels[28, 32, 25], clean.labels[28, 32, 25]) == (2, 0)
    flipped = clean.report.flipped_voxels
    assert np.count_nonzero((clean.labels > 0) != (clean.baseline_labels > 0)) == flipped.WT
    assert np.count_nonzero((clean.labels == 3) != (clean.baseline_labels == 3)) == flipped.ET


def test_unsure_enhancing_tumour_is_core_and_said(make_toy_bundle: Any, toy_case: Case) -> None:
    results = {}
    for limit in (0.0, 1.0):
        toy = make_toy_bundle(decision={"unsure_enhancement": limit})
        with Segmenter.open(toy.path, threads=1) as segmenter:
            results[limit] = segmenter.segment(toy_case)
            kept = segmenter.segment(toy_case, options=SegmentOptions(postprocess=False))
        assert np.array_equal(kept.labels, results[0.0].labels)
    before, after = results[0.0], results[1.0]
    assert (before.labels == 3).any()
    assert np.array_equal(after.labels, np.where(before.labels == 3, 1, before.labels))
    assert "enhancing-unsure" not in {warning.code for warning in before.report.warnings}
    (said,) = [warning for warning in after.report.warnings if warning.code == "enhancing-unsure"]
    assert f"{(before.labels == 3).sum() / 1000:.1f} ml" in said.message and "`postprocess=False`" in said.message


@pytest.mark.parametrize(("voxels", "told"), [(999, []), (1500, ["1.5 ml"])])
def test_small_parts_are_told_from_a_millilitre_on(
    toy_bundle: Any, toy_case: Case, monkeypatch: pytest.MonkeyPatch, voxels: int, told: list[str]
) -> None:
    monkeypatch.setattr("rediffinet.method.decode.dissolve_small_parts", lambda labels, task, least: (labels, voxels))
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter:
        warnings = segmenter.segment(toy_case).report.warnings
    said = [one.message for one in warnings if one.code == "parts-dissolved"]
    assert [message.split(" of ")[0] for message in said] == told
    assert all("`postprocess=False`" in message for message in said)


def test_a_lesion_that_is_doubted_as_a_whole_is_left_out_and_said(make_toy_bundle: Any, toy_case: Case) -> None:
    limits = {"thresholds": (1.0, 1.0, 1.0)}  # no voxel is flipped by itself
    results = {}
    for limit in (1.0, 0.5):
        toy = make_toy_bundle(decision={**limits, "whole_components": limit})
        with Segmenter.open(toy.path, threads=1) as segmenter:
            lesion = segmenter.segment(toy_case).baseline_labels
            stray = lesion.copy()
            stray[3:7, 22:26, 15:19] = 2
            results[limit] = segmenter.segment(toy_case, baseline=stray)
    assert np.array_equal(results[1.0].labels, stray)
    assert np.array_equal(results[0.5].labels, lesion) and np.array_equal(results[0.5].baseline_labels, stray)
    codes = {limit: [warning.code for warning in result.report.warnings] for limit, result in results.items()}
    assert "components-doubted" not in codes[1.0] and "components-doubted" in codes[0.5]
    (said,) = [warning for warning in results[0.5].report.warnings if warning.code == "components-doubted"]
    assert said.message.startswith("0.1 ml that the baseline found as separate lesions")


@pytest.mark.parametrize("spacing", [1.0, 1.24])
def test_a_lesion_that_rests_on_one_contrast_is_left_out_and_said(
    make_toy_bundle: Any, make_toy_images: Any, spacing: float
) -> None:
    """The toy's baseline finds the whole tumour in t2f alone."""
    images = make_toy_images((40, 46, 36), (14, 16, 12))
    images[3, 26:30, 30:34, 24:28] = 330.0
    stray = np.zeros(images.shape[1:], bool)
    stray[24:32, 28:36, 22:30] = True
    case = Case.from_arrays("toy", images, np.diag([-spacing, -spacing, spacing, 1]))
    results = {}
    for without in ("t1n", "t2f"):
        decision = {"thresholds": (1.0,) * 3, "evidence": {"without": [without]}}
        stages: list[tuple[str, int, int]] = []
        with Segmenter.open(make_toy_bundle(decision=decision).path, threads=1) as segmenter:
            results[without] = segmenter.segment(case, progress=lambda *now, seen=stages: seen.append(now))
            given = segmenter.segment(case, baseline=results[without].baseline_labels)
        assert np.array_equal(given.labels, given.baseline_labels), "a mask made elsewhere is not asked about"
        done = [count for stage, count, _ in stages if stage == "baseline"]
        assert done == sorted(done), "progress never goes back"
    stands, falls = results["t1n"], results["t2f"]
    assert np.array_equal(stands.labels, stands.baseline_labels)
    assert (stands.labels[stray] > 0).any() and (stands.labels[~stray] > 0).any()
    assert np.array_equal(falls.baseline_labels, stands.labels)
    assert np.array_equal(falls.labels, np.where(stray, 0, stands.labels)), "the largest stands whatever is asked"
    assert "components-doubted" not in {warning.code for warning in stands.report.warnings}
    (said,) = [warning for warning in falls.report.warnings if warning.code == "components-doubted"]
    volume = np.count_nonzero(stands.labels[stray]) * spacing**3 / 1000
    assert said.message.startswith(f"{volume:.1f} ml that the baseline found as separate lesions")
    assert "does not find them without each of t2f" in said.message


def test_much_removed_tumour_is_a_warning(make_toy_bundle: Any, toy_case: Case) -> None:
    """Half a millilitre of tumour goes without a word, twice that much does not."""
    for spacing, codes in ((1.0, ["no-tumour"]), (1.24, ["no-tumour", "components-removed"])):
        toy = make_toy_bundle(decision={"small_components": {"min_voxels": 100_000}}, spacing_mm=(spacing,) * 3)
        case = Case.from_arrays("toy", toy_case.images, np.diag([-spacing, -spacing, spacing, 1]))
        with Segmenter.open(toy.path, threads=1) as segmenter:
            result = segmenter.segment(case)
        assert not result.labels.any()
        assert [warning.code for warning in result.report.warnings] == codes
    assert "`postprocess=False`" in result.report.warnings[1].message


# --- refused ---


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("steps", 1001), ("samples", 0), ("samples", -1)])
def test_steps_and_samples_out_of_range(segmenter: Segmenter, toy_case: Case, name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name}: got {value}, expected"):
        segmenter.segment(toy_case, options=SegmentOptions(**{name: value}))


def test_a_closed_segmenter(toy_bundle: Any, toy_case: Case) -> None:
    segmenter = Segmenter.open(toy_bundle.path)
    segmenter.close()
    with pytest.raises(EngineError, match="closed"):
        segmenter.segment(toy_case)


def test_a_graph_that_is_not_the_manifests_is_refused_at_once(make_toy_bundle: Any) -> None:
    toy = make_toy_bundle(graphs={})
    graphs = toy.manifest["graphs"]
    graphs["baseline"]["inputs"][0]["shape"] = ["batch", 4, 8, 8, 8]
    toy = make_toy_bundle(graphs=graphs)
    with pytest.raises(EngineError, match="'baseline', input 'image'"):
        Segmenter.open(toy.path)


def test_graphs_that_load_in_the_background(make_toy_bundle: Any, toy_case: Case) -> None:
    toy = make_toy_bundle(graphs={})
    with Segmenter.of(Opened(open_bundle(toy.path), threads=1)) as early, Segmenter.open(toy.path, threads=1) as late:
        assert (early.segment(toy_case).labels == late.segment(toy_case).labels).all()
    with pytest.raises(EngineError, match="closed"):
        early.segment(toy_case)
    graphs = toy.manifest["graphs"]
    graphs["baseline"]["inputs"][0]["shape"] = ["batch", 4, 8, 8, 8]
    toy = make_toy_bundle(graphs=graphs)
    with (
        Segmenter.of(Opened(open_bundle(toy.path))) as refused,
        pytest.raises(EngineError, match="'baseline', input 'image'"),
    ):
        refused.segment(toy_case)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"seed": -1}, "seed: got -1"),
        ({"seed": 1.5}, "seed: got 1.5"),
        ({"deadline_s": float("nan")}, "deadline_s: got nan"),
    ],
)
def test_a_seed_or_a_deadline_that_is_none(toy_bundle: Any, toy_case: Case, more: dict[str, Any], told: str) -> None:
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter, pytest.raises(ConfigError, match=told):
        segmenter.segment(toy_case, **more)
