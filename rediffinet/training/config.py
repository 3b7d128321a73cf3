"""The resolved configuration of a training run and its presets."""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rediffinet.errors import ConfigError
from rediffinet.nets.config import Frozen, RefinerConfig, UNetConfig
from rediffinet.normalise import Normalisation

ModelName = Literal["unet", "rediffinet"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Augmentation(Frozen):
    """Random changes of a training window; probabilities per window, ranges as ± or factors."""

    flip_axes: tuple[Literal[0, 1, 2], ...] = (0,)
    affine: Fraction = 0.3
    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0
    scaling: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    gamma: Fraction = 0.5
    gain: Fraction = 0.5
    noise: Fraction = 0.2
    drop_contrast: Fraction = 0.0


class TrainConfig(Frozen):
    """Everything a run depends on besides its data; saved resolved with every checkpoint."""

    model: ModelName
    unet: UNetConfig = UNetConfig()
    refiner: RefinerConfig = RefinerConfig()
    normalisation: Normalisation = Normalisation()
    augmentation: Augmentation = Augmentation()
    steps: Annotated[int, Field(gt=0)] = 1500
    batch: Annotated[int, Field(gt=0)] = 1
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 100
    clip_norm: PositiveFloat = 5.0
    ema: Fraction = 0.995
    autocast: bool = True
    tumour_fraction: Fraction = 0.67
    error_fraction: Fraction = 0.5
    noisiest_fraction: Fraction = 0.5
    logit_jitter: Fraction = 0.5
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    seed: int = 0
    fold: int | None = None
    folds: Annotated[int, Field(ge=2)] = 5
    checkpoint_every: Annotated[int, Field(gt=0)] = 100


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "tiny": {
        "unet": {
            "unet": {"features": (16, 32, 64, 128), "stem_stride": 2, "window": (128, 160, 128)},
        },
        "rediffinet": {
            "refiner": {"features": (16, 32, 64, 128), "window": (64, 64, 64), "signal_scale": 0.2},
            "augmentation": {"flip_axes": (0, 1, 2), "affine": 0.0},
            "batch": 2,
            "learning_rate": 1e-3,
        },
    },
    "paper": {
        "unet": {
            "unet": {
                "features": (64, 96, 128, 192, 256, 384, 512),
                "deep_supervision": True,
                "window": (128, 192, 128),
            },
            "steps": 150_000,
            "warmup": 15_000,
            "batch": 2,
            "learning_rate": 1e-4,
            "augmentation": {"flip_axes": (0, 1, 2)},
        },
        "rediffinet": {
            "refiner": {
                "features": (64, 64, 128, 256, 512),
                "head_features": 64,
                "time_features": 512,
                "window": (128, 192, 128),
                "soft_condition": False,
            },
            "steps": 150_000,
            "warmup": 15_000,
            "batch": 2,
            "learning_rate": 1e-4,
            "noisiest_fraction": 0.0,
            "logit_jitter": 0.0,
            "error_fraction": 0.0,
            "augmentation": {"flip_axes": (0, 1, 2), "affine": 0.0},
        },
    },
}


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _parse_setting(setting: str) -> dict[str, Any]:
    """'refiner.signal_scale=0.3' → {'refiner': {'signal_scale': 0.3}}: commas make a list, values are JSON or text."""
    key, separator, value = setting.partition("=")
    if not separator or not key:
        message = f"--set: got '{setting}', expected KEY=VALUE, for example --set steps=500"
        raise ConfigError(message)
    listed = "," in value and not value.startswith(("[", "{"))
    parsed: Any
    try:
        parsed = json.loads(f"[{value}]" if listed else value)
    except ValueError:
        parsed = value.split(",") if listed else value
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def resolve_config(
    model: str, preset: str = "tiny", changes: dict[str, Any] | None = None, settings: tuple[str, ...] = ()
) -> TrainConfig:
    """Preset ← config file ← --set, checked.

    Raises ConfigError naming the unknown preset, model or key, or the value that does not fit.
    """
    if preset not in PRESETS:
        message = f"preset: got '{preset}', expected one of {', '.join(PRESETS)}"
        raise ConfigError(message)
    if model not in PRESETS[preset]:
        message = f"model: got '{model}', expected one of {', '.join(PRESETS[preset])}"
        raise ConfigError(message)
    values = _merge({"model": model, **PRESETS[preset][model]}, changes or {})
    for setting in settings:
        values = _merge(values, _parse_setting(setting))
    try:
        config = TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        message = f"training configuration: {problems}"
        raise ConfigError(message) from None
    if config.model != model:
        message = f"model: the settings are those of '{config.model}', asked for '{model}'"
        raise ConfigError(message)
    _check(config)
    return config


def _check(config: TrainConfig) -> None:
    net = config.unet if config.model == "unet" else config.refiner
    if any(side % net.divisor for side in net.window):
        message = f"window: got {net.window}, expected sides that are multiples of {net.divisor} for this network"
        raise ConfigError(message)
    if math.prod(side // net.divisor for side in net.window) == 1:
        message = (
            f"window: got {net.window}, which the network shrinks to a single voxel, where instance norm has nothing "
            "to normalise. Use a larger window or fewer levels."
        )
        raise ConfigError(message)
    if config.fold is not None and not 0 <= config.fold < config.folds:
        message = f"fold: got {config.fold}, expected 0 to {config.folds - 1} for {config.folds} folds"
        raise ConfigError(message)
