"""What loading takes, measured in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PEAK = """
import resource, sys
from pathlib import Path
from rediffinet.errors import CaseError
from rediffinet.io.cases import load_case
from rediffinet.io.dicom.files import read_series
from rediffinet.io.dicom.volume import read_volume, stack_frames

def peak():  # of this process alone; its maximum is inherited from the one that started it
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

if sys.argv[1] == "dicom":
    import pydicom
before = peak()
try:
    if sys.argv[1] == "dicom":
        for series in read_series(Path(sys.argv[2])):
            read_volume(stack_frames(series))
    else:
        load_case(sys.argv[2])
    said = "read"
except CaseError as error:
    said = str(error).splitlines()[0]
print(round(peak() - before), said)
"""


def measure(kind: str, folder: Path) -> tuple[int, str]:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}  # as users have it
    command = [sys.executable, "-c", PEAK, kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain)
    number, _, said = done.stdout.partition(" ")
    return int(number), said


@pytest.fixture(scope="session")
def peak_mib() -> Callable[[str, Path], tuple[int, str]]:
    """peak_mib(kind, folder) → MiB that loading took at most beyond what the imports had, and what was said."""
    return measure
