"""Real plans, built ahead of time by TensorRT-RTX on this machine, which needs no GPU for it."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx", reason="plans are built with tensorrt_rtx (extra 'rtx')")
pytest.importorskip("onnx", reason="the graphs are made with onnx (extra 'train')")
pytest.importorskip("onnxruntime", reason="float16 graphs are made with onnxruntime (extra 'cpu')")

import onnx
from onnx import TensorProto, helper, numpy_helper

from rediffinet.bundle import Bundle, file_sha256, open_bundle
from rediffinet.engines.base import GraphSpec, TensorSpec
from rediffinet.engines.tensorrt.build import BuildOptions, Built, build, find_module
from rediffinet.engines.tensorrt.plans import list_plans
from rediffinet.errors import BundleError, ConfigError, EngineError, ExportError, MissingExtraError
from rediffinet.export.tensorrt import PlanSettings, build_plans, check_built

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
SM86 = BuildOptions("sm86", batch=2)
SIZE = 8


def network(half: bool) -> onnx.ModelProto:
    """One of each operator that the bundle's graphs have; in float16 with float32 islands and float32 outside."""
    rng = np.random.default_rng(4)
    kind = np.float16 if half else np.float32
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, values: Any, dtype: Any = kind) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(name: str, *shape: int) -> str:
        return constant(name, rng.normal(0, 0.2, shape))

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def cast(name: str, to: int) -> str:
        return node("Cast", [name], f"{name}_{to}", to=to) if half else name

    def norm(name: str, channels: int) -> str:
        scale, shift = (
            constant(f"{name}_s", np.ones(channels), np.float32),
            constant(f"{name}_b", np.zeros(channels), np.float32),
        )
        done = node("InstanceNormalization", [cast(name, FLOAT), scale, shift], f"{name}_n", epsilon=1e-5)
        return node("LeakyRelu", [cast(done, HALF)], f"{name}_a", alpha=0.01)

    conv = {"kernel_shape": [3, 3, 3], "pads": [1] * 6}
    x = cast("x", HALF)
    first = norm(node("Conv", [x, weight("w0", 4, 3, 3, 3, 3), weight("b0", 4)], "c0", **conv), 4)
    down = norm(node("Conv", [first, weight("w1", 8, 4, 3, 3, 3)], "c1", strides=[2, 2, 2], **conv), 8)
    angle = node(
        "Mul",
        [
            node("Unsqueeze", ["t", constant("one", [1], np.int64)], "t1"),
            constant("frequencies", rng.uniform(0, 1, (1, 4)), np.float32),
        ],
        "angle",
    )
    features = node("Concat", [node("Sin", [angle], "sin"), node("Cos", [angle], "cos")], "features", axis=1)
    time = node("Gemm", [cast(features, HALF), weight("wt", 8, 8), weight("bt", 8)], "time", transB=1)
    spread = node("Unsqueeze", [time, constant("spatial", [2, 3, 4], np.int64)], "spread")
    deep = node("Add", [down, spread], "deep")
    up = node("ConvTranspose", [deep, weight("wu", 8, 4, 2, 2, 2)], "up", kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    scales = constant("scales", [1, 1, 2, 2, 2], np.float32)
    resized = node("Resize", [cast(deep, FLOAT), "", scales], "resized", mode="linear")
    joined = node("Concat", [up, first, cast(resized, HALF)], "joined", axis=1)
    last = node("Conv", [joined, weight("wl", 3, 16, 1, 1, 1)], "last")
    node("Sigmoid", [cast(last, FLOAT)], "y")
    volume = ["batch", 3, SIZE, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, volume), helper.make_tensor_value_info("t", FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", FLOAT, volume)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


VOLUME = ("batch", 3, SIZE, SIZE, SIZE)
SPEC = GraphSpec(
    "g",
    Path("g.onnx"),
    (TensorSpec("x", "float32", VOLUME), TensorSpec("t", "float32", ("batch",))),
    (TensorSpec("y", "float32", VOLUME),),
)


def built(model: bytes, options: BuildOptions = SM86, tick: Any = None) -> Built:
    return build(find_module("tensorrt-rtx"), "graph 'g'", Path("g.onnx"), model, options, tick)


def types(plan: Built, kind: str) -> set[str]:
    return {dtype for _, of, dtype in plan.layers if of == kind}


def test_every_operator_builds_in_fp32() -> None:
    plan = built(network(half=False).SerializeToString())
    assert len(plan.plan) > 10_000
    assert plan.inputs == (("x", "float32", (-1, 3, SIZE, SIZE, SIZE)), ("t", "float32", (-1,)))
    assert plan.outputs == (("y", "float32", (-1, 3, SIZE, SIZE, SIZE)),)
    for kind, count in (("CONVOLUTION", 3), ("DECONVOLUTION", 1), ("NORMALIZATION", 2), ("RESIZE", 1)):
        assert [dtype for _, of, dtype in plan.layers if of == kind] == ["float32"] * count
    check_built("graph 'g'", SPEC, plan)


@pytest.mark.parametrize("target", ["sm75", "sm86"])
def test_fp16_keeps_its_islands(target: str) -> None:
    plan = built(network(half=True).SerializeToString(), BuildOptions(target, batch=2))
    assert types(plan, "CONVOLUTION") == types(plan, "DECONVOLUTION") == {"float16"}
    assert types(plan, "NORMALIZATION") == types(plan, "RESIZE") == {"float32"}
    assert {dtype for _, dtype, _ in (*plan.inputs, *plan.outputs)} == {"float32"}


def test_turing_has_no_3d_convolution_in_fp32() -> None:
    with pytest.raises(ExportError, match=r"cannot build a plan for sm75: .*FP32 3D convolution is not supported"):
        built(network(half=False).SerializeToString(), BuildOptions("sm75"))


def test_progress_is_reported_and_can_stop_the_build() -> None:
    model, seen = network(half=False).SerializeToString(), []
    built(model, tick=lambda phase, done, of: seen.append((phase, done, of)))
    assert len({phase for phase, _, _ in seen}) > 1
    assert all(1 <= done <= of for _, done, of in seen)

    def stop(phase: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(model, tick=stop)


@pytest.mark.parametrize("target", ["sm90", "sm99", "a40"])
def test_target_that_is_not_known(target: str) -> None:
    with pytest.raises(ExportError, match=rf"tensorrt_rtx .* has no target '{target}'; there is sm75, sm80, sm86"):
        built(network(half=False).SerializeToString(), BuildOptions(target))


def test_corrupt_files() -> None:
    whole = network(half=False).SerializeToString()
    for content in (whole[: len(whole) // 2], b"no ONNX file", b""):
        with pytest.raises(ExportError, match=r"graph 'g': tensorrt_rtx .* cannot read g\.onnx: \S"):
            built(content)


def tiny(kind: str, dtype: int = FLOAT, **attributes: Any) -> bytes:
    shape = ["batch", 2, 4, 4, 4]
    values = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y")]
    extra = {name: attributes.pop(name) for name in ("inputs", "weights") if name in attributes}
    node = helper.make_node(kind, ["x", *extra.get("inputs", ())], ["y"], name="the_node", **attributes)
    graph = helper.make_graph([node], "g", values[:1], values[1:], extra.get("weights", ()))
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("else.where", 1)]
    return bytes(helper.make_model(graph, opset_imports=domains, ir_version=10).SerializeToString())


def test_operators_that_the_target_lacks_are_named() -> None:
    with pytest.raises(ExportError, match=r"'the_node' \(Frobnicate\)"):
        built(tiny("Frobnicate", domain="else.where"))
    with pytest.raises(ExportError, match="Bernoulli"):
        built(tiny("Bernoulli"))


def test_bf16_has_no_transposed_convolution() -> None:
    """Why no bf16 plans are offered; when this starts to build, they can be."""
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, (2, 2, 2, 2, 2), np.zeros(32))
    model = tiny("ConvTranspose", TensorProto.BFLOAT16, inputs=["w"], weights=[weight], strides=[2, 2, 2])
    with pytest.raises(ExportError, match="cannot build a plan for sm86"):
        built(model)


def test_only_the_batch_may_be_dynamic() -> None:
    model = network(half=False)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "depth"
    with pytest.raises(ExportError, match=r"input 'x': shape .*only the first dimension"):
        built(model.SerializeToString())


def test_a_network_that_is_not_the_manifests() -> None:
    plan = built(network(half=False).SerializeToString())
    other = GraphSpec("g", SPEC.path, SPEC.inputs, (TensorSpec("probability", "float32", VOLUME),))
    with pytest.raises(ExportError, match=r"outputs are y float32 .*; the manifest says probability float32"):
        check_built("graph 'g'", other, plan)
    named_half = GraphSpec("g", SPEC.path, SPEC.inputs, SPEC.outputs, "fp16")
    with pytest.raises(ExportError, match=r"none of its 4 convolution layers is float16; the file is not in fp16"):
        check_built("graph 'g'", named_half, plan)


def test_a_plan_that_computes_in_something_else() -> None:
    """What the inspector of a machine with a GPU says is held against the precision, as far as it says anything."""
    half = GraphSpec("g", SPEC.path, SPEC.inputs, SPEC.outputs, "fp16")
    plan = built(network(half=True).SerializeToString())
    for fused in ((("all", "ForeignNode", "float16"),), (("all", "ForeignNode", "unknown"),)):
        check_built("graph 'g'", half, replace(plan, inspected=fused))
    with pytest.raises(ExportError, match="the plan computes in float32 alone, though the network has float16"):
        check_built("graph 'g'", half, replace(plan, inspected=(("all", "ForeignNode", "float32"),)))


def test_layers_of_the_inspector_go_into_plan_json(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.engines.tensorrt import build as tensorrt_build

    fused = (("everything", "ForeignNode", "float32"),)
    monkeypatch.setattr(tensorrt_build, "inspect_plan", lambda trt, logger, plan: fused)
    build_plans(planned, PlanSettings(("sm89",), ("fp32",)))
    (found,) = (plans for plans in list_plans(planned.path / "trt") if plans.key.target == "sm89")
    assert {(entry.layers, entry.layers_from) for entry in found.plans.values()} == {(fused, "inspector")}


# --- of a bundle ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(make_toy_bundle: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle in fp32 and fp16, with plans for sm86."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    folder = tmp_path_factory.mktemp("plans") / "bundle"
    shutil.copytree(make_toy_bundle().path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, entry in manifest["graphs"].items():
        half = convert_float_to_float16(onnx.load(folder / entry["file"]), keep_io_types=True)
        onnx.save(half, folder / f"{name}-fp16.onnx")
        entry["variants"] = {"fp16": {"file": f"{name}-fp16.onnx", "sha256": "", "parity": PARITY}}
    write_manifest(folder, manifest)
    outcomes = build_plans(open_bundle(folder), PlanSettings(("sm86",)))
    assert [outcome.built for outcome in outcomes] == [True, True]
    return folder


PARITY = {"engine": "none", "inputs": 0, "largest": 0.0, "mean": 0.0}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the hashes that the files have now."""
    for entry in manifest["graphs"].values():
        for described in (entry, *entry.get("variants", {}).values()):
            described["sha256"] = file_sha256(folder / described["file"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def planned(original: Path, tmp_path: Path) -> Bundle:
    shutil.copytree(original, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def test_what_a_folder_of_plans_says(planned: Bundle) -> None:
    import hashlib

    import tensorrt_rtx

    found = {plans.key.precision: plans for plans in list_plans(planned.path / "trt")}
    assert {plans.path.name for plans in found.values()} == {"sm86-fp32", "sm86-fp16"}
    for precision, plans in found.items():
        key = plans.key
        assert (key.module, key.version, key.target) == ("tensorrt_rtx", tensorrt_rtx.__version__, "sm86")
        assert key.batch == planned.manifest.recipe.diffusion.samples
        assert set(plans.plans) == {"baseline", "conditioner", "denoiser"}
        for name, entry in plans.plans.items():
            spec = planned.graph(name, precision)
            content = (plans.path / entry.file).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (entry.sha256, entry.size)
            assert hashlib.sha256(spec.path.read_bytes()).hexdigest() == entry.graph_sha256
            for tensors, expected in ((entry.inputs, spec.inputs), (entry.outputs, spec.outputs)):
                assert {(n, d) for n, d, _ in tensors} == {(t.name, t.dtype) for t in expected}
            assert entry.precisions["CONVOLUTION"].keys() == {"float32" if precision == "fp32" else "float16"}
            assert entry.layers_from == "network"  # no GPU to open the plan on
    assert not [path for path in (planned.path / "trt").iterdir() if path.name.startswith(".")]


def test_plans_that_fit_are_kept(planned: Bundle) -> None:
    path = planned.path / "trt" / "sm86-fp32" / "baseline.plan"
    before = path.stat().st_mtime_ns
    outcomes = build_plans(planned, PlanSettings(("sm86",), rebuild=True))
    assert [outcome.built for outcome in outcomes] == [False, False]
    assert path.stat().st_mtime_ns == before


def test_plans_for_another_batch_or_altered_need_rebuild(planned: Bundle) -> None:
    settings = PlanSettings(("sm86",), ("fp32",), batch=7)
    with pytest.raises(ExportError, match=r"built for batch 3, not 7\. Replace the plans with `rebuild=True`"):
        build_plans(planned, settings)
    path = planned.path / "trt" / "sm86-fp32" / "denoiser.plan"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportError, match=r"denoiser\.plan was altered or cut.*`rebuild=True`"):
        build_plans(planned, PlanSettings(("sm86",), ("fp32",)))
    outcome = build_plans(planned, PlanSettings(("sm86",), ("fp32",), batch=7, rebuild=True))[0]
    assert outcome.built and outcome.plans.key.batch == 7
    assert not build_plans(planned, settings)[0].built


def test_plans_of_a_graph_that_changed(planned: Bundle) -> None:
    manifest = json.loads((planned.path / "manifest.json").read_text())
    model = onnx.load(planned.path / "baseline.onnx")
    model.doc_string = "exported again"
    onnx.save(model, planned.path / "baseline.onnx")
    write_manifest(planned.path, manifest)
    changed = open_bundle(planned.path)
    with pytest.raises(ExportError, match="built from other graphs; the bundle was exported again"):
        build_plans(changed, PlanSettings(("sm86",), ("fp32",)))
    assert build_plans(changed, PlanSettings(("sm86",), ("fp32",), rebuild=True))[0].built


def test_a_build_that_fails_leaves_what_was_there(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.export import tensorrt

    before = {path: path.read_bytes() for path in (planned.path / "trt").rglob("*") if path.is_file()}

    def fail(trt: Any, what: str, *rest: Any) -> Built:
        if "denoiser" in what:
            raise ExportError("out of tactics")
        return build(trt, what, *rest)

    monkeypatch.setattr(tensorrt, "build", fail)
    for target, batch in (("sm86", 7), ("sm89", 2)):
        with pytest.raises(ExportError, match="out of tactics"):
            build_plans(planned, PlanSettings((target,), ("fp32",), batch=batch, rebuild=True))
    assert {path: path.read_bytes() for path in (planned.path / "trt").rglob("*") if path.is_file()} == before
    assert {path.name for path in (planned.path / "trt").iterdir()} == {"sm86-fp32", "sm86-fp16"}


def test_fp32_and_fp16_for_turing(planned: Bundle) -> None:
    """fp32 is rewritten into what Turing has; the plans belong to the bundle's graphs all the same."""
    outcomes = build_plans(planned, PlanSettings(("sm75",)))
    assert [outcome.plans.path.name for outcome in outcomes] == ["sm75-fp32", "sm75-fp16"]
    for outcome in outcomes:
        precision = outcome.plans.key.precision
        for name, entry in outcome.plans.plans.items():
            spec = planned.graph(name, precision)
            assert entry.graph_sha256 == file_sha256(spec.path)
            assert {(n, d, s[1:]) for n, d, s in entry.inputs} == {(t.name, t.dtype, t.shape[1:]) for t in spec.inputs}
            assert entry.precisions["CONVOLUTION"].keys() == {"float32" if precision == "fp32" else "float16"}
    assert not any(outcome.built for outcome in build_plans(planned, PlanSettings(("sm75",))))


def test_turing_without_onnx_names_the_extra(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "rediffinet.export.turing", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"fp32 plans for sm75 needs .*'onnx'(?s:.*)rediffinet\[train\]"):
        build_plans(planned, PlanSettings(("sm75",), ("fp32",)))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (PlanSettings(("sm99",)), ExportError, "has no target 'sm99'"),
        (PlanSettings(("sm86",), ("bf16",)), ConfigError, "no bf16"),
        (PlanSettings(("sm86",), ("int8",)), BundleError, "has no int8 graphs"),
        (PlanSettings(("sm86",), batch=0), ConfigError, "expected whole numbers from 1"),
        (PlanSettings(("sm86",), workspace_mib=-1), ConfigError, "expected whole numbers from 1"),
        (PlanSettings(("sm86",), engine="openvino"), ConfigError, "'openvino' has no plans"),
        (PlanSettings(("sm86",), hardware_compatible=True), ConfigError, "build one for each target"),
    ],
)
def test_settings_that_cannot_be(planned: Bundle, settings: PlanSettings, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build_plans(planned, settings)


def test_current_without_a_gpu(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.engines.tensorrt import cuda

    def absent() -> list[cuda.Gpu]:
        raise EngineError("there is no NVIDIA driver here")

    monkeypatch.setattr(cuda, "gpus", absent)
    with pytest.raises(EngineError, match="target 'current' of tensorrt-rtx needs a GPU: there is no NVIDIA driver"):
        build_plans(planned, PlanSettings(engine="tensorrt-rtx"))
    if importlib.util.find_spec("tensorrt") is None:
        with pytest.raises(MissingExtraError, match=r"rediffinet\[tensorrt\]"):
            build_plans(planned, PlanSettings())


def test_current_on_a_gpu_is_its_compute_capability(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from rediffinet.engines.tensorrt import cuda

    for capability, name in (((8, 6), "NVIDIA A40"), ((9, 0), "NVIDIA H100")):
        gpu = cuda.Gpu(0, name, capability, 48 << 30, "13.0")
        monkeypatch.setattr(cuda, "gpus", lambda gpu=gpu: [gpu])
        settings = PlanSettings(precisions=("fp32",), engine="tensorrt-rtx")
        if capability == (9, 0):
            with pytest.raises(ExportError, match="has no target 'sm90'"):
                build_plans(planned, settings)
        else:
            outcomes = build_plans(planned, settings)
            assert [(outcome.plans.path.name, outcome.built) for outcome in outcomes] == [("sm86-fp32", False)]


def test_the_command(planned: Bundle, rediff: Callable[..., Any]) -> None:
    done = rediff("plan", planned.path, "--trt-target", "sm86", "--precision", "fp32")
    assert (done.code, done.err) == (0, "")
    assert "sm86-fp32: tensorrt_rtx" in done.out and "fp32, up to date" in done.out
    assert "  denoiser: " in done.out
    done = rediff("plan", planned.path, "--trt-target", "sm86,sm99")
    assert done.code == 2
    assert "has no target 'sm99'" in done.err and "Traceback" not in done.err
    done = rediff("plan", planned.path, "--trt-target", "sm86", "--batch", 2)
    assert done.code == 2 and "--rebuild" in done.err


def in_precision(spec: GraphSpec, precision: str, folder: Path) -> GraphSpec:
    """The exported graph, converted as `rediff export --precision` converts it."""
    from rediffinet.export.precision import to_fp16, to_int8

    path = folder / f"{spec.name}-{precision}.onnx"
    if precision == "fp16":
        to_fp16(spec.path, path)
    else:
        rng = np.random.default_rng(0)
        given = {
            tensor.name: rng.normal(size=[1, *(int(size) for size in tensor.shape[1:])]).astype(np.float32)
            for tensor in spec.inputs
        }
        to_int8(spec.path, path, [given])
    return GraphSpec(spec.name, path, spec.inputs, spec.outputs, precision)


@pytest.mark.parametrize("target", ["sm75", pytest.param("sm80", marks=pytest.mark.slow), "sm86"])
@pytest.mark.parametrize("name", ["baseline", "conditioner", "denoiser"])
def test_exported_networks_build_in_fp16_down_to_turing(bundle: Any, name: str, target: str, tmp_path: Path) -> None:
    """Turing has no matrix product in fp32, which the timestep of the denoiser would need."""
    spec = in_precision(bundle.graph(name), "fp16", tmp_path)
    plan = built(spec.path.read_bytes(), BuildOptions(target, batch=2))
    check_built(name, spec, plan)
    assert types(plan, "CONVOLUTION") == {"float16"}
    assert types(plan, "NORMALIZATION") == {"float32"}
    assert "MATRIX_MULTIPLY" not in {kind for _, kind, _ in plan.layers}


@pytest.mark.parametrize("name", ["baseline", "conditioner", "denoiser"])
def test_exported_networks_build_in_fp32_for_turing(half_bundle: Any, name: str) -> None:
    """Also with weights stored as float16; the operators that Turing lacks are gone."""
    from rediffinet.export.turing import for_turing

    spec = half_bundle.graph(name)
    plan = built(for_turing(spec.path.read_bytes()), BuildOptions("sm75", batch=2))
    check_built(name, spec, plan)
    assert {dtype for _, kind, dtype in plan.layers if kind in ("CONVOLUTION", "DECONVOLUTION")} == {"float32"}


@pytest.mark.parametrize("name", ["baseline", "conditioner", "denoiser"])
def test_exported_networks_build_in_int8(bundle: Any, name: str, tmp_path: Path) -> None:
    """Q/DQ graphs, with the 3-D convolutions and transposed convolutions that int8 plans are for."""
    spec = in_precision(bundle.graph(name), "int8", tmp_path)
    plan = built(spec.path.read_bytes())
    check_built(name, spec, plan)
    quantised = [kind for _, kind, dtype in plan.layers if dtype == "int8"]
    convolutions = [kind for _, kind, _ in plan.layers if kind in ("CONVOLUTION", "DECONVOLUTION")]
    assert quantised.count("QUANTIZE") >= len(convolutions) > 0
    with pytest.raises(ExportError, match="cannot build a plan for sm75: .*FP32"):
        built(spec.path.read_bytes(), BuildOptions("sm75"))


@pytest.mark.parametrize("weights", [pytest.param("bundle", marks=pytest.mark.slow), "half_bundle"])
def test_exported_networks_build(weights: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The graphs that `rediff export` writes, with weights stored as float32 and as float16 (computing in float32)."""
    shutil.copytree(request.getfixturevalue(weights).path, tmp_path / "bundle")
    exported = open_bundle(tmp_path / "bundle")
    outcome = build_plans(exported, PlanSettings(("sm86",), ("fp32",)))[0]
    for entry in outcome.plans.plans.values():
        assert entry.precisions["CONVOLUTION"].keys() == {"float32"}
        assert "NORMALIZATION" in entry.precisions
    assert "DECONVOLUTION" in outcome.plans.plans["denoiser"].precisions
    assert open_bundle(exported.path).sha256 == exported.sha256
