"""Fixtures shared by all tests."""

import gc
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rediffinet.bundle import Manifest, Parity
from rediffinet.method.models import MODELS, ModelKind
from rediffinet.task import find_task

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is compiled in tests is neither taken from the user's cache nor put there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure() -> None:
    """Programs that tests start must hear signals, also where whatever started the tests ignores them (nohup, `&`).

    What is ignored stays so in a child; what is handled, if by doing nothing, is at its default there.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: looking for garbage meanwhile is a quarter of the time until the first test."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One process more than cores: while a test waits for a service, a browser or a disk, another one computes."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else (os.cpu_count() or 1) + 1


LONGEST = (
    *("training/test_crossval.py", "clinic/test_service.py", "cli/test_terminal.py", "prepare/test_pipeline.py"),
    *("export/test_tensorrt.py", "viewer/test_page.py", "cli/test_export.py", "export/test_models_export.py"),
    *("training/test_loop.py", "export/test_variants.py", "test_service_fuzz.py", "prepare/test_register.py"),
    *("cli/test_prepare.py", "prepare/test_brain.py", "clinic/test_workers.py", "phantom/test_phantom.py"),
    *("cli/test_segment.py", "clinic/test_cohort.py", "training/test_training_windows.py", "viewer/test_server.py"),
    *("training/test_validation.py", "test_service_dicom.py", "test_metrics_lesionwise.py", "test_gpu_script.py"),
)
"""The files that take ten seconds or more, long ones first: no process shall be left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they were."""
    place = {name: at for at, name in enumerate(LONGEST)}

    def key(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((at for name, at in place.items() if path.endswith(name)), len(LONGEST))

    items.sort(key=key)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """once(name, make) → a folder that make(folder) filled, in whichever of the processes asked first.

    What takes seconds to make and is only read is made once for all processes of a test run.
    """
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], object]) -> Path:
        import fcntl

        done = root / f"once-{name}"
        with (root / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                folder = tmp_path_factory.mktemp(name)
                make(folder)
                folder.rename(done)
        return done

    return get


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real labelled BraTS cases; the test is skipped where there is none."""
    folder = Path(os.environ.get("REDIFF_REAL_DATA", ROOT.parent / "shared" / "brats"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set REDIFF_REAL_DATA to one)")
    return folder


# --- a bundle in closed form ----------------------------------------------------------------------------------------
#
# Graphs without training: every voxel's answer is a formula of that voxel, so plain NumPy says what a whole
# segmentation must be, whatever the windows and their blending were.

CONTRASTS = ("t1n", "t1c", "t2w", "t2f")
BASELINE_WINDOW = (12, 14, 10)
REFINER_WINDOW = (10, 8, 12)


def _rows(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


@dataclass(frozen=True)
class ToyFormula:
    """Weights of the toy graphs; images are t1n, t1c, t2w, t2f, a condition is the prior of WT, TC, ET and then these.

    A model conditioned on less has the columns of what it is conditioned on, and 1 for a prior that it does not see.

    probability = sigmoid(baseline · image + bias)
    feature_0 = prior × (contrast · condition),  feature_1 = second · condition
    x0 = sigmoid(−steep · feature_0 + from_second · feature_1 + from_condition · condition + noise · x_t + time · t)

    With the last four terms small, Δ > 1/2 exactly where prior and contrast have opposite signs.
    """

    baseline: np.ndarray = field(default_factory=lambda: _rows([0, 0, 0, 12], [0, 12, 0, 0], [0, 24, 0, 0]))
    bias: np.ndarray = field(default_factory=lambda: np.float32([-1.0, -1.5, -18.0]))
    contrast: np.ndarray = field(
        default_factory=lambda: _rows([0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0.8, 0.8, 0, 0])
    )
    second: np.ndarray = field(
        default_factory=lambda: _rows([0.1, 0.2, 0, 0.3, 0, 0.1, -0.2], [0, 0, 0.3, 0, -0.2, 0, 0.1])
    )
    from_second: np.ndarray = field(default_factory=lambda: _rows([0.4, -0.1], [0.2, 0.3], [-0.5, 0.1]))
    from_condition: np.ndarray = field(
        default_factory=lambda: _rows([0, 0.1, 0, 0, 0, 0.2, 0], [0.1, 0, 0, 0, 0.3, 0, 0], [0, 0, 0, 0.1, 0, 0, -0.3])
    )
    steep: float = 8.0
    noise: float = 0.0
    time: tuple[float, float, float] = (0.0, 0.0, 0.0)
    signal_scale: float = 1.0
    has_prior: bool = True

    def of(self, kind: ModelKind) -> "ToyFormula":
        """The formula for a model's condition."""
        columns = {"prior": [0, 1, 2], "image": [3, 4, 5, 6], "masked": [3, 4, 5, 6]}
        seen = [column for part in kind.condition for column in columns[part]]
        rows = {name: getattr(self, name)[:, seen] for name in ("contrast", "second", "from_condition")}
        return replace(self, has_prior="prior" in kind.condition, **rows)

    def probability(self, image: np.ndarray) -> np.ndarray:
        """(4, …) → (3, …) in float64, as all results here."""
        return _sigmoid(_mix(self.baseline, image) + np.float64(self.bias).reshape(-1, *[1] * (image.ndim - 1)))

    def features(self, condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(C, …) → (3, …), (2, …)."""
        prior = np.float64(condition[:3]) if self.has_prior else 1.0
        return prior * _mix(self.contrast, condition), _mix(self.second, condition)

    def x0(self, condition: np.ndarray, x_t: np.ndarray | float = 0.0, t: float = 0.0) -> np.ndarray:
        """Condition (C, …), x_t (3, …) → what one call of the denoiser finds (3, …)."""
        first, second = self.features(condition)
        logits = -self.steep * first + _mix(self.from_second, second) + _mix(self.from_condition, condition)
        time = np.float64(self.time).reshape(-1, *[1] * (condition.ndim - 1))
        return _sigmoid(logits + self.noise * np.float64(x_t) + time * t)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _mix(weights: np.ndarray, channels: np.ndarray) -> np.ndarray:
    return np.tensordot(np.float64(weights), np.float64(channels), axes=1)


@dataclass(frozen=True)
class ToyBundle:
    """A bundle folder and the formula that its graphs compute."""

    path: Path
    formula: ToyFormula
    manifest: dict[str, Any]


def write_toy_bundle(
    folder: Path, formula: ToyFormula | None = None, model: str = "rediffinet", **changes: Any
) -> ToyBundle:
    """Write the toy bundle; `changes` replace entries of the manifest or its recipe, entry by entry."""
    kind = MODELS[model]
    formula = (formula or ToyFormula()).of(kind)
    folder.mkdir(parents=True)
    graphs = {}
    models = _toy_models(formula, kind)
    for name in kind.graphs:
        model_proto = models[name]
        content = model_proto.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        graphs[name] = {
            "file": f"{name}.onnx",
            "sha256": hashlib.sha256(content).hexdigest(),
            "precision": "fp32",
            "weights": "float32",
            "inputs": [_toy_tensor(value) for value in model_proto.graph.input],
            "outputs": [_toy_tensor(value) for value in model_proto.graph.output],
            "parity": {
                "inputs": ["none"],
                **dict.fromkeys(set(Parity.model_fields) - {"inputs"}, 0.0),
            },
        }
    manifest: dict[str, Any] = {
        "schema_version": "rediffinet-bundle/2",
        "name": "toy",
        "rediffinet": "0",
        "graphs": graphs,
        "training": {},
    }
    recipe: dict[str, Any] = {
        "model": model,
        "task": find_task("glioma-2023").model_dump(mode="json"),
        "normalisation": {},
        "baseline": {"window": BASELINE_WINDOW, "overlap": 0.25, "thresholds": [0.5, 0.5, 0.5]},
        "refiner": {
            "window": REFINER_WINDOW,
            "overlap": 0.25,
            "margin": 2,
            "unsure": 0.1,
            "condition": "probability",
        },
        "diffusion": {"steps": 2, "samples": 3, "signal_scale": formula.signal_scale},
        "decision": {
            "adding": [0.5, 0.5, 0.5],
            "removing": [0.5, 0.5, 0.5],
            "small_components": {"connectivity": 26, "min_voxels": 0, "min_fraction": 0.0},
        },
    }
    absent = {"baseline": not kind.has_baseline, "refiner": not kind.condition, "diffusion": not kind.samples}
    for key, gone in absent.items():
        if gone:
            del recipe[key]
    if (flip := changes.get("decision", {}).get("thresholds")) is not None:  # the same in both directions
        rest = {key: value for key, value in changes["decision"].items() if key != "thresholds"}
        changes["decision"] = {**rest, "adding": list(flip), "removing": list(flip)}
    for key, value in changes.items():
        part = manifest if key in Manifest.model_fields else recipe
        part[key] = {**part[key], **value} if isinstance(value, dict) and key in part else value
    manifest["recipe"] = recipe
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ToyBundle(folder, formula, manifest)


def _toy_tensor(value: Any) -> dict[str, Any]:
    shape = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
    return {"name": value.name, "dtype": "float32", "shape": shape}


def _toy_models(formula: ToyFormula, kind: ModelKind) -> dict[str, Any]:
    """Every graph that one model or another has, in the condition's size of this one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node

    def tensor(name: str, channels: int | None = None, window: tuple[int, ...] = ()) -> Any:
        return helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["batch"] if channels is None else ["batch", channels, *window]
        )

    def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], **weights: Any) -> Any:
        stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
        graph = helper.make_graph(nodes, "toy", inputs, outputs, stored)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(made, full_check=True)
        return made

    def kernel(weights: np.ndarray) -> np.ndarray:
        return weights[..., None, None, None].astype(np.float32)

    size = kind.condition_channels(find_task("glioma-2023")) or 7
    prior = np.eye(3, size, dtype=np.float32) if formula.has_prior else np.zeros((3, size), np.float32)
    columns = {} if formula.contrast.shape[1] else {"contrast": prior, "second": prior[:2], "from_condition": prior}
    formula = replace(formula, **columns)  # a model without a condition: of the right size, and not used
    baseline = model(
        [node("Conv", ["image", "weights", "bias"], ["logits"]), node("Sigmoid", ["logits"], ["probability"])],
        [tensor("image", 4, BASELINE_WINDOW)],
        [tensor("probability", 3, BASELINE_WINDOW)],
        weights=kernel(formula.baseline),
        bias=formula.bias.astype(np.float32),
    )
    conditioner = model(
        [
            node("Conv", ["condition", "prior", "no_prior"], ["u"]),
            node("Conv", ["condition", "contrast"], ["v"]),
            node("Mul", ["u", "v"], ["feature_0"]),
            node("Conv", ["condition", "second"], ["feature_1"]),
        ],
        [tensor("condition", size, REFINER_WINDOW)],
        [tensor("feature_0", 3, REFINER_WINDOW), tensor("feature_1", 2, REFINER_WINDOW)],
        prior=kernel(prior),
        no_prior=np.full(3, 0.0 if formula.has_prior else 1.0, np.float32),
        contrast=kernel(formula.contrast),
        second=kernel(formula.second),
    )
    denoiser = model(
        [
            node("Mul", ["feature_0", "steep"], ["a"]),
            node("Conv", ["feature_1", "from_second"], ["b"]),
            node("Conv", ["condition", "from_condition"], ["c"]),
            node("Mul", ["x_t", "noise"], ["d"]),
            *(node("Unsqueeze", [name, "axes"], [f"{name}_"]) for name in ("t", "c0", "c1")),
            node("Mul", ["t_", "time"], ["e"]),
            node("Sum", ["a", "b", "c", "d", "e"], ["logits"]),
            node("Sigmoid", ["logits"], ["x0"]),
            node("Mul", ["x0", "twice"], ["f"]),
            node("Sub", ["f", "scale"], ["signal"]),
            node("Mul", ["signal", "c0_"], ["g"]),
            node("Mul", ["x_t", "c1_"], ["h"]),
            node("Add", ["g", "h"], ["x_prev"]),
        ],
        [
            tensor("x_t", 3, REFINER_WINDOW),
            tensor("condition", size, REFINER_WINDOW),
            *(tensor(name) for name in ("t", "c0", "c1")),
            tensor("feature_0", 3, REFINER_WINDOW),
            tensor("feature_1", 2, REFINER_WINDOW),
        ],
        [tensor("x_prev", 3, REFINER_WINDOW), tensor("x0", 3, REFINER_WINDOW)],
        steep=np.float32(-formula.steep),
        noise=np.float32(formula.noise),
        time=np.float32(formula.time).reshape(1, 3, 1, 1, 1),
        from_second=kernel(formula.from_second),
        from_condition=kernel(formula.from_condition),
        twice=np.float32(2.0 * formula.signal_scale),
        scale=np.float32(formula.signal_scale),
        axes=np.array([1, 2, 3, 4]),
    )
    discrepancy = model(
        [
            node("Conv", ["condition", "prior", "no_prior"], ["u"]),
            node("Conv", ["condition", "contrast"], ["v"]),
            node("Mul", ["u", "v"], ["first"]),
            node("Mul", ["first", "steep"], ["a"]),
            node("Conv", ["condition", "second"], ["feature_1"]),
            node("Conv", ["feature_1", "from_second"], ["b"]),
            node("Conv", ["condition", "from_condition"], ["c"]),
            node("Sum", ["a", "b", "c"], ["logits"]),
            node("Sigmoid", ["logits"], ["delta"]),
        ],
        [tensor("condition", size, REFINER_WINDOW)],
        [tensor("delta", 3, REFINER_WINDOW)],
        prior=kernel(prior),
        no_prior=np.full(3, 0.0 if formula.has_prior else 1.0, np.float32),
        contrast=kernel(formula.contrast),
        second=kernel(formula.second),
        steep=np.float32(-formula.steep),
        from_second=kernel(formula.from_second),
        from_condition=kernel(formula.from_condition),
    )
    return {"baseline": baseline, "conditioner": conditioner, "denoiser": denoiser, "discrepancy": discrepancy}


