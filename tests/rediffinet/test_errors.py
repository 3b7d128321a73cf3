"""Errors: their parts, and that they come whole out of another process."""

import importlib
import inspect
import pickle
import pkgutil
from concurrent.futures import ProcessPoolExecutor

import pytest

import rediffinet
from rediffinet.errors import CaseError, MissingExtraError, RediffError

ARGUMENTS = {"MissingExtraError": ("Training", "torch", "train"), "GpuMemoryError": ("full", 3, 2, 9)}
WITHOUT = {"torch", "monai", "scipy", "matplotlib", "tensorrt", "ray", "fastapi", "pydicom", "highdicom"}


def classes() -> list[type[RediffError]]:
    """Every class of ours that is one, in every module that imports here."""
    for module in pkgutil.walk_packages(rediffinet.__path__, "rediffinet."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except (ImportError, RediffError) as error:
                if isinstance(error, ImportError) and (error.name or "").partition(".")[0] not in WITHOUT:
                    raise
    found, left = [], [RediffError]
    while left:
        kind = left.pop()
        found.append(kind)
        left += kind.__subclasses__()
    return sorted((kind for kind in found if kind.__module__.startswith("rediffinet.")), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(kind: type[RediffError], protocol: int) -> None:
    parameters = inspect.signature(kind).parameters
    one = "found" in parameters
    error = kind("what.", expected="this", hint="Do it.") if one else kind(*ARGUMENTS.get(kind.__name__, ("what.",)))
    error.add_note("seen in case X")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert str(again) == str(error) and again.args == error.args
    assert vars(again) == vars(error)
    assert again.as_dict() == error.as_dict()


def fail() -> None:
    raise MissingExtraError("Training", "torch", "train")


def test_an_error_of_a_worker_arrives_with_all_that_it_carries() -> None:
    with ProcessPoolExecutor(1) as pool, pytest.raises(MissingExtraError) as raised:
        pool.submit(fail).result()
    assert raised.value.install == "pip install 'rediffinet[train]'"
    assert raised.value.hint == "Install it with:  pip install 'rediffinet[train]'"


@pytest.mark.parametrize(
    ("error", "text", "parts"),
    [
        (CaseError("It is."), "It is.", ("It is.", "", "")),
        (CaseError("It is.", hint="Do."), "It is.\nDo.", ("It is.", "", "Do.")),
        (CaseError("It is.", expected="that"), "It is.\nExpected that.", ("It is.", "that", "")),
        (CaseError("It is.", expected="that", hint="Do."), "It is.\nExpected that. Do.", ("It is.", "that", "Do.")),
        (CaseError("It is.\nExpected that."), "It is.\nExpected that.", ("It is.", "that", "")),
        (CaseError("It is.\nExpected 0.8 mm. Do. Now."), None, ("It is.", "0.8 mm", "Do. Now.")),
        (CaseError("It is.\nExpected a, b.c.\nDo."), None, ("It is.", "a, b.c", "Do.")),
        (CaseError("Two\nlines."), "Two\nlines.", ("Two\nlines.", "", "")),
    ],
)
def test_found_expected_and_hint_are_apart(error: CaseError, text: str | None, parts: tuple[str, str, str]) -> None:
    assert (error.found, error.expected, error.hint) == parts
    assert text is None or str(error) == error.message == text
    assert error.as_dict() == {
        **dict(zip(("found", "expected", "hint"), parts, strict=True)),
        "type": "CaseError",
        "message": str(error),
    }
