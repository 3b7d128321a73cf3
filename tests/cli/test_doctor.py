"""`rediff doctor`: every engine on every device, proven by running a graph."""

import importlib.util
import json
from typing import Any

import numpy as np
import pytest

from rediffinet.engines import AUTO, ENGINES
from rediffinet.engines.base import Graph


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "torch"])
def test_what_is_installed_works(rediff: Any, engine: str) -> None:
    if not importlib.util.find_spec(engine):
        pytest.skip(f"{engine} is not installed here")
    done = rediff("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    [row] = [row for row in json.loads(done.out)["engines"] if (row["engine"], row["device"]) == (engine, "cpu")]
    assert row["works"] and row["version"][0].isdigit() and "fp32" in row["precisions"]


def test_json_covers_everything(rediff: Any) -> None:
    values = json.loads(rediff("doctor", "--json").out)
    assert {row["engine"] for row in values["engines"]} == set(ENGINES)
    assert {row["device"] for row in values["engines"]} >= {"cpu", "cuda:0"}
    assert values["machine"]["processor"]["cores"] >= 1
    assert values["machine"]["gpus"] or values["machine"]["no_gpu"]
    assert all(row["works"] or row["detail"] for row in values["engines"])


def test_text_says_why_not_and_what_to_install(rediff: Any) -> None:
    done = rediff("doctor")
    assert done.code == 0
    assert "processor: " in done.out
    for name in ENGINES:
        assert f"\n{name} " in done.out
    if not importlib.util.find_spec("tensorrt"):
        assert "pip install 'rediffinet[tensorrt]'" in done.out
    assert f"--engine auto takes the first that works of {', '.join(AUTO)}" in done.out


def test_an_engine_that_computes_nonsense_does_not_work(rediff: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing and loading is not enough."""
    real = Graph.__call__

    def wrong(self: Graph, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        return {name: 0 * values for name, values in real(self, **arrays).items()}

    monkeypatch.setattr(Graph, "__call__", wrong)
    rows = json.loads(rediff("doctor", "--json").out)["engines"]
    assert not any(row["works"] for row in rows)
    assert any("2 × 3.5 came out as 0" in row["detail"] for row in rows)