@pytest.fixture(scope="session")
def make_toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ToyBundle]:
    """make_toy_bundle(*, model, manifest entries…, **fields of the formula) → ToyBundle in a folder of its own."""
    fields = set(ToyFormula.__dataclass_fields__) - {"baseline"}

    def make(**changes: Any) -> ToyBundle:
        own = {name: changes.pop(name) for name in list(changes) if name in fields}
        return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy", ToyFormula(**own), **changes)

    return make


@pytest.fixture(scope="session")
def toy_bundle(make_toy_bundle: Callable[..., ToyBundle]) -> ToyBundle:
    """The toy bundle as it is: two steps, three samples, no influence of noise or time. Do not change its folder."""
    return make_toy_bundle()


def toy_images(shape: tuple[int, int, int] = (26, 30, 24), centre: tuple[int, int, int] = (12, 15, 11)) -> np.ndarray:
    """Images float32 (4, X, Y, Z): an ellipsoid of noise with a bright ball in each contrast, a little displaced."""
    rng = np.random.default_rng(3)
    places = np.stack(np.indices(shape))
    middle = (np.array(shape) - 1) / 2
    brain = (((places - middle[:, None, None, None]) / (middle[:, None, None, None] - 1)) ** 2).sum(axis=0) <= 1
    images = rng.uniform(100, 200, (4, *shape)).astype(np.float32)

    def ball(offset: tuple[int, int, int], radius: float) -> np.ndarray:
        at = np.add(centre, offset)[:, None, None, None]
        return ((places - at) ** 2).sum(axis=0) <= radius**2

    for channel, (offset, radius) in enumerate((((0, 1, 0), 4), ((0, 0, 0), 4), ((2, 0, 0), 5), ((0, 0, 0), 6))):
        inside = ball(offset, radius)
        images[channel][inside] = rng.uniform(300, 340, inside.sum())
    core = ball((0, 0, 0), 2.5)
    images[1][core] = rng.uniform(380, 400, core.sum())
    return np.where(brain, images, np.float32(0))


