"""The resolved configuration of a training run and its presets."""

import json
import math
from collections.abc import Mapping
from difflib import SequenceMatcher
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from rediffinet.errors import ConfigError
from rediffinet.method.models import MODELS, ModelKind, Network, find_model
from rediffinet.method.normalise import Normalisation
from rediffinet.method.preprocessing import Preprocessing
from rediffinet.nets.config import Frozen, RefinerConfig, UNetConfig, Window
from rediffinet.task import DEFAULT_TASK, TASKS, Task

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Augmentation(Frozen):
    """Random changes of a training window; probabilities per window or contrast, ranges as ± or factors.

    rotation_axes: about which the window is turned, each by its own angle. bias_strength: standard deviation of the
    logarithm of a bias field. thick_slices: coarser along one axis. cut_off: a contrast that ends within the brain.
    transplant: a tumour is put into the brain of another case.
    """

    flip_axes: tuple[Literal[0, 1, 2], ...] = (0,)
    affine: Fraction = 0.3
    rotation_axes: tuple[Literal[0, 1, 2], ...] = (2,)
    rotation_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0
    scaling: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.15
    gamma: Fraction = 0.5
    gain: Fraction = 0.5
    noise: Fraction = 0.2
    drop_contrast: Fraction = 0.0
    elastic: Fraction = 0.0
    elastic_voxels: Annotated[float, Field(ge=0.0)] = 2.0
    bias_field: Fraction = 0.0
    bias_strength: Annotated[float, Field(ge=0.0, le=2.0)] = 0.15
    blur: Fraction = 0.0
    thick_slices: Fraction = 0.0
    cut_off: Fraction = 0.0
    transplant: Fraction = 0.0


class WindowSampling(Frozen):
    """Training in small windows on the device (rediffinet.training.windows): where they lie, what priors they show.

    errors, boundary, doubts: shares of windows around a voxel where the prior errs, ends, or exceeds 0.05; the rest
    lies anywhere in the brain. quarter_turns: windows, which must be cubes, are turned at random. given, averages:
    shares of examples that show another program's mask, or the mean of two priors. resized, hardened: shares in which
    the prior is grown or shrunk by up to a voxel, or has the sharp edges of a mask.
    """

    errors: Fraction = 0.5
    boundary: Fraction = 0.2
    doubts: Fraction = 0.18
    quarter_turns: bool = True
    given: Fraction = 0.2
    averages: Fraction = 0.3
    resized: Fraction = 0.2
    hardened: Fraction = 0.15


Autocast = bool | Literal["auto"]
MACHINE_FIELDS = frozenset({"channels_last", "compile", "accumulate", "device", "loader_threads", "timeout_s"})
"""Fields of TrainConfig that may differ when a run is resumed."""


