"""Training in several processes against one, and what happens when one of them fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training needs torch (extra 'train')")
pytest.importorskip("monai", reason="the U-Net needs monai (extra 'train')")

import torch

from rediffinet.errors import ConfigError, OutputError, TrainingError
from rediffinet.training import distributed
from rediffinet.training.checkpoint import BEST, CHECKPOINT, part, read_checkpoint
from rediffinet.training.config import resolve_config
from rediffinet.training.distributed import Place, choose_device, gather, lone_place, open_place, share, stop, together
from rediffinet.training.objectives import make_objective
from rediffinet.training.state import new_state
from rediffinet.training.train import train

CPU = torch.device("cpu")
SHORT = {"steps": 4, "warmup": 1, "batch": 4, "folds": 2, "autocast": False, "learning_rate": 1e-3}
UNET = {
    **SHORT,
    "unet": {"features": (4, 8), "window": (32, 32, 32), "deep_supervision": True, "stem_stride": 1},
    "checkpoint_every": 2,
}
REFINER = {
    **SHORT,
    "refiner": {"features": (4, 8), "head_features": 4, "time_features": 8, "window": (16, 16, 16)},
}

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from rediffinet.errors import RediffError
from rediffinet.training.config import resolve_config
from rediffinet.training.distributed import open_place
from rediffinet.training.train import train
given = json.loads(sys.argv[1])
rank = int(os.environ["RANK"])
def progress(done, of, loss):
    if given.get("hang") == [rank, done]:
        time.sleep(120)
    if given.get("fail") == [rank, done]:
        raise ValueError("no such luck")
changes = {**given["changes"], **given.get("of_rank", {}).get(str(rank), {})}
config = resolve_config(given["model"], changes=changes)
cache = Path(given["cache"]) if "cache" in given else None
try:
    with open_place(config.device, config.timeout_s) as place:
        train(config, [Path(given["data"][min(rank, len(given["data"]) - 1)])], Path(given["out"]), resume=True,
              baselines=[Path(folder) for folder in given.get("baselines", [])], cache=cache, place=place,
              progress=progress)
except RediffError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture(scope="module")
def data(labelled_phantoms: Path) -> Path:
    return labelled_phantoms


def launch(processes: int = 2, **given: Any) -> list[tuple[int, str]]:
    """(exit code, standard error) of every process of a training."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps({**given, "data": list(map(str, given["data"]))}, default=str)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        told = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, told, strict=True)]


def apart(one: Path, other: Path, model: str, changes: dict[str, Any]) -> float:
    """Distance of two trained networks, relative to the way from their common start."""
    config = resolve_config(model, changes=changes)
    start = new_state(make_objective(config, [])).model.state_dict()
    a, b = (part(read_checkpoint(path / CHECKPOINT)[0], "model") for path in (one, other))
    assert a.keys() == b.keys() == start.keys()
    way = sum(float((a[name] - start[name]).square().sum()) for name in a)
    between = sum(float((a[name] - b[name]).square().sum()) for name in a)
    assert way > 0
    return float((between / way) ** 0.5)


@pytest.mark.slow
def test_two_processes_train_the_network_of_one(data: Path, tmp_path: Path) -> None:
    train(resolve_config("unet", changes=UNET), [data], tmp_path / "one")
    ended = launch(model="unet", changes=UNET, data=[data], out=tmp_path / "two", cache=tmp_path / "cache")
    assert [code for code, _ in ended] == [0, 0], ended
    assert apart(tmp_path / "one", tmp_path / "two", "unet", UNET) < 1e-3
    one, first = read_checkpoint(tmp_path / "one" / CHECKPOINT)
    two, second = read_checkpoint(tmp_path / "two" / CHECKPOINT)
    for name in part(one, "ema"):
        torch.testing.assert_close(two[f"ema.{name}"], one[f"ema.{name}"], rtol=1e-4, atol=1e-5)
    for name in part(one, "adam.exp_avg"):
        name = f"adam.exp_avg.{name}"
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-5)
    assert first["machine"]["name"] == "CPU" and second["machine"]["name"] == "CPU × 2 processes"
    assert first["provenance"] == second["provenance"] and first["config"] == second["config"]


