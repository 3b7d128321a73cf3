"""What `import rediffinet` offers: each with a docstring whose example runs, and nothing loaded before it is used."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rediffinet
from rediffinet.io.cases import Case


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_bundle: Any, toy_case: Case) -> Path:
    """A current folder with a case in `case_dir`, and in `cases/P1`; the default bundle is the quick one here."""
    for folder in ("case_dir", "cases/P1"):
        Case.from_arrays("P1", toy_case.images, toy_case.affine).save(tmp_path / folder)
    monkeypatch.setattr("rediffinet.bundle.default_bundle", lambda: toy_bundle.path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def examples(name: str) -> list[doctest.DocTest]:
    offered = getattr(rediffinet, name)
    globs = {other: getattr(rediffinet, other) for other in rediffinet.__all__}
    found = doctest.DocTestFinder(recurse=False).find(offered, name, globs=globs)
    if isinstance(offered, ModuleType):
        members = [value for key, value in vars(offered).items() if key in getattr(offered, "__all__", [key])]
        members = [value for value in members if inspect.isclass(value) or inspect.isfunction(value)]
        for member in members:
            if member.__module__.startswith(offered.__name__):
                own = dict(vars(sys.modules[member.__module__]))
                found += doctest.DocTestFinder(recurse=False).find(member, globs=own)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", rediffinet.__all__)
def test_each_has_a_docstring_whose_example_runs(work: Path, name: str) -> None:
    assert (inspect.getdoc(getattr(rediffinet, name)) or "").strip()
    tests = examples(name)
    assert tests, f"{name} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test, out=told.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(told)


def test_importing_it_loads_nothing() -> None:
    program = (
        "import sys, rediffinet; dir(rediffinet); print(sorted({'numpy', 'nibabel', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segment_everything'"):
        _ = rediffinet.segment_everything
