"""What `pip` builds from a copy of the sources: the wheel's content, the sdist's, and the words without a compiler."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("rediffinet", "export", "engines", "cli", "ext")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
BUILT = shutil.ignore_patterns("*.so", "*.pyd", "*.c", "__pycache__")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources alone, as in a fresh clone."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, copy / folder, ignore=BUILT)
    for file in FILES:
        shutil.copy(ROOT / file, copy)
    return copy


def pip_wheel(sources: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(out)]
    return subprocess.run(command, cwd=sources, env={**os.environ, **environment}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel."""
    out = tmp_path_factory.mktemp("wheel")
    done = pip_wheel(sources, out)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("rediffinet-*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_only_rediffinet_at_the_top(wheel: set[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rediffinet"}
    assert len(top) == 2


def test_every_module_is_in_the_wheel(wheel: set[str]) -> None:
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            assert (name if folder == "rediffinet" else f"rediffinet/{name}") in wheel


def test_compiled_extensions_stubs_and_marker(wheel: set[str]) -> None:
    compiled = {name.partition(".")[0] for name in wheel if name.endswith((".so", ".pyd"))}
    pyx = {f"rediffinet/ext/{path.stem}" for path in (ROOT / "ext").glob("*.pyx")}
    assert pyx
    assert compiled == pyx
    assert {f"rediffinet/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "ext").glob("*.pyi")} <= wheel
    assert "rediffinet/py.typed" in wheel
    assert not [name for name in wheel if name.endswith((".pyx", ".c"))]


def test_the_built_page_without_its_sources(wheel: set[str]) -> None:
    viewer = ROOT / "rediffinet" / "clinic" / "viewer"
    built = {path.relative_to(ROOT).as_posix() for path in (viewer / "dist").rglob("*") if path.is_file()}
    assert "rediffinet/clinic/viewer/dist/LICENSES.txt" in built
    assert built <= wheel
    assert not [name for name in wheel if name.startswith("rediffinet/clinic/viewer/page/")]


def test_bundles_and_license(wheel: set[str]) -> None:
    bundles = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "rediffinet" / "bundles").rglob("*") if path.is_file()
    }
    assert bundles <= wheel
    assert [name for name in wheel if name.endswith(".dist-info/licenses/LICENSE")]


def test_sdist_holds_what_a_build_needs(sources: Path, tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "sdist", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in SOURCES:
        for pattern in ("*.py", "*.pyx", "*.pyi"):
            assert {found.relative_to(ROOT).as_posix() for found in (ROOT / folder).rglob(pattern)} <= names
    assert not [name for name in names if name.endswith((".so", ".c"))]
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= names


def test_no_compiler_is_said_in_a_sentence(sources: Path, tmp_path: Path) -> None:
    shutil.rmtree(sources / "build", ignore_errors=True)
    done = pip_wheel(sources, tmp_path, CC="/nonexistent")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "A source install needs a C compiler" in said
    assert "apt install gcc" in said
    assert "Traceback" not in said