@pytest.mark.slow
def test_a_refiner_trained_by_two_with_micro_batches_validated_and_resumed_by_one(data: Path, tmp_path: Path) -> None:
    changes = {**REFINER, "fold": 0, "validate_every": 2}
    baselines = []
    for fold in (0, 1):
        baselines.append(tmp_path / f"baseline{fold}")
        train(resolve_config("unet", changes={**UNET, "steps": 1, "fold": fold}), [data], baselines[-1])
    train(resolve_config("rediffinet", changes=changes), [data], tmp_path / "one", baselines=baselines)
    given = {"model": "rediffinet", "data": [data], "out": tmp_path / "two", "baselines": baselines}
    ended = launch(**given, changes={**changes, "accumulate": 2}, fail=[1, 3])
    assert ended[1][0] == 1 and "no such luck" in ended[1][1]
    assert ended[0][0] == 2 and ended[0][1].count("error: process 0") == 1 and "`resume=True`" in ended[0][1]
    _, metadata = read_checkpoint(tmp_path / "two" / CHECKPOINT)
    assert metadata["step"] == 2 and metadata["best"]["step"] == 2
    assert read_checkpoint(tmp_path / "two" / BEST)[1]["step"] == 2
    train(resolve_config("rediffinet", changes=changes), [data], tmp_path / "two", baselines=baselines, resume=True)
    assert apart(tmp_path / "one", tmp_path / "two", "rediffinet", changes) < 2e-3
    tables = [(tmp_path / out / "validation.csv").read_text().splitlines() for out in ("one", "two")]
    for a, b in zip(*tables, strict=True):
        assert a.split(",")[:2] == b.split(",")[:2]
        if not a.startswith("step"):
            assert [float(x) for x in a.split(",")[2:]] == pytest.approx([float(x) for x in b.split(",")[2:]], rel=0.05)


@pytest.mark.slow
def test_batch_norms_are_averaged(data: Path, tmp_path: Path) -> None:
    net = {"network": "AttentionUnet", "options": {"channels": (4, 8), "strides": (2,)}, "window": (32, 32, 64)}
    changes = {**SHORT, "steps": 2, "unet": net}
    ended = launch(model="unet", changes=changes, data=[data], out=tmp_path / "run")
    assert [code for code, _ in ended] == [0, 0], ended
    tensors, _ = read_checkpoint(tmp_path / "run" / CHECKPOINT)
    counts = [name for name in tensors if name.endswith("num_batches_tracked")]
    assert counts and all(int(tensors[name]) == 2 for name in counts)
    means = [name for name in tensors if name.startswith("model.") and name.endswith("running_mean")]
    assert means and all(torch.isfinite(tensors[name]).all() for name in means)


@pytest.mark.slow
def test_a_problem_of_one_process_ends_all_with_one_message(data: Path, tmp_path: Path) -> None:
    ended = launch(model="unet", changes=UNET, data=[data, tmp_path / "nowhere"], out=tmp_path / "run")
    assert [code for code, _ in ended] == [2, 2]
    assert "error: process 1: " in ended[0][1] and "nowhere" in ended[0][1]
    assert "error" not in ended[1][1]
    ended = launch(model="unet", changes=UNET, data=[tmp_path / "nowhere"], out=tmp_path / "run")
    assert [code for code, _ in ended] == [2, 2]
    assert "error:" in ended[0][1] and "error: process" not in ended[0][1] and "error" not in ended[1][1]
    ended = launch(model="unet", changes=UNET, data=[data], out=tmp_path / "run", of_rank={"1": {"seed": 5}})
    assert [code for code, _ in ended] == [2, 2]
    assert "process 1 has another configuration than process 0" in ended[0][1] and "error" not in ended[1][1]
    assert not (tmp_path / "run" / CHECKPOINT).exists()


