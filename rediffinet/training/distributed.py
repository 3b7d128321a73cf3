"""Data-parallel training: where a process works, its share of a batch, and what the processes tell each other.

The processes are those of torchrun, on one node or several. Each computes the gradients of its own slots of a batch;
DistributedDataParallel averages them, so that all hold the same weights after every step. A process that is alone is
the case of a share of 1: nothing here communicates then.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rediffinet.errors import ConfigError, RediffError, TrainingError

Device = Literal["auto", "cpu", "cuda"]
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT_S = 1800.0


class _ToldToEndError(TrainingError):
    """The error of SIGTERM: others may be gone, so nothing is said to them any more."""


@dataclass(frozen=True)
class Place:
    """Where a process works: its device, and its rank among how many processes.

    control: the gloo group for everything but gradients; None when the process is alone.
    """

    device: torch.device
    rank: int = 0
    processes: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def __str__(self) -> str:
        kind = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return f"{kind} × {self.processes} processes" if self.processes > 1 else kind


def choose_device(device: Device) -> torch.device:
    """The device of this process: `auto` is CUDA where there is any, a GPU for each process of a node, else the CPU.

    Raises ConfigError when there is no CUDA and it was asked for, or when a node has fewer GPUs than processes.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda or "none"
        message = (
            f"device: asked for cuda, and torch {torch.__version__} finds no GPU (built for CUDA: {built}). Install a "
            "torch for CUDA and its driver, or use `device=cpu`."
        )
        raise ConfigError(message)
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        message = (
            f"device: this is process {local} of its node (counted from 0), which has {count} GPUs. Start "
            f"torchrun with --nproc-per-node {count} or fewer, or train with `device=cpu`."
        )
        raise ConfigError(message)
    return torch.device("cuda", local)


def lone_place(device: Device = "auto") -> Place:
    """The place of a process that trains by itself, even where torchrun started others. Raises ConfigError."""
    return Place(choose_device(device))


@contextmanager
def open_place(device: Device = "auto", timeout_s: float = TIMEOUT_S) -> Iterator[Place]:
    """The place of this process among those of torchrun; alone without torchrun.

    Gradients go over NCCL between GPUs and over gloo between CPUs. Inside, a process that waits for another that died
    or has not answered for `timeout_s` seconds, and one that torchrun ends, raise TrainingError.
    """
    where = choose_device(device)
    launched = all(name in os.environ for name in LAUNCHED)
    if not launched or int(os.environ["WORLD_SIZE"]) == 1:
        yield Place(where)
        return
    timeout = timedelta(seconds=timeout_s)
    cuda = where.type == "cuda"
    if cuda:
        torch.cuda.set_device(where)
    rank = int(os.environ["RANK"])
    whole = False
    with _told_of_the_end(rank):
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timeout)
            control = dist.new_group(backend="gloo", timeout=timeout)
            yield Place(where, rank, dist.get_world_size(), control)
            whole = True
        except RuntimeError as error:
            if not _is_of_a_peer(error):
                raise
            message = (
                f"process {rank}: another process of this training has ended, or has not answered for {timeout_s:g} s. "
                "What it says is above or in its own log; when the cause is mended, start again with `resume=True`. "
                f"({str(error).splitlines()[0][:300]})"
            )
            raise TrainingError(message) from None
        finally:
            if dist.is_initialized() and (whole or not cuda):  # NCCL may wait for the dead
                dist.destroy_process_group()


def _is_of_a_peer(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text or "Connection closed" in text


@contextmanager
def _told_of_the_end(rank: int) -> Iterator[None]:
    """Inside, SIGTERM raises TrainingError: by it torchrun ends the processes that are left when one has failed."""

    def end(number: int, frame: object) -> NoReturn:
        message = (
            f"process {rank} was told to end: by torchrun, because another process of this training failed (what it "
            "says is above or in its own log), or by the system. The last checkpoint is whole: go on with "
            "`resume=True`."
        )
        raise _ToldToEndError(message)

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def share(batch: int, accumulate: int, place: Place) -> list[range]:
    """The slots of a batch that this process takes, as one range for each of its `accumulate` micro-batches.

    Raises ConfigError when the processes and micro-batches cannot share the batch evenly.
    """
    parts = place.processes * accumulate
    if batch % parts:
        near = sorted({max(parts, batch - batch % parts), batch + parts - batch % parts})
        message = (
            f"batch: got {batch}, expected a multiple of {parts} (processes: {place.processes}, accumulate: "
            f"{accumulate}). Use `batch={' or '.join(map(str, near))}`, or fewer of the others."
        )
        stop(place, ConfigError(message))
    size = batch // parts
    first = place.rank * accumulate * size
    return [range(first + i * size, first + (i + 1) * size) for i in range(accumulate)]


def wrap(network: nn.Module, place: Place, *, all_used: bool = True) -> nn.Module:
    """The network as it is called in training. all_used: every parameter takes part in every step."""
    if place.processes == 1:
        return network
    ids = [place.device.index] if place.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=not all_used)


def gradients_kept(network: nn.Module) -> AbstractContextManager[None]:
    """Inside, gradients add up in this process; the first backward pass outside averages them over all."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def mean(place: Place, value: float) -> float:
    """Mean of a number over the processes, in float64; the same on all of them."""
    if place.processes == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total, group=place.control)
    return float(total) / place.processes


def average_buffers(place: Place, model: nn.Module) -> None:
    """Make floating-point buffers (running statistics of batch norms) their mean over the processes."""
    if place.processes == 1:
        return
    persistent = model.state_dict()
    for name, buffer in model.named_buffers():
        if name in persistent and buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= place.processes


def gather(place: Place, value: Any) -> list[Any]:
    """What each process has, by rank, on all of them; values are pickled on the way."""
    if place.processes == 1:
        return [value]
    found: list[Any] = [None] * place.processes
    dist.all_gather_object(found, value, group=place.control)
    return found


def stop(place: Place, error: RediffError) -> NoReturn:
    """Raise an error that all processes meet together: the main one raises it, the others exit with 2 in silence."""
    if place.main:
        raise error
    raise SystemExit(2)


@contextmanager
def together(place: Place) -> Iterator[None]:
    """Work that every process does by itself: none goes on before all are done, and one that fails ends all.

    A RediffError that the main process meets as well is told once, as it is; one of others alone is a TrainingError
    that names the process. Inside, the processes must not communicate.
    """
    if place.processes == 1:
        yield
        return
    mine: RediffError | None = None
    try:
        yield
    except _ToldToEndError:
        raise
    except RediffError as error:
        mine = error
    problems = gather(place, None if mine is None else str(mine))
    if mine is None and not any(problems):
        return
    if mine is not None and place.main:
        raise mine
    rank, problem = next((rank, text) for rank, text in enumerate(problems) if text is not None)
    stop(place, TrainingError(f"process {rank}: {problem}"))


def check_agreement(place: Place, facts: dict[str, Any]) -> None:
    """End all processes unless `facts` (by what they are of) are the same on all of them: TrainingError."""
    first, *others = gather(place, facts)
    for rank, other in enumerate(others, 1):
        for what, expected in first.items():
            if other[what] != expected:
                message = (
                    f"process {rank} has another {what} than process 0: {other[what]}, not {expected}. Start all of "
                    "them with the same arguments and data, and an `out` that all nodes share."
                )
                stop(place, TrainingError(message))
