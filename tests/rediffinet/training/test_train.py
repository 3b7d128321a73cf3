"""From data folders to a run and back; out-of-fold predictions."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch
from safetensors.torch import save_file

from rediffinet.errors import CaseError, ConfigError, OutputError, TrainingError
from rediffinet.nets.refiner import Refiner
from rediffinet.nets.unet import UNet
from rediffinet.training import out_of_fold as out_of_fold_module
from rediffinet.training.checkpoint import CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import TrainConfig, resolve_config
from rediffinet.training.data import TrainingCase, load_training_cases
from rediffinet.training.out_of_fold import out_of_fold, predict_probability
from rediffinet.training.run import Begun, Provenance, Run, open_run
from rediffinet.training.train import train

UNET = {"unet": {"features": (4, 8), "window": (32, 32, 32), "stem_stride": 2}}
REFINER = {"refiner": {"features": (4, 8), "head_features": 4, "time_features": 8, "window": (16, 16, 16)}}
SHORT = {"steps": 2, "warmup": 1, "folds": 2, "autocast": False}


def unet_config(**changes: object) -> TrainConfig:
    return resolve_config("unet", changes={**UNET, **SHORT, **changes})


def refiner_config(**changes: object) -> TrainConfig:
    return resolve_config("rediffinet", changes={**REFINER, **SHORT, **changes})


@pytest.fixture(scope="module")
def baselines(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One baseline run per fold of two."""
    folder = tmp_path_factory.mktemp("baselines")
    for fold in (0, 1):
        train(unet_config(fold=fold), [phantoms], folder / str(fold))
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def refiner(phantoms: Path, baselines: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refiner") / "run"
    train(refiner_config(), [phantoms], out, baselines=baselines)
    return out


def provenance_of(*seen: str) -> Provenance:
    return Provenance(trained_on=seen, held_out=(), folds=2, fold=None)


def fake_baseline(seen: Sequence[str], sha256: str) -> Run:
    config = unet_config()
    return Run(Path(sha256), config, UNet(config.unet), provenance_of(*seen), 2, sha256)


def names(phantoms: Path) -> list[str]:
    return sorted(folder.name for folder in phantoms.iterdir())


def test_folds_share_the_cases_out(phantoms: Path, baselines: list[Path]) -> None:
    opened = [open_run(folder) for folder in baselines]
    held = [set(run.provenance.held_out) for run in opened]
    assert held[0] | held[1] == set(names(phantoms)) and not held[0] & held[1]
    assert len(held[0]) == len(held[1]) == 2
    for fold, run in enumerate(opened):
        assert set(run.provenance.trained_on) == set(names(phantoms)) - held[fold]
        assert run.seen_patients == {name[:-4] for name in run.provenance.trained_on}
        assert (run.provenance.fold, run.provenance.folds, run.config.fold) == (fold, 2, fold)


def test_masks_are_refused_where_they_would_not_be_shown(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`masks`: this 'unet' does not learn in windows"):
        train(unet_config(), [phantoms], tmp_path / "run", masks=tmp_path)
    windows = resolve_config("discrepancy-unet", "glioma-2mm-windows")
    with pytest.raises(ConfigError, match=r"absent` is no folder"):
        train(windows, [phantoms], tmp_path / "run", masks=tmp_path / "absent")
    assert not (tmp_path / "run").exists()


def test_without_a_fold_all_cases_are_used(phantoms: Path, refiner: Path) -> None:
    run = open_run(refiner)
    assert list(run.provenance.trained_on) == names(phantoms) and run.provenance.held_out == ()


def test_an_opened_run_holds_the_averaged_weights(baselines: list[Path], refiner: Path) -> None:
    for folder, kind in ((baselines[0], UNet), (refiner, Refiner)):
        run = open_run(folder)
        assert isinstance(run.model, kind) and not run.model.training and run.step == 2
        tensors, _ = read_checkpoint(folder / CHECKPOINT)
        weights = run.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in part(tensors, "ema").items())
        assert any(not torch.equal(weights[name], value) for name, value in part(tensors, "model").items())
        assert run.sha256 == hashlib.sha256((folder / CHECKPOINT).read_bytes()).hexdigest()


def test_description_is_json_with_the_provenance(refiner: Path, baselines: list[Path]) -> None:
    told = json.loads(json.dumps(open_run(refiner).described()))
    assert told["model"] == "rediffinet" and told["steps"] == 2
    assert [b["fold"] for b in told["baselines"]] == [0, 1]
    assert [b["sha256"] for b in told["baselines"]] == [open_run(folder).sha256 for folder in baselines]
    assert TrainConfig.model_validate(told["config"]) == refiner_config()


def test_only_a_run_of_this_version_is_opened(tmp_path: Path, baselines: list[Path]) -> None:
    with pytest.raises(TrainingError, match=CHECKPOINT):
        open_run(tmp_path)
    tensors, metadata = read_checkpoint(baselines[0] / CHECKPOINT)
    newer = {**metadata, "config": {**metadata["config"], "new_key": 1}}
    save_file(tensors, tmp_path / CHECKPOINT, {"rediffinet": json.dumps(newer)})
    with pytest.raises(TrainingError, match="new_key"):
        open_run(tmp_path)
    del tensors["ema.heads.0.conv.conv.weight"]
    save_file(tensors, tmp_path / CHECKPOINT, {"rediffinet": json.dumps(metadata)})
    with pytest.raises(TrainingError, match=r"heads\.0"):
        open_run(tmp_path)


def test_prediction_covers_the_case_and_is_the_networks(cases: list[TrainingCase]) -> None:
    config = unet_config(unet={"features": (4, 8), "window": (32, 32, 32), "stem_stride": 1})
    net = UNet(config.unet).eval()
    run = Run(Path(), config, net, provenance_of(), 0, "")
    case = cases[0]
    assert max(case.image.shape[1:]) <= 32  # one window, the case in its middle, background around
    got = predict_probability(run, case)
    assert got.shape == case.regions.shape and got.dtype == np.float16
    before = [(32 - size) // 2 for size in case.image.shape[1:]]
    width = [(b, 32 - size - b) for b, size in zip(before, case.image.shape[1:], strict=True)]
    padded = np.pad(case.image.astype(np.float32), [(0, 0), *width], constant_values=-1.0)
    with torch.inference_mode():
        full = torch.sigmoid(net(torch.from_numpy(padded[None])))[0].numpy()
    middle = tuple(slice(b, b + size) for b, size in zip(before, case.image.shape[1:], strict=True))
    np.testing.assert_allclose(got, full[(slice(None), *middle)], atol=2e-3)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(baseline, case) of every prediction that was really made."""
    made: list[tuple[str, str]] = []

    def spy(run: Run, case: TrainingCase, device: torch.device) -> np.ndarray:
        made.append((run.sha256, case.name))
        return np.full(case.regions.shape, 0.25 * len(made), np.float16)

    monkeypatch.setattr(out_of_fold_module, "predict_probability", spy)
    return made


def test_every_case_is_predicted_by_a_baseline_that_has_not_seen_its_patient(
    cases: list[TrainingCase], asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    later = [replace(case, name=f"{case.patient}-001") for case in cases]  # second time points of the same patients
    one, two = fake_baseline([cases[0].name], "1" * 64), fake_baseline([cases[1].name], "2" * 64)
    predictions = out_of_fold([*cases, *later], [one, two], tmp_path / "cache")
    assert asked == [
        ("2" * 64, cases[0].name),
        ("1" * 64, cases[1].name),
        ("2" * 64, later[0].name),
        ("1" * 64, later[1].name),
    ]
    assert [float(prediction.max()) for prediction in predictions] == [0.25, 0.5, 0.75, 1.0]
    assert [prediction.shape for prediction in predictions] == [case.regions.shape for case in [*cases, *later]]


def test_a_case_seen_by_every_baseline_is_named_and_nothing_is_made(
    cases: list[TrainingCase], asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    other_time_point = f"{cases[1].patient}-007"
    seen = [fake_baseline([other_time_point], "1" * 64), fake_baseline([other_time_point, "x"], "2" * 64)]
    with pytest.raises(TrainingError) as error:
        out_of_fold(cases, seen, tmp_path / "cache")
    assert cases[1].name in str(error.value) and cases[0].name not in str(error.value)
    assert "`baseline`" in str(error.value)
    assert not asked and not (tmp_path / "cache").exists()


def test_predictions_are_made_once_and_again_for_another_baseline_or_image(
    cases: list[TrainingCase], asked: list[tuple[str, str]], tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    baseline = fake_baseline([], "1" * 64)
    first = out_of_fold(cases, [baseline], tmp_path, lambda *args: told.append(args))
    again = out_of_fold(cases, [baseline], tmp_path)
    assert len(asked) == 2 and [(done, of) for _, done, of in told] == [(1, 2), (2, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    out_of_fold(cases, [fake_baseline([], "1" * 63 + "2")], tmp_path)
    assert len(asked) == 4
    changed = replace(cases[0], image=cases[0].image + np.float16(0.25))
    out_of_fold([changed, cases[1]], [baseline], tmp_path)
    assert len(asked) == 5 and asked[-1] == ("1" * 64, cases[0].name)


def test_a_kill_while_predicting_leaves_no_half_prediction(
    cases: list[TrainingCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, str]]
) -> None:
    def half(file: object, array: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(out_of_fold_module.np, "save", half)
        with pytest.raises(KeyboardInterrupt):
            out_of_fold(cases, [fake_baseline([], "1" * 64)], tmp_path)
    made = len(asked)
    out_of_fold(cases, [fake_baseline([], "1" * 64)], tmp_path)
    assert len(asked) == made + 2


def test_the_refiner_trains_on_the_baselines_predictions(refiner: Path, baselines: list[Path], phantoms: Path) -> None:
    held = {name: open_run(folder) for folder in baselines for name in open_run(folder).provenance.held_out}
    files = sorted((refiner / "out_of_fold").iterdir())
    assert [file.name.rsplit("-", 1)[0] for file in files] == names(phantoms)
    cases = load_training_cases([phantoms], refiner_config().preprocessing)
    for case, file in zip(cases, files, strict=True):
        np.testing.assert_array_equal(np.load(file), predict_probability(held[case.name], case))


@pytest.mark.parametrize("model", ["unet", "rediffinet"])
def test_a_refiner_needs_baselines_and_a_unet_takes_none(
    model: str, phantoms: Path, baselines: list[Path], tmp_path: Path
) -> None:
    config = unet_config() if model == "unet" else refiner_config()
    with pytest.raises(TrainingError, match=f"`baseline.*{model}"):
        train(config, [phantoms], tmp_path / "run", baselines=baselines if model == "unet" else [])
    assert not (tmp_path / "run").exists()


def test_a_baseline_must_be_a_unet_normalised_alike(
    phantoms: Path, baselines: list[Path], refiner: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="'rediffinet', expected one of 'unet'"):
        train(refiner_config(), [phantoms], tmp_path / "run", baselines=[baselines[0], refiner])
    other = refiner_config(normalisation={"upper_percentile": 99.0})
    with pytest.raises(TrainingError, match="normalisation"):
        train(other, [phantoms], tmp_path / "run", baselines=baselines)
    with pytest.raises(TrainingError, match=CHECKPOINT):
        train(refiner_config(), [phantoms], tmp_path / "run", baselines=[tmp_path])
    assert not (tmp_path / "run").exists()


def test_a_refiner_on_a_single_baseline_names_the_cases_it_has_seen(
    phantoms: Path, baselines: list[Path], tmp_path: Path
) -> None:
    seen = open_run(baselines[0]).provenance.trained_on
    with pytest.raises(TrainingError) as error:
        train(refiner_config(), [phantoms], tmp_path / "run", baselines=baselines[:1])
    assert all(name in str(error.value) for name in seen) and "2 training cases" in str(error.value)
    assert not (tmp_path / "run").exists()
    # with the fold of that baseline turned round there is nothing left that it has seen
    train(refiner_config(fold=1), [phantoms], tmp_path / "run", baselines=baselines[:1])
    assert set(open_run(tmp_path / "run").provenance.held_out) == set(seen)


def test_bad_data_is_reported_before_anything_is_made(phantoms: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    first, second = names(phantoms)[:2]
    (data / first / f"{first}-seg.nii.gz").unlink()
    (data / second / f"{second}-t1c.nii.gz").write_bytes(b"\x1f\x8b rubbish")
    with pytest.raises(TrainingError) as error:
        train(unet_config(), [data], tmp_path / "run")
    assert first in str(error.value) and f"{second}-t1c" in str(error.value) and "2 of 4" in str(error.value)
    with pytest.raises(CaseError):
        train(unet_config(), [tmp_path / "nowhere"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_told_before_the_data_is_read(baselines: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="`resume=True`"):
        train(unet_config(fold=0), [tmp_path / "nowhere"], baselines[0])


def test_a_run_begins_with_the_weights_of_another(
    phantoms: Path, baselines: list[Path], refiner: Path, tmp_path: Path
) -> None:
    still = {"fold": 0, "steps": 1, "learning_rate": 1e-12, "warmup": 0}
    train(unet_config(**still), [phantoms], tmp_path / "more", begin_with=baselines[0])
    begun, first = open_run(tmp_path / "more"), open_run(baselines[0])
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(begun.model.state_dict()[name], value, atol=1e-6, rtol=0)
    assert begun.provenance.begun_with == Begun(sha256=first.sha256, patients=tuple(sorted(first.seen_patients)))
    train(unet_config(**{**still, "fold": None}), [phantoms], tmp_path / "all", begin_with=baselines[0])
    assert open_run(tmp_path / "all").seen_patients == {name[:-4] for name in names(phantoms)}
    out = tmp_path / "refined"
    train(
        refiner_config(**still),
        [phantoms],
        out,
        baselines=baselines,
        begin_with=_fold_0(refiner, phantoms, baselines, tmp_path),
    )
    assert open_run(out).provenance.begun_with is not None


def _fold_0(refiner: Path, phantoms: Path, baselines: list[Path], folder: Path) -> Path:
    train(refiner_config(fold=0), [phantoms], folder / "refiner-0", baselines=baselines)
    return folder / "refiner-0"


def test_what_the_first_run_has_seen_is_seen(phantoms: Path, baselines: list[Path], tmp_path: Path) -> None:
    """A run that begins with one of the other fold must not be scored on, or refine, what that one was trained on."""
    with pytest.raises(TrainingError, match="has seen .*hold out the same fold"):
        train(unet_config(fold=1), [phantoms], tmp_path / "o", begin_with=baselines[0])
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": {"features": (4, 12), "window": (32, 32, 32), "stem_stride": 2}}, r"expected one of 'unet'.*4, 12"),
        ({"normalisation": {"background": -2.0}}, "prepared otherwise .*normalisation"),
        ({"spacing_mm": (2.0, 2.0, 2.0)}, "voxel size"),
    ],
)
def test_a_beginning_that_does_not_fit(
    phantoms: Path, baselines: list[Path], tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train(unet_config(fold=0, **changes), [phantoms], tmp_path / "o", begin_with=baselines[0])
    with pytest.raises(TrainingError, match=r"run of 'unet'"):
        train(refiner_config(fold=0), [phantoms], tmp_path / "o", baselines=baselines, begin_with=baselines[0])
    with pytest.raises(TrainingError, match=CHECKPOINT):
        train(unet_config(fold=0), [phantoms], tmp_path / "o", begin_with=tmp_path)
    assert not (tmp_path / "o").exists()


def test_a_fold_without_cases_is_an_error(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"`fold=7` of 8 leaves 4 .* 0 held out: .* 4 patients"):
        train(unet_config(folds=8, fold=7), [phantoms], tmp_path / "run")
    one = tmp_path / "one"
    shutil.copytree(phantoms / names(phantoms)[0], one / names(phantoms)[0])
    with pytest.raises(TrainingError, match="`fold=0` of 2 leaves 0"):
        train(unet_config(fold=0), [one], tmp_path / "run")


def test_resume_with_another_baseline_is_an_error(
    phantoms: Path, baselines: list[Path], refiner: Path, tmp_path: Path
) -> None:
    shutil.copytree(refiner, tmp_path / "run")
    shutil.copytree(baselines[1], tmp_path / "other")
    tensors, metadata = read_checkpoint(baselines[1] / CHECKPOINT)
    del tensors["model.heads.0.conv.conv.bias"]  # not read: the same predictions, another file
    save_file(tensors, tmp_path / "other" / CHECKPOINT, {"rediffinet": json.dumps(metadata)})
    with pytest.raises(TrainingError, match=r"`resume=True`.*baselines"):
        train(refiner_config(), [phantoms], tmp_path / "run", baselines=[baselines[0], tmp_path / "other"], resume=True)


KILLED = """
import os, signal, sys
from pathlib import Path
from rediffinet.training.config import resolve_config
from rediffinet.training.train import train
changes = {"unet": {"features": (4, 8), "window": (32, 32, 32), "stem_stride": 2},
           "steps": 6, "warmup": 2, "checkpoint_every": 2, "autocast": False}
def progress(done, of, loss):
    if done == 5 and sys.argv[3] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
train(resolve_config("unet", changes=changes), [Path(sys.argv[1])], Path(sys.argv[2]), resume=True, progress=progress)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_resumes_bit_for_bit(phantoms: Path, tmp_path: Path) -> None:
    def go(out: str, what: str) -> int:
        command = [sys.executable, "-c", KILLED, str(phantoms), str(tmp_path / out), what]
        return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False).returncode

    assert go("straight", "run") == 0
    assert go("resumed", "kill") == -signal.SIGKILL
    assert read_checkpoint(tmp_path / "resumed" / CHECKPOINT)[1]["step"] == 4
    assert go("resumed", "run") == 0
    one, metadata = read_checkpoint(tmp_path / "straight" / CHECKPOINT)
    other, other_metadata = read_checkpoint(tmp_path / "resumed" / CHECKPOINT)
    assert metadata == other_metadata and one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
