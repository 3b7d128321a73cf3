"""Precision variants of a bundle: written, measured against fp32 graph by graph, and let in by the Dice of results.

The calibration cases are segmented in fp32 first. What the graphs were fed meanwhile calibrates int8 and measures each
variant; the labels are what a variant's own segmentation is compared with. bf16 and int8 are measured in OpenVINO,
which runs them; fp16 in ONNX Runtime, which on the CPU rounds the weights but not every activation: that proves the
graph right, while a GPU's rounding is for the GPU tests to measure.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np

from rediffinet.bundle import MANIFEST, Bundle, GraphEntry, GraphVariant, PrecisionGate, VariantParity
from rediffinet.engines import open_engine
from rediffinet.engines.base import Buffer, Graph, TensorSpec
from rediffinet.errors import ConfigError, ExportError, RediffError
from rediffinet.export.precision import Arrays, outermost_convolutions, to_fp16, to_int8
from rediffinet.files import file_sha256, write_atomically
from rediffinet.io.cases import Case
from rediffinet.metrics import region_dice
from rediffinet.segmenter import Labels, Segmenter, SegmentOptions

Stage = Callable[[str, int, int], None]
Lower = Literal["fp16", "bf16", "int8"]
LIMITS: dict[Lower, float] = {"fp16": 0.99, "bf16": 0.99, "int8": 0.97}
"""Smallest mean Dice of any region against the fp32 result."""
ENGINES: dict[Lower, tuple[str, ...]] = {
    "fp16": ("onnxruntime",),
    "bf16": ("openvino",),
    "int8": ("openvino", "onnxruntime"),
}
"""What measures a precision: the first that runs it on this processor, which the manifest names."""
KEPT = 8
"""Recorded inputs per graph and case."""


def parse_precisions(text: str) -> tuple[Lower, ...]:
    """ "fp32,fp16" → ("fp16",): what is to be made besides fp32, which is always there. ConfigError for other names."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name != "fp32" and name not in LIMITS]
    if unknown:
        message = f"`precision`: got '{text}', expected a list of fp32, {', '.join(LIMITS)}"
        raise ConfigError(message)
    return tuple(name for name in LIMITS if name in names)


@dataclass
class Recorded:
    """What segmenting the calibration cases in fp32 gave: labels per case, and recorded inputs per graph."""

    cases: Sequence[Case]
    labels: list[Labels] = field(default_factory=list)
    inputs: dict[str, list[Arrays]] = field(default_factory=dict)


def record(bundle: Bundle, cases: Sequence[Case]) -> Recorded:
    """Segment the cases in fp32 and keep, per case, up to `KEPT` inputs of every graph, drawn evenly from its calls."""
    found = Recorded(cases)
    # More steps than the default perhaps takes, so that the denoiser is also met at smaller t.
    diffusion = bundle.manifest.recipe.diffusion
    several = SegmentOptions(steps=min(max(4, diffusion.steps), diffusion.train_steps) if diffusion else None)
    with Segmenter(bundle, "onnxruntime") as segmenter:
        for case in cases:
            found.labels.append(segmenter.segment(case).crop_labels)
        plain = segmenter._graphs
        for case in cases:
            recorders = {name: _Recorder(graph) for name, graph in plain.items()}
            segmenter._graphs = {**recorders}
            segmenter.segment(case, options=several)
            for name, recorder in recorders.items():
                found.inputs.setdefault(name, []).extend(recorder.kept)
        segmenter._graphs = plain
    unmet = [name for name, inputs in found.inputs.items() if not inputs]
    if unmet:
        message = (
            f"calibration: no window of the {len(cases)} cases reached the graph {', '.join(unmet)}; the baseline "
            "finds no tumour in them. Give `calibration` a folder of cases with tumours."
        )
        raise ExportError(message)
    return found


