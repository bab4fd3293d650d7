"""Which grouped edges pass: checked by the compiled kernels and by plain torch alike."""

from __future__ import annotations

import pytest
import torch

from gatv2_pyg import Graph, kernels
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.validity import Ends, Extent, require_sound

NUM_SRC, NUM_DST, NUM_EDGES = 9, 7, 700


@pytest.fixture(params=["torch", "compiled"])
def method(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(kernels, "cpu_kernels", lambda: None)
    elif kernels.cpu_kernels() is None:
        pytest.skip("the compiled kernels are not here")


def grouped(seed=0) -> tuple[Rows, Rows]:
    """Copies, of which nothing is known yet; row 3 is long."""
    rng = torch.Generator().manual_seed(seed)
    index = torch.randint(NUM_SRC, (2, NUM_EDGES), generator=rng)
    index[1] = torch.randint(NUM_DST, (NUM_EDGES,), generator=rng)
    index[1, :550] = 3
    graph = Graph.from_edge_index(index[:, torch.randperm(NUM_EDGES, generator=rng)], NUM_SRC, 7)
    return graph.by_dst, graph.by_src


def check_dst(rows: Rows) -> None:
    require_sound("by_dst", rows, Extent(NUM_DST, NUM_SRC, NUM_EDGES, NUM_SRC))


def check_src(rows: Rows, by_dst: Rows) -> None:
    extent = Extent(NUM_SRC, NUM_DST, NUM_EDGES, NUM_SRC)
    require_sound("by_src", rows, extent, Ends(by_dst.ptr, by_dst.idx))


def leftover(table: torch.Tensor, *entries: tuple[int, int, int]) -> torch.Tensor:
    return torch.cat([table, table.new_tensor(entries)])


def test_what_is_sound(method):
    by_dst, by_src = grouped()
    check_dst(by_dst)
    check_src(by_src, by_dst)
    unused = [leftover(table, (-1, 0, 0), (-1, 0, 0)) for table in (by_dst.pieces, by_dst.cuts)]
    check_dst(by_dst._replace(pieces=unused[0], cuts=unused[1]))


CHANGES = {
    "first pointer": ("ptr", lambda ptr: ptr + (torch.arange(8) == 0).int()),
    "falling pointer": ("ptr", lambda ptr: ptr[[0, 2, 1, 3, 4, 5, 6, 7]]),
    "pointer beyond the edges": ("ptr", lambda ptr: ptr + (torch.arange(8) == 7).int()),
    "source out of range": ("idx", lambda idx: idx.clamp(min=9)),
    "negative source": ("idx", lambda idx: idx - 1),
    "an edge twice": ("edge", lambda edge: torch.cat([edge[:1], edge[:1], edge[2:]])),
    "id out of range": ("edge", lambda edge: edge + 1),
    "too few ids": ("edge", lambda edge: edge[:-1]),
    "piece of another length": ("pieces", lambda table: table - torch.tensor([0, 0, 1]).int()),
    "a piece more": ("pieces", lambda table: leftover(table, (3, 0, 5))),
    "a long row less": ("cuts", lambda table: table[:0]),
    "a long row more": ("cuts", lambda table: leftover(table, (2, 0, 2))),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not(method, name):
    by_dst, _ = grouped()
    part, change = CHANGES[name]
    wrong = by_dst._replace(**{part: change(getattr(by_dst, part)).contiguous()})
    with pytest.raises(ValueError, match=r"^Expected 'by_dst' to be a sound grouping"):
        check_dst(wrong)


def test_edges_in_order_are_no_more_than_their_ids(method):
    in_order = grouped()[0]._replace(edge=torch.empty(0, dtype=torch.int32))
    check_dst(in_order)
    with pytest.raises(ValueError, match=r"^Expected 'by_dst' to be a sound grouping"):
        require_sound("by_dst", in_order, Extent(NUM_DST, NUM_SRC, NUM_EDGES - 1, NUM_SRC))


@pytest.mark.parametrize("part", ["ptr", "idx", "edge", "pieces", "cuts"])
def test_a_write_is_noticed(method, part):
    by_dst, _ = grouped()
    check_dst(by_dst)
    getattr(by_dst, part).view(-1)[0] += 1_000_000
    with pytest.raises(ValueError, match=r"^Expected 'by_dst' to be a sound grouping"):
        check_dst(by_dst)


def test_edges_by_source_are_sound_for_their_edges_by_destination_alone(method):
    (by_dst, by_src), (other, _) = grouped(), grouped(seed=1)
    check_src(by_src, by_dst)
    with pytest.raises(ValueError, match=r"^Expected 'by_src' to be a sound grouping"):
        check_src(by_src, other)
