"""A bundle: a folder with a manifest and the ONNX graphs it names. Opening one verifies every hash.

Nothing in a bundle is code: the manifest is JSON, the graphs are ONNX with their weights inside.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.errors import BundleError, ConfigError, MissingContrastError
from rediffinet.files import file_sha256, parse_json
from rediffinet.method.recipe import Part, PerRegion, Recipe

SCHEMA: Literal["rediffinet-bundle/2"] = "rediffinet-bundle/2"
CONVERTIBLE = ("rediffinet-bundle/1",)
"""Older schemas that `rediffinet.export.convert` reads."""
MANIFEST = "manifest.json"
MISSING_CONTRASTS = "missing_contrasts"
"""Entry of a manifest's metrics: scores by the name of the contrast that cases lacked, each a MissingContrast."""
PLANS = "trt"
"""Folder of a bundle's TensorRT plans, which `rediff plan` adds; a bundle is whole without them."""
INTENDED_USE = "Research use only, not a medical device. No clinical decision may rest on its output."


def _inside(file: str) -> str:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(f"'{file}' is outside the bundle")
    return file


class TensorEntry(Part):
    """Input or output of a graph; a string in the shape is a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Parity(Part):
    """How far a graph is from the torch network, over the inputs of the parity gate.

    graph: the file, run node by node in torch, against the network with the same (stored) weights. storage: the network
    with the stored weights against the trained float32 ones. onnxruntime: the file in ONNX Runtime against the network;
    looser, because its float32 sums over the voxels of an instance norm differ in single voxels. Each is the largest
    absolute difference divided by the largest absolute value, onnxruntime_mean the mean difference divided by it.
    """

    inputs: tuple[str, ...]
    graph: float
    graph_tolerance: float
    storage: float
    storage_tolerance: float
    onnxruntime: float
    onnxruntime_tolerance: float
    onnxruntime_mean: float
    onnxruntime_mean_tolerance: float


class VariantParity(Part):
    """How far a graph in a lower precision is from the fp32 graph, over recorded inputs of the calibration cases.

    Differences of all outputs, absolute, divided by the largest absolute value of the fp32 graph's output.
    """

    engine: str
    inputs: int
    largest: float
    mean: float


class GraphVariant(Part):
    """The graph in another precision: a file with the same inputs and outputs, float32 on the outside.

    float32_layers: convolutions that are left in float32 because the gate asked for it.
    """

    file: Annotated[str, AfterValidator(_inside)]
    sha256: str
    float32_layers: tuple[str, ...] = ()
    parity: VariantParity


class GraphEntry(Part):
    """One ONNX file of the bundle, and the files of the same graph in other precisions."""

    file: Annotated[str, AfterValidator(_inside)]
    sha256: str
    precision: Literal["fp32"]
    weights: Literal["float32", "float16"]
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    parity: Parity
    variants: dict[Literal["fp16", "int8"], GraphVariant] = Field(default_factory=dict)


class PrecisionGate(Part):
    """Dice of a precision's segmentation against the fp32 one, per region over the calibration cases.

    A precision below `limit` in any region's mean does not enter a bundle. A region empty in both counts as 1.
    """

    engine: str
    cases: tuple[str, ...]
    dice: PerRegion
    worst: PerRegion
    limit: float


class MissingContrast(Part):
    """Scores on held-out cases of which one contrast was left out: means by region, hd95 in mm."""

    protocol: str
    cases: Annotated[int, Field(ge=1)]
    dice: dict[str, float]
    hd95: dict[str, float]

    def described(self) -> str:
        """In words, for a warning."""
        dice = ", ".join(f"{region} {value:.3f}" for region, value in self.dice.items())
        hd95 = ", ".join(f"{region} {value:.1f}" for region, value in self.hd95.items())
        return f"Dice {dice}, HD95 {hd95} mm over {self.cases} held-out cases ({self.protocol})"


class Manifest(Part):
    """What a bundle is: a recipe, the files of its graphs, and where they come from.

    training: provenance of the networks by role. metrics: scores on cases that took no part in training; those of
    cases that lack a contrast are typed, see `missing_contrasts`.
    """

    schema_version: Literal["rediffinet-bundle/2"] = SCHEMA
    name: str
    rediffinet: str
    recipe: Recipe
    graphs: dict[str, GraphEntry]
    training: dict[str, Any]
    metrics: dict[str, Any] = Field(default_factory=dict)
    precision_gate: dict[Literal["fp16", "bf16", "int8"], PrecisionGate] = Field(default_factory=dict)
    licence: str = "Apache-2.0"
    intended_use: str = INTENDED_USE

    @property
    def missing_contrasts(self) -> dict[str, MissingContrast]:
        """Scores on held-out cases without a contrast, by its name: those that may be segmented without it."""
        found = self.metrics.get(MISSING_CONTRASTS, {})
        return {name: MissingContrast.model_validate(scores) for name, scores in found.items()}

    @model_validator(mode="after")
    def _known_contrasts(self) -> Self:
        unknown = self.missing_contrasts.keys() - set(self.recipe.task.contrasts)
        if unknown:
            raise ValueError(f"metrics.{MISSING_CONTRASTS} names {', '.join(sorted(unknown))}, no contrast of the task")
        return self

    def scores_without(self, missing: Sequence[str]) -> MissingContrast | None:
        """The scores of cases that lack these contrasts; None where nothing is missing.

        Raises MissingContrastError when there are none: what a model does then is not known.
        """
        scored = self.missing_contrasts
        if not missing:
            return None
        if len(missing) == 1 and missing[0] in scored:
            return scored[missing[0]]
        there = ", ".join(f"without {name}" for name in scored) or "with all contrasts alone"
        raise MissingContrastError(
            f"The case has no {', '.join(missing)}, and bundle '{self.name}' was not scored on such cases.",
            expected=f"a case as the bundle's scores are: {there}",
            hint="Add the contrast, or use a bundle that was scored without it.",
        )

    def check_gives_margin(self, *, given: bool, missing: Sequence[str] = ()) -> None:
        """Raise ConfigError unless results have a margin in mm.

        given: of masks that were made elsewhere. missing: the contrasts that the case lacks.
        """
        if self.recipe.margin is None:
            message = (
                f"a margin in mm was asked for, and bundle '{self.name}' has none. Fit one with `rediff calibrate` and "
                "export the bundle again, or leave `save_margin=True` out."
            )
            raise ConfigError(message)
        if given:
            message = (
                "a margin in mm was asked for with masks made elsewhere, and it was fitted on the bundle's own "
                "baseline. Leave `save_margin=True` or `baseline_mask` out."
            )
            raise ConfigError(message)
        if missing:
            message = (
                f"a margin in mm was asked for a case without {', '.join(missing)}, and it was fitted on cases with "
                "all contrasts. Add the contrast, or leave `save_margin=True` out."
            )
            raise ConfigError(message)


@dataclass(frozen=True)
class Bundle:
    """An opened, verified bundle."""

    path: Path
    manifest: Manifest
    sha256: str
    """Of the manifest, which holds the hashes of all other files."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of which all graphs have files; bf16 needs none, engines compute it from the fp32 files."""
        entries = self.manifest.graphs.values()
        return ("fp32", *(name for name in ("fp16", "int8") if all(name in entry.variants for entry in entries)))

    def graph(self, name: str, precision: str = "fp32") -> GraphSpec:
        """What an engine needs to load a graph of `manifest.recipe.kind.graphs`.

        For bf16 it is the fp32 file. Raises BundleError when the bundle has no file of that precision.
        """
        stored = "fp32" if precision == "bf16" else precision
        if stored not in self.precisions:
            message = (
                f"bundle {self.path} has no {precision} graphs, it has {', '.join(self.precisions)}. "
                f"Use one of these, or export it again with `precision={','.join((*self.precisions, precision))}`."
            )
            raise BundleError(message)
        return self.stored_graph(name, stored)

    def stored_graph(self, name: str, precision: str) -> GraphSpec:
        """The graph's file of this very precision, whichever the other graphs have; KeyError when there is none."""
        entry = self.manifest.graphs[name]
        variants = {"fp32": entry.file} | {key: variant.file for key, variant in entry.variants.items()}
        tensors = _tensors(entry.inputs), _tensors(entry.outputs)
        return GraphSpec(name, self.path / variants[precision], *tensors, precision, self.path / PLANS)


