"""No pattern is kept from one test for the next."""

from __future__ import annotations

import pytest

import gatv2_pyg


@pytest.fixture(autouse=True)
def _empty_cache():
    gatv2_pyg.set_graph_cache(False)
    gatv2_pyg.set_graph_cache(True)
