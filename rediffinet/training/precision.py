"""In what precision networks are trained: bf16 arithmetic where a device has it, fp32 elsewhere."""

import torch

from rediffinet.training.config import Autocast

_CPU_TELLS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def bf16_is_native(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself. A processor that does not takes some fifty times as long."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in _CPU_TELLS)


def autocast(wanted: Autocast, device: torch.device) -> torch.autocast:
    """torch's mixed precision with bfloat16 on this device: as wanted, for 'auto' where it is native there."""
    enabled = bf16_is_native(device) if wanted == "auto" else wanted
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