def _tensors(entries: tuple[TensorEntry, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(entry.name, entry.dtype, entry.shape) for entry in entries)


def default_bundle() -> Path:
    """The bundle shipped in the package. Raises BundleError when this install has none."""
    path = Path(str(resources.files("rediffinet"))) / "bundles" / "default"
    if not (path / MANIFEST).is_file():
        message = f"this install has no default bundle (expected {path}). Reinstall rediffinet, or give `bundle`."
        raise BundleError(message)
    return path


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Read a bundle and verify the hash of every file it names; None opens the default bundle.

    Raises BundleError naming the missing, altered or unreadable file, or the manifest field that does not fit.
    """
    folder = default_bundle() if path is None else Path(path)
    content = _content(folder)
    manifest = _parse(folder, content)
    for name, entry in manifest.graphs.items():
        _verify(folder, name, entry)
        for variant in entry.variants.values():
            _verify(folder, name, variant)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def read_manifest(path: str | Path | None = None) -> Manifest:
    """The manifest alone, to know what a bundle is for before it is opened; nothing is verified. Raises BundleError."""
    folder = default_bundle() if path is None else Path(path)
    return _parse(folder, _content(folder))


def _content(folder: Path) -> bytes:
    source = folder / MANIFEST
    if not source.is_file():
        message = f"bundle {folder}: {MANIFEST} is missing. Expected a folder made by `rediff export`."
        raise BundleError(message)
    return source.read_bytes()


def _parse(folder: Path, content: bytes) -> Manifest:
    try:
        values = parse_json(content)
    except ValueError as error:
        message = f"bundle {folder}: {MANIFEST} is not JSON ({error}). Copy the bundle again or export it anew."
        raise BundleError(message) from None
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found in CONVERTIBLE:
        message = (
            f"bundle {folder}: schema '{found}' is that of an older version, expected '{SCHEMA}'. Convert it: "
            f"rediff convert {folder} --out NEW_FOLDER."
        )
        raise BundleError(message)
    if found != SCHEMA:
        message = f"bundle {folder}: schema {found!r}, expected '{SCHEMA}'. Export it with this version of rediffinet."
        raise BundleError(message)
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(": ".join((".".join(map(str, e["loc"])) or "model", e["msg"])) for e in error.errors())
        message = f"bundle {folder}: {MANIFEST} does not fit its schema ({problems}). Export it anew."
        raise BundleError(message) from None
    expected = set(manifest.recipe.kind.graphs)
    for said, names in (("no", expected - manifest.graphs.keys()), ("surplus", manifest.graphs.keys() - expected)):
        if names:
            message = (
                f"bundle {folder}: {MANIFEST} names {said} graph {', '.join(sorted(names))} for the model "
                f"'{manifest.recipe.model}'. Export it anew."
            )
            raise BundleError(message)
    return manifest


def _verify(folder: Path, name: str, entry: GraphEntry | GraphVariant) -> None:
    path = folder / entry.file
    if not path.is_file():
        message = f"bundle {folder}: {entry.file} (graph '{name}') is missing. Copy the bundle again or export it anew."
        raise BundleError(message)
    found = file_sha256(path)
    if found != entry.sha256:
        message = (
            f"bundle {folder}: {entry.file} (graph '{name}') was altered: sha256 is {found}, "
            f"the manifest says {entry.sha256}. Copy the bundle again or export it anew."
        )
        raise BundleError(message)
