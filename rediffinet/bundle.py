"""A bundle: a folder with a manifest and the ONNX graphs it names. Opening one verifies every hash.

Nothing in a bundle is code: the manifest is JSON, the graphs are ONNX with their weights inside.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.errors import BundleError
from rediffinet.labels import BRATS_2023, CONTRASTS, REGIONS, SCHEMAS, LabelSchema
from rediffinet.method.models import MODELS, ModelKind
from rediffinet.method.normalise import Normalisation
from rediffinet.method.uncertainty import UncertaintyCurve
from rediffinet.trust import TrustSettings

SCHEMA: Literal["rediffinet-bundle/1"] = "rediffinet-bundle/1"
MANIFEST = "manifest.json"
PLANS = "trt"
"""Folder of a bundle's TensorRT plans, which `rediff plan` adds; a bundle is whole without them."""
INTENDED_USE = "Research use only, not a medical device. No clinical decision may rest on its output."

Triple = tuple[int, int, int]
PerRegion = tuple[float, float, float]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Millimetres = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _inside(file: str) -> str:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(f"'{file}' is outside the bundle")
    return file


class TensorEntry(_Part):
    """Input or output of a graph; a string in the shape is a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Parity(_Part):
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


class VariantParity(_Part):
    """How far a graph in a lower precision is from the fp32 graph, over recorded inputs of the calibration cases.

    Differences of all outputs, absolute, divided by the largest absolute value of the fp32 graph's output.
    """

    engine: str
    inputs: int
    largest: float
    mean: float


class GraphVariant(_Part):
    """The graph in another precision: a file with the same inputs and outputs, float32 on the outside.

    float32_layers: convolutions that are left in float32 because the gate asked for it.
    """

    file: Annotated[str, AfterValidator(_inside)]
    sha256: str
    float32_layers: tuple[str, ...] = ()
    parity: VariantParity


class GraphEntry(_Part):
    """One ONNX file of the bundle, and the files of the same graph in other precisions."""

    file: Annotated[str, AfterValidator(_inside)]
    sha256: str
    precision: Literal["fp32"]
    weights: Literal["float32", "float16"]
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    parity: Parity
    variants: dict[Literal["fp16", "int8"], GraphVariant] = {}


class PrecisionGate(_Part):
    """Dice of a precision's segmentation against the fp32 one, per region over the calibration cases.

    A precision below `limit` in any region's mean does not enter a bundle. A region empty in both counts as 1.
    """

    engine: str
    cases: tuple[str, ...]
    dice: PerRegion
    worst: PerRegion
    limit: float


class BaselineSettings(_Part):
    """How the baseline graph is run: window in voxels, overlap of windows, threshold of U(I) = p > threshold."""

    window: Triple
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)]
    thresholds: PerRegion


class RefinerSettings(_Part):
    """How the discrepancy is predicted and used.

    condition: the baseline's soft probabilities (2p − 1) or its mask (2U − 1). Windows are run where any region's p
    exceeds `unsure`, in the box of those voxels grown by `margin`. thresholds: flip where the mean Δ exceeds them.
    component_threshold: flip a whole component of the baseline's WT where the mean of Δ over it exceeds this, see
    `rediffinet.method.discrepancy.doubted_components`; 1 is never. A model without a baseline has no p: its windows
    tile the whole crop, and only window, overlap and thresholds count.
    """

    window: Triple
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)]
    margin: Annotated[int, Field(ge=0)]
    unsure: Fraction
    condition: Literal["probability", "mask"]
    thresholds: PerRegion
    component_threshold: Fraction = 1.0


class DiffusionSettings(_Part):
    """Training schedule and default sampling; mirror: every second sample is drawn in the mirrored window."""

    scheduler: Literal["ddim"] = "ddim"
    betas: Literal["linear"] = "linear"
    beta_first: float = 1e-4
    beta_last: float = 0.02
    train_steps: Annotated[int, Field(gt=0)] = 1000
    signal_scale: float = 1.0
    steps: Annotated[int, Field(gt=0)]
    samples: Annotated[int, Field(gt=0)]
    mirror: bool = False


class PostprocessSettings(_Part):
    """What is corrected in a label map.

    Whole-tumour components are removed when smaller than min_voxels, or than min_fraction of the largest. The enhancing
    tumour of a case is called core when the mean probability over it, by the baseline, is below min_enhancing.
    """

    connectivity: Literal[6, 18, 26] = 26
    min_voxels: Annotated[int, Field(ge=0)] = 50
    min_fraction: Fraction = 0.0
    min_enhancing: Fraction = 0.0


class Manifest(_Part):
    """Everything a program needs to run the graphs, and where they come from.

    model: a name of rediffinet.method.models; it decides which of `baseline`, `refiner` and `diffusion` there are.
    spacing_mm: voxel size that the graphs work at, along L, P, S. uncertainty: what a stated probability of a wrong
    label is worth; None where that was not measured.
    """

    schema_version: Literal["rediffinet-bundle/1"] = SCHEMA
    name: str
    model: str
    rediffinet: str
    graphs: dict[str, GraphEntry]
    channels: tuple[str, ...] = CONTRASTS
    regions: tuple[str, ...] = REGIONS
    orientation: Literal["LPS"] = "LPS"
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres] = (1.0, 1.0, 1.0)
    normalisation: Normalisation
    labels: Literal["brats2023", "brats2021"] = "brats2023"
    baseline: BaselineSettings | None = None
    refiner: RefinerSettings | None = None
    diffusion: DiffusionSettings | None = None
    postprocess: PostprocessSettings = PostprocessSettings()
    trust: TrustSettings = TrustSettings()
    uncertainty: UncertaintyCurve | None = None
    training: dict[str, Any]
    metrics: dict[str, Any] = {}
    precision_gate: dict[Literal["fp16", "bf16", "int8"], PrecisionGate] = {}
    licence: str = "Apache-2.0"
    intended_use: str = INTENDED_USE

    @field_validator("channels", "regions")
    @classmethod
    def _in_order(cls, names: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        expected = CONTRASTS if field.field_name == "channels" else REGIONS
        if names != expected:
            raise ValueError(f"got {', '.join(names)}, this version runs {', '.join(expected)} in this order only")
        return names

    @model_validator(mode="after")
    def _of_the_model(self) -> Self:
        if self.model not in MODELS:
            raise ValueError(f"model: got '{self.model}', this version runs {', '.join(MODELS)}")
        wanted = {
            "baseline": self.kind.has_baseline,
            "refiner": bool(self.kind.condition),
            "diffusion": self.kind.samples,
        }
        for part, needed in wanted.items():
            if needed != (getattr(self, part) is not None):
                said = "no" if needed else "surplus"
                raise ValueError(f"{said} settings '{part}' for the model '{self.model}'")
        return self

    @property
    def kind(self) -> ModelKind:
        """What the model predicts, and from what."""
        return MODELS[self.model]

    @property
    def label_schema(self) -> LabelSchema:
        """The integers of the label maps this bundle writes."""
        return SCHEMAS.get(self.labels, BRATS_2023)


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
        """What an engine needs to load a graph of `manifest.kind.graphs`.

        For bf16 it is the fp32 file. Raises BundleError when the bundle has no file of that precision.
        """
        stored = "fp32" if precision == "bf16" else precision
        if stored not in self.precisions:
            message = (
                f"bundle {self.path} has no {precision} graphs, it has {', '.join(self.precisions)}. "
                f"Use one of these, or export it again with --precision {','.join((*self.precisions, precision))}."
            )
            raise BundleError(message)
        return self.stored_graph(name, stored)

    def stored_graph(self, name: str, precision: str) -> GraphSpec:
        """The graph's file of this very precision, whichever the other graphs have; KeyError when there is none."""
        entry = self.manifest.graphs[name]
        variants = {"fp32": entry.file} | {key: variant.file for key, variant in entry.variants.items()}
        tensors = _tensors(entry.inputs), _tensors(entry.outputs)
        return GraphSpec(name, self.path / variants[precision], *tensors, precision, self.path / PLANS)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the conditioner's outputs, which are inputs of the denoiser; KeyError for a model without them."""
        return tuple(tensor.name for tensor in self.manifest.graphs["conditioner"].outputs)


