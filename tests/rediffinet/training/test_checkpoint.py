"""Checkpoints: whole or not at all, and only ours are read."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("safetensors", reason="checkpoints need safetensors (extra 'train')")

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rediffinet.errors import OutputError, TrainingError
from rediffinet.training import checkpoint
from rediffinet.training.checkpoint import (
    BEST,
    CHECKPOINT,
    part,
    read_checkpoint,
    restore_optimizer,
    save_best,
    save_checkpoint,
)

METADATA = {"config": {"model": "unet"}, "step": 7, "provenance": {"trained_on": ["a", "β"]}}


@pytest.fixture
def trained() -> tuple[nn.Module, dict[str, Tensor], torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).square().sum().backward()
        optimizer.step()
    return model, {name: 0.5 * value for name, value in model.state_dict().items()}, optimizer


Trained = tuple[nn.Module, dict[str, Tensor], torch.optim.Optimizer]


def test_everything_comes_back(trained: Trained, tmp_path: Path) -> None:
    model, ema, optimizer = trained
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, model, ema, optimizer, METADATA)
    tensors, metadata = read_checkpoint(path)
    assert metadata == METADATA
    assert list(tmp_path.iterdir()) == [path]
    for name, value in model.state_dict().items():
        assert torch.equal(part(tensors, "model")[name], value)
        assert torch.equal(part(tensors, "ema")[name], 0.5 * value)
    fresh = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    other = torch.optim.AdamW(fresh.parameters(), lr=0.1)
    restore_optimizer(tensors, fresh, other)
    for mine, theirs in zip(model.parameters(), fresh.parameters(), strict=True):
        assert optimizer.state[mine].keys() == other.state[theirs].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in optimizer.state[mine].items():
            assert torch.equal(other.state[theirs][key], value)


def test_the_best_holds_the_averaged_weights_alone(trained: Trained, tmp_path: Path) -> None:
    _, ema, _ = trained
    save_best(tmp_path / BEST, ema, METADATA)
    tensors, metadata = read_checkpoint(tmp_path / BEST)
    assert metadata == METADATA and tensors.keys() == {f"ema.{name}" for name in ema}
    assert all(torch.equal(tensors[f"ema.{name}"], value) for name, value in ema.items())


def test_a_model_that_was_never_stepped_can_be_saved(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    save_checkpoint(tmp_path / CHECKPOINT, model, {}, torch.optim.AdamW(model.parameters()), METADATA)
    assert set(read_checkpoint(tmp_path / CHECKPOINT)[0]) == {"model.weight", "model.bias"}


@pytest.mark.parametrize("error", [OSError("no space left"), SafetensorError("I/O error"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_checkpoint(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    model, ema, optimizer = trained
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, model, ema, optimizer, METADATA)
    before = path.read_bytes()

    def fail(tensors: dict[str, Tensor], to: Path, metadata: dict[str, str]) -> None:
        Path(to).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError
    with pytest.raises(expected) as raised:
        save_checkpoint(path, model, ema, optimizer, {**METADATA, "step": 8})
    assert path.read_bytes() == before
    if expected is OutputError:
        assert str(path) in str(raised.value) and str(error) in str(raised.value)
        assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    save_checkpoint(path, model, ema, optimizer, {**METADATA, "step": 8})  # what was left is not in the way
    assert read_checkpoint(path)[1]["step"] == 8
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_ours_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    with pytest.raises(TrainingError, match=rf"{CHECKPOINT}.*rediff train"):
        read_checkpoint(path)
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(TrainingError, match=CHECKPOINT):
        read_checkpoint(path)
    for metadata in (None, {"format": "pt"}, {"rediffinet": "{}"}, {"rediffinet": "{"}, {"rediffinet": "[1]"}):
        save_file({"x": torch.zeros(1)}, path, metadata)
        with pytest.raises(TrainingError, match=CHECKPOINT):
            read_checkpoint(path)


def test_a_cut_file_is_refused(trained: Trained, tmp_path: Path) -> None:
    model, ema, optimizer = trained
    path = tmp_path / CHECKPOINT
    save_checkpoint(path, model, ema, optimizer, METADATA)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TrainingError, match=CHECKPOINT):
        read_checkpoint(path)


def test_part_takes_whole_prefixes() -> None:
    tensors = {"adam.exp_avg.w": torch.zeros(1), "adam.exp_avg_sq.w": torch.ones(1), "model.model.w": torch.ones(2)}
    assert list(part(tensors, "adam.exp_avg")) == ["w"] and part(tensors, "adam.exp_avg")["w"].item() == 0
    assert list(part(tensors, "model")) == ["model.w"]
