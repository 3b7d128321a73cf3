"""A cohort on a Ray cluster: one actor per worker holds a Segmenter; what a lost one was doing is done by another."""

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rediffinet.clinic.case import Order, Outcome, order_again, segment_case, tidy
from rediffinet.clinic.cohort import check_names, failed
from rediffinet.clinic.inputs import CaseInput
from rediffinet.clinic.workers import Opening, travelling
from rediffinet.errors import CaseError, ConfigError, MissingExtraError, RediffError
from rediffinet.segmenter import Segmenter

ATTEMPTS = 3
"""How often a case is begun when its worker is lost; a machine may be taken away, a case may need too much memory."""
IN_FLIGHT = 2
"""Cases that an actor has at a time: one that it computes and one that waits there, so that it never waits itself."""
LOCAL = "local"
PATIENCE_S = 300.0
"""How long no worker at all is waited for: until the first has opened the bundle, or after the last was lost."""
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How gRPC begins (RFC 9113): the preface of HTTP/2 and an empty frame of settings (type 4), answered by one."""
REACH_S = 5.0
"""How long the address of a cluster may take to answer."""


class _Actor:
    """Lives on a worker."""

    def __init__(self, opening: Opening) -> None:
        self._error: RediffError | None = None
        self._segmenter: Segmenter | None = None
        try:
            self._segmenter = opening.open()
        except RediffError as error:
            self._error = CaseError(str(error))

    def begin(self) -> RediffError | None:
        """Why no Segmenter could be opened, or None."""
        return self._error

    def segment(self, given: CaseInput, order: Order) -> Outcome:
        """From files to files, on a file system that all share."""
        assert self._segmenter is not None
        try:
            return travelling(segment_case(self._segmenter, given, order))
        except Exception as error:
            return travelling(failed(given, error, order))


@dataclass(eq=False)
class _Worker:
    actor: Any
    busy: int = 0


def segment_on_ray(
    inputs: Sequence[CaseInput],
    order: Order,
    opening: Opening,
    address: str = LOCAL,
    workers: int | None = None,
    patience_s: float = PATIENCE_S,
) -> Iterator[tuple[CaseInput, Outcome]]:
    """Segment cases on a cluster; outcomes come as they are ready. Files are those of one process.

    address: of a cluster, "auto" for the one of this machine, or "local" to start one here. workers: how many actors;
    None: as many as its nodes have GPUs (for a CUDA device) or groups of `opening.threads` cores. An actor that finds
    no place, for others use the cluster or a node went away, is waited for while others work, and `patience_s` when
    none does. The images and the output folder lie where every machine sees them under the same path.

    Raises what `cluster` raises, ConfigError for a cluster that has no room for an actor or has none left, and what
    keeps a Segmenter from opening.
    """
    with cluster(address) as ray:
        yield from _segment(ray, inputs, absolute(order), opening, workers, patience_s)


@contextmanager
def cluster(address: str = LOCAL) -> Iterator[Any]:
    """Ray, connected to that cluster until the block ends; what is connected already stays so.

    Raises MissingExtraError without Ray, ConfigError for a cluster that cannot be reached.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("Segmenting on a cluster", str(error.name), "ray") from None
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    options: dict[str, Any] = {"address": address}  # "local" too: without one Ray looks for a cluster first
    if address == LOCAL:
        options["include_dashboard"] = False
    elif address != "auto":
        _check_address(address, address)
    elif (last := os.environ.get("RAY_ADDRESS") or _last_cluster()) is not None:
        _check_address(last, address)
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises that itself for a node that does not come up
        raise _no_cluster(address, str(error)) from None


def _last_cluster() -> str | None:
    """The address that the last `ray start` on this machine left, whether it is still there or not."""
    with suppress(ImportError, AttributeError, OSError):  # Ray tells it to itself alone
        from ray._private.services import find_bootstrap_address

        found: str | None = find_bootstrap_address(None)
        return found or None
    return None


def _check_address(address: str, given: str) -> None:
    """Raise ConfigError where no gRPC answers: Ray itself tries for minutes. given: what the address came from."""
    if Path(address).exists():
        message = f"`ray={address}`: that is a path, not the address of a cluster. Expected HOST:PORT, auto or local."
        raise ConfigError(f"{message}\nThe cases are another argument, before this one.")
    host, colon, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 2**16):
        raise _no_cluster(given, f"{address} is no address, which is HOST:PORT, auto or local")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(HTTP2)
                if connection.recv(9)[3:4] != HTTP2[-6:-5]:
                    raise _no_cluster(given, f"something else than Ray listens at {address}")
    except OSError as error:
        raise _no_cluster(given, f"{address} does not answer within {REACH_S:.0f} s: {error}") from None


def _no_cluster(address: str, why: str) -> ConfigError:
    message = f"`ray={address}`: no cluster there ({why}). Start one with `ray start --head`, or say `ray=local`."
    return ConfigError(message)


