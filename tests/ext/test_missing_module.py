"""Without the compiled modules the import fails with what to do; the numpy twins are no silent way out."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["_components", "_flip", "_surface"])
def test_import_error_says_what_to_do(module):
    program = f"import sys; sys.modules['rediffinet.ext.{module}'] = None\nimport rediffinet.ext"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert (
        f"compiled modules of rediffinet.ext are missing or do not load (import of rediffinet.ext.{module}"
        in done.stderr
    )
    assert "Install a C compiler and reinstall" in done.stderr