class TrainConfig(Frozen):
    """Everything a run depends on besides its data; saved resolved with every checkpoint.

    model: a name of rediffinet.method.models. task: what the images hold and what is looked for. spacing_mm: the voxel
    size the networks work at; cases are resampled to it. crop: window of the first crop_steps steps: a smaller one than
    the network's makes many cheap steps, then the network meets the window that it will run on. mirror: a baseline's
    answer is the mean with that of the mirrored head, and every second sample of a diffusion model is drawn in the
    mirrored window. windows: a refiner learns in small windows on priors of several kinds; None is in windows like any
    other network. result_dice: of a discrepancy, diffused or learnt in windows, the Dice loss is that of the flipped
    result. simulated_errors: share of the examples in which the baseline's answer is empty, or doubled by its mirror
    image.
    lost_parts: share in which it ends at a plane through the tumour.
    false_parts: share in which it has found the tumour of another case as well.
    warm_start: a diffusion model begins with the weights of the baseline it will refine. batch: examples of a step,
    over all processes and their `accumulate` micro-batches. autocast: bf16 arithmetic under torch's mixed precision;
    'auto': where the device has it (`training.precision`). validate_every: steps between validations on the held-out
    fold, 0 for none. MACHINE_FIELDS: how the work is laid out on this machine, among them the threads that make batches
    ahead and the seconds that processes wait for each other; they change the result by rounding alone.
    """

    model: str
    task: Task = TASKS[DEFAULT_TASK]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    unet: UNetConfig = UNetConfig()
    refiner: RefinerConfig = RefinerConfig()
    normalisation: Normalisation = Normalisation()
    augmentation: Augmentation = Augmentation()
    windows: WindowSampling | None = None
    steps: Annotated[int, Field(gt=0)] = 1500
    crop: Window | None = None
    crop_steps: Annotated[int, Field(ge=0)] = 0
    batch: Annotated[int, Field(gt=0)] = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 100
    clip_norm: PositiveFloat = 5.0
    squared_error: bool = False
    result_dice: bool = False
    warm_start: bool = False
    ema: Fraction = 0.995
    autocast: Autocast = "auto"
    channels_last: bool = False
    compile: bool = False
    mirror: bool = False
    tumour_fraction: Fraction = 0.67
    error_fraction: Fraction = 0.5
    noisiest_fraction: Fraction = 0.5
    logit_jitter: Fraction = 0.5
    simulated_errors: Fraction = 0.0
    lost_parts: Fraction = 0.0
    false_parts: Fraction = 0.0
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    seed: int = 0
    fold: int | None = None
    folds: Annotated[int, Field(ge=2)] = 5
    fold_seed: int = 0
    checkpoint_every: Annotated[int, Field(gt=0)] = 100
    validate_every: Annotated[int, Field(ge=0)] = 0
    accumulate: Annotated[int, Field(gt=0)] = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    loader_threads: Annotated[int, Field(gt=0)] = 1
    timeout_s: PositiveFloat = 1800.0

    def differences(self, other: "TrainConfig") -> list[str]:
        """Names of the fields in which `other` would make another run, MACHINE_FIELDS left out."""
        names = sorted(set(type(self).model_fields) - MACHINE_FIELDS)
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def misfits(self, baseline: "TrainConfig") -> list[str]:
        """What keeps a model of this configuration from refining what that baseline says; nothing where they fit.

        A refiner that learns in windows may look at smaller voxels than the baseline.
        """
        alike = ("task", "normalisation", *(("spacing_mm",) if self.windows is None else ()))
        return [name for name in alike if getattr(self, name) != getattr(baseline, name)]

    @property
    def preprocessing(self) -> Preprocessing:
        """How a case becomes the networks' arrays."""
        return Preprocessing(self.task, self.normalisation, self.spacing_mm)

    @property
    def network(self) -> UNetConfig | RefinerConfig:
        """Sizes of the network that this model trains."""
        return self.refiner if find_model(self.model).network == "refiner" else self.unet

    @property
    def network_window(self) -> tuple[int, int, int]:
        """Window in voxels of the network that this model trains."""
        return self.network.window

    def window_at(self, step: int) -> tuple[int, int, int]:
        """Window in voxels of the examples of a step."""
        return self.crop if self.crop is not None and step < self.crop_steps else self.network_window


PRESETS = resources.files("rediffinet.training") / "presets"
"""A JSON file per preset: settings by what a network does (`ModelKind.network`), more by the name of a model; `extends`
names the preset to begin with."""


