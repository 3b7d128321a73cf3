"""The hand-written .pyi files against the compiled modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = ["rediffinet.ext._components", "rediffinet.ext._flip", "rediffinet.ext._surface"]

# What Cython adds to a module and no caller uses.
ALLOWED = r"rediffinet\.ext\._\w+\.(__test__|__pyx_\w+|__reduce_cython__|__setstate_cython__)"


@pytest.mark.slow
def test_stubs_describe_the_compiled_modules(tmp_path):
    pytest.importorskip("mypy.stubtest", reason="mypy is not installed")
    (tmp_path / "rediffinet").mkdir()
    for entry in [*(ROOT / "rediffinet").iterdir(), *(ROOT / name for name in ("export", "engines", "cli", "ext"))]:
        (tmp_path / "rediffinet" / entry.name).symlink_to(entry)
    allowlist = tmp_path / "allowed.txt"
    allowlist.write_text(ALLOWED)
    command = [sys.executable, "-m", "mypy.stubtest", "--allowlist", str(allowlist), "--ignore-unused-allowlist"]
    checked = subprocess.run(
        [*command, *MODULES],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
