"""Who may import whom, and what may be imported at all without the extras: the map of docs/architecture.md."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("export", "engines", "cli", "ext")
MAY_IMPORT = {  # each room itself, and errors and files, which all but ext may use
    "cli": {
        "bundle",
        "clinic",
        "engines",
        "export",
        "io",
        "lean",
        "method",
        "metrics",
        "opened",
        "phantom",
        "prepare",
        "report",
        "reports",
        "result",
        "scoring",
        "segmenter",
        "task",
        "training",
    },
    "clinic": {"bundle", "engines", "io", "lean", "metrics", "prepare", "report", "result", "segmenter", "task"},
    "prepare": {"bundle", "engines", "ext", "io", "report", "result", "task"},
    "export": {
        "bundle",
        "clinic",
        "engines",
        "io",
        "method",
        "metrics",
        "nets",
        "phantom",
        "prepare",
        "segmenter",
        "task",
        "training",
    },
    "training": {"engines", "io", "method", "metrics", "nets", "scoring", "task", "trust"},
    "reports": {"io", "method", "metrics", "scoring", "task"},
    "scoring": {"ext", "io", "metrics", "task"},
    "nets": {"engines", "method", "task"},
    "segmenter": {"bundle", "engines", "findings", "io", "method", "opened", "report", "result", "task", "trust"},
    "findings": {"io", "method", "report"},
    "trust": {"ext", "io", "method"},
    "result": {"io", "method", "report", "task"},
    "opened": {"bundle", "engines"},
    "bundle": {"engines", "method"},
    "method": {"engines", "ext", "task"},
    "io": {"ext", "report", "task"},
    "metrics": {"ext", "task"},
    "phantom": {"task"},
    "report": {"task"},
    "task": set(),
    "engines": set(),
    "ext": set(),
    "files": set(),
    "errors": set(),
    "lean": set(),
}
"""Who may import whom, by folder; single modules of the package count as one."""
OF_ENGINES = {"method", "nets", "training", "bundle"}
"""What takes from the engines what every engine is (engines.base), and none of them."""
SHARED = {"errors", "files"}
CORE = set(MAY_IMPORT) - {"cli", "export", "training", "nets", "reports", "engines", "ext"}
RUNTIME = {"numpy", "nibabel", "isal", "typer", "click", "rich", "pydantic", "PIL"}
HEAVY = ("torch", "monai", "onnx", "onnxruntime", "openvino", "tensorrt", "scipy", "matplotlib")
BACKENDS = re.compile(r"rediffinet\.engines\.(\w+_(engine|operators)|tensorrt\.engine)(\.|$)")
SERVICE = re.compile(
    r"rediffinet\.clinic\.service\.(app|dicomweb|gate|measures|protocol|server|uploads|jobs)$"
)  # the extra [serve]


@dataclass(frozen=True)
class Import:
    """One imported module; `lazy` when it happens inside a function, or for type checkers alone."""

    importer: str
    module: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.module}{' late' if self.lazy else ''}"


def modules() -> dict[str, Path]:
    """Every Python module of the package by its installed name."""
    found = {}
    for folder in ("rediffinet", *FOLDERS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            if folder != "rediffinet":
                parts.insert(0, "rediffinet")
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def group(module: str) -> str:
    """The room a module is in: its folder, or itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "rediffinet"


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """All imports of a module, those for type checkers too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, lazy)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:  # `from package import module` imports the module
                deeper = f"{base}.{alias.name}"
                yield Import(name, deeper if deeper in known else base, lazy)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        inside = lazy or typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):  # no expression imports anything
                yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


KNOWN = modules()
IMPORTS = [found for name, path in KNOWN.items() for found in imports(name, path, KNOWN)]


def light(module: str) -> bool:
    """Whether a module must import with the runtime dependencies alone."""
    return (
        group(module) in {*CORE, "rediffinet", "cli", "ext", "engines", "reports"}
        and not BACKENDS.match(module)
        and not SERVICE.match(module)
    )


def test_every_room_is_on_the_map() -> None:
    assert {group(name) for name in KNOWN} - {"rediffinet"} == set(MAY_IMPORT)
    assert len(IMPORTS) > len(KNOWN)


def test_directions() -> None:
    wrong = []
    for found in IMPORTS:
        here, there = group(found.importer), group(found.module)
        if not found.module.startswith("rediffinet.") or here == there or here == "rediffinet":
            continue
        shared = there in SHARED and here not in ("ext", "errors")
        if there not in MAY_IMPORT[here] and not shared:
            wrong.append(str(found))
    assert not wrong


def test_rooms_stand_in_one_order() -> None:
    """No circle of rooms: those that import nothing go first, then those that import only these, and so on."""
    left, gone = dict(MAY_IMPORT), set()
    while free := {room for room, others in left.items() if others <= gone}:
        gone |= free
        left = {room: others for room, others in left.items() if room not in free}
    assert not left, f"in a circle: {sorted(left)}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not even inside functions or for type checkers."""
    packages = {name for name, path in KNOWN.items() if path.name == "__init__.py"}
    uses: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.module in KNOWN and found.module not in packages:
            uses.setdefault(found.importer, set()).add(found.module)

    def reaches(start: str) -> bool:
        seen, ahead = set(), list(uses.get(start, ()))
        while ahead:
            module = ahead.pop()
            if module == start:
                return True
            if module not in seen:
                seen.add(module)
                ahead += uses.get(module, ())
        return False

    assert [name for name in sorted(uses) if reaches(name)] == []


