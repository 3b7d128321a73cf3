"""What the docstrings of tasks and metrics show is what comes out."""

import doctest

import pytest

import rediffinet.metrics.cases
import rediffinet.metrics.masks
import rediffinet.task


@pytest.mark.parametrize(
    "module", [rediffinet.task, rediffinet.metrics.masks, rediffinet.metrics.cases], ids=lambda module: module.__name__
)
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > 2
    assert found.failed == 0