@pytest.mark.slow
def test_a_process_that_does_not_answer_ends_the_others(data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    changes = {**UNET, "timeout_s": 4.0, "steps": 50}
    with pytest.raises(subprocess.TimeoutExpired):
        launch_and_wait_for_the_first(model="unet", changes=changes, data=[data], out=tmp_path / "run", hang=[1, 2])
    assert time.monotonic() - started < 100


def launch_and_wait_for_the_first(**given: Any) -> None:
    """Process 0 must end with the message while process 1 hangs, which is then killed: TimeoutExpired."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = {**given, "data": list(map(str, given["data"])), "out": str(given["out"])}
    started = []
    for rank in ("0", "1"):
        where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
        command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
        environment = {**os.environ, **where, "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        told = started[0].communicate(timeout=80)[1]
        assert started[0].returncode == 2 and "has not answered for 4 s" in told and "`resume=True`" in told, told
        started[1].wait(timeout=0.1)
    finally:
        for process in started:
            process.kill()
            process.communicate()


def torchrun(*arguments: object) -> "subprocess.Popen[str]":
    """`torchrun` with the `rediff` script, as a user starts it."""
    script = Path(sys.executable).with_name("rediff")
    if not script.exists():
        pytest.skip("the rediff script is not installed here")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    return subprocess.Popen(
        [*map(str, command), "train", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def settings(changes: dict[str, Any]) -> Sequence[str]:
    return [text for key, value in changes.items() for text in ("--set", f"{key}={json.dumps(value)}")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for the processes in /proc")
def test_rediff_under_torchrun_survives_the_death_of_a_process(data: Path, tmp_path: Path) -> None:
    changes = {key: value for key, value in UNET.items() if key != "unet"} | {"steps": 400, "checkpoint_every": 1}
    changes |= {f"unet.{key}": value for key, value in UNET["unet"].items()}  # type: ignore[attr-defined]
    out = tmp_path / "run"
    given = ("--model", "unet", "--data", data, "--out", out, "--device", "cpu", *settings(changes))
    running = torchrun(*given)
    try:
        until = time.monotonic() + 120
        while not (out / CHECKPOINT).exists() and time.monotonic() < until and running.poll() is None:
            time.sleep(0.1)
        victims = [pid for pid in children(running.pid) if b"\0RANK=1\0" in environment_of(pid)]
        assert len(victims) == 1
        os.kill(victims[0], signal.SIGKILL)
        printed, told = running.communicate(timeout=90)
    finally:
        running.kill()
    assert running.returncode != 0 and printed == ""
    assert told.count("error: process 0") == 1 and "--resume" in told
    step = read_checkpoint(out / CHECKPOINT)[1]["step"]
    assert 1 <= step < 400
    # the steps belong to the schedule of the learning rate: here a short run is resumed, by torchrun again
    short = [*given[:5], tmp_path / "short", *given[6:], "--set", "steps=3"]
    for more in ([], ["--resume"]):
        again = torchrun(*short, *more)
        printed, told = again.communicate(timeout=200)
        assert again.returncode == 0, told
        assert printed.strip() == str(tmp_path / "short" / CHECKPOINT)
        assert "training on CPU × 2 processes" in told


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment_of(pid: int) -> bytes:
    return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(("batch", "processes", "accumulate"), [(1, 1, 1), (12, 3, 2), (8, 2, 1), (6, 1, 3)])
def test_the_slots_are_shared_out(batch: int, processes: int, accumulate: int) -> None:
    parts = [share(batch, accumulate, Place(CPU, rank, processes)) for rank in range(processes)]
    assert sorted(slot for part in parts for micro in part for slot in micro) == list(range(batch))
    assert {len(micro) for part in parts for micro in part} == {batch // (processes * accumulate)}
    assert all(len(part) == accumulate for part in parts)


@pytest.mark.parametrize(
    ("batch", "processes", "accumulate", "advice"),
    [(2, 4, 1, "`batch=4`,"), (6, 2, 2, "batch=4 or 8"), (5, 1, 2, "batch=4 or 6"), (1, 1, 2, "`batch=2`,")],
)
def test_a_batch_that_cannot_be_shared(batch: int, processes: int, accumulate: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        share(batch, accumulate, Place(CPU, 0, processes))
    if processes > 1:
        with pytest.raises(SystemExit) as end:  # told once, by the main process
            share(batch, accumulate, Place(CPU, 1, processes))
        assert end.value.code == 2


def test_a_process_alone_says_what_it_met() -> None:
    with pytest.raises(OutputError, match="full"), together(Place(CPU)):
        raise OutputError("full")
    with pytest.raises(TrainingError, match="nan"):
        stop(Place(CPU), TrainingError("nan"))
    assert gather(Place(CPU), 3) == [3]


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in distributed.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    with open_place("cpu") as place:
        assert place == Place(CPU) == lone_place("cpu") and place.main and str(place) == "CPU"
    for name, value in zip(distributed.LAUNCHED, ("0", "1", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    with open_place("cpu") as place:  # torchrun --nproc-per-node 1
        assert place == Place(CPU)


def test_the_device_is_chosen_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(ConfigError, match="asked for cuda.*`device=cpu`"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 2 of its node.*2 GPUs.*--nproc-per-node 2"):
        choose_device("auto")
