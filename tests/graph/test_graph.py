"""The graph structure and its cache."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.utils import add_self_loops, remove_self_loops

from gatv2_pyg import EdgeIndexError, GATv2Conv, Graph, kernels, set_graph_cache
from gatv2_pyg.graph import cache, grouping
from gatv2_pyg.graph.grouping import PIECE
from gatv2_pyg.ops import reference


@pytest.fixture(params=["sorted", "counted"])
def method(request, monkeypatch):
    """Both ways to group: the torch one, and the compiled counting sort where it is there."""
    if request.param == "sorted":
        monkeypatch.setattr(kernels, "cpu_kernels", lambda: None)
    elif kernels.cpu_kernels() is None:
        pytest.skip("the compiled kernels are not here")
    return request.param


@st.composite
def edge_lists(draw):
    num_src, num_dst = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    edge = st.tuples(st.integers(0, num_src - 1), st.integers(0, num_dst - 1))
    pairs = draw(st.lists(edge, max_size=40))
    index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).t()
    return index, num_src, num_dst


@pytest.mark.parametrize("loops", [False, True])
def test_grouping_keeps_every_edge(method, loops):
    @given(edge_lists())
    def check(problem):
        index, num_src, num_dst = problem
        graph = Graph.from_edge_index(index, num_src, num_dst, add_self_loops=loops)
        src, dst = index
        ids = torch.arange(index.size(1))
        if loops:
            kept = src != dst
            nodes = torch.arange(min(num_src, num_dst))
            src, dst = torch.cat([src[kept], nodes]), torch.cat([dst[kept], nodes])
            ids = torch.cat([ids[kept], nodes + index.size(1)])
        want = sorted(zip(dst.tolist(), ids.tolist(), src.tolist(), strict=True))
        row, idx, eid = reference.edge_list(graph.by_dst)
        assert list(zip(row.tolist(), eid.tolist(), idx.tolist(), strict=True)) == want
        row, idx, position = reference.edge_list(graph.by_src)
        got = list(zip(row.tolist(), idx.tolist(), eid[position].tolist(), strict=True))
        assert got == sorted((s, d, e) for d, e, s in want)
        assert graph.num_edges == len(want)
        assert graph.complete == (len(want) == graph.num_ids)

    check()


def test_self_loops_are_those_of_pyg(method):
    index = torch.randint(7, (2, 60), generator=torch.Generator().manual_seed(1))
    graph = Graph.from_edge_index(index, 7, add_self_loops=True)
    want, _ = add_self_loops(remove_self_loops(index)[0], num_nodes=7)
    row, idx, eid = reference.edge_list(graph.by_dst)
    order = eid.argsort()
    assert torch.equal(torch.stack([idx, row])[:, order], want)


def test_a_self_loop_that_was_removed_leaves_its_id(method):
    """Here the edges stand at the positions of their ids, but the self-loops do not."""
    graph = Graph.from_edge_index(torch.tensor([[1, 2, 0], [0, 0, 0]]), 3, add_self_loops=True)
    assert graph.by_dst.edge.tolist() == [0, 1, 3, 4, 5]
    assert graph.by_dst.idx.tolist() == [1, 2, 0, 1, 2]
    assert not graph.complete


def test_long_rows_are_cut_in_pieces(method):
    degrees = [3, PIECE, PIECE + 1, 0, 5 * PIECE, 2 * PIECE + 7]
    dst = torch.repeat_interleave(torch.arange(6), torch.tensor(degrees))
    src = torch.arange(dst.numel()) % 4
    rows = Graph.from_edge_index(torch.stack([src, dst]), 4, 6).by_dst
    covered = {2: [], 4: [], 5: []}
    for row, begin, end in rows.pieces.tolist():
        assert 0 < end - begin <= PIECE
        covered[row].append((begin, end))
    assert [row for row, _, _ in rows.cuts.tolist()] == [2, 4, 5]
    for row, first, last in rows.cuts.tolist():
        pieces = rows.pieces[first:last].tolist()
        assert [(begin, end) for _, begin, end in pieces] == covered[row]
        assert pieces[0][1] == rows.ptr[row]
        assert pieces[-1][2] == rows.ptr[row + 1]
        assert all(one[2] == two[1] for one, two in itertools.pairwise(pieces))


def test_tables_are_as_long_as_the_edges_allow():
    """Their sizes never depend on data, and are never 0 or 1, which tracing would take as given."""
    degrees = torch.tensor([3, PIECE + 1, 0, 4 * PIECE])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), degrees.cumsum(0)])
    pieces, cuts = grouping.cut_rows(ptr, int(ptr[-1]))
    assert cuts.tolist() == [[1, 0, 2], [3, 2, 6], *[[-1, 0, 0]] * (len(cuts) - 2)]
    assert (pieces[:6, 0] >= 0).all()
    assert (pieces[6:, 0] == -1).all()
    for num_positions in (0, 1, PIECE, PIECE + 1, 10_000):
        num_cuts, num_pieces = grouping.table_bounds(num_positions)
        assert min(num_cuts, num_pieces) >= 2
        assert num_cuts >= num_positions // (PIECE + 1)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integers_of_any_stride(method, dtype):
    index = torch.randint(9, (2, 50), generator=torch.Generator().manual_seed(0))
    want = Graph.from_edge_index(index, 9)
    strided = index.to(dtype).t().repeat_interleave(2, 0)[::2].t()
    got = Graph.from_edge_index(strided, 9)
    for mine, theirs in zip(got.by_dst, want.by_dst, strict=True):
        assert mine.dtype == torch.int32
        assert torch.equal(mine, theirs)


def test_indices_are_wide_only_if_they_must_be():
    assert grouping.index_dtype(2**31 - 1, 5) == torch.int32
    assert grouping.index_dtype(5, 2**31) == torch.int64


def test_from_csc_equals_from_edge_index(method):
    index = torch.randint(9, (2, 50), generator=torch.Generator().manual_seed(0))
    index = index[:, index[1].argsort(stable=True)]
    want = Graph.from_edge_index(index, 9)
    got = Graph.from_csc(want.by_dst.ptr.long(), index[0], 9)
    for mine, theirs in zip(got.by_dst, want.by_dst, strict=True):
        assert mine.tolist() == theirs.tolist() or mine.numel() == 0
    with pytest.raises(EdgeIndexError, match="source"):
        Graph.from_csc(want.by_dst.ptr, index[0] + 5, 9)


@pytest.mark.parametrize(
    ("ptr", "eid", "message"),
    [
        ([0, 2, 3], None, r"^Expected 'ptr' to lead from 0 to 4.*got 0 to 3"),
        ([1, 2, 4], None, r"^Expected 'ptr' to lead from 0 to 4.*got 1 to 4"),
        ([0, 2, 1, 4], None, r"^Expected 'ptr' never to decrease, got 2 and 1 at 1 and 2"),
        ([0, 2, 4], [0, 1, 3, 3], r"^Expected 'eid' to hold every id once, got 3 several"),
        ([0, 2, 4], [0, 1, 4, 3], r"^Expected 'eid' to lie in \[0, 4\), got 4"),
        ([0, 2, 4], [0, 1, 3], r"^Expected 'eid' to have 4 elements, as 'idx', got 3"),
    ],
)
def test_from_csc_names_what_is_no_grouping(method, ptr, eid, message):
    eid = None if eid is None else torch.tensor(eid)
    with pytest.raises(ValueError, match=message):
        Graph.from_csc(torch.tensor(ptr), torch.tensor([0, 1, 2, 0]), 3, eid)


@pytest.mark.parametrize(("num_src", "num_dst", "blocks"), [(100, 100_000, 2), (100_000, 100, 1)])
def test_ranges_of_destinations_are_as_many_as_their_rows_take(method, num_src, num_dst, blocks):
    """A range has some 65,000 destinations of 512 bytes each."""
    index = torch.stack([torch.arange(2000) % num_src, torch.arange(2000) * 49 % num_dst])
    assert Graph.from_edge_index(index, num_src, num_dst).by_src.ptr.numel() == (
        blocks * num_src + 1
    )


@pytest.mark.parametrize("position", [0, 17, 49])
@pytest.mark.parametrize(("end", "name"), [(0, "source"), (1, "destination")])
def test_out_of_range(method, position, end, name):
    index = torch.randint(9, (2, 50))
    for value in (-1, 9):
        bad = index.clone()
        bad[end, position] = value
        with pytest.raises(EdgeIndexError, match=rf"{name}.*\[0, 9\).*{position}.*{value}"):
            Graph.from_edge_index(bad, 9)


def build(index, flags="flags"):
    return cache.cached(index, flags, lambda: Graph.from_edge_index(index, 9))


def test_the_cache_finds_the_same_tensor():
    index = torch.randint(9, (2, 50))
    graph = build(index)
    assert build(index) is graph
    assert build(index.clone()) is not graph
    assert build(index, "other flags") is not graph


def test_the_cache_notices_changes_in_place():
    index = torch.randint(9, (2, 50))
    graph = build(index)
    index[0, 0] = (index[0, 0] + 1) % 9
    changed = build(index)
    assert changed is not graph
    assert build(index) is changed
    index.data = torch.randint(9, (2, 60))
    assert build(index).num_ids == 60


def test_a_layer_sees_a_changed_edge_index():
    x, index = torch.randn(9, 5), torch.randint(9, (2, 50))
    conv = GATv2Conv(5, 4)
    before = conv(x, index)
    index[1] = (index[1] + 1) % 9
    after = conv(x, index)
    assert not torch.equal(before, after)
    assert torch.equal(after, conv(x, index.clone()))


def test_the_cache_keeps_nothing_alive():
    index = torch.randint(9, (2, 50))
    graph = weakref.ref(build(index))
    tensor = weakref.ref(index)
    del index
    gc.collect()
    assert tensor() is None
    assert graph() is None


def test_the_cache_can_be_turned_off():
    index = torch.randint(9, (2, 50))
    graph = build(index)
    set_graph_cache(False)
    try:
        assert build(index) is not graph
    finally:
        set_graph_cache(True)
    assert build(index) is not graph


def test_inference_tensors_are_taken():
    with torch.inference_mode():
        index = torch.randint(9, (2, 50))
        conv = GATv2Conv(5, 4)
        assert conv(torch.randn(9, 5), index).shape == (9, 4)
    assert build(index).num_ids == 50


def test_threads_share_the_cache():
    indices = [torch.randint(9, (2, 50)) for _ in range(8)]
    want = [Graph.from_edge_index(index, 9).by_dst.idx.tolist() for index in indices]
    wrong = []

    def work():
        for _ in range(50):
            for index, answer in zip(indices, want, strict=True):
                if build(index).by_dst.idx.tolist() != answer:
                    wrong.append(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_training_on_changing_graphs_does_not_grow_memory():
    """2,000 steps, each on a graph of its own; the tensors that live are counted at the end."""
    conv = GATv2Conv(4, 4, heads=2)
    optimizer = torch.optim.SGD(conv.parameters(), lr=0.01)
    rng = torch.Generator().manual_seed(0)

    def steps(count):
        for _ in range(count):
            index = torch.randint(30, (2, 100), generator=rng)
            optimizer.zero_grad()
            conv(torch.randn(30, 4, generator=rng), index).square().mean().backward()
            optimizer.step()
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    first = steps(20)
    assert steps(2000) <= first + 5
    assert len(cache._made) <= 2


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_graph_shares_no_memory_with_what_it_was_made_of(dtype):
    given = [torch.tensor(values, dtype=dtype) for values in ([0, 2, 3], [1, 0, 1], [2, 0, 1])]
    graph = Graph.from_csc(*given[:2], 2, given[2])
    want = graph.by_dst
    for value in given:
        value.zero_()
    for got, before in zip(graph.by_dst, want, strict=True):
        assert torch.equal(got, before)
