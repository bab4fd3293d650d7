"""Which calls are not checked again, and what is kept for them."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch_geometric.nn.dense.linear import Linear

from gatv2_pyg import GATv2Conv, set_graph_cache
from gatv2_pyg.graph import cache
from gatv2_pyg.ops import native
from tests.ops.at_once.case import BONDS, EDGES, FEATURES, NODES, Case, agree, all_checked

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)


@pytest.mark.parametrize("with_bonds", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("share_weights", [True, False])
def test_a_repeated_call_is_not_checked_again(checks, with_bonds, dropout, share_weights):
    case = Case(with_bonds, dropout=dropout, share_weights=share_weights)
    first = case.found()
    for _ in range(3):
        agree(case.found(), first)
    assert len(checks) == 1


def test_layers_share_what_was_checked(checks):
    case, alike = Case(), Case()
    case()
    alike.edge_index, alike.edge_attr = case.edge_index, case.edge_attr
    for parameter in alike.layer.parameters():
        torch.nn.init.normal_(parameter)
    got = alike.found()
    assert len(checks) == 1
    with all_checked():
        agree(got, alike.found())


def test_layers_that_fill_loops_otherwise_on_the_same_edges():
    cases = [Case(fill_value=value) for value in ("mean", "add", 0.5)]
    for case in cases:
        case.edge_index, case.edge_attr = cases[0].edge_index, cases[0].edge_attr
    with all_checked():
        wanted = [case.found() for case in cases]
    for _ in range(3):
        for case, want in zip(cases, wanted, strict=True):
            agree(case.found(), want)
            agree(case.found(), want)


def test_a_fill_value_that_is_a_tensor_of_one_that_is_known():
    case = Case(fill_value=0.5)
    want = case.found()
    case.layer.fill_value = torch.full((BONDS,), 0.5)
    agree(case.found(), want)


def test_what_the_cache_does_not_hold_is_not_known():
    edge_index = torch.randint(9, (2, 20))
    assert cache.known(edge_index, "flags") is None
    value = cache.cached(edge_index, "flags", object)
    assert cache.known(edge_index, "other flags") is None
    assert cache.known(edge_index.clone(), "flags") is None
    assert cache.known(edge_index, "flags").value is value
    set_graph_cache(False)
    assert cache.known(edge_index, "flags") is None
    cache.learn(edge_index, 7, "flags", value)
    assert cache.known(edge_index, "flags") is None


def test_features_that_a_layer_lacks_or_does_not_take():
    with_bonds, without = Case(), Case(with_bonds=False)
    without.edge_index = with_bonds.edge_index
    for case in (with_bonds, without):
        case()
        case()
    without.edge_attr, with_bonds.edge_attr = with_bonds.edge_attr, None
    with pytest.raises(ValueError, match="Expected no 'edge_attr'"):
        without()
    with pytest.warns(UserWarning, match="got no 'edge_attr'"):
        with_bonds()


@pytest.mark.parametrize(("name", "known"), [("dropout", 1), ("negative_slope", 1)])
def test_a_number_that_equals_one_that_was_checked(name, known):
    case = Case(**{name: known})
    case()
    setattr(case.layer, name, True)
    got = case.found()
    with all_checked():
        agree(got, case.found())


def test_layers_with_and_without_features_on_the_same_edges(checks):
    with_bonds, without = Case(), Case(with_bonds=False)
    without.edge_index = with_bonds.edge_index
    for _ in range(3):
        with_bonds()
        without()
    assert len(checks) == 2


def test_each_call_draws_its_own_mask(checks):
    case = Case(dropout=0.5)
    torch.manual_seed(3)
    one, two = (case.layer(case.x, case.edge_index, case.edge_attr) for _ in range(2))
    state = torch.get_rng_state()
    assert len(checks) == 1
    assert not torch.equal(one, two)
    torch.manual_seed(3)
    with all_checked():
        for want in (one, two):
            assert torch.equal(case.layer(case.x, case.edge_index, case.edge_attr), want)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_call_that_is_refused_draws_nothing(checks):
    case = Case(dropout=0.5)
    case()
    case.edge_index[0, 0] = (case.edge_index[0, 0] + 1) % NODES
    got = case.found()
    with all_checked():
        agree(got, case.found())


def test_nothing_is_kept_alive():
    case = Case()
    case()
    found = cache.known(case.edge_index, (NODES, NODES, True, "source_to_target"))
    graph, filled = weakref.ref(found.value), weakref.ref(found.value.remembered[1])
    edge_attr = weakref.ref(case.edge_attr)
    del found
    case.edge_attr = None
    gc.collect()
    assert edge_attr() is None
    case.edge_index = None
    gc.collect()
    assert graph() is None
    assert filled() is None


def test_many_graphs_are_told_apart(checks):
    """More tensors than are kept, some of them at the address of one that is gone."""
    case = Case(with_bonds=False)
    for round_ in range(60):
        case.edge_index = torch.randint(NODES, (2, 10 + round_ % 7))
        got = case.found()
        agree(case.found(), got)
        cache._made.clear()
        agree(case.found(), got)
    assert len(cache._known) <= cache._MAX_KNOWN


def test_copies_and_pickles_of_a_layer(checks):
    case = Case()
    want = case.found()
    for again in (copy.deepcopy(case.layer), pickle.loads(pickle.dumps(case.layer))):
        case.layer = again
        agree(case.found(), want)


def test_threads(checks):
    case = Case()
    want = case()
    graphs = [torch.randint(NODES, (2, EDGES)) for _ in range(3)]
    wanted = [case.layer(case.x, edges, case.edge_attr) for edges in graphs]
    wrong = []

    def run(at):
        for step in range(200):
            place = (at + step) % 3
            out = case.layer(case.x, graphs[place], case.edge_attr)
            if not torch.equal(out, wanted[place]):
                wrong.append(place)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(case(), want)


def test_no_class_is_kept_alive():
    class Other(GATv2Conv):
        pass

    case = Case()
    case.layer.__class__ = Other
    case()
    cls = weakref.ref(Other)
    case.layer.__class__ = GATv2Conv
    del Other
    gc.collect()
    assert cls() is None


def test_edge_features_can_be_swapped():
    case = Case()
    case()
    torch.utils.swap_tensors(case.edge_attr, torch.randn(EDGES, BONDS))
    got = case.found()
    with all_checked():
        agree(got, case.found())


def test_equal_features_are_known(checks):
    case = Case()
    want = case.found()
    case.edge_attr = case.edge_attr.clone()
    agree(case.found(), want)
    assert len(checks) == 1


@pytest.mark.parametrize(
    "other", [Linear(FEATURES, 20), Linear(5, 20), Linear(FEATURES, 20).double()], ids=str
)
def test_a_shared_map_that_is_replaced(other):
    case = Case(share_weights=True)
    case()
    case.layer.lin_r = other
    got = case.found()
    with all_checked():
        agree(got, case.found())


def test_an_option_that_is_a_tensor_and_changes():
    for with_bonds in (True, False):
        case = Case(with_bonds)
        case.layer.add_self_loops = torch.tensor(True)
        with_loops = case.found()
        case.layer.add_self_loops.fill_(False)
        got = case.found()
        case.layer.add_self_loops = False
        with all_checked():
            agree(got, case.found())
        assert not torch.equal(got[0], with_loops[0])


def test_few_features_and_none(checks):
    """One feature as a vector, no edges, no nodes."""
    case = Case()
    case.layer = GATv2Conv(FEATURES, 5, heads=4, edge_dim=1)
    case.edge_attr = torch.randn(EDGES)
    empty = Case()
    empty.edge_index, empty.edge_attr = torch.empty(2, 0, dtype=torch.int64), torch.empty(0, BONDS)
    nothing = Case()
    nothing.x, nothing.edge_index = nothing.x[:0], empty.edge_index.clone()
    nothing.edge_attr = empty.edge_attr.clone()
    for each in (case, empty, nothing):
        with all_checked():
            want = each.found()
        for _ in range(3):
            agree(each.found(), want)


def test_the_operator_refuses_what_it_lacks():
    case = Case()
    case()
    graph = cache.known(case.edge_index, (NODES, NODES, True, "source_to_target")).value
    by_dst, by_src, num_ids = graph.edges(with_sources=True)
    lin_l, lin_r, lin_edge = case.layer.lin_l, case.layer.lin_r, case.layer.lin_edge
    tensors = case.x, lin_l.weight, lin_l.bias, lin_r.weight, lin_r.bias
    tensors += case.layer.att, case.layer.bias, graph.remembered[1], lin_edge.weight
    numbers = NODES, num_ids, 0.2, 0.0
    step = native.operators().layer_step
    assert step(*tensors, by_dst, by_src, *numbers) is not None
    assert step(*tensors, by_dst, by_src, *numbers, None, 0, case.edge_attr, 0) is None
    assert step(*tensors, by_dst, (), *numbers) is None
    with torch.no_grad():
        assert step(*tensors, by_dst, (), *numbers) is not None
    with pytest.raises(ValueError, match="Expected 'by_dst' and 'by_src' to hold 5 tensors"):
        step(*tensors, by_dst[:3], by_src, *numbers)