TOY_AFFINE = np.array([[-1, 0, 0, 7], [0, -1, 0, 40], [0, 0, 1, -12], [0, 0, 0, 1.0]])


@pytest.fixture(scope="session")
def make_toy() -> Callable[[], Any]:
    """make_toy() → the case of `toy_images` in memory, for fixtures that live longer than a test."""
    from rediffinet.io.cases import Case

    return lambda: Case.from_arrays("toy", toy_images(), TOY_AFFINE)


@pytest.fixture
def toy_case() -> Any:
    """The case of `toy_images` in memory, named `toy`, LPS, 1 mm."""
    from rediffinet.io.cases import Case

    return Case.from_arrays("toy", toy_images(), TOY_AFFINE)


@pytest.fixture(scope="session")
def make_toy_images() -> Callable[..., np.ndarray]:
    """`toy_images` for tests, which cannot import this file."""
    return toy_images


@pytest.fixture
def toy_folder(tmp_path: Path, toy_case: Any) -> Path:
    """The toy case as four files `toy-t1n.nii.gz` … in a folder."""
    toy_case.save(tmp_path / "toy")
    return tmp_path / "toy"


# --- the command line -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What one `rediff` command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def rediff(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """rediff("segment", path, …) → Ran: the entry point itself, in this process."""
    from rediffinet.cli.main import main

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["rediff", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        else:
            code = 0
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def phantoms(once: Callable[..., Path]) -> Path:
    """A folder of two small phantom cases. Do not change it."""
    from rediffinet.phantom import write_phantoms

    return once("phantoms", lambda folder: write_phantoms(folder, 2, seed=3, shape=(48, 56, 44), tumour="enhancing"))


@pytest.fixture(scope="session")
def labelled_phantoms(once: Callable[..., Path]) -> Path:
    """A folder of four small labelled phantoms of four patients. Do not change it."""
    from rediffinet.phantom import write_phantoms

    return once("labelled-phantoms", lambda folder: write_phantoms(folder, 4, 3, shape=(48, 56, 44)))


@pytest.fixture(scope="session")
def small_gate() -> Iterator[None]:
    """The phantom of the export's parity gate, small: a full one takes seconds to make and prepare."""
    from rediffinet.export import bundle
    from rediffinet.phantom import make_phantom

    made: dict[str, Any] = {}

    def small(seed: int, **more: Any) -> Any:
        key = repr((seed, more))
        if key not in made:
            made[key] = make_phantom(seed, (48, 56, 44), **more)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "make_phantom", small)
        yield


