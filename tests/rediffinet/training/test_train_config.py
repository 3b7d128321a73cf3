"""Presets, the config file and --set, merged and checked."""

import json

import pytest

from rediffinet.errors import ConfigError
from rediffinet.method.models import MODELS
from rediffinet.training.config import (
    MACHINE_FIELDS,
    TrainConfig,
    load_preset,
    preset_names,
    read_config,
    resolve_config,
)


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("model", MODELS)
def test_every_preset_resolves_and_survives_json(preset: str, model: str) -> None:
    config = resolve_config(model, preset)
    assert config.model == model
    assert TrainConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("model", MODELS)
def test_paper_settings_are_those_of_the_paper_in_every_role(model: str) -> None:
    """AdamW with learning rate and weight decay 1e-4, Dice + BCE + MSE, full-size windows, uniform timesteps."""
    config = resolve_config(model, "paper")
    assert (config.learning_rate, config.weight_decay, config.squared_error) == (1e-4, 1e-4, True)
    assert config.network_window == (128, 192, 128) and config.refiner.train_steps == 1000
    assert config.noisiest_fraction == config.logit_jitter == config.error_fraction == 0.0


def test_what_makes_another_run_and_what_is_about_the_machine() -> None:
    one = resolve_config("unet")
    machine = {"accumulate": 2, "device": "cpu", "loader_threads": 4, "timeout_s": 9.0, "compile": True}
    same = one.model_copy(update={**machine, "channels_last": True})
    assert {*machine, "channels_last"} == MACHINE_FIELDS
    assert one.differences(same) == []
    assert same.differences(one.model_copy(update={"seed": 3, "validate_every": 5})) == ["seed", "validate_every"]


def test_presets_are_not_changed_by_use() -> None:
    before = json.dumps(load_preset("tiny"))
    resolve_config("unet", changes={"unet": {"features": (4, 8)}, "steps": 3}, settings=("unet.stem_stride=1",))
    assert json.dumps(load_preset("tiny")) == before


def test_set_wins_over_file_wins_over_preset() -> None:
    preset = resolve_config("rediffinet")
    changes = {"steps": 70, "refiner": {"signal_scale": 0.5, "head_features": 8}}
    config = resolve_config("rediffinet", changes=changes, settings=("refiner.signal_scale=0.75", "seed=5"))
    assert (config.steps, config.seed) == (70, 5)
    assert (config.refiner.signal_scale, config.refiner.head_features) == (0.75, 8)
    assert config.refiner.window == preset.refiner.window and config.batch == preset.batch


