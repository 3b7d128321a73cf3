"""TensorRT plans on disk: which graph, GPU and module version a plan belongs to, and finding the one that fits.

    <folder>/<target>-<precision>/plan.json        what this is and was built from
                                  <graph>.plan     one per graph

A plan runs only where its key says. Everything is compared before a plan is handed to the module, because a module says
little of what is wrong with one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rediffinet.errors import EngineError

SCHEMA = "rediffinet-plans/1"
DESCRIPTION = "plan.json"


@dataclass(frozen=True)
class PlanKey:
    """What a plan depends on besides its graph.

    module: "tensorrt" or "tensorrt_rtx", with its full version. target: "sm86" (TensorRT-RTX), or the name of the GPU
    that it was built on and its compute capability (TensorRT). batch: the profile is 1 to this many, best at 1.
    """

    module: str
    version: str
    target: str
    precision: str
    batch: int
    capability: str = ""
    hardware_compatible: bool = False

    @property
    def folder(self) -> str:
        """Name of the folder of these plans."""
        target = self.target if self.module == "tensorrt_rtx" else f"trt{self.version.partition('.')[0]}-{self.target}"
        name = "".join(letter if letter.isalnum() else "-" for letter in target.lower())
        return f"{name}{'-compatible' if self.hardware_compatible else ''}-{self.precision}"


@dataclass(frozen=True)
class PlanEntry:
    """One plan file.

    layers: (name, type, precision of its output). layers_from: "inspector", the plan's own layers after fusion, which
    only a GPU can open; or "network", those that it was built from, whose types the plan has to keep.
    """

    file: str
    sha256: str
    size: int
    graph_sha256: str
    seconds: float
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    layers: tuple[tuple[str, str, str], ...]
    layers_from: str = "network"

    @property
    def precisions(self) -> dict[str, dict[str, int]]:
        """Number of layers by type and precision."""
        counts: dict[str, dict[str, int]] = {}
        for _, kind, precision in self.layers:
            of = counts.setdefault(kind, {})
            of[precision] = of.get(precision, 0) + 1
        return counts


@dataclass(frozen=True)
class PlanSet:
    """The plans of all graphs of a bundle for one target and precision."""

    path: Path
    key: PlanKey
    plans: dict[str, PlanEntry]

    def write(self, folder: Path) -> None:
        """Write `plan.json` into a folder that has the plan files."""
        content = {"schema": SCHEMA, "key": asdict(self.key), "plans": {n: asdict(p) for n, p in self.plans.items()}}
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def read(self, graph: str) -> bytes:
        """The bytes of a plan; `EngineError` when they are not those that were built."""
        entry = self.plans[graph]
        path = self.path / entry.file
        try:
            content = path.read_bytes()
        except OSError as error:
            message = f"plan {path} cannot be read ({error}); {rebuild(self.path.parent, self.key)}"
            raise EngineError(message) from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            message = (
                f"plan {path} was altered or cut: it has {len(content)} bytes and another sha256 than the "
                f"{entry.size} bytes that were built; {rebuild(self.path.parent, self.key)}"
            )
            raise EngineError(message)
        return content


def read_plans(path: Path) -> PlanSet:
    """Read the `plan.json` of one folder; `EngineError` when it is absent or cannot be understood."""
    source = path / DESCRIPTION
    try:
        content: Any = json.loads(source.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, expected {SCHEMA!r}")
        plans = {name: _entry(values) for name, values in content["plans"].items()}
        return PlanSet(path, PlanKey(**content["key"]), plans)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        message = f"plans {path}: {DESCRIPTION} cannot be read ({what}); remove the folder and build it again"
        raise EngineError(message) from None


def _entry(values: dict[str, Any]) -> PlanEntry:
    tensors = {
        kind: tuple((name, dtype, tuple(shape)) for name, dtype, shape in values[kind])
        for kind in ("inputs", "outputs")
    }
    layers = tuple((name, kind, precision) for name, kind, precision in values["layers"])
    return PlanEntry(**{**values, **tensors, "layers": layers})


def list_plans(folder: Path) -> list[PlanSet]:
    """All plans in a folder, readable ones only; an empty list when there is none."""
    found = []
    for source in sorted(folder.glob(f"*/{DESCRIPTION}")):
        try:
            found.append(read_plans(source.parent))
        except EngineError:
            continue
    return found


@dataclass(frozen=True)
class PlanHost:
    """What runs plans here: the module, its version, the GPU."""

    module: str
    version: str
    gpu: str
    capability: tuple[int, int]

    @property
    def target(self) -> str:
        """The target of plans that run here."""
        return f"sm{self.capability[0]}{self.capability[1]}" if self.module == "tensorrt_rtx" else self.gpu

    def refuses(self, key: PlanKey) -> str | None:
        """Why plans with this key do not run here, or None."""
        if key.module != self.module:
            return f"built with {key.module}"
        if key.version != self.version:
            return f"built with {key.module} {key.version}"
        if key.target == self.target:
            return None
        if key.hardware_compatible and self.capability >= (8, 0):
            return None
        return f"built for {key.target}"


def find_plans(folder: Path, graph: str, graph_sha256: str, precision: str, host: PlanHost) -> PlanSet:
    """The plans of a graph that run on this host.

    Raises `EngineError` that lists what is there, why it does not fit, and the command that builds what is missing.
    """
    reasons = []
    for source in sorted(folder.glob(f"*/{DESCRIPTION}")):
        found = read_plans(source.parent)
        if found.key.precision != precision:
            continue
        reason = host.refuses(found.key)
        if reason is None and graph not in found.plans:
            reason = f"it has no graph '{graph}'"
        elif reason is None and found.plans[graph].graph_sha256 != graph_sha256:
            reason = "built from another graph: the bundle was exported again since"
        if reason is None:
            return found
        reasons.append(f"- {found.path.name}: {reason}")
    listed = "\n".join(reasons) or f"- there is none in {precision} under {folder}"
    wanted = PlanKey(host.module, host.version, host.target, precision, 1)
    message = (
        f"graph '{graph}': no plan for {host.module} {host.version} on {host.gpu} in {precision}:\n{listed}\n"
        f"{rebuild(folder, wanted)}"
    )
    raise EngineError(message)


def rebuild(folder: Path, key: PlanKey) -> str:
    """The command that builds plans again, in a sentence."""
    target = key.target if key.module == "tensorrt_rtx" else "current"
    return (
        f"build it with:  rediff plan {folder.parent} --trt-target {target} --precision {key.precision}"
        f"{' --hardware-compatible' if key.hardware_compatible else ''} --rebuild"
    )
