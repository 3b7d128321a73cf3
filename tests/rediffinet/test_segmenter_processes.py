"""A Segmenter belongs to the process that opened it."""

import multiprocessing
import os
import pickle
from typing import Any

import pytest

from rediffinet.engines import open_engine
from rediffinet.errors import EngineError
from rediffinet.segmenter import Segmenter

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
OPENED: dict[str, Any] = {}
ENGINES = ("onnxruntime", "openvino", "torch")


def segment_inherited(case: Any) -> str:
    try:
        OPENED["segmenter"].segment(case)
    except EngineError as error:
        OPENED["segmenter"].close()
        return str(error)
    return "segmented"


def open_own(path: Any, engine: str) -> None:
    OPENED["segmenter"] = Segmenter.open(path, engine, threads=1)


def open_here(path: Any, engine: str) -> Segmenter:
    try:
        return Segmenter.open(path, engine, threads=1)
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("engine", ENGINES)
def test_opened_before_a_forked_pool_raises_and_does_not_hang(toy_bundle: Any, toy_case: Any, engine: str) -> None:
    with open_here(toy_bundle.path, engine) as segmenter:
        OPENED["segmenter"] = segmenter
        with multiprocessing.get_context("fork").Pool(1) as pool:
            said = pool.apply_async(segment_inherited, (toy_case,)).get(timeout=60)
        assert f"was opened in process {os.getpid()}" in said and "Open it in the process that uses it" in said
        assert segmenter.segment(toy_case).labels.any()  # the parent's goes on


@pytest.mark.parametrize("engine", ENGINES[:2])  # torch, once used, may hang in a fork by itself
def test_opened_in_each_worker_of_a_forked_pool_works(toy_bundle: Any, toy_case: Any, engine: str) -> None:
    open_here(toy_bundle.path, engine).close()
    context = multiprocessing.get_context("fork")
    with context.Pool(1, open_own, (toy_bundle.path, engine)) as pool:
        assert pool.apply_async(segment_inherited, (toy_case,)).get(timeout=60) == "segmented"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_of_its_own_raises_after_a_fork(engine: str) -> None:
    with open_engine(engine, threads=1) as opened:
        child = os.fork()
        if child == 0:
            try:
                opened.empty((1,), "float32")
            except EngineError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_segmenter_sent_to_another_process_says_so(toy_bundle: Any) -> None:
    with Segmenter.open(toy_bundle.path, threads=1) as segmenter, pytest.raises(EngineError, match="cannot be pickled"):
        pickle.dumps(segmenter)