@pytest.fixture(scope="session")
def traced_once(once: Callable[..., Path]) -> Iterator[None]:
    """torch.onnx.export traces each architecture once for all processes; further weights are put into its graph.

    A trace takes seconds, and is the same whatever the weights. The parity gate holds every graph against its module.
    What ONNX's operators are is read once as well: it is half of a trace.
    """
    torch, onnx = pytest.importorskip("torch"), pytest.importorskip("onnx")
    trace = torch.onnx.export

    @cache
    def read_operators_once() -> None:
        with suppress(ImportError):  # what is torch's own may move
            from torch.onnx._internal.exporter._registration import ONNXRegistry

            patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))

    def traced(module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        read_operators_once()
        return trace(module, arguments, **options)

    def export(module: Any, arguments: Any, **options: Any) -> Any:
        from types import SimpleNamespace

        key = hashlib.sha256(_architecture(module, arguments).encode()).hexdigest()
        path = once(f"traced-{key}", lambda at: traced(module, arguments, options).save(at / "graph.onnx"))
        model = onnx.load(path / "graph.onnx")
        weights = module.state_dict()
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
        return SimpleNamespace(model_proto=model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", export)
        yield


def _architecture(module: Any, arguments: Any) -> str:
    """All that a trace may depend on: modules with their plain attributes, shapes, and which tensors are alike."""
    torch = pytest.importorskip("torch")
    plain = (bool, int, float, str, tuple, list, type(None))
    parts: list[Any] = [torch.utils._pytree.tree_map(lambda tensor: (tensor.shape, tensor.dtype), arguments)]
    for name, part in module.named_modules():
        own = {key: value for key, value in vars(part).items() if isinstance(value, plain) and key[0] != "_"}
        parts.append((name, type(part).__qualname__, repr(part), sorted(own.items())))
    first: dict[bytes, str] = {}
    for name, tensor in module.state_dict().items():
        content = tensor.numpy().tobytes()  # what is alike may become one, what is constant may be folded
        constant = content if not tensor.numel() or bool((tensor == tensor.flatten()[0]).all()) else b""
        parts.append((name, tuple(tensor.shape), tensor.dtype, first.setdefault(content, name), constant))
    return repr(parts)
