"""Edges that are new to a layer whose options passed the checks: grouped in C++ at once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatv2_pyg import Graph, set_graph_cache
from gatv2_pyg.graph import adjacency, cache, grouping
from gatv2_pyg.graph.loops import with_loop_features
from gatv2_pyg.ops import native
from tests.ops.at_once.case import BONDS, EDGES, FEATURES, NODES, Case, agree, all_checked

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)

FLOWS = ["source_to_target", "target_to_source"]


def random(nodes=NODES, edges=EDGES):
    return torch.randint(nodes, (2, edges))


def to_one_node(row):
    edge_index = random(edges=1700)
    edge_index[row, :1500] = 3
    return edge_index


def by_columns():
    return random().t().contiguous().t()


def every_other():
    return random(edges=2 * EDGES)[:, ::2]


def in_order():
    return torch.stack([torch.randint(NODES, (EDGES,)), torch.arange(EDGES) % NODES]).sort()[0]


EDGES_OF = {
    "random": random,
    "many to one node": lambda: to_one_node(1),
    "many from one node": lambda: to_one_node(0),
    "loops alone": lambda: torch.arange(NODES).repeat(2, 2),
    "the same edge": lambda: torch.tensor([[1], [2]]).repeat(1, 9),
    "in order": in_order,
    "int32": lambda: random().int(),
    "by columns": by_columns,
    "every other": every_other,
    "reversed": lambda: random().flip(0),
    "none": lambda: random(edges=0),
    "the last node": lambda: torch.full((2, 1), NODES - 1),
}


@pytest.fixture
def groupings(monkeypatch):
    """How many graphs were made in C++."""
    made, compiled = [], native.operators()

    def counted(*args):
        found = compiled.layer_graph(*args)
        made.extend([1] if found[0] else [])
        return found

    watched = compiled._replace(layer_graph=counted)
    monkeypatch.setattr(native, "operators", lambda: watched)
    return made


def renewed(case, edge_index):
    case.edge_index = edge_index
    if case.edge_attr is not None:
        case.edge_attr = torch.randn(edge_index.size(1), BONDS, dtype=case.x.dtype)


def as_checked(case):
    """The case's call gives what a checked one does."""
    got = case.found()
    with all_checked():
        agree(got, case.found())


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("with_bonds", [True, False])
@pytest.mark.parametrize("edges", EDGES_OF)
def test_new_edges_are_not_checked(edges, with_bonds, loops, flow, checks, groupings):
    case = Case(with_bonds, add_self_loops=loops, flow=flow, dropout=0.25)
    case()
    # Features of loops are then not those that the edges' groups give.
    checked = with_bonds and loops and flow == "target_to_source"
    for _ in range(2):
        renewed(case, EDGES_OF[edges]())
        before = len(checks)
        got = case.found()
        agree(case.found(), got)
        assert len(checks) - before == checked
        with all_checked():
            agree(got, case.found())
    assert len(groupings) == (0 if checked else 2)


