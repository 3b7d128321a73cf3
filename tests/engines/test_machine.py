"""What `rediff doctor` says of a processor, from a made-up /proc/cpuinfo."""

from pathlib import Path

import pytest

from rediffinet.engines import machine
from rediffinet.errors import EngineError

SAPPHIRE_RAPIDS = "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8 avx512_fp16"
HASWELL = "sse4_2 avx avx2 fma"


@pytest.mark.parametrize(("flags", "there"), [(SAPPHIRE_RAPIDS, set(machine.FEATURES)), (HASWELL, {"AVX2"})])
def test_features(flags: str, there: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nmodel name\t: A CPU: fast\nflags\t\t: fpu {flags}\n\n")
    monkeypatch.setattr(machine, "CPUINFO", info)
    found = machine.describe_machine().processor
    assert found.name == "A CPU: fast" and found.cores >= 1
    assert found.features is not None
    assert {name for name, has in found.features.items() if has} == there


@pytest.mark.parametrize("content", [None, "processor\t: 0\nFeatures\t: fp asimd\n"])
def test_where_nothing_is_told(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    if content is not None:
        info.write_text(content)
    monkeypatch.setattr(machine, "CPUINFO", info)
    assert machine.describe_machine().processor.features is None


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise EngineError("there is no NVIDIA driver here\nDo this")

    monkeypatch.setattr(machine, "gpus", none)
    found = machine.describe_machine()
    assert found.gpus == () and found.no_gpu == "there is no NVIDIA driver here"
