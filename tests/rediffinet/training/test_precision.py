"""bf16 in training, where the device has it."""

import pytest
import torch

from rediffinet.engines.machine import describe_processor
from rediffinet.training.config import resolve_config
from rediffinet.training.precision import autocast, bf16_is_native

CPU = torch.device("cpu")


def test_bf16_of_the_cpu_is_what_the_system_lists() -> None:
    features = describe_processor().features
    if features is None:
        pytest.skip("the system does not list what the processor has")
    assert bf16_is_native(CPU) == (features["BF16"] or features["AMX"])


@pytest.mark.parametrize("native", [True, False])
def test_auto_computes_in_bf16_where_it_is_native(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rediffinet.training.precision.bf16_is_native", lambda device: native)
    left, right = torch.ones(4, 4), torch.ones(4, 4)
    with autocast("auto", CPU):
        assert (left @ right).dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize(("wanted", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_what_is_asked_for_is_done_on_any_processor(wanted: bool, dtype: torch.dtype) -> None:
    with autocast(wanted, CPU):
        assert (torch.ones(4, 4) @ torch.ones(4, 4)).dtype == dtype


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_gpus_have_bf16_since_ampere(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert bf16_is_native(torch.device("cuda", 0)) == native


def test_the_default_leaves_it_to_the_device() -> None:
    assert resolve_config("unet").autocast == "auto"