def test_later_set_wins() -> None:
    assert resolve_config("unet", settings=("steps=4", "steps=6")).steps == 6


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("unet.features=4,8,16", ("unet", "features"), (4, 8, 16)),
        ("unet.features=[4,8,16]", ("unet", "features"), (4, 8, 16)),
        ("unet.stem_stride=1", ("unet", "stem_stride"), 1),
        ("unet.deep_supervision=true", ("unet", "deep_supervision"), True),
        ("augmentation.flip_axes=0,2", ("augmentation", "flip_axes"), (0, 2)),
        ("augmentation.flip_axes=[1]", ("augmentation", "flip_axes"), (1,)),
        ("augmentation.flip_axes=[]", ("augmentation", "flip_axes"), ()),
        ("learning_rate=1e-4", ("learning_rate",), 1e-4),
        ("learning_rate=.5", ("learning_rate",), 0.5),
        ("autocast=False", ("autocast",), False),
        ("autocast=true", ("autocast",), True),
        ("autocast=auto", ("autocast",), "auto"),
        ("fold=2", ("fold",), 2),
        ("fold=null", ("fold",), None),
        ("normalisation.range=-2,2", ("normalisation", "range"), (-2.0, 2.0)),
    ],
)
def test_set_takes_every_kind_of_value(setting: str, path: tuple[str, ...], value: object) -> None:
    found: object = resolve_config("unet", settings=(setting,))
    for name in path:
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "unet", "preset": "huge"}, ["preset", "huge", "tiny", "paper"]),
        ({"model": "diffnet"}, ["model", "diffnet", "unet", "rediffinet"]),
        ({"model": "unet", "settings": ("step=5",)}, ["step: there is no such setting, expected one of steps"]),
        (
            {"model": "unet", "settings": ("unet.depth=5",)},
            ["unet.depth: there is no", "unet.stem_stride"],
        ),
        ({"model": "unet", "settings": ("augmentation.gama=1",)}, ["augmentation.gama", "one of augmentation.gamma"]),
        ({"model": "rediffinet", "settings": ("signal_scale=1",)}, ["signal_scale", "one of refiner.signal_scale"]),
        ({"model": "unet", "settings": ("unet.soft_condition=false",)}, ["unet.soft_condition: 'unet' is conditioned"]),
        ({"model": "unet", "settings": ('unet.options={"a":1}',)}, ["unet.options", "the U-Net has features"]),
        (
            {"model": "unet", "settings": ("unet.network=SegResNet", "unet.features=8,16")},
            ["unet.features: SegResNet has no such setting", "unet.options"],
        ),
        ({"model": "rediffinet", "changes": {"refiner": {"x": 1}}}, ["refiner.x"]),
        ({"model": "unet", "changes": {"refiner": {"x": 1}}}, ["refiner: 'unet' has no such setting", "rediffinet"]),
        ({"model": "unet", "settings": ("lost_parts=0.2",)}, ["lost_parts", "discrepancy-unet", "rediffinet"]),
        ({"model": "discrepancy-unet", "settings": ("warm_start=true",)}, ["warm_start", "rediffinet"]),
        ({"model": "rediffinet", "settings": ("unet.window=32,32,32",)}, ["unet", "discrepancy-unet"]),
        (
            {"model": "discrepancy-unet", "settings": ("unet.residual=segmentation",)},
            ["unet.residual", "expected 'discrepancy'"],
        ),
        (
            {"model": "discrepancy-unet", "settings": ("unet.residual=discrepancy", "unet.deep_supervision=true")},
            ["unet.deep_supervision must be false"],
        ),
        ({"model": "unet", "settings": ("steps=many",)}, ["steps", "integer", "many"]),
        ({"model": "unet", "settings": ("steps=0",)}, ["steps", "greater than 0"]),
        ({"model": "unet", "settings": ("learning_rate=-1",)}, ["learning_rate"]),
        ({"model": "unet", "settings": ("learning_rate=nan",)}, ["learning_rate"]),
        ({"model": "unet", "settings": ("unet.stem_stride=3",)}, ["unet.stem_stride", "1 or 2"]),
        ({"model": "unet", "settings": ("unet.features=4",)}, ["unet.features"]),
        ({"model": "unet", "settings": ("steps",)}, ["setting", "steps", "KEY=VALUE"]),
        ({"model": "unet", "settings": ("=5",)}, ["setting", "KEY=VALUE"]),
        ({"model": "unet", "settings": ("unet.window=32,32,24",)}, ["window", "(32, 32, 24)", "multiples of 16"]),
        ({"model": "rediffinet", "settings": ("refiner.window=32,32,20",)}, ["window", "multiples of 8"]),
        ({"model": "rediffinet", "settings": ("refiner.window=8,8,8",)}, ["single voxel"]),
        ({"model": "unet", "changes": {"fold": 5}}, ["fold", "5", "0 to 4"]),
        ({"model": "unet", "changes": {"fold": -1}}, ["fold", "-1"]),
        ({"model": "unet", "changes": {"folds": 1}}, ["folds"]),
        ({"model": "unet", "changes": {"model": "rediffinet"}}, ["rediffinet", "asked for 'unet'"]),
        (
            {"model": "rediffinet", "settings": ("refiner.residual=segmentation",)},
            ["refiner.residual", "'rediffinet'", "expected 'discrepancy'"],
        ),
        ({"model": "diff-unet", "settings": ("refiner.residual=segmentation",)}, ["conditioned on the baseline"]),
        (
            {
                "model": "rediffinet",
                "settings": ("refiner.residual=discrepancy", "refiner.soft_condition=false"),
            },
            ["soft_condition must be true"],
        ),
        ({"model": "rediffinet", "settings": ("warm_start=true",)}, ["warm_start", "set refiner.residual=discrepancy"]),
        ({"model": "ua-diffusion-mask-only", "settings": ("warm_start=true",)}, ["warm_start", "must be false"]),
        ({"model": "ua-diffusion-concat", "settings": ("result_dice=true",)}, ["result_dice", "no discrepancy"]),
        ({"model": "unet", "settings": ("normalisation.range=1,-1",)}, ["normalisation", "low < high"]),
    ],
)
def test_what_does_not_fit_is_named(arguments: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_config(**arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        resolve_config("unet", settings=("stepz=5", "batch=0"))
    assert "stepz" in str(error.value) and "batch" in str(error.value)


def test_a_configuration_of_an_earlier_version_is_read() -> None:
    now = resolve_config("discrepancy-unet", settings=("unet.soft_condition=false",))
    before = json.loads(now.model_dump_json())
    del before["unet"]["soft_condition"], before["unet"]["residual"], before["task"]
    before |= {"far_errors": 0.0, "refiner": {**before["refiner"], "soft_condition": False}}
    assert read_config(before).network == now.network
