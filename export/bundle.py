"""Runs become a bundle: graphs written, held against torch, described in a manifest, moved into place whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from rediffinet.bundle import MANIFEST, Bundle, GraphEntry, Manifest, Parity, TensorEntry, open_bundle
from rediffinet.engines import open_engine
from rediffinet.engines.base import GraphSpec
from rediffinet.errors import ConfigError, EngineError, ExportError, OutputError
from rediffinet.export.graphs import Weights, round_weights, run_torch, write_graph
from rediffinet.export.variants import Lower, add_precisions
from rediffinet.files import file_sha256, new_folder
from rediffinet.io.cases import Case, find_cases, load_case
from rediffinet.method.noise import philox
from rediffinet.method.preprocessing import preprocess, to_spacing
from rediffinet.method.recipe import Calibration, Recipe
from rediffinet.method.refine import condition_at
from rediffinet.method.resample import MILLIMETRE, Spacing, same_spacing
from rediffinet.method.windows import extract
from rediffinet.nets.graphs import NetGraph
from rediffinet.phantom import Phantom, make_phantom
from rediffinet.task import Task, regions_of
from rediffinet.training.recipe import InferenceSettings, pair_runs, provenance, recipe_of
from rediffinet.training.run import Run

Arrays = dict[str, np.ndarray[Any, Any]]
TOLERANCES = {
    "graph": ("the exported graph against torch", 1e-4),
    "storage": ("the stored weights against the trained ones", 2e-2),
    "onnxruntime": ("ONNX Runtime against torch", 1e-2),
    "onnxruntime_mean": ("ONNX Runtime against torch, on average", 1e-4),
}
"""What the parity gate compares, and the relative difference it allows (see rediffinet.bundle.Parity)."""


@dataclass(frozen=True)
class ExportSettings(InferenceSettings):
    """Choices at export that training does not fix; most land in the manifest."""

    name: str = "rediffinet"
    weights: Weights = "float32"
    metrics: Mapping[str, Any] = field(default_factory=dict)
    precisions: tuple[Lower, ...] = ()
    calibration: Path | None = None
    """A case folder or a folder of them, on which the lower precisions are calibrated and checked; None: phantoms."""

    def calibrated(self, found: Calibration) -> Self:
        """The same, with what was decided and measured on cases that no network had seen."""
        return replace(
            self,
            decision=found.decision,
            given=found.given,
            uncertainty=found.uncertainty,
            margin=found.margin,
            disagreement=found.disagreement,
            core_confidence=found.core_confidence,
            metrics=found.metrics,
        )


def export_bundle(
    run: Run,
    baseline: Run | None,
    out: Path,
    settings: ExportSettings | None = None,
    *,
    overwrite: bool = False,
    stage: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Write a bundle folder and open it. baseline: what the model of `run` refines, None where it refines nothing.

    Raises ExportError when a run is missing or of the wrong model, the runs do not fit together, a graph is further
    from torch than its tolerance, or results in a lower precision are too far from those in fp32; ConfigError when more
    sampling steps are asked for than were trained; OutputError when `out` exists and `overwrite` is false, or when it
    is no bundle that could be replaced.
    """
    settings = settings or ExportSettings()
    pair = pair_runs(run, baseline)
    recipe = recipe_of(pair, settings)
    _check_out(out, overwrite=overwrite)
    sources, phantom = pair.graphs, gate_phantom(recipe.task)
    with new_folder(out) as folder:
        graphs = {}
        for index, source in enumerate(sources):
            graphs[source.name] = _export_graph(source, folder, recipe, settings.weights, phantom)
            if stage is not None:
                stage("graphs", index + 1, len(sources))
        manifest = Manifest(
            name=settings.name,
            rediffinet=version("rediffinet"),
            recipe=recipe,
            graphs=graphs,
            training=provenance(pair),
            metrics=dict(settings.metrics),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if settings.precisions:
            cases = calibration_cases(settings.calibration, recipe.task)
            add_precisions(open_bundle(folder), settings.precisions, cases, stage)
    return open_bundle(out)


def calibration_cases(folder: Path | None, task: Task) -> list[Case]:
    """The cases of a folder, or two phantoms. Raises CaseError for a case that cannot be read."""
    if folder is not None:
        return [load_case(path, task=task) for path in find_cases(folder, task)]
    phantoms = [make_phantom(0, index=index, tumour="enhancing", task=task) for index in (0, 1)]
    return [Case.from_arrays(phantom.name, phantom.images, phantom.affine, task=task) for phantom in phantoms]


def _check_out(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        message = f"{out} exists already. Use `overwrite=True` to replace it, or another `out`."
        raise OutputError(message)
    # overwriting removes the whole folder: never one that may hold other things
    if not (out / MANIFEST).is_file() and not (out.is_dir() and not any(out.iterdir())):
        message = f"{out} is not a bundle (it has no {MANIFEST}), so it is not overwritten. Use another `out`."
        raise OutputError(message)


def _export_graph(
    graph: NetGraph, folder: Path, recipe: Recipe, weights: Weights, phantom: Phantom | None
) -> GraphEntry:
    path = folder / f"{graph.name}.onnx"
    rounded = round_weights(graph.module, weights)
    write_graph(replace(graph, module=rounded), path, weights)
    spec = GraphSpec(graph.name, path, graph.inputs, graph.outputs)
    parity = check_parity(graph, rounded, spec, gate_inputs(graph, recipe, phantom))
    return GraphEntry(
        file=path.name,
        sha256=file_sha256(path),
        precision="fp32",
        weights=weights,
        inputs=tuple(TensorEntry(name=t.name, dtype=t.dtype, shape=t.shape) for t in graph.inputs),
        outputs=tuple(TensorEntry(name=t.name, dtype=t.dtype, shape=t.shape) for t in graph.outputs),
        parity=parity,
    )


def gate_phantom(task: Task) -> Phantom | None:
    """The case whose windows the gate feeds; None for a task whose contrasts no phantom can draw."""
    try:
        return make_phantom(0, task=task)
    except ConfigError:
        return None


def gate_inputs(graph: NetGraph, recipe: Recipe, phantom: Phantom | None) -> dict[str, Arrays]:
    """What the gate feeds a graph: random values, and values shaped like a real case, where there is a phantom."""
    rng = philox("parity", graph.name)
    random: Arrays = {
        name: rng.standard_normal(tuple(zeros.shape), dtype=np.float32) for name, zeros in graph.examples(1).items()
    }
    if "t" in random:
        values = {"t": 999.0, "c0": 0.7, "c1": 0.3}
        random |= {name: np.array([value], np.float32) for name, value in values.items()}
    if phantom is None:
        return {"random": random}
    shaped = dict(random)
    image, regions = _prepared(phantom, recipe, recipe.decided_mm if "condition" in shaped else recipe.spacing_mm)
    whole = recipe.whole(regions)
    x, y, z = (int(centre) for centre in np.argwhere(whole).mean(axis=0))
    for name in {"image", "condition"} & shaped.keys():
        window = (shaped[name].shape[2], shaped[name].shape[3], shaped[name].shape[4])
        start = (x - window[0] // 2, y - window[1] // 2, z - window[2] // 2)
        if name == "image":
            shaped[name] = extract(image, start, window, recipe.background)[None]
        else:
            shaped[name] = condition_at(recipe, image, regions.astype(np.float32), whole, start)[None]
    return {"random": random, "phantom": shaped}


def _prepared(
    phantom: Phantom, recipe: Recipe, spacing_mm: Spacing
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Image (C, X, Y, Z) and regions (R, X, Y, Z) of a phantom, prepared as a case is, at that voxel size."""
    prepared = preprocess(phantom.images, MILLIMETRE, recipe.preprocessing)
    regions = regions_of(phantom.labels[prepared.box], recipe.task)
    if same_spacing(MILLIMETRE, spacing_mm):
        return prepared.at(spacing_mm), regions
    return prepared.at(spacing_mm), to_spacing(regions.astype(np.float32), MILLIMETRE, spacing_mm) > 0.5


def check_parity(graph: NetGraph, rounded: Any, spec: GraphSpec, inputs: dict[str, Arrays]) -> Parity:
    """Hold the written graph against torch; raises ExportError naming the graph, what differs and by how much."""
    errors: dict[str, list[float]] = {name: [] for name in TOLERANCES}
    with open_engine("torch") as torch_engine, open_engine("onnxruntime") as onnxruntime_engine:
        try:
            in_torch, in_onnxruntime = torch_engine.load(spec), onnxruntime_engine.load(spec)
        except EngineError as refused:
            message = f"parity gate, graph '{graph.name}' cannot be checked: {refused}. The bundle was not written."
            raise ExportError(message) from refused
        for arrays in inputs.values():
            by_node, by_runtime = in_torch(**arrays), in_onnxruntime(**arrays)
            stored, trained = run_torch(graph, arrays, rounded), run_torch(graph, arrays)
            for tensor, same, original in zip(graph.outputs, stored, trained, strict=True):
                name = tensor.name
                scale = max(float(original.abs().max()), 1e-6)
                runtime = np.abs(by_runtime[name] - same.numpy()) / scale
                errors["graph"].append(float(np.abs(by_node[name] - same.numpy()).max()) / scale)
                errors["storage"].append(float((same - original).abs().max()) / scale)
                errors["onnxruntime"].append(float(runtime.max()))
                errors["onnxruntime_mean"].append(float(runtime.mean()))
    # np.max keeps NaN, Python's max may lose it: a network that computes NaN must not pass
    worst = {name: float(np.max(values)) for name, values in errors.items()}
    for name, error in worst.items():
        what, tolerance = TOLERANCES[name]
        if not error <= tolerance:
            message = (
                f"parity gate, graph '{graph.name}', {what}: relative difference {error:.2e}, "
                f"tolerance {tolerance:.0e}. The bundle was not written."
            )
            raise ExportError(message)
    limits = {f"{name}_tolerance": tolerance for name, (_, tolerance) in TOLERANCES.items()}
    return Parity.model_validate({"inputs": tuple(inputs), **worst, **limits})