@pytest.mark.parametrize("fill_value", ["mean", "add", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_new_edges(fill_value, dtype, groupings):
    case = Case(fill_value=fill_value)
    case.layer.to(dtype)
    case.x, case.edge_attr = case.x.to(dtype), case.edge_attr.to(dtype)
    case()
    renewed(case, random())
    as_checked(case)
    case.x = case.x.requires_grad_()
    renewed(case, random())
    as_checked(case)
    assert len(groupings) == 2


def test_of_other_numbers_of_nodes(groupings):
    case = Case()
    case()
    for nodes, edges in [(1, 4), (0, 0), (3, 0), (500, 900)]:
        case.x = torch.randn(nodes, FEATURES)
        renewed(case, random(max(nodes, 1), edges))
        as_checked(case)
    assert len(groupings) == 4


def test_a_gradient_after_a_call_without_one(groupings):
    case = Case()
    case()
    renewed(case, random())
    with torch.no_grad():
        case()
    as_checked(case)
    assert len(groupings) == 1


edges_of_some_nodes = st.integers(1, 9).flatmap(
    lambda nodes: st.tuples(
        st.just(nodes),
        st.lists(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=40),
    )
)


@given(edges_of_some_nodes, st.booleans(), st.sampled_from(FLOWS), st.integers(0, 600))
def test_the_graph_is_that_of_the_checks(edges, loops, flow, hub):
    nodes, pairs = edges
    edge_index = torch.tensor(pairs + [(0, nodes - 1)] * hub, dtype=torch.int64).reshape(-1, 2).t()
    case = Case(with_bonds=flow == FLOWS[0], add_self_loops=loops, flow=flow)
    case()
    case.x = torch.randn(nodes, FEATURES)
    renewed(case, edge_index)
    case()
    found = cache.known(edge_index, (nodes, nodes, loops, flow)).value
    want = Graph.from_edge_index(edge_index, nodes, add_self_loops=loops, flow=flow)
    assert (found.num_ids, found.complete) == (want.num_ids, want.complete)
    assert found._by_src is not None
    for name in ("by_dst", "by_src"):
        for got, part in zip(getattr(found, name), getattr(want, name), strict=True):
            assert got.dtype == part.dtype
            assert torch.equal(got, part)
    if loops and case.edge_attr is not None:
        filled = with_loop_features(case.edge_attr, edge_index, nodes, "mean", want)
        assert torch.equal(found.remembered[1], filled)


def test_in_several_ranges_of_destinations(monkeypatch, groupings):
    monkeypatch.setattr(grouping, "_BLOCK_BYTES", 4096)
    case = Case()
    case()
    renewed(case, random(edges=40 * NODES))
    assert grouping.source_blocks(NODES, NODES, 41 * NODES) > 2
    case()
    graph = cache.known(case.edge_index, (NODES, NODES, True, "source_to_target")).value
    want = Graph.from_edge_index(case.edge_index, NODES, add_self_loops=True)
    for got, part in zip(graph._by_src, want.by_src, strict=True):
        assert torch.equal(got, part)
    assert len(groupings) == 1
    as_checked(case)


def test_many_graphs_are_grouped_once(checks, groupings):
    case = Case()
    case()
    batches = [(random(), torch.randn(EDGES, BONDS)) for _ in range(2 * cache._MAX_KNOWN)]
    for _ in range(3):
        for case.edge_index, case.edge_attr in batches:
            case()
    assert len(groupings) == len(batches)
    assert len(checks) == 1


def test_a_graph_that_another_call_made_is_found(checks, groupings):
    case = Case(with_bonds=False)
    case()
    renewed(case, random())
    case.layer(case.x, case.edge_index, return_attention_weights=True)
    as_checked(case)
    assert not groupings


def test_features_that_are_too_large_are_not_kept(monkeypatch, groupings):
    monkeypatch.setattr(adjacency, "_MOST_KEPT", 4 * EDGES * BONDS - 1)
    case = Case()
    case()
    renewed(case, random())
    for _ in range(3):
        got = case.found()
        graph = cache.known(case.edge_index, (NODES, NODES, True, "source_to_target")).value
        assert graph.remembered is None
    assert len(groupings) == 1
    with all_checked():
        agree(got, case.found())


@pytest.mark.parametrize("loops", ["yes", "", 0, 1.0, None])
def test_self_loops_by_truth(loops, groupings):
    case = Case(with_bonds=False)
    case.layer.add_self_loops = loops
    case()
    for _ in range(2):
        as_checked(case)
        renewed(case, random())
    as_checked(case)
    assert len(groupings) == 2


def test_other_calls_find_the_graph(checks, monkeypatch):
    case = Case()
    case()
    renewed(case, random())
    out = case()
    monkeypatch.setattr(Graph, "from_edge_index", None)
    assert len(checks) == 1
    found, _ = case.layer(case.x, case.edge_index, case.edge_attr, return_attention_weights=True)
    assert (found - out).abs().max() < 1e-5
    assert len(checks) == 2


def test_a_change_of_new_edges_is_noticed(checks):
    case = Case()
    case()
    renewed(case, random())
    case()
    case.edge_index[:, :9] = case.edge_index[:, :9].flip(0)
    as_checked(case)
    case.edge_attr[3] += 1
    as_checked(case)


def test_nothing_is_kept_of_edges_that_are_gone(checks):
    case = Case()
    case()
    renewed(case, random())
    case()
    flags = NODES, NODES, True, "source_to_target"
    graph = weakref.ref(cache.known(case.edge_index, flags).value)
    renewed(case, random())
    gc.collect()
    assert graph() is None


def test_without_the_cache_nothing_is_made_at_once(checks, groupings):
    case = Case()
    case()
    set_graph_cache(False)
    renewed(case, random())
    case()
    assert len(checks) == 2
    assert not groupings
    assert not cache._made


def shorter(case):
    case.edge_attr = case.edge_attr[:-1]


def as_vector(case):
    case.edge_attr = case.edge_attr[:, 0]


def of_other_size(case):
    case.edge_attr = case.edge_attr[:, :1].contiguous()


def too_wide(case):
    case.edge_index = case.edge_index[:, :0]
    case.edge_attr = torch.empty(0, 2**45)


def nested(case):
    case.edge_index = torch.nested.nested_tensor([torch.tensor([1, 2, 3])] * 2)


def nested_features(case):
    case.edge_attr = torch.nested.nested_tensor([torch.ones(3)] * EDGES)


def with_gradient(case):
    case.edge_attr.requires_grad_()


def by_rows(case):
    case.edge_attr = case.edge_attr.t().contiguous().t()


def in_double(case):
    case.edge_attr = case.edge_attr.double()


def in_integers(case):
    case.edge_attr = case.edge_attr.long()


def of_none(case):
    case.edge_attr = None


def beyond(case):
    case.edge_index[0, 4] = NODES


def below(case):
    case.edge_index[1, 4] = -1


def three_rows(case):
    case.edge_index = torch.cat([case.edge_index, case.edge_index[:1]])


def one_row(case):
    case.edge_index = case.edge_index[0]


def as_number(case):
    case.edge_index = torch.tensor(3)


def in_floats(case):
    case.edge_index = case.edge_index.double()


def in_int16(case):
    case.edge_index = case.edge_index.short()


def in_uint8(case):
    case.edge_index = case.edge_index.byte()


def in_bool(case):
    case.edge_index = case.edge_index.bool()


def on_meta(case):
    case.edge_index = case.edge_index.to("meta")


def as_matrix(case):
    indices = torch.stack([case.edge_index[1], case.edge_index[0]])
    case.edge_index = torch.sparse_coo_tensor(indices, torch.ones(EDGES), (NODES, NODES))


def fewer_features(case):
    case.x = case.x[:, :-1]


def fewer_nodes(case):
    case.x = case.x[:4]


def filled_with_the_most(case):
    case.layer.fill_value = "max"


def filled_with_a_number(case):
    case.layer.fill_value = 0.5


CHECKED = [
    shorter,
    as_vector,
    of_other_size,
    too_wide,
    nested,
    nested_features,
    with_gradient,
    by_rows,
    in_double,
    in_integers,
    of_none,
    beyond,
    below,
    three_rows,
    one_row,
    as_number,
    in_floats,
    in_int16,
    in_uint8,
    in_bool,
    on_meta,
    as_matrix,
    fewer_features,
    fewer_nodes,
    filled_with_the_most,
    filled_with_a_number,
]


@pytest.mark.filterwarnings("ignore:.*got no 'edge_attr'", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("change", CHECKED, ids=lambda change: change.__name__)
def test_what_is_left_to_the_checks(change, loops, checks):
    case = Case(add_self_loops=loops)
    case()
    renewed(case, random())
    change(case)
    as_checked(case)
    as_checked(case)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_edges_that_are_new_within_a_mode(mode, checks):
    case = Case()
    case()
    renewed(case, random())
    with mode():
        got = case.found()
    with all_checked(), mode():
        agree(got, case.found())
    as_checked(case)


def test_edges_made_in_inference_mode():
    case = Case()
    case()
    with torch.inference_mode():
        renewed(case, random())
        case.found()
    as_checked(case)


def refused(*args):
    by_dst, by_src, features, *_ = native.operators().layer_graph(*args)
    return not by_dst and not by_src and features is None


def test_the_operator_refuses_what_it_can_not_group():
    edge_index, edge_attr = random(), torch.randn(EDGES, BONDS)
    numbers = True, True, 1
    assert not refused(edge_index, NODES, *numbers, edge_attr, True)
    assert refused(edge_index, -1, *numbers, edge_attr, True)
    assert refused(edge_index, 2**31, *numbers, edge_attr, True)
    assert refused(edge_index, 1, *numbers, edge_attr, True)
    for blocks in (-1, 2**31 // NODES + 1, 2**44, 2**62, 2**63 - 1):
        assert refused(edge_index, NODES, True, True, blocks, edge_attr, True)
        assert refused(edge_index[:, :0], 0, True, True, 2**62, None, True)
    assert refused(edge_index, NODES, False, True, 1, edge_attr, True)
    assert refused(edge_index, NODES, *numbers, edge_attr[:-1], True)
    assert refused(edge_index, NODES, *numbers, edge_attr.long(), True)
    assert refused(edge_index, NODES, *numbers, edge_attr.clone().requires_grad_(), True)
    assert refused(edge_index.double(), NODES, *numbers, None, True)
    assert refused(edge_index.t(), NODES, *numbers, None, True)
    assert refused(edge_index[0], NODES, *numbers, None, True)
    for mode in (torch.inference_mode, torch.profiler.profile):
        with mode():
            assert refused(edge_index, NODES, *numbers, edge_attr, True)
