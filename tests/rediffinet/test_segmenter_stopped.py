"""Progress, cancellation and a deadline in `Segmenter.segment`: typed errors, nothing kept, the segmenter goes on."""

import gc
import pickle
import time
import weakref
from typing import Any

import numpy as np
import pytest

from rediffinet.errors import CaseCancelledError, CaseStoppedError, DeadlineError, RediffError
from rediffinet.segmenter import Segmenter


@pytest.fixture
def segmenter(toy_bundle: Any) -> Any:
    with Segmenter.open(toy_bundle.path, "onnxruntime", threads=1) as opened:
        yield opened


def test_progress_goes_through_every_stage_in_order(segmenter: Segmenter, toy_case: Any) -> None:
    told: list[tuple[str, int, int]] = []
    segmenter.segment(toy_case, progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == ["normalise", "baseline", "refine", "decode"]
    for stage in ("baseline", "refine"):
        done = [(at, of) for name, at, of in told if name == stage]
        assert done == [(at, done[0][1]) for at in range(1, done[0][1] + 1)]


@pytest.mark.parametrize("stage", ["normalise", "baseline", "refine", "decode"])
def test_cancelled_at_any_stage(segmenter: Segmenter, toy_case: Any, stage: str) -> None:
    """The error says where, the buffers of the case go, and the next case is as if nothing had been."""
    expected = segmenter.segment(toy_case)
    reached: list[str] = []
    held = weakref.ref(toy_case.images)
    error: RediffError | None = None
    try:
        segmenter.segment(
            toy_case, progress=lambda name, *_: reached.append(name), cancelled=lambda: _next(reached) == stage
        )
    except CaseCancelledError as caught:
        error = caught
    assert isinstance(error, CaseStoppedError)
    assert "toy was cancelled" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    again = segmenter.segment(toy_case)
    assert np.array_equal(again.labels, expected.labels)
    assert np.array_equal(again.probabilities, expected.probabilities)
    error.__traceback__ = None
    del error
    object.__setattr__(toy_case, "images", None)
    del again, expected
    gc.collect()
    assert held() is None


def _next(reached: list[str]) -> str:
    """The stage that is told when those before were: enough to stop in each of them."""
    order = ["normalise", "baseline", "refine", "decode"]
    return order[min(order.index(reached[-1]) + 1, 3)] if reached else order[0]


def test_a_deadline_that_passes_and_one_that_does_not(segmenter: Segmenter, toy_case: Any) -> None:
    with pytest.raises(DeadlineError, match="toy took longer than 0.05 s"):
        segmenter.segment(toy_case, progress=lambda *_: time.sleep(0.03), deadline_s=0.05)
    assert segmenter.segment(toy_case, deadline_s=3600).report.case == "toy"


def test_what_a_callback_raises_passes_through(segmenter: Segmenter, toy_case: Any) -> None:
    def progress(*_: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        segmenter.segment(toy_case, progress=progress)
