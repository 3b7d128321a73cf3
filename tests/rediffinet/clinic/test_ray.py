"""A cohort on a local Ray cluster: the files of one process, also when a worker is killed in the middle."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rediffinet.clinic.case import Order
from rediffinet.clinic.cohort import list_inputs, segment_cohort
from rediffinet.clinic.on_ray import segment_on_ray
from rediffinet.clinic.workers import Opening
from rediffinet.errors import CaseError, ConfigError
from rediffinet.segmenter import Segmenter

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers of a core each, whatever the machine has."""
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # a machine that is busy with other tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture
def cohort(cohort_of: Callable[[str], Path]) -> Path:
    return cohort_of("ABCDEFGH")


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.endswith((".nii.gz", ".png"))}


def opening(toy_bundle: Any) -> Opening:
    return Opening(toy_bundle.path, "onnxruntime", threads=1)


def workers() -> list[int]:
    """Processes of the actors that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if status.read_bytes().startswith(b"ray::_Actor"):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_that_is_killed_in_the_middle(cluster: None, cohort: Path, toy_bundle: Any, tmp_path: Path) -> None:
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as segmenter:
        list(segment_cohort(segmenter, list_inputs(cohort), Order(tmp_path / "expected")))
    (cohort / "G" / "G-t2w.nii.gz").unlink()
    found, killed, times = {}, 0, {}
    for given, outcome in segment_on_ray(list_inputs(cohort), Order(tmp_path / "out"), opening(toy_bundle), workers=2):
        assert given.source not in found  # none is told twice
        found[given.source] = outcome
        for report in (tmp_path / "out").glob("*-report.json"):
            times.setdefault(report.name, report.stat().st_mtime_ns)
        if not killed:
            killed = workers()[0]
            os.kill(killed, signal.SIGKILL)
    assert killed
    assert sorted(Path(source).name for source, outcome in found.items() if outcome.report) == list("ABCDEFH")
    assert "missing: t2w" in str(found[str(cohort / "G")].error)
    expected = {name: content for name, content in images(tmp_path / "expected").items() if not name.startswith("G")}
    assert images(tmp_path / "out") == expected
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-report.json")}
    assert {name: written[name] for name in times} == times  # none was done again
    assert not list((tmp_path / "out").glob(".*"))


def test_a_bundle_that_does_not_open_is_the_error_of_all(cluster: None, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="absent"):
        list(segment_on_ray(list_inputs(cohort), Order(tmp_path / "out"), Opening(tmp_path / "absent", threads=1)))


def test_more_cores_than_the_cluster_has(cluster: None, cohort: Path, toy_bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no room"):
        list(segment_on_ray(list_inputs(cohort), Order(tmp_path / "out"), Opening(toy_bundle.path, threads=64)))


def test_the_command(cluster: None, rediff: Any, cohort: Path, toy_bundle: Any, tmp_path: Path) -> None:
    started = time.time()
    options = ("--bundle", toy_bundle.path, "--engine", "onnxruntime", "--threads", 1)
    done = rediff("segment", cohort, "-o", tmp_path / "out", *options, "--ray")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").glob("*-report.json"))) == 8
    assert (tmp_path / "out" / "cohort.csv").stat().st_mtime >= started - 1