def _tensors(entries: tuple[TensorEntry, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(entry.name, entry.dtype, entry.shape) for entry in entries)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_bundle() -> Path:
    """The bundle shipped in the package. Raises BundleError when this install has none."""
    path = Path(str(resources.files("rediffinet"))) / "bundles" / "default"
    if not (path / MANIFEST).is_file():
        message = f"this install has no default bundle (expected {path}). Reinstall rediffinet, or give --bundle DIR."
        raise BundleError(message)
    return path


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Read a bundle and verify the hash of every file it names; None opens the default bundle.

    Raises BundleError naming the missing, altered or unreadable file, or the manifest field that does not fit.
    """
    folder = default_bundle() if path is None else Path(path)
    source = folder / MANIFEST
    if not source.is_file():
        message = f"bundle {folder}: {MANIFEST} is missing. Expected a folder made by `rediff export`."
        raise BundleError(message)
    content = source.read_bytes()
    manifest = _parse(folder, content)
    for name, entry in manifest.graphs.items():
        _verify(folder, name, entry)
        for variant in entry.variants.values():
            _verify(folder, name, variant)
    return Bundle(folder, manifest, hashlib.sha256(content).hexdigest())


def _parse(folder: Path, content: bytes) -> Manifest:
    try:
        values = json.loads(content)
    except ValueError as error:
        message = f"bundle {folder}: {MANIFEST} is not JSON ({error}). Copy the bundle again or export it anew."
        raise BundleError(message) from None
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != SCHEMA:
        message = f"bundle {folder}: schema {found!r}, expected '{SCHEMA}'. Export it with this version of rediffinet."
        raise BundleError(message)
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(": ".join((".".join(map(str, e["loc"])) or "model", e["msg"])) for e in error.errors())
        message = f"bundle {folder}: {MANIFEST} does not fit its schema ({problems}). Export it anew."
        raise BundleError(message) from None
    expected = set(manifest.kind.graphs)
    for said, names in (("no", expected - manifest.graphs.keys()), ("surplus", manifest.graphs.keys() - expected)):
        if names:
            message = (
                f"bundle {folder}: {MANIFEST} names {said} graph {', '.join(sorted(names))} for the model "
                f"'{manifest.model}'. Export it anew."
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
