"""What this machine has to compute with: the processor's arithmetic, the GPUs and their driver."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from rediffinet.engines.tensorrt.cuda import Gpu, gpus
from rediffinet.errors import EngineError

CPUINFO = Path("/proc/cpuinfo")
FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "BF16": ("avx512_bf16", "amx_bf16"),
    "FP16": ("avx512_fp16", "amx_fp16"),
    "AMX": ("amx_tile",),
}
"""What decides which precisions are fast, and the flags of /proc/cpuinfo that mean it."""


@dataclass(frozen=True)
class Processor:
    """Name, usable cores, and which of `FEATURES` it has; `features` is None where the system does not tell."""

    name: str
    cores: int
    features: dict[str, bool] | None


@dataclass(frozen=True)
class Machine:
    """The processor and the GPUs; `no_gpu` says why there are none."""

    processor: Processor
    gpus: tuple[Gpu, ...]
    no_gpu: str = ""


def describe_machine() -> Machine:
    """Look at this machine; needs no package and starts nothing."""
    try:
        return Machine(describe_processor(), tuple(gpus()))
    except EngineError as error:
        return Machine(describe_processor(), (), str(error).splitlines()[0])


def describe_processor() -> Processor:
    """Look at the processor alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = platform.processor() or platform.machine()
    if not CPUINFO.is_file():
        return Processor(name, cores, None)
    fields = dict(line.split(":", 1) for line in CPUINFO.read_text().splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    if "flags" not in values:  # Arm lists other things under another name
        return Processor(name, cores, None)
    flags = set(values["flags"].split())
    features = {feature: not flags.isdisjoint(wanted) for feature, wanted in FEATURES.items()}
    return Processor(values.get("model name", name), cores, features)
