"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real labelled BraTS cases; the test is skipped where there is none."""
    folder = Path(os.environ.get("REDIFF_REAL_DATA", ROOT.parent / "shared" / "brats"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set REDIFF_REAL_DATA to one)")
    return folder
