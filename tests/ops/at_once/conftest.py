from __future__ import annotations

import pytest

from gatv2_pyg import at_once, inputs, set_graph_cache
from gatv2_pyg.passing import observe_calls


@pytest.fixture(autouse=True)
def empty():
    at_once._checked.clear()
    set_graph_cache(False)
    set_graph_cache(True)
    yield
    set_graph_cache(True)
    observe_calls(None)


@pytest.fixture
def checks(monkeypatch):
    """How many calls were checked."""
    made, original = [], inputs.check
    monkeypatch.setattr(inputs, "check", lambda *args: made.append(1) or original(*args))
    return made
