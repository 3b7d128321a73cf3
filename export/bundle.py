"""Runs become a bundle: graphs written, held against torch, described in a manifest, moved into place whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rediffinet.bundle import (
    MANIFEST,
    Bundle,
    GraphEntry,
    Parity,
    TensorEntry,
    file_sha256,
    open_bundle,
)
from rediffinet.engines import open_engine
from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.errors import EngineError, ExportError, OutputError
from rediffinet.export.graphs import (
    GraphSource,
    Weights,
    graph_sources,
    round_weights,
    run_torch,
    write_graph,
)
from rediffinet.export.variants import Lower, add_precisions
from rediffinet.files import new_folder
from rediffinet.io.cases import Case, find_cases, load_case
from rediffinet.labels import labels_to_regions
from rediffinet.method.models import build_condition, condition_fill, find_model
from rediffinet.method.noise import philox
from rediffinet.method.normalise import Normalisation, brain_box, normalise
from rediffinet.method.resample import MILLIMETRE, Spacing, resample, resampled_shape, same_spacing
from rediffinet.method.windows import extract
from rediffinet.phantom import make_phantom
from rediffinet.training.config import TrainConfig
from rediffinet.training.manifest import InferenceSettings, make_manifest, pair_runs
from rediffinet.training.memory import provenance
from rediffinet.training.runs import Run

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

    weights: Weights = "float32"
    metrics: Mapping[str, Any] = field(default_factory=dict)
    precisions: tuple[Lower, ...] = ()
    calibration: Path | None = None
    """A case folder or a folder of them, on which the lower precisions are calibrated and checked; None: phantoms."""


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
    made = make_manifest(pair, settings, training=provenance(pair), metrics=settings.metrics)
    _check_out(out, overwrite=overwrite)
    sources = graph_sources(pair)
    with new_folder(out) as folder:
        graphs = {}
        for index, source in enumerate(sources):
            graphs[source.name] = _export_graph(source, folder, run.config, settings.weights)
            if stage is not None:
                stage("graphs", index + 1, len(sources))
        manifest = made.model_copy(update={"graphs": graphs})
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if settings.precisions:
            add_precisions(open_bundle(folder), settings.precisions, calibration_cases(settings.calibration), stage)
    return open_bundle(out)


def calibration_cases(folder: Path | None) -> list[Case]:
    """The cases of a folder, or two phantoms. Raises CaseError for a case that cannot be read."""
    if folder is not None:
        return [load_case(path) for path in find_cases(folder)]
    phantoms = [make_phantom(0, index=index, tumour="enhancing") for index in (0, 1)]
    return [Case.from_arrays(phantom.name, phantom.images, phantom.affine) for phantom in phantoms]


def _check_out(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        message = f"{out} exists already. Use --overwrite to replace it, or another --out."
        raise OutputError(message)
    # --overwrite removes the whole folder: never one that may hold other things
    if not (out / MANIFEST).is_file() and not (out.is_dir() and not any(out.iterdir())):
        message = f"{out} is not a bundle (it has no {MANIFEST}), so it is not overwritten. Use another --out."
        raise OutputError(message)


def _export_graph(source: GraphSource, folder: Path, config: TrainConfig, weights: Weights) -> GraphEntry:
    path = folder / f"{source.name}.onnx"
    rounded = round_weights(source.module, weights)
    write_graph(GraphSource(source.name, rounded, source.inputs, source.outputs), path, weights)
    inputs, outputs = _signature(source)
    spec = GraphSpec(source.name, path, inputs, outputs)
    parity = check_parity(source, rounded, spec, gate_inputs(source, config))
    return GraphEntry(
        file=path.name,
        sha256=file_sha256(path),
        precision="fp32",
        weights=weights,
        inputs=tuple(TensorEntry(name=t.name, dtype=t.dtype, shape=t.shape) for t in inputs),
        outputs=tuple(TensorEntry(name=t.name, dtype=t.dtype, shape=t.shape) for t in outputs),
        parity=parity,
    )


def _signature(source: GraphSource) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    arguments = [item for value in source.inputs.values() for item in (value if isinstance(value, list) else [value])]
    arrays = {name: tensor.numpy() for name, tensor in zip(source.input_names, arguments, strict=True)}

    def spec(name: str, shape: tuple[int, ...]) -> TensorSpec:
        return TensorSpec(name, "float32", ("batch", *shape[1:]))

    results = run_torch(source, source.module, arrays)
    return (
        tuple(spec(name, array.shape) for name, array in arrays.items()),
        tuple(spec(name, tuple(result.shape)) for name, result in zip(source.outputs, results, strict=True)),
    )


def gate_inputs(source: GraphSource, config: TrainConfig) -> dict[str, Arrays]:
    """What the gate feeds a graph: random values, and values shaped like a real case (a phantom)."""
    arguments = [item for value in source.inputs.values() for item in (value if isinstance(value, list) else [value])]
    shapes = {name: (1, *value.shape[1:]) for name, value in zip(source.input_names, arguments, strict=True)}
    rng = philox("parity", source.name)
    random: Arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    if "t" in random:
        values = {"t": 999.0, "c0": 0.7, "c1": 0.3}
        random |= {name: np.array([value], np.float32) for name, value in values.items()}
    shaped = dict(random)
    recipe, kind = config.normalisation, find_model(config.model)
    image, regions = _phantom(recipe, config.spacing_mm)
    x, y, z = (int(centre) for centre in np.argwhere(regions[0]).mean(axis=0))
    for name in {"image", "condition"} & shaped.keys():
        window = (shapes[name][2], shapes[name][3], shapes[name][4])
        start = (x - window[0] // 2, y - window[1] // 2, z - window[2] // 2)
        if name == "image":
            shaped[name] = extract(image, start, window, recipe.background)[None]
        else:
            condition = build_condition(kind, image, regions.astype(np.float32), regions[0], recipe.background)
            shaped[name] = extract(condition, start, window, condition_fill(kind, recipe.background))[None]
    return {"random": random, "phantom": shaped}


@cache
def _phantom(recipe: Normalisation, spacing_mm: Spacing) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Image (4, X, Y, Z) and regions (3, X, Y, Z) of a phantom, cropped to its brain, with voxels of that size."""
    phantom = make_phantom(0)
    box = brain_box(phantom.images)
    image, regions = normalise(phantom.images[(slice(None), *box)], recipe), labels_to_regions(phantom.labels[box])
    if same_spacing(MILLIMETRE, spacing_mm):
        return image, regions
    shape = resampled_shape((image.shape[1], image.shape[2], image.shape[3]), MILLIMETRE, spacing_mm)
    masks = resample(regions.astype(np.float32), MILLIMETRE, spacing_mm, shape) > 0.5
    return resample(image, MILLIMETRE, spacing_mm, shape), masks


