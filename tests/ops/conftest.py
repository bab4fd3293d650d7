from __future__ import annotations

import pytest

from gatv2_pyg.ops import joined


@pytest.fixture
def taken(monkeypatch):
    """How often the way was taken forward, back, and back by operations autograd follows."""
    counts = {"layer": 0, "_gradients": 0, "_gradients_of_composed": 0}

    def count(name):
        original = getattr(joined, name)

        def counted(*args):
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(joined, name, counted)

    for name in counts:
        count(name)
    return counts
