"""A process of our own: what is not imported there, and that it is called with what was given."""

import multiprocessing
import sys
from pathlib import Path

import pytest

from rediffinet.lean import spawn

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
