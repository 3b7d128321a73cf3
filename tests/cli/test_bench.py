"""`rediff bench`: contestants in turns, their quality against the label, and those that cannot run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from rediffinet.clinic.bench import Contestant, as_rows, contest

needs = pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")


@needs
def test_a_case_with_its_label(rediff: Any, phantoms: Path, toy_bundle: Any, tmp_path: Path) -> None:
    case = sorted(path for path in phantoms.iterdir() if path.is_dir())[0]
    out = tmp_path / "out"
    done = rediff(
        *("bench", "--case", case, "--bundle", toy_bundle.path, "--engine", "onnxruntime", "--threads", "1,2"),
        *("--turns", 2, "-o", out),
    )
    assert done.code == 0, done.err
    content = json.loads((out / "bench.json").read_text())
    one, two = content["contestants"]
    assert (one["name"], two["name"]) == tuple(f"rediffinet, onnxruntime fp32, {n} threads" for n in (1, 2))
    for standing in (one, two):
        assert standing["turns"] == 2 and standing["why_not"] == ""
        assert 0 < standing["shortest_s"] <= standing["median_s"] <= standing["longest_s"]
        assert standing["peak_rss_mb"] > 50 and 0 < standing["stages"]["baseline"] <= standing["longest_s"]
    assert one["dice"] == two["dice"] and set(one["dice"]) == {"WT", "TC", "ET"}
    assert content["machine"]["cores"] and content["machine"]["onnxruntime"]
    assert "| rediffinet, onnxruntime fp32, 1 threads" in (out / "bench.md").read_text()


@needs
def test_contestants_that_cannot_run_say_why(phantoms: Path, toy_bundle: Any) -> None:
    case = sorted(path for path in phantoms.iterdir() if path.is_dir())[0]
    ours = {"bundle": str(toy_bundle.path), "engine": "onnxruntime", "precision": "fp32", "threads": 1}
    make = "rediffinet.clinic.bench:segmenter_run"
    broken = [
        Contestant("int8", make, {**ours, "precision": "int8"}),
        Contestant("absent", "rediffinet.clinic.no_such_module:run"),
    ]
    standings = contest(case, [Contestant("ours", make, ours), *broken], 1)
    assert [standing.turns for standing in standings] == [1, 0, 0]
    assert "int8" in standings[1].why_not and "No module named" in standings[2].why_not
    header, rows = as_rows(standings)
    assert rows[0][2] == "1.0" and rows[1][-1] == standings[1].why_not and len(header) == len(rows[2])


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("monai"), reason="needs torch and monai")
def test_peers_in_small(phantoms: Path, toy_bundle: Any) -> None:
    case = sorted(path for path in phantoms.iterdir() if path.is_dir())[0]
    path = str(toy_bundle.path)
    peers = "rediffinet.export.peers"
    standings = contest(
        case,
        [
            Contestant("monai", f"{peers}:monai", {"bundle": path, "threads": 1}),
            Contestant("published", f"{peers}:published", {"threads": 1, "window": (64, 64, 128), "narrow": 16}),
            Contestant("nnunet", f"{peers}:nnunet", {"threads": 1, "mirroring": False, "patch": (64, 64, 64)}),
        ],
        1,
    )
    monai, published, nnunet = standings
    assert monai.turns == 1 and monai.stages["baseline"] == monai.median_s > 0
    assert published.turns == 1 and published.median_s > published.stages["baseline"] > 0
    assert nnunet.turns == 1 or "No module named" in nnunet.why_not