class _Recorder(Graph):
    """A graph that keeps a sample of its inputs: a reservoir, so that each call is as likely to be kept."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.spec, graph.engine)
        self._graph = graph
        self._calls = 0
        self._draw = random.Random(graph.spec.name)
        self.kept: list[Arrays] = []

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        place = self._draw.randrange(self._calls + 1)
        self._calls += 1
        if len(self.kept) < KEPT or place < KEPT:
            arrays = {name: self.engine.download(buffer) for name, buffer in inputs.items()}
            if len(self.kept) < KEPT:
                self.kept.append(arrays)
            else:
                self.kept[place] = arrays
        self._graph.run(inputs, outputs)

    def _signature(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        return self._graph._signature()

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        self._graph._run(inputs, outputs)

    def _close(self) -> None:
        self._graph._close()


def measuring_engine(precision: Lower) -> str:
    """The first of `ENGINES` that runs this precision here; raises what the last one raises when none does."""
    *others, last = ENGINES[precision]
    for name in others:
        try:
            open_engine(name, precision=precision).close()
        except RediffError:
            continue
        return name
    open_engine(last, precision=precision).close()
    return last


def add_precisions(
    bundle: Bundle, precisions: Sequence[Lower], cases: Sequence[Case], stage: Stage | None = None
) -> Bundle:
    """Add precisions to a bundle's folder and manifest; the bundle is unchanged when one does not pass.

    Raises ExportError when a precision's result is too far from fp32's, and what engines raise when the one that
    measures a precision cannot run here.
    """
    tell = stage or (lambda what, done, of: None)
    for precision in precisions:
        measuring_engine(precision)  # before the long part
    tell("calibration", 0, 1)
    recorded = record(bundle, cases)
    made = bundle
    written: list[Path] = []
    try:
        for index, precision in enumerate(precisions):
            tell(f"precision {precision}", index, len(precisions))
            made = _add(made, precision, recorded, written)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    content = made.manifest.model_dump_json(indent=2) + "\n"
    write_atomically(bundle.path / MANIFEST, content.encode())
    tell("precision", len(precisions), len(precisions))
    return made


def _add(bundle: Bundle, precision: Lower, recorded: Recorded, written: list[Path]) -> Bundle:
    """The bundle with this precision, after its gate. int8 is tried in all layers, then without the outermost ones."""
    for keep_outermost in (False, True):
        made = bundle
        if precision != "bf16":
            made = _with_variants(bundle, precision, recorded, written, keep_outermost=keep_outermost)
        gate = _gate(made, precision, recorded)
        if np.min(gate.dice) >= gate.limit:  # NaN would not pass
            gates = {**made.manifest.precision_gate, precision: gate}
            return _replaced(made, precision_gate=gates)
        if precision != "int8":
            break
    names = bundle.manifest.recipe.task.region_names
    regions = ", ".join(f"{name} {dice:.4f}" for name, dice in zip(names, gate.dice, strict=True))
    message = (
        f"precision gate, {precision} in {gate.engine}: Dice against the fp32 result is {regions} over "
        f"{len(gate.cases)} calibration cases, expected at least {gate.limit} for each. The bundle was not written; "
        f"export without {precision}."
    )
    raise ExportError(message)


def _with_variants(
    bundle: Bundle, precision: Lower, recorded: Recorded, written: list[Path], *, keep_outermost: bool
) -> Bundle:
    entries = {}
    for name, entry in bundle.manifest.graphs.items():
        source = bundle.path / entry.file
        target = bundle.path / f"{name}-{precision}.onnx"
        written.append(target)
        full: tuple[str, ...] = ()
        if precision == "fp16":
            to_fp16(source, target)
        else:
            full = outermost_convolutions(source) if keep_outermost else ()
            to_int8(source, target, recorded.inputs[name], full)
        entries[name] = _measured(bundle, name, entry, precision, target, recorded.inputs[name], full)
    return _replaced(bundle, graphs=entries)


def _measured(
    bundle: Bundle,
    name: str,
    entry: GraphEntry,
    precision: Lower,
    file: Path,
    inputs: Sequence[Arrays],
    full: tuple[str, ...],
) -> GraphEntry:
    """The entry with its variant, whose distance from the fp32 graph over the recorded inputs is measured."""
    name_of_engine = measuring_engine(precision)
    unmeasured = VariantParity(engine=name_of_engine, inputs=len(inputs), largest=0.0, mean=0.0)
    variant = GraphVariant(file=file.name, sha256=file_sha256(file), float32_layers=full, parity=unmeasured)
    variants = dict(entry.variants) | {cast(Literal["fp16", "int8"], precision): variant}
    entry = entry.model_copy(update={"variants": variants})
    both = _replaced(bundle, graphs={**bundle.manifest.graphs, name: entry})
    largest, mean = [], []
    with (
        open_engine(name_of_engine) as exact,
        open_engine(name_of_engine, precision=precision) as lower,
    ):
        reference, graph = exact.load(both.stored_graph(name, "fp32")), lower.load(both.stored_graph(name, precision))
        for arrays in inputs:
            expected, got = reference(**arrays), graph(**arrays)
            for output, values in expected.items():
                scale = max(float(np.abs(values).max()), 1e-6)
                difference = np.abs(got[output] - values)
                largest.append(float(difference.max()) / scale)
                mean.append(float(difference.mean()) / scale)
    # np.max and np.mean keep NaN, Python's max may lose it
    parity = unmeasured.model_copy(update={"largest": float(np.max(largest)), "mean": float(np.mean(mean))})
    if not np.isfinite(parity.largest):
        message = f"precision {precision}, graph '{name}': its output is not finite. The bundle was not written."
        raise ExportError(message)
    return entry.model_copy(update={"variants": variants | {precision: variant.model_copy(update={"parity": parity})}})


def _gate(bundle: Bundle, precision: Lower, recorded: Recorded) -> PrecisionGate:
    """Segment the calibration cases in this precision and compare with the fp32 labels."""
    task = bundle.manifest.recipe.task
    scores = []
    engine = measuring_engine(precision)
    with Segmenter(bundle, engine, precision=precision) as segmenter:
        for case, expected in zip(recorded.cases, recorded.labels, strict=True):
            got = segmenter.segment(case).crop_labels
            scores.append(list(region_dice(got, expected, task).values()))
    table = np.array(scores)
    return PrecisionGate(
        engine=engine,
        cases=tuple(case.name for case in recorded.cases),
        dice=tuple(table.mean(axis=0).tolist()),
        worst=tuple(table.min(axis=0).tolist()),
        limit=LIMITS[precision],
    )


def _replaced(bundle: Bundle, **changes: object) -> Bundle:
    return Bundle(bundle.path, bundle.manifest.model_copy(update=changes), bundle.sha256)
