"""A short run of the fuzz of the public doors; ``python -m tests.dropin.fuzz`` is the long one."""

import pytest

from .search import Executor, search


@pytest.fixture(scope="module")
def executor():
    executor = Executor()
    yield executor
    executor.close()


def test_random_calls_do_no_harm(executor):
    search(executor, 400)