def check_parity(source: GraphSource, rounded: Any, spec: GraphSpec, inputs: dict[str, Arrays]) -> Parity:
    """Hold the written graph against torch; raises ExportError naming the graph, what differs and by how much."""
    errors: dict[str, list[float]] = {name: [] for name in TOLERANCES}
    with open_engine("torch") as torch_engine, open_engine("onnxruntime") as onnxruntime_engine:
        try:
            in_torch, in_onnxruntime = torch_engine.load(spec), onnxruntime_engine.load(spec)
        except EngineError as refused:
            message = f"parity gate, graph '{source.name}' cannot be checked: {refused}. The bundle was not written."
            raise ExportError(message) from refused
        for arrays in inputs.values():
            by_node, by_runtime = in_torch(**arrays), in_onnxruntime(**arrays)
            stored = run_torch(source, rounded, arrays)
            trained = run_torch(source, source.module, arrays)
            for name, same, original in zip(source.outputs, stored, trained, strict=True):
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
                f"parity gate, graph '{source.name}', {what}: relative difference {error:.2e}, "
                f"tolerance {tolerance:.0e}. The bundle was not written."
            )
            raise ExportError(message)
    limits = {f"{name}_tolerance": tolerance for name, (_, tolerance) in TOLERANCES.items()}
    return Parity.model_validate({"inputs": tuple(inputs), **worst, **limits})
