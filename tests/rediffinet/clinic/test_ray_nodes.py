"""A Ray cluster of several nodes, all on this machine: where workers fit, nodes that go away, addresses of none."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rediffinet.clinic import on_ray
from rediffinet.clinic.case import Order
from rediffinet.clinic.cohort import list_inputs
from rediffinet.clinic.on_ray import segment_on_ray
from rediffinet.clinic.workers import Opening
from rediffinet.errors import ConfigError

ray = pytest.importorskip("ray")


@pytest.fixture
def cohort(cohort_of: Callable[[str], Path]) -> Path:
    return cohort_of("ABCDEF")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that computes nothing and two nodes of six cores each, as Ray is told."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")
    memory = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    made.workers = [made.add_node(num_cpus=6, **memory) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_workers_are_counted_by_node_and_a_node_that_goes_away_is_done_without(
    cluster: Any, cohort: Path, toy_bundle: Any, tmp_path: Path
) -> None:
    opening = Opening(toy_bundle.path, "onnxruntime", threads=4)
    on_ray._connect(ray, cluster.address)
    assert on_ray._factory(ray, opening)[1] == 2  # 6 // 4 + 6 // 4, not 12 // 4
    with pytest.raises(ConfigError, match="6 cores and 0 GPUs, 6 cores and 0 GPUs"):
        list(segment_on_ray(list_inputs(cohort), Order(tmp_path / "big"), Opening(toy_bundle.path, threads=7)))
    found = []
    for _, outcome in segment_on_ray(list_inputs(cohort), Order(tmp_path / "out"), opening, patience_s=120):
        found.append(outcome)
        if len(found) == 1:
            cluster.remove_node(cluster.workers[0], allow_graceful=False)
    assert [outcome.error for outcome in found] == [None] * 6
    assert len(list((tmp_path / "out").glob("*-report.json"))) == 6
    started = time.monotonic()
    while sum(node["Alive"] for node in ray.nodes()) > 2 and time.monotonic() < started + 90:  # until it is noticed
        time.sleep(0.2)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="No worker of the cluster began within 3 s"):  # others have its cores
        holder = ray.remote(num_cpus=6)(_Holder).remote()
        ray.get(holder.ping.remote())
        list(segment_on_ray(list_inputs(cohort), Order(tmp_path / "none"), opening, patience_s=3))
    assert time.monotonic() - started < 60


class _Holder:
    def ping(self) -> None:
        """Say that it is there."""


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{closed}", "ray://127.0.0.1:{closed}", "nonsense", "a:b", "no.such.invalid:6379"]
)
def test_an_address_where_there_is_no_cluster(
    address: str, tmp_path: Path, toy_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = address.replace("{closed}", str(free.getsockname()[1]))
    with pytest.raises(ConfigError, match=f"`ray={address}`: no cluster there"):
        list(segment_on_ray([], Order(tmp_path), Opening(toy_bundle.path), address))

    if address.startswith("127"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ConfigError, match=f"`ray=auto`: no cluster there .{address} does not answer"):
            list(segment_on_ray([], Order(tmp_path), Opening(toy_bundle.path), "auto"))


@pytest.mark.parametrize("said", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
def test_an_address_where_something_else_listens(
    said: bytes, tmp_path: Path, toy_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never answers, and what answers something else."""
    monkeypatch.setattr(on_ray, "REACH_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        held: list[socket.socket] = []

        def answer() -> None:
            held.append(server.accept()[0])
            held[0].sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(
            ConfigError, match=rf"no cluster there \(.*{'something else' if said else 'does not answer'}"
        ):
            list(segment_on_ray([], Order(tmp_path), Opening(toy_bundle.path), address))
        thread.join()
        held[0].close()


@pytest.mark.parametrize("before", [None, b"case,state\n"])
def test_a_table_stays_as_it_was_where_there_is_no_cluster(
    rediff: Any, cohort: Path, tmp_path: Path, toy_bundle: Any, before: bytes | None
) -> None:
    out = tmp_path / "out"
    if before is not None:
        out.mkdir()
        (out / "cohort.csv").write_bytes(before)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = rediff("segment", cohort, "-o", out, "--bundle", toy_bundle.path, "--ray", address)
    assert done.code == 2 and "no cluster there" in done.err
    assert [(path.name, path.read_bytes()) for path in (out.iterdir() if before else ())] == (
        [("cohort.csv", before)] if before else []
    )
    assert out.exists() == (before is not None)


def test_a_run_on_a_cluster_without_an_output_folder_writes_nothing(
    rediff: Any, cohort: Path, toy_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = rediff("segment", cohort, "--bundle", toy_bundle.path, "--ray")
    assert done.code == 2 and "--out" in done.err
    assert not list((tmp_path / "here").iterdir())


def test_the_cohort_where_the_address_belongs(rediff: Any, cohort: Path, tmp_path: Path) -> None:
    done = rediff("segment", "--ray", cohort, "-o", tmp_path / "out")
    assert done.code == 2
    assert f"--ray {cohort}: that is a path" in done.err and f"rediff segment {cohort} … --ray" in done.err
    done = rediff("segment", cohort, "--ray", cohort / "A", "-o", tmp_path / "out")
    assert done.code == 2
    assert "that is a path, not the address of a cluster" in done.err
