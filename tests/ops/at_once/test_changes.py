"""Whatever has changed since a call, the next gives what a checked call gives."""

from __future__ import annotations

import pytest

from gatv2_pyg.ops import native
from tests.ops.at_once.case import Case, agree, all_checked
from tests.ops.at_once.changes import hooks, of_layer, parameters, tensors

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)


@pytest.mark.filterwarnings(
    "ignore:.*got no 'edge_attr'",
    "ignore:Sparse CSR tensor support",
)
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("change", [*of_layer(), *hooks(), *parameters(), *tensors()])
def test_what_changed_is_noticed(change, loops, checks):
    case = Case(add_self_loops=loops, dropout=0.25)
    case()
    case()
    assert len(checks) == 1
    change(case)
    got = case.found()
    with all_checked():
        agree(got, case.found())
    case.found()
    agree(case.found(), got)
