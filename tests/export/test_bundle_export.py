"""From two runs to a bundle: the parity gate, the manifest, and nothing half-written."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="export needs torch (extra 'train')")
pytest.importorskip("onnx", reason="export needs onnx (extra 'train')")
pytest.importorskip("onnxruntime", reason="the gate runs onnxruntime (extra 'cpu')")

import torch

from rediffinet.bundle import file_sha256, open_bundle
from rediffinet.errors import BundleError, ConfigError, ExportError, OutputError
from rediffinet.export import bundle as bundle_module
from rediffinet.export.bundle import ExportSettings, check_parity, export_bundle, gate_inputs, gate_phantom
from rediffinet.method.normalise import Normalisation
from rediffinet.method.recipe import SmallComponents
from rediffinet.task import find_task
from rediffinet.training.recipe import pair_runs, plain_decision, recipe_of

NAMES = ("baseline", "conditioner", "denoiser")


@pytest.fixture
def no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks before any graph is written must do: writing one fails the test."""
    monkeypatch.setattr(bundle_module, "write_graph", lambda *_: pytest.fail("a graph was written"))


def recipe_for(runs: dict[str, Any]) -> Any:
    return recipe_of(pair_runs(runs["rediffinet"], runs["unet"]))


def source_of(runs: dict[str, Any], name: str) -> Any:
    sources = pair_runs(runs["rediffinet"], runs["unet"]).graphs
    return next(source for source in sources if source.name == name)


def fed(runs: dict[str, Any], source: Any) -> Any:
    recipe = recipe_for(runs)
    return gate_inputs(source, recipe, gate_phantom(recipe.task))


def test_bundle_opens_from_its_folder_and_holds_only_what_it_names(bundle: Any) -> None:
    again = open_bundle(bundle.path)
    assert again.manifest == bundle.manifest and again.sha256 == bundle.sha256
    assert sorted(file.name for file in bundle.path.iterdir()) == [*(f"{n}.onnx" for n in NAMES), "manifest.json"]
    assert [file.name for file in bundle.path.parent.iterdir()] == [bundle.path.name]
    assert bundle.path.stat().st_mode & 0o777 == 0o755
    for name in NAMES:
        assert bundle.manifest.graphs[name].sha256 == file_sha256(bundle.path / f"{name}.onnx")


def test_manifest_says_how_to_run_the_graphs(bundle: Any, runs: dict[str, Any]) -> None:
    manifest = bundle.manifest
    assert (manifest.name, manifest.recipe.model) == ("tiny", "rediffinet")
    assert manifest.recipe.normalisation == runs["unet"].config.normalisation
    assert (
        manifest.recipe.baseline.window == (32, 40, 32)
        and manifest.recipe.baseline.overlap == runs["unet"].config.overlap
    )
    assert manifest.recipe.refiner.window == (16, 16, 24) and manifest.recipe.refiner.overlap == 0.5
    assert manifest.recipe.decision.adding == manifest.recipe.decision.removing == (0.7, 0.6, 0.5)
    assert manifest.recipe.refiner.condition == "probability"
    diffusion = manifest.recipe.diffusion
    assert (diffusion.steps, diffusion.samples, diffusion.train_steps) == (3, 2, 1000)
    assert diffusion.signal_scale == runs["rediffinet"].config.refiner.signal_scale
    assert (diffusion.beta_first, diffusion.beta_last) == (1e-4, 0.02)  # those of the training task
    assert manifest.recipe.task == runs["unet"].config.task == find_task("glioma-2023")


def test_manifest_tells_where_the_weights_come_from(bundle: Any, runs: dict[str, Any]) -> None:
    stored = json.loads((bundle.path / "manifest.json").read_text())["training"]
    for key, model in (("baseline", "unet"), ("refiner", "rediffinet")):
        assert stored[key]["model"] == model
        assert stored[key]["checkpoint_sha256"] == "ab" * 32
        assert stored[key]["trained_on"] == ["BraTS-GLI-00001-000"]
        assert stored[key]["config"] == json.loads(runs[model].config.model_dump_json())


def test_parity_numbers_are_recorded(bundle: Any) -> None:
    for name in NAMES:
        parity = bundle.manifest.graphs[name].parity
        assert parity.inputs == ("random", "phantom")
        assert 0 < parity.graph < parity.graph_tolerance == 1e-4
        assert 0 < parity.onnxruntime < parity.onnxruntime_tolerance == 1e-2
        assert 0 < parity.onnxruntime_mean < parity.onnxruntime_mean_tolerance == 1e-4
        assert parity.storage == 0.0


def test_an_altered_graph_is_noticed(bundle: Any, tmp_path: Path) -> None:
    for file in bundle.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "denoiser.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "denoiser.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"denoiser\.onnx"):
        open_bundle(tmp_path)


def test_gate_feeds_random_and_real_shaped_values(runs: dict[str, Any]) -> None:
    for name in NAMES:
        source = source_of(runs, name)
        inputs = fed(runs, source)
        assert set(inputs) == {"random", "phantom"}
        for given in inputs.values():
            assert tuple(given) == tuple(tensor.name for tensor in source.inputs)
            assert all(array.dtype == np.float32 and array.shape[0] == 1 for array in given.values())
    image = fed(runs, source_of(runs, "baseline"))["phantom"]["image"]
    assert image.shape == (1, 4, 32, 40, 32)
    assert image.min() >= -1.0 and image.max() <= 1.0 and (image > -1.0).mean() > 0.5
    condition = fed(runs, source_of(runs, "denoiser"))["phantom"]["condition"]
    prior = condition[0, :3]
    assert condition.shape == (1, 7, 16, 16, 24) and set(np.unique(prior)) == {-1.0, 1.0}
    assert (prior[1] <= prior[0]).all() and (prior[2] <= prior[1]).all()


