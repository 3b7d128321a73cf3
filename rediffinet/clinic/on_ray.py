"""A cohort on a Ray cluster: one actor per worker holds a Segmenter; what a lost one was doing is done by another."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rediffinet.clinic.case import Order, Outcome, segment_case, tidy
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
    inputs: Sequence[CaseInput], order: Order, opening: Opening, address: str = LOCAL, workers: int | None = None
) -> Iterator[tuple[CaseInput, Outcome]]:
    """Segment cases on a cluster; outcomes come as they are ready. Files are those of one process.

    address: of a cluster, "auto" for the one of this machine, or "local" to start one here. workers: how many actors;
    None: as many as the cluster has GPUs (for a CUDA device) or groups of `opening.threads` cores. The images and the
    output folder lie where every machine sees them under the same path.

    Raises MissingExtraError without Ray, ConfigError for a cluster that cannot be reached or has no room for an actor,
    and what keeps a Segmenter from opening.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtraError("Segmenting on a cluster", str(error.name), "ray") from None
    own = not ray.is_initialized()
    _connect(ray, address)
    try:
        yield from _segment(ray, inputs, _absolute(order), opening, workers)
    finally:
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    if ray.is_initialized():
        return
    options: dict[str, Any] = {} if address == LOCAL else {"address": address}
    if address == LOCAL:
        options["include_dashboard"] = False
    try:
        ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises that itself for a node that does not come up
        message = f"`ray={address}`: no cluster there ({error}). Start one with `ray start --head`, or say `ray=local`."
        raise ConfigError(message) from None


def _segment(
    ray: Any, inputs: Sequence[CaseInput], order: Order, opening: Opening, workers: int | None
) -> Iterator[tuple[CaseInput, Outcome]]:
    tidy(inputs, order)
    doubles = check_names(inputs)
    yield from ((given, Outcome(given.source, error=error)) for given, error in doubles)
    doubled = {id(given) for given, _ in doubles}
    waiting = deque(given for given in inputs if id(given) not in doubled)
    begun: dict[int, int] = {}
    make, room = _factory(ray, opening)
    count = min(workers or room, room, len(waiting))
    if waiting and count < 1:
        raise ConfigError(f"The cluster has no room for a worker: it has {ray.cluster_resources()}.")
    alive = [_Worker(make()) for _ in range(count)]
    for problem in _began(ray, alive):
        raise problem
    running: dict[Any, tuple[CaseInput, _Worker]] = {}
    try:
        while waiting or running:
            for worker in sorted(alive, key=lambda worker: worker.busy):
                if waiting and worker.busy < IN_FLIGHT:
                    given = waiting.popleft()
                    # what was written by a worker that was lost before it could tell is not done again
                    again = replace(order, skip_existing=True) if begun.get(id(given)) else order
                    reference = worker.actor.segment.remote(_travelling(given), again)
                    running[reference] = given, worker
                    worker.busy += 1
            if waiting and any(worker.busy < IN_FLIGHT for worker in alive):
                continue
            ready, _ = ray.wait(list(running), num_returns=1)
            given, worker = running.pop(ready[0])
            worker.busy -= 1
            try:
                yield given, ray.get(ready[0])
            except ray.exceptions.RayActorError:
                lost = [(reference, held) for reference, (held, by) in running.items() if by is worker]
                for reference, _ in lost:
                    del running[reference]
                alive.remove(worker)
                # tasks of an actor run in order: the first is the one that was being computed
                begun[id(given)] = begun.get(id(given), 0) + 1
                for other in reversed([held for _, held in lost]):
                    waiting.appendleft(other)
                if begun[id(given)] < ATTEMPTS:
                    waiting.append(given)
                else:
                    message = f"its worker was lost {ATTEMPTS} times; too little memory is a frequent reason"
                    yield given, failed(given, CaseError(message), order)
                if waiting or running:
                    alive.append(_Worker(make()))
    finally:
        for worker in alive:
            ray.kill(worker.actor)


def _began(ray: Any, workers: Sequence[_Worker]) -> Iterator[RediffError]:
    for said in ray.get([worker.actor.begin.remote() for worker in workers]):
        if said is not None:
            yield said


def _factory(ray: Any, opening: Opening) -> tuple[Any, int]:
    """(what makes an actor, how many the cluster has room for)."""
    resources = ray.cluster_resources()
    if opening.device.startswith("cuda"):
        # Ray shows each actor its own GPU alone, as cuda:0
        opening, need = replace(opening, device="cuda:0"), {"num_gpus": 1, "num_cpus": 1}
        room = int(min(resources.get("GPU", 0), resources.get("CPU", 0)))
    else:
        cores = opening.threads or max(1, min(4, int(resources.get("CPU", 1))))
        opening, need = replace(opening, threads=cores), {"num_cpus": cores}
        room = int(resources.get("CPU", 0)) // cores
    actor = ray.remote(_Actor)
    return lambda: actor.options(max_restarts=0, **need).remote(opening), room


def _travelling(given: CaseInput) -> CaseInput:
    """The same with absolute paths: workers have other current folders."""
    files = None if given.files is None else {name: path.absolute() for name, path in given.files.items()}
    return replace(given, folder=None if given.folder is None else given.folder.absolute(), files=files)


def _absolute(order: Order) -> Order:
    if order.out is None:
        raise ConfigError("`ray` needs an output folder that every machine sees. Give one as `out`.")
    return replace(order, out=order.out.absolute(), mask=None if order.mask is None else order.mask.absolute())
