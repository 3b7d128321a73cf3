"""Sizes of the networks."""

import pytest
from pydantic import ValidationError

from rediffinet.nets.config import RefinerConfig, UNetConfig


@pytest.mark.parametrize("kind", [UNetConfig, RefinerConfig])
def test_rejects_unknown_keys_and_changes(kind: type[UNetConfig] | type[RefinerConfig]) -> None:
    with pytest.raises(ValidationError, match="depth"):
        kind.model_validate({"depth": 3})
    with pytest.raises(ValidationError, match="frozen"):
        kind().window = (8, 8, 8)  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [
        {"features": (4, 0)},
        {"features": (4,)},
        {"window": (32, 32, 0)},
        {"window": (32, 32, -32)},
        {"window": (32, 32)},
    ],
)
@pytest.mark.parametrize("kind", [UNetConfig, RefinerConfig])
def test_rejects_impossible_sizes(
    kind: type[UNetConfig] | type[RefinerConfig], values: dict[str, tuple[int, ...]]
) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(values)


def test_refiner_signal_scale_is_a_fraction() -> None:
    for scale in (0.0, 1.5):
        with pytest.raises(ValidationError, match="signal_scale"):
            RefinerConfig(signal_scale=scale)


@pytest.mark.parametrize(
    ("config", "divisor"),
    [
        (UNetConfig(features=(4, 8)), 2),
        (UNetConfig(features=(4, 8, 8, 8)), 8),
        (UNetConfig(features=(4, 8, 8, 8), stem_stride=2), 16),
        (RefinerConfig(features=(4, 8, 8)), 4),
    ],
)
def test_divisor_is_the_factor_between_window_and_coarsest_level(
    config: UNetConfig | RefinerConfig, divisor: int
) -> None:
    assert config.divisor == divisor