def preset_names() -> tuple[str, ...]:
    """Names of the presets in the package."""
    return tuple(sorted(path.name.removesuffix(".json") for path in PRESETS.iterdir() if path.name.endswith(".json")))


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """Settings by network of a preset. Raises ConfigError that lists the presets."""
    if name not in preset_names():
        message = f"preset: got '{name}', expected one of {', '.join(preset_names())}"
        raise ConfigError(message)
    values = dict(json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8")))
    base = values.pop("extends", None)
    return _merge(load_preset(base), values) if base else values


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def parse_setting(setting: str) -> dict[str, Any]:
    """'refiner.signal_scale=0.3' → {'refiner': {'signal_scale': 0.3}}: commas make a list, values are JSON or text."""
    key, separator, value = setting.partition("=")
    if not separator or not key:
        message = f"setting '{setting}': expected KEY=VALUE, for example `steps=500`"
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


ONLY_FOR: dict[str, frozenset[Network]] = {
    **dict.fromkeys(("unet",), frozenset(("baseline", "corrector"))),
    **dict.fromkeys(("refiner", "warm_start", "noisiest_fraction"), frozenset(("refiner",))),
    **dict.fromkeys(
        ("error_fraction", "logit_jitter", "simulated_errors", "lost_parts", "false_parts", "windows", "result_dice"),
        frozenset(("corrector", "refiner")),
    ),
}
"""Settings that mean something for some networks alone; the others are for all."""


def applies(kind: ModelKind, setting: str) -> bool:
    """Whether a setting, or the part of it before the first point, means something for a model."""
    return kind.network in ONLY_FOR.get(setting.partition(".")[0], frozenset((kind.network,)))


def _said(kind: ModelKind, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes without those that mean nothing for a model and are as they always are: a run's own config.json."""
    usual = json.loads(TrainConfig(model=kind.name).model_dump_json())
    return {key: value for key, value in changes.items() if applies(kind, key) or value != usual.get(key, ...)}


def check_applies(kind: ModelKind, given: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first setting that means nothing for a model."""
    for setting in given:
        if not applies(kind, setting):
            takers = ", ".join(name for name, other in MODELS.items() if applies(other, setting))
            message = f"{setting}: '{kind.name}' has no such setting, it is one of {takers}. Leave it out."
            raise ConfigError(message)


def read_config(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration in a checkpoint, also of an earlier version. Raises ValidationError when it is none."""
    known = {name: value for name, value in values.items() if name not in GONE}
    if known.get("model") == "discrepancy-unet" and not known.get("refiner", {}).get("soft_condition", True):
        known["unet"] = {"soft_condition": False, **known.get("unet", {})}  # where it stood before
    return TrainConfig.model_validate(known)


PARTS: dict[str, type[BaseModel]] = {
    "unet": UNetConfig,
    "refiner": RefinerConfig,
    "normalisation": Normalisation,
    "augmentation": Augmentation,
    "windows": WindowSampling,
}
"""Fields of TrainConfig that hold settings of their own."""

GONE = frozenset({"far_errors"})
"""Settings of earlier versions, which changed training alone: a run that had them is read without."""


def resolve_config(
    model: str, preset: str = "tiny", changes: dict[str, Any] | None = None, settings: tuple[str, ...] = ()
) -> TrainConfig:
    """Preset ← config file ← settings, checked.

    Raises ConfigError naming the unknown preset, model or key, or the value that does not fit.
    """
    kind = find_model(model)
    found = load_preset(preset)
    values = {"model": model, **_merge(found.get(kind.network, {}), found.get(model, {}))}
    for given in (_said(kind, changes or {}), *map(parse_setting, settings)):
        check_applies(kind, given)
        values = _merge(values, given)
    try:
        config = TrainConfig.model_validate(values)
        if kind.network == "refiner":
            channels = {"condition_channels": kind.condition_channels(config.task)}
            config = TrainConfig.model_validate(_merge({"refiner": channels}, values))
    except ValidationError as error:
        message = f"training configuration: {'; '.join(_problem(kind, one) for one in error.errors())}"
        raise ConfigError(message) from None
    if config.model != model:
        message = f"model: the settings are those of '{config.model}', asked for '{model}'"
        raise ConfigError(message)
    _check(config)
    _check_network(config, settings)
    return config


def setting_names(kind: ModelKind) -> list[str]:
    """Every setting of a model, those of a part of the configuration behind its name, as in `unet.features`."""
    names = []
    for name in TrainConfig.model_fields:
        part = PARTS.get(name)
        if applies(kind, name):
            names += [name] if part is None else [f"{name}.{field}" for field in part.model_fields]
    return names


def _problem(kind: ModelKind, error: Any) -> str:
    """pydantic's words on one problem; for a setting that there is not, those that may have been meant."""
    name = ".".join(map(str, error["loc"]))
    section, _, word = name.rpartition(".")
    names = setting_names(kind)
    near = [one for one in names if SequenceMatcher(None, word, one.rpartition(".")[2]).ratio() >= 0.8]
    near = near or [one for one in names if one.rpartition(".")[0] == section]
    if error["type"] == "extra_forbidden" and near:
        return f"{name}: there is no such setting, expected one of {', '.join(near)}"
    return f"{name}: {error['msg']}, got {error['input']!r}"


def _check_network(config: TrainConfig, settings: tuple[str, ...]) -> None:
    """Raise ConfigError for a setting of the U-Net's that the network in its place does not have, and the reverse.

    A preset sizes the U-Net; another network has `options` instead.
    """
    unet = config.unet
    if unet.network == "unet" and unet.options:
        message = "unet.options: are those of another `unet.network`; the U-Net has features, stem_stride and "
        raise ConfigError(message + "deep_supervision. Leave them out.")
    said = {name for setting in settings for name in parse_setting(setting).get("unet", {})}
    if config.model == "unet" and "soft_condition" in said:
        raise ConfigError("unet.soft_condition: 'unet' is conditioned on no baseline. Leave it out.")
    surplus = sorted(said & {"features", "stem_stride", "deep_supervision"})
    if unet.network != "unet" and surplus:
        message = (
            f"unet.{surplus[0]}: {unet.network} has no such setting. Give its own by unet.options, or leave it out."
        )
        raise ConfigError(message)


def _check(config: TrainConfig) -> None:
    kind = find_model(config.model)
    net = config.network
    channels = kind.condition_channels(config.task)
    if kind.network == "refiner" and config.refiner.condition_channels != channels:
        message = (
            f"refiner.condition_channels: got {config.refiner.condition_channels}, '{config.model}' is conditioned on "
            f"{channels}. Leave it out."
        )
        raise ConfigError(message)
    section = "refiner" if kind.network == "refiner" else "unet"
    residual = net.residual
    if residual is not None and not (residual == kind.target and "prior" in kind.condition):
        message = (
            f"{section}.residual: got '{residual}' for '{config.model}', expected '{kind.target}', the target of a "
            "model that is conditioned on the baseline's answer"
        )
        raise ConfigError(message)
    if residual is not None and not net.soft_condition:
        message = f"{section}.residual: needs the baseline's probabilities, so {section}.soft_condition must be true"
        raise ConfigError(message)
    if residual is not None and kind.network == "corrector" and config.unet.deep_supervision:
        message = "unet.residual: corrects at full resolution alone, so unet.deep_supervision must be false"
        raise ConfigError(message)
    if config.result_dice and not (kind.target == "discrepancy" and (kind.network == "refiner" or config.windows)):
        message = f"result_dice: '{config.model}' diffuses no discrepancy, so it must be false"
        raise ConfigError(message)
    if config.windows is not None:
        _check_windows(config, kind)
    if config.warm_start and not (kind.network == "refiner" and {"prior", "image"} <= set(kind.condition)):
        message = f"warm_start: '{config.model}' is not conditioned on U(I) and the contrasts, so it must be false"
        raise ConfigError(message)
    if config.warm_start and kind.target == "discrepancy" and residual is None:
        message = "warm_start: the baseline predicts no discrepancy; set refiner.residual=discrepancy as well"
        raise ConfigError(message)
    if config.model != "unet" and config.unet.network != "unet":
        message = f"unet.network: got '{config.unet.network}' for '{config.model}', other networks are for 'unet' only"
        raise ConfigError(message)
    _check_window("window", net.window, net.divisor)
    if config.crop is not None:
        _check_window("crop", config.crop, net.divisor)
    if (config.crop is None) != (config.crop_steps == 0):
        message = f"crop: got {config.crop} for crop_steps {config.crop_steps}, expected both or neither"
        raise ConfigError(message)
    if config.fold is not None and not 0 <= config.fold < config.folds:
        message = f"fold: got {config.fold}, expected 0 to {config.folds - 1} for {config.folds} folds"
        raise ConfigError(message)


def _check_windows(config: TrainConfig, kind: ModelKind) -> None:
    net, settings = config.network, config.windows
    assert settings is not None
    if net.residual != "discrepancy" or config.crop is not None or config.warm_start or config.validate_every:
        message = (
            f"windows: '{kind.name}' learns in small windows as a correction: needs residual=discrepancy, and "
            "neither crop, warm_start nor validate_every"
        )
        raise ConfigError(message)
    if settings.quarter_turns and len(set(net.window)) > 1:
        message = f"windows.quarter_turns: got a window of {net.window}, expected a cube, or none of them"
        raise ConfigError(message)
    if (total := settings.errors + settings.boundary + settings.doubts) > 1.0:
        message = f"windows: errors, boundary and doubts are shares of all windows and add up to {total:g}, at most 1"
        raise ConfigError(message)


def _check_window(name: str, window: tuple[int, int, int], divisor: int) -> None:
    if any(side % divisor for side in window):
        message = f"{name}: got {window}, expected sides that are multiples of {divisor} for this network"
        raise ConfigError(message)
    if math.prod(side // divisor for side in window) == 1:
        message = (
            f"{name}: got {window}, which the network shrinks to a single voxel, where instance norm has nothing "
            "to normalise. Use a larger window or fewer levels."
        )
        raise ConfigError(message)