def test_only_what_every_engine_is_goes_beyond_the_engines() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if group(found.importer) in OF_ENGINES
        and group(found.module) == "engines"
        and found.module != "rediffinet.engines.base"
    ]
    assert not wrong


def test_engines_import_their_back_ends_lazily() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if BACKENDS.match(found.module) and not found.lazy and not BACKENDS.match(found.importer)
    ]
    assert not wrong


def test_the_command_line_is_lazy() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if group(found.importer) == "cli"
        and not found.lazy
        and group(found.module) in {"export", "engines", "nets", "training", "ext", "reports"}
        and found.module.startswith("rediffinet.")
    ]
    assert not wrong


def test_light_modules_import_the_runtime_dependencies_only() -> None:
    allowed = RUNTIME | set(sys.stdlib_module_names) | {"rediffinet"}
    outside = [found for found in IMPORTS if found.module.partition(".")[0] not in allowed and light(found.importer)]
    assert not [str(found) for found in outside if not found.lazy]
    # The core never reaches for torch, not even late; the command line may, for training and export.
    assert not [
        str(found)
        for found in outside
        if group(found.importer) in {*CORE, "ext"} and found.module.partition(".")[0] in HEAVY
    ]


def test_reports_never_import_torch() -> None:
    """Not even late: their extra does not bring it."""
    torches = {"torch", "monai", "safetensors", "onnx", "onnxruntime"}
    found = [one for one in IMPORTS if group(one.importer) == "reports"]
    assert found
    assert not [str(one) for one in found if one.module.partition(".")[0] in torches]


def test_ext_imports_numpy_only() -> None:
    allowed = {"numpy", "rediffinet"} | set(sys.stdlib_module_names)
    outside = [found for found in IMPORTS if group(found.importer) == "ext"]
    assert not [str(found) for found in outside if found.module.partition(".")[0] not in allowed]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT.parent)


BLOCKED_IMPORTS = """
import importlib, importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

BLOCKED = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocked())
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def test_light_modules_import_without_the_extras() -> None:
    names = [name for name in KNOWN if light(name) and not name.endswith("__main__")]
    done = run(BLOCKED_IMPORTS, ",".join((*HEAVY, "safetensors", "onnxscript")), *names)
    assert done.returncode == 0, done.stderr


def test_blocking_works() -> None:
    done = run(BLOCKED_IMPORTS, "numpy", "rediffinet.task")
    assert done.returncode != 0
    assert "blocked: numpy" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What makes `rediff --help` start at once, without a clock."""
    program = f"""
import sys
sys.argv = ["rediff", *{arguments!r}]
from rediffinet.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{name.partition(".")[0] for name in sys.modules}} & set({(*HEAVY, "nibabel", "PIL", "numpy")!r})
assert not heavy, f"imported for --help: {{sorted(heavy)}}"
"""
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert "Usage: rediff" in done.stdout