@pytest.mark.parametrize("name", NAMES)
def test_gate_catches_a_graph_of_other_weights(runs: dict[str, Any], bundle: Any, name: str) -> None:
    source = source_of(runs, name)
    inputs = fed(runs, source)
    parity = check_parity(source, source.module, bundle.graph(name), inputs)
    assert parity.graph < 1e-4
    other = copy.deepcopy(source.module)
    with torch.no_grad():
        next(p for p in other.parameters() if p.ndim == 5).mul_(-1.0)
    with pytest.raises(ExportError, match=f"'{name}'.*exported graph against torch.*tolerance"):
        check_parity(replace(source, module=other), other, bundle.graph(name), inputs)


def test_gate_catches_weights_that_storage_ruins(runs: dict[str, Any], bundle: Any) -> None:
    source = source_of(runs, "baseline")
    trained = copy.deepcopy(source.module)
    with torch.no_grad():
        next(p for p in trained.parameters() if p.ndim == 5).mul_(-1.0)
    with pytest.raises(ExportError, match="stored weights against the trained ones"):
        check_parity(
            replace(source, module=trained),
            source.module,
            bundle.graph("baseline"),
            fed(runs, source),
        )


def test_gate_catches_a_network_that_computes_nan(
    runs: dict[str, Any], bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the graph computes the same NaN as torch."""
    source = source_of(runs, "baseline")
    nan = lambda *_: [torch.full((1, 3, 32, 40, 32), float("nan"))]  # noqa: E731
    monkeypatch.setattr(bundle_module, "run_torch", nan)
    with pytest.raises(ExportError, match="'baseline'.*nan"):
        check_parity(source, source.module, bundle.graph("baseline"), fed(runs, source))


def test_out_of_tolerance_nothing_is_written(
    runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundle_module.TOLERANCES, "graph", ("the exported graph against torch", 0.0))
    with pytest.raises(ExportError, match=r"(?s)parity gate, graph 'baseline'.*not written"):
        export_bundle(runs["rediffinet"], runs["unet"], tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_bundle_it_should_replace(
    bundle: Any, runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    for file in bundle.path.iterdir():
        (out / file.name).write_bytes(file.read_bytes())

    def fail(*_: object) -> None:
        raise ExportError("no")

    monkeypatch.setattr(bundle_module, "_export_graph", fail)
    with pytest.raises(ExportError):
        export_bundle(runs["rediffinet"], runs["unet"], out, overwrite=True)
    assert open_bundle(out).sha256 == bundle.sha256 and list(tmp_path.iterdir()) == [out]


def test_overwrite_replaces_a_bundle_whole(
    bundle: Any, runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "bundle"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("{}")
    (out / "stale.onnx").write_text("")

    def reuse(source: Any, folder: Path, *_: object) -> Any:
        (folder / f"{source.name}.onnx").write_bytes(bundle.graph(source.name).path.read_bytes())
        return bundle.manifest.graphs[source.name]

    monkeypatch.setattr(bundle_module, "_export_graph", reuse)
    told: list[tuple[str, int, int]] = []
    decision = plain_decision(find_task("glioma-2023"), small_components=SmallComponents(min_fraction=0.3))
    settings = ExportSettings(decision=decision)
    made = export_bundle(
        runs["rediffinet"], runs["unet"], out, settings, overwrite=True, stage=lambda *args: told.append(args)
    )
    assert sorted(file.name for file in out.iterdir()) == [*(f"{n}.onnx" for n in NAMES), "manifest.json"]
    assert made.manifest.recipe.decision == decision and open_bundle(out).manifest == made.manifest
    assert [(done, of) for _, done, of in told] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.usefixtures("no_graphs")
def test_an_existing_bundle_needs_overwrite(bundle: Any, runs: dict[str, Any]) -> None:
    with pytest.raises(OutputError, match="`overwrite=True`"):
        export_bundle(runs["rediffinet"], runs["unet"], bundle.path)


@pytest.mark.usefixtures("no_graphs")
def test_overwrite_never_removes_what_is_not_a_bundle(runs: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for out in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(OutputError, match="not a bundle"):
            export_bundle(runs["rediffinet"], runs["unet"], out, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.usefixtures("no_graphs")
def test_an_impossible_place_is_refused(runs: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        export_bundle(runs["rediffinet"], runs["unet"], tmp_path / "file" / "bundle")


@pytest.mark.usefixtures("no_graphs")
def test_runs_of_the_wrong_model_are_named(runs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="run of 'unet', which refines no baseline"):
        export_bundle(runs["unet"], runs["unet"], tmp_path / "bundle")
    with pytest.raises(ExportError, match="run of 'rediffinet', expected one of 'unet'"):
        export_bundle(runs["rediffinet"], runs["rediffinet"], tmp_path / "bundle")
    with pytest.raises(ExportError, match="refines a baseline, and none was given.*`baseline`"):
        export_bundle(runs["rediffinet"], None, tmp_path / "bundle")
    config = runs["unet"].config.model_copy(update={"normalisation": Normalisation(upper_percentile=99.0)})
    with pytest.raises(ExportError, match="normalisation"):
        export_bundle(runs["rediffinet"], replace(runs["unet"], config=config), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_must_be_among_the_trained_ones(runs: dict[str, Any], tmp_path: Path, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"got {steps}, expected 1 to 1000"):
        export_bundle(runs["rediffinet"], runs["unet"], tmp_path / "bundle", ExportSettings(steps=steps))
