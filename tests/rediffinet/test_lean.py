"""A process of our own: what is not imported there, and that it is called with what was given."""

import gc
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rediffinet.lean import importing, spawn

ASKED = """
import sys

import nibabel
from nibabel.nifti1 import Nifti1Extension


class Given:
    pass


def tell(given, more, connection):
    extension = Nifti1Extension("dicom", b"as it is")
    connection.send((type(given).__name__, more, "requests" in sys.modules, extension.get_content()))
    import pydicom

    connection.send(pydicom.__name__)
"""


def test_pydicom_is_left_to_those_who_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of what is given imports NiBabel: it must not come before what is left out is settled."""
    pytest.importorskip("pydicom")
    (tmp_path / "asked_of_a_lean_process.py").write_text(ASKED)
    monkeypatch.syspath_prepend(tmp_path)
    import asked_of_a_lean_process as asked

    ours, theirs = multiprocessing.Pipe()
    process = spawn(asked.tell, asked.Given(), 3, connection=theirs)
    theirs.close()
    try:
        assert ours.recv() == ("Given", 3, False, b"as it is")
        assert ours.recv() == "pydicom"
    finally:
        process.join(60)
        del sys.modules["asked_of_a_lean_process"]
    assert process.exitcode == 0


BLOCK = """
import gc, sys
from rediffinet.lean import importing
before = gc.get_freeze_count()
with importing():
    assert not gc.isenabled()
    from pydantic import BaseModel
    import pydantic.plugin._loader as loader

    class Model(BaseModel):
        x: int
assert gc.isenabled() and gc.get_freeze_count() > before
print(Model(x="3").x, loader._plugins)
"""


def test_imports_in_a_block_are_kept_out_of_collections_and_ask_no_plugin() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYDANTIC_DISABLE_PLUGINS"}
    command = [sys.executable, "-c", BLOCK]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["3", "None"], done.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_after_a_block_that_fails_garbage_is_collected_as_before(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "__all__")
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
