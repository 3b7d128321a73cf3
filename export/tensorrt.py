"""TensorRT plans of a bundle's graphs, built into its `trt` folder. Needs neither torch nor onnx (but for fp32
on Turing, where the graph is rewritten), and with TensorRT-RTX no GPU either.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rediffinet.bundle import PLANS, Bundle
from rediffinet.engines import ENGINES
from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.engines.tensorrt import cuda
from rediffinet.engines.tensorrt.build import (
    MODULES,
    BuildOptions,
    Built,
    Tensor,
    aot_targets,
    build,
    find_module,
    unknown_target,
)
from rediffinet.engines.tensorrt.inspect import UNKNOWN
from rediffinet.engines.tensorrt.plans import DESCRIPTION, PlanEntry, PlanKey, PlanSet, read_plans
from rediffinet.errors import ConfigError, EngineError, ExportError, MissingExtraError
from rediffinet.files import cache_folder, new_folder, write_atomically

Stage = Callable[[str, int, int], None]
EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class PlanSettings:
    """Which plans to build, and how.

    targets: "sm86" and the like, built with TensorRT-RTX on any machine, or "current", the GPU here. engine: "tensorrt"
    or "tensorrt-rtx"; None takes TensorRT for "current" and TensorRT-RTX for the others. precisions: None for fp32 and,
    where the bundle has it, fp16. batch: largest batch, None for the bundle's number of samples. hardware_compatible:
    TensorRT plans for every GPU from Ampere on, slower. rebuild: replace plans that are there but do not fit.
    """

    targets: tuple[str, ...] = ("current",)
    precisions: tuple[str, ...] | None = None
    engine: str | None = None
    batch: int | None = None
    workspace_mib: int | None = None
    hardware_compatible: bool = False
    rebuild: bool = False


@dataclass(frozen=True)
class Outcome:
    """A folder of plans, and whether it was built now or was there already."""

    plans: PlanSet
    built: bool
    seconds: float


def build_plans(bundle: Bundle, settings: PlanSettings | None = None, stage: Stage | None = None) -> list[Outcome]:
    """Build what `settings` ask for into BUNDLE/trt, one folder per target and precision, each moved in whole.

    Plans that are there and fit are kept. Raises ExportError when there are plans that do not fit (another graph,
    version or batch, or an altered file) and `rebuild` is false, for a target that does not exist, and when a graph
    cannot be built; MissingExtraError without the module; EngineError for "current" without a GPU; ConfigError for
    settings that do not make sense; BundleError for a precision that the bundle does not have.
    """
    settings = settings or PlanSettings()
    diffusion = bundle.manifest.recipe.diffusion
    batch = settings.batch if settings.batch is not None else diffusion.samples if diffusion is not None else 1
    workspace = settings.workspace_mib
    if batch < 1 or (workspace is not None and workspace < 1):
        message = f"got batch {batch} and workspace {workspace} MiB; expected whole numbers from 1"
        raise ConfigError(message)
    precisions = settings.precisions or tuple(name for name in ("fp32", "fp16") if name in bundle.precisions)
    for precision in precisions:
        if precision not in PRECISIONS:
            message = f"precision '{precision}': TensorRT plans are built in {', '.join(PRECISIONS)}" + (
                "; transposed convolutions have no bf16 there" if precision == "bf16" else ""
            )
            raise ConfigError(message)
    wanted = [_target(name, settings, batch) for name in dict.fromkeys(settings.targets)]
    specs = {p: [bundle.graph(name, p) for name in bundle.manifest.graphs] for p in dict.fromkeys(precisions)}
    jobs = [(job, precision) for job in wanted for precision in specs]
    return [_build_set(bundle, job, specs[precision], settings.rebuild, stage) for job, precision in jobs]


def check_targets(settings: PlanSettings) -> None:
    """Raise what `build_plans` would raise for the targets, before work that takes long."""
    for name in settings.targets:
        _target(name, settings, 1)


@dataclass(frozen=True)
class _Target:
    """A target with the module that builds for it."""

    module: Any
    key: PlanKey
    options: BuildOptions


def _target(name: str, settings: PlanSettings, batch: int) -> _Target:
    engine = settings.engine or ("tensorrt" if name == "current" else "tensorrt-rtx")
    if engine not in MODULES:
        message = f"engine '{engine}' has no plans; there is {', '.join(MODULES)}"
        raise ConfigError(message)
    trt = _module(engine)
    if engine == "tensorrt-rtx" and settings.hardware_compatible:
        raise ConfigError("hardware-compatible plans are TensorRT's; with TensorRT-RTX build one for each target")
    gpu = None
    if engine == "tensorrt" or name == "current":
        if name != "current":
            raise ExportError(unknown_target(trt, "plan", name))
        gpu = _gpu(engine)
    target = name if gpu is None else gpu.target
    if engine == "tensorrt-rtx" and target not in aot_targets(trt):
        raise ExportError(unknown_target(trt, "plan", target))
    key = PlanKey(
        module=trt.__name__,
        version=str(trt.__version__),
        target=gpu.name if gpu is not None and engine == "tensorrt" else target,
        precision="",
        batch=batch,
        capability=f"{gpu.capability[0]}.{gpu.capability[1]}" if gpu is not None and engine == "tensorrt" else "",
        hardware_compatible=settings.hardware_compatible,
    )
    options = BuildOptions(
        target=target if engine == "tensorrt-rtx" else None,
        batch=batch,
        workspace_mib=settings.workspace_mib,
        hardware_compatible=settings.hardware_compatible,
        timing_cache=timing_cache(key) if engine == "tensorrt" else None,
        inspect=True,
    )
    return _Target(trt, key, options)


def _module(engine: str) -> Any:
    try:
        return find_module(engine)
    except ModuleNotFoundError as error:
        if error.name != MODULES[engine]:
            raise EngineError(ENGINES[engine].broken(engine, error)) from error
        raise MissingExtraError("Building plans", MODULES[engine], EXTRAS[engine]) from None
    except (ImportError, OSError) as error:
        raise EngineError(ENGINES[engine].broken(engine, error)) from error


def _gpu(engine: str) -> cuda.Gpu:
    try:
        here = cuda.gpus()
    except EngineError as error:
        message = f"target 'current' of {engine} needs a GPU: {error}"
        raise EngineError(f"{message}. TensorRT-RTX builds without one: `trt_target=sm86`") from None
    if not here:
        raise EngineError(f"target 'current' of {engine} needs a GPU, and the driver shows none")
    return here[0]


def timing_cache(key: PlanKey) -> Path:
    """Where measured layers of a GPU and version are kept."""
    return cache_folder(f"{key.module}-{key.version}-{key.target.replace(' ', '-')}.timing")


def _build_set(
    bundle: Bundle, target: _Target, specs: Sequence[GraphSpec], rebuild: bool, stage: Stage | None
) -> Outcome:
    key = PlanKey(**{**vars(target.key), "precision": specs[0].precision})
    folder = bundle.path / PLANS / key.folder
    models = {spec.name: spec.path.read_bytes() for spec in specs}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in models.items()}
    if folder.exists():
        why_not = _stale(folder, key, hashes)
        if why_not is None:
            return Outcome(read_plans(folder), False, 0.0)
        if not rebuild:
            message = f"{folder}: {why_not}. Replace the plans with `rebuild=True`."
            raise ExportError(message)
    started = time.perf_counter()
    plans = {}
    with new_folder(folder) as made:
        for index, spec in enumerate(specs):
            label = f"{key.folder}, {spec.name} ({index + 1} of {len(specs)})"
            plans[spec.name] = _build_one(target, spec, models[spec.name], made, label, stage)
        PlanSet(made, key, plans).write(made)
    return Outcome(PlanSet(folder, key, plans), True, time.perf_counter() - started)


def _stale(folder: Path, key: PlanKey, hashes: dict[str, str]) -> str | None:
    """Why the plans in a folder are not the ones wanted, or None when they are."""
    if not (folder / DESCRIPTION).is_file():
        return f"it has no {DESCRIPTION}"
    try:
        found = read_plans(folder)
        for name in found.plans:
            found.read(name)
    except EngineError as error:
        return str(error)
    if found.key != key:
        differing = [name for name, value in vars(key).items() if getattr(found.key, name) != value]
        return "its plans were built for " + ", ".join(
            f"{name} {getattr(found.key, name)!r}, not {getattr(key, name)!r}" for name in differing
        )
    if {name: plan.graph_sha256 for name, plan in found.plans.items()} != hashes:
        return "its plans were built from other graphs; the bundle was exported again since"
    return None


def _build_one(
    target: _Target, spec: GraphSpec, model: bytes, folder: Path, label: str, stage: Stage | None
) -> PlanEntry:
    started = time.perf_counter()
    what = f"graph '{spec.name}' in {spec.precision}"

    def tick(phase: str, done: int, of: int) -> None:
        if stage is not None:
            stage(f"{label}: {phase.lower()}", done, of)

    network = model
    if target.key.target == "sm75" and spec.precision == "fp32":
        try:
            from rediffinet.export.turing import for_turing
        except ModuleNotFoundError as error:
            raise MissingExtraError("Building fp32 plans for sm75", str(error.name), "train") from None
        network = for_turing(model)
    try:
        built = build(target.module, what, spec.path, network, target.options, tick)
    except ExportError as error:
        if target.key.target != "sm75":
            raise
        message = (
            f"{error}\nTensorRT-RTX has no 3-D convolution and no matrix product in fp32 for Turing (sm75). Build fp32 "
            "or fp16 plans for it (a bundle of an older version: export it again), or take another target"
        )
        raise ExportError(message) from None
    check_built(what, spec, built)
    file = f"{spec.name}.plan"
    write_atomically(folder / file, built.plan, durable=True)
    return PlanEntry(
        file=file,
        sha256=hashlib.sha256(built.plan).hexdigest(),
        size=len(built.plan),
        graph_sha256=hashlib.sha256(model).hexdigest(),
        seconds=round(time.perf_counter() - started, 3),
        inputs=built.inputs,
        outputs=built.outputs,
        layers=built.inspected or built.layers,
        layers_from="inspector" if built.inspected else "network",
    )


def check_built(what: str, spec: GraphSpec, built: Built) -> None:
    """Hold a network against the manifest: names, dtypes and shapes outside, the precision inside.

    Raises ExportError. A file that says fp16 and computes in float32 builds without a word and is only slow.
    """
    for kind, found, expected in (("input", built.inputs, spec.inputs), ("output", built.outputs, spec.outputs)):
        got = {name: (dtype, shape) for name, dtype, shape in found}
        if got != {tensor.name: (tensor.dtype, _sizes(tensor)) for tensor in expected}:
            message = f"{what}: its {kind}s are {_listed(found)}; the manifest says {', '.join(map(_named, expected))}"
            raise ExportError(message)
    heavy = ("QUANTIZE",) if spec.precision == "int8" else ("CONVOLUTION", "DECONVOLUTION")
    types = [dtype for _, kind, dtype in built.layers if kind in heavy]
    wanted = {"fp16": "float16", "int8": "int8"}.get(spec.precision)
    if wanted is not None and types and wanted not in types:
        message = f"{what}: none of its {len(types)} {heavy[0].lower()} layers is {wanted}"
        raise ExportError(f"{message}; the file is not in {spec.precision}, export the bundle again")
    fused = {dtype for _, _, dtype in built.inspected or ()}
    if wanted is not None and fused and not fused & {wanted, UNKNOWN}:
        message = f"{what}: the plan computes in {', '.join(sorted(fused))} alone, though the network has {wanted}"
        raise ExportError(message)


def _sizes(tensor: TensorSpec) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in tensor.shape)


def _named(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.dtype} {_sizes(tensor)}"


def _listed(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{name} {dtype} {shape}" for name, dtype, shape in tensors)