def _segment(
    ray: Any, inputs: Sequence[CaseInput], order: Order, opening: Opening, workers: int | None, patience_s: float
) -> Iterator[tuple[CaseInput, Outcome]]:
    tidy(inputs, order)
    doubles = check_names(inputs)
    yield from ((given, Outcome(given.source, error=error)) for given, error in doubles)
    doubled = {id(given) for given, _ in doubles}
    waiting = deque(given for given in inputs if id(given) not in doubled)
    begun: dict[int, int] = {}
    held_by_lost: set[int] = set()
    make, room = _factory(ray, opening)
    count = min(workers or room, room, len(waiting))
    if waiting and count < 1:
        raise ConfigError(f"The cluster has no room for a worker: {_nodes(ray)}.")
    alive: list[_Worker] = []
    starting: dict[Any, _Worker] = {}
    running: dict[Any, tuple[CaseInput, _Worker]] = {}
    starts = (count or 1) * ATTEMPTS  # how many workers may be lost before they could tell that they began

    def start() -> None:
        worker = _Worker(make())
        starting[worker.actor.begin.remote()] = worker

    try:
        for _ in range(count):
            start()
        last = time.monotonic()
        while waiting or running:
            for worker in sorted(alive, key=lambda worker: worker.busy):
                if waiting and worker.busy < IN_FLIGHT:
                    given = waiting.popleft()
                    asked = order_again(given, order) if id(given) in held_by_lost else order
                    reference = worker.actor.segment.remote(_travelling(given), asked)
                    running[reference] = given, worker
                    worker.busy += 1
            if waiting and any(worker.busy < IN_FLIGHT for worker in alive):
                continue
            last = time.monotonic() if alive else last
            left = None if alive else max(0.0, last + patience_s - time.monotonic())
            ready, _ = ray.wait([*running, *starting], num_returns=1, timeout=left)
            if not ready:
                message = f"No worker of the cluster began within {patience_s:.0f} s: {_nodes(ray)}."
                raise ConfigError(f"{message}\nExpected nodes with free cores or GPUs: wait for them, and start again.")
            if ready[0] in starting:
                worker = starting.pop(ready[0])
                try:
                    if (problem := ray.get(ready[0])) is not None:
                        raise problem
                    alive.append(worker)
                except ray.exceptions.RayActorError as error:
                    starts -= 1
                    if starts > 0:
                        start()
                    elif not alive and not starting:
                        raise CaseError(f"The workers are lost before they begin: {error}") from None
                continue
            given, worker = running.pop(ready[0])
            worker.busy -= 1
            try:
                yield given, ray.get(ready[0])
            except ray.exceptions.RayActorError:
                lost = [(reference, held) for reference, (held, by) in running.items() if by is worker]
                for reference, _ in lost:
                    del running[reference]
                alive.remove(worker)
                # tasks of an actor run in order: the first is the one that was being computed. Or the one whose end was
                # not heard any more, and then the next may be written already
                begun[id(given)] = begun.get(id(given), 0) + 1
                held_by_lost.update([id(given), *(id(held) for _, held in lost)])
                for other in reversed([held for _, held in lost]):
                    waiting.appendleft(other)
                if begun[id(given)] < ATTEMPTS:
                    waiting.append(given)
                else:
                    message = f"its worker was lost {ATTEMPTS} times; too little memory is a frequent reason"
                    yield given, failed(given, CaseError(message), order)
                if waiting or running:
                    start()
    finally:
        for worker in (*alive, *starting.values()):
            ray.kill(worker.actor)


def _factory(ray: Any, opening: Opening) -> tuple[Any, int]:
    """(what makes an actor, how many the nodes that are alive have room for)."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if opening.device.startswith("cuda"):
        # Ray shows each actor its own GPU alone, as cuda:0
        opening, need = replace(opening, device="cuda:0"), {"num_gpus": 1, "num_cpus": 1}
        room = sum(int(min(node.get("GPU", 0), node.get("CPU", 0))) for node in nodes)
    else:
        most = int(max((node.get("CPU", 0) for node in nodes), default=0))
        cores = opening.threads or max(1, min(4, most))
        opening, need = replace(opening, threads=cores), {"num_cpus": cores}
        room = sum(int(node.get("CPU", 0)) // cores for node in nodes)
    actor = ray.remote(_Actor)
    return lambda: actor.options(max_restarts=0, **need).remote(opening), room


def _nodes(ray: Any) -> str:
    """The nodes that are alive, for messages."""
    nodes = sorted((node["Resources"] for node in ray.nodes() if node["Alive"]), key=lambda node: -node.get("CPU", 0))
    told = (f"{node.get('CPU', 0):.0f} cores and {node.get('GPU', 0):.0f} GPUs" for node in nodes)
    return f"its nodes have {', '.join(told) or 'nothing'}"


def _travelling(given: CaseInput) -> CaseInput:
    """The same with absolute paths: workers have other current folders."""
    files = None if given.files is None else {name: path.absolute() for name, path in given.files.items()}
    return replace(given, folder=None if given.folder is None else given.folder.absolute(), files=files)


def absolute(order: Order) -> Order:
    """The same with absolute paths, as workers need them. Raises ConfigError without an output folder."""
    if order.out is None:
        raise ConfigError("`ray` needs an output folder that every machine sees. Give one as `out`.")
    return replace(order, out=order.out.absolute(), mask=None if order.mask is None else order.mask.absolute())
