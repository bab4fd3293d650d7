"""The graph structure in C++: what it checks, what it hashes, and the tables of long rows."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

from gatv2_pyg.graph import grouping
from gatv2_pyg.kernels.contract import Rows

cpu = importlib.import_module("gatv2_pyg.kernels.cpu")

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None, reason=f"the kernels are not available: {cpu.unavailable()}"
)
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 1000, 16384, 50_001])
def test_a_hash_depends_on_the_values_alone(size, count, threads):
    threads(count)
    values = torch.randint(100, (size,))
    want = cpu.content_hash([values])
    for dtype in INTEGERS:
        assert cpu.content_hash([values.to(dtype)]) == want
        spread = torch.zeros(size, 3, dtype=dtype)
        spread[:, 1] = values
        assert cpu.content_hash([spread[:, 1]]) == want
    threads(1)
    assert cpu.content_hash([values]) == want
    assert cpu.content_hash([values.flip(0).contiguous().flip(0)]) == want


@pytest.mark.parametrize("stride", [2, 3])
def test_a_hash_sees_every_element_of_strided_indices(stride):
    """Every chunk begins where the stride says."""
    values = torch.arange(50_001)
    strided = torch.zeros(50_001, stride, dtype=torch.int64)
    strided[:, 0] = values
    assert cpu.content_hash([strided[:, 0]]) == cpu.content_hash([values])
    strided[40_000, 0] += 1
    assert cpu.content_hash([strided[:, 0]]) != cpu.content_hash([values])


def test_a_hash_tells_negative_numbers_and_signs():
    small = torch.tensor([-1, 5, -128])
    assert cpu.content_hash([small]) == cpu.content_hash([small.to(torch.int8)])
    assert cpu.content_hash([small]) != cpu.content_hash([small.to(torch.uint8)])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_hash_changes_with_any_element(dtype, threads):
    threads(1)
    values = torch.randint(40_000, (33_001,)).to(dtype)
    seen = {cpu.content_hash([values])}
    places = [*range(40), *range(16_380, 16_390), *range(32_760, 32_775), 33_000]
    for place, bit in itertools.product(places, (0, 1, 15, 30, torch.iinfo(dtype).bits - 1)):
        changed = values.clone()
        changed[place] ^= torch.tensor(1, dtype=dtype) << bit
        seen.add(cpu.content_hash([changed]))
    assert len(seen) == 1 + 5 * len(places)


def test_a_hash_changes_with_the_order():
    values = torch.arange(33_001)
    seen = {cpu.content_hash([values])}
    pairs = [(0, 1), (0, 8), (5, 13), (3, 16_384), (8, 16_392), (16_384, 32_768), (32_999, 33_000)]
    for a, b in pairs:
        swapped = values.clone()
        swapped[[a, b]] = values[[b, a]]
        seen.add(cpu.content_hash([swapped]))
    for parts in ([values[:5], values[5:]], [values, values[:0]], [values.flip(0)], [values[:-1]]):
        seen.add(cpu.content_hash(parts))
    assert len(seen) == 1 + len(pairs) + 4
    assert cpu.content_hash([]) != cpu.content_hash([values[:0]])


def test_hashes_of_many_graphs_differ():
    """Few changes, of few bits, in many places: where a weak mix would collide."""
    base = torch.zeros(64, dtype=torch.int64)
    seen = set()
    for a, b in itertools.combinations(range(64), 2):
        for x, y in ((1, 1), (1, 2), (2**31, 2**31)):
            changed = base.clone()
            changed[a], changed[b] = x, y
            seen.add(cpu.content_hash([changed]))
    assert len(seen) == 3 * 64 * 63 // 2


@pytest.mark.parametrize("bad", [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3)])
def test_what_can_not_be_hashed(bad):
    with pytest.raises((TypeError, ValueError), match=r"^Expected 'parts' to"):
        cpu.content_hash([bad])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    "degrees",
    [[], [0], [512], [513], [1025], [3, 513, 512, 0, 1536, 1537, 5000], [0] * 9, [513] * 40],
    ids=str,
)
def test_piece_tables(degrees, dtype):
    ptr = torch.tensor([0, *itertools.accumulate(degrees)], dtype=dtype)
    edges = sum(degrees)
    pieces, cuts = cpu.piece_tables(ptr, edges)
    want_pieces, want_cuts = grouping.cut_rows(ptr, edges)
    assert pieces.dtype == cuts.dtype == dtype
    assert pieces.shape == want_pieces.shape
    assert cuts.shape == want_cuts.shape
    used, used_cuts = pieces[:, 0] >= 0, cuts[:, 0] >= 0
    assert torch.equal(used, want_pieces[:, 0] >= 0)
    assert torch.equal(used_cuts, want_cuts[:, 0] >= 0)
    assert torch.equal(pieces[used], want_pieces[used])
    assert torch.equal(cuts[used_cuts], want_cuts[used_cuts])
    assert not used[-1]
    assert not used_cuts[-2:].any()
    assert int(used.sum()) == sum(-(-degree // 512) for degree in degrees if degree > 512)


@pytest.mark.parametrize("ptr", [[1, 2], [0, 2, 1], [0, 600], [0, -1], [0, 2**62]], ids=str)
def test_tables_of_what_is_no_grouping(ptr):
    with pytest.raises(ValueError, match=r"^Expected 'ptr' to rise from 0 to at most 599, got"):
        cpu.piece_tables(torch.tensor(ptr), 599)


def grouped(num_src=30, num_dst=20, num_edges=400, hub=2000, self_loops=False, blocks=3):
    rng = torch.Generator().manual_seed(num_edges)
    src = torch.randint(num_src, (num_edges + hub,), generator=rng)
    dst = torch.cat(
        [torch.randint(num_dst, (num_edges,), generator=rng), torch.full((hub,), num_dst // 2)]
    )
    ptr, idx, edge, seen = cpu.group_by_dst(src, dst, num_src, num_dst, self_loops, torch.int32)
    assert seen.bad is None
    by_dst = Rows(ptr, idx, edge, *cpu.piece_tables(ptr, idx.numel()))
    ptr, idx, edge, _ = cpu.transpose(by_dst.ptr, by_dst.idx, num_src, blocks)
    by_src = Rows(ptr, idx, edge, *cpu.piece_tables(ptr, idx.numel()))
    return by_dst, by_src


def check_dst(rows, num_src=30, num_dst=20, num_ids=2400):
    return cpu.check_rows(*rows, num_dst, num_src, num_ids)


def check_src(rows, by_dst, num_src=30, num_dst=20, blocks=3):
    ends = by_dst.ptr, by_dst.idx
    num_rows = blocks * num_src
    return cpu.check_rows(*rows, num_rows, num_dst, by_dst.idx.numel(), by_dst=ends, blocks=blocks)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_what_was_grouped_here_is_sound(dtype):
    by_dst, by_src = (Rows(*(part.to(dtype) for part in rows)) for rows in grouped())
    assert check_dst(by_dst) is None
    assert check_src(by_src, by_dst) is None
    in_order = by_dst._replace(edge=by_dst.edge[:0])
    assert check_dst(in_order) is None
    for name in ("pieces", "cuts"):
        table = getattr(by_dst, name)
        assert check_dst(by_dst._replace(**{name: table[table[:, 0] >= 0]})) is None
    empty = torch.zeros(1, dtype=dtype)
    nothing = Rows(empty, empty[:0], empty[:0], empty.new_empty((0, 3)), empty.new_empty((0, 3)))
    assert cpu.check_rows(*nothing, 0, 5, 0) is None


@pytest.mark.parametrize(
    ("part", "place", "value"),
    [
        ("ptr", 0, 1),
        ("ptr", 0, -1),
        ("ptr", 3, 5000),
        ("ptr", 3, -5),
        ("ptr", 20, 2401),
        ("ptr", 20, 2**31 - 1),
        ("idx", 0, 30),
        ("idx", 2399, -1),
        ("edge", 7, 2400),
        ("edge", 7, -1),
        ("pieces", 0, 9),
        ("pieces", 1, 0),
        ("pieces", 5, 10**6),
        ("pieces", 6, -1),
        ("cuts", 0, 11),
        ("cuts", 0, -1),
        ("cuts", 1, 1),
        ("cuts", 2, 50),
        ("cuts", 3, 2),
    ],
)
def test_the_first_thing_that_is_wrong_is_named(part, place, value):
    by_dst, _ = grouped()
    changed = getattr(by_dst, part).clone()
    changed.view(-1)[place] = value
    what, position, found = check_dst(by_dst._replace(**{part: changed}))
    assert what == part
    if part in ("idx", "edge"):
        assert (position, found) == (place, value)


def test_an_edge_stands_in_one_place():
    by_dst, by_src = grouped()
    twice = by_dst.edge.clone()
    twice[50] = twice[10]
    assert check_dst(by_dst._replace(edge=twice)) == ("edge", 50, int(twice[10]))
    # Each alone is sound: the two of them are not the same edges.
    other = by_src.edge.clone()
    other[[0, -1]] = other[[-1, 0]]
    assert check_src(by_src._replace(edge=other), by_dst)[0] == "edge"
    ends = by_src.idx.clone()
    ends[0] = (ends[0] + 7) % 20
    assert check_src(by_src._replace(idx=ends), by_dst)[0] in ("idx", "edge")
    assert check_src(by_src, by_dst, blocks=1, num_src=90) is not None


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_single_changes_are_found_or_harmless(dtype):
    """Whatever one number is replaced by, the check finds it or the rows are still sound."""
    by_dst, _ = grouped(num_edges=60, hub=600)
    by_dst = Rows(*(part.to(dtype) for part in by_dst))
    rng = torch.Generator().manual_seed(3)
    found = 0
    for name in ("ptr", "edge", "pieces", "cuts"):
        table = getattr(by_dst, name)
        for place in torch.randint(table.numel(), (60,), generator=rng).tolist():
            for value in (-(2**31), -1, 0, 1, 17, 659, 660, 2**31 - 1):
                changed = table.clone()
                changed.view(-1)[place] = value
                if torch.equal(changed, table):
                    continue
                if check_dst(by_dst._replace(**{name: changed}), num_ids=660) is not None:
                    found += 1
                elif name == "ptr":
                    assert table[place - 1] <= value <= [*table.tolist(), 660][place + 1]
                else:
                    assert int(table.view(-1)[place // 3 * 3]) == -1, "an unused entry"
    assert found > 1000


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"ptr": torch.zeros(21)}, TypeError, "'ptr' to be torch.int32 or torch.int64"),
        ({"idx": torch.zeros(5, dtype=torch.int64)}, TypeError, "'idx' to be torch.int32"),
        ({"idx": torch.zeros(5, 2, dtype=torch.int32)}, ValueError, r"'idx' to be a contiguous"),
        ({"edge": torch.zeros(9, dtype=torch.int32)[::2]}, ValueError, "'edge' to be a contiguous"),
        ({"cuts": torch.zeros(9, 2, dtype=torch.int32)}, ValueError, r"'cuts' to be a contiguous"),
        ({"ptr": torch.zeros(20, dtype=torch.int32)}, ValueError, "'ptr' to have 21 elements"),
    ],
)
def test_rows_of_the_wrong_form(change, error, match):
    by_dst, _ = grouped()
    with pytest.raises(error, match=f"^Expected {match}"):
        check_dst(by_dst._replace(**change))


@pytest.mark.parametrize(
    ("counts", "dtype", "name"),
    [
        ((-1, 4), torch.int32, "num_src"),
        ((4, -1), torch.int64, "num_dst"),
        ((2**31, 4), torch.int32, "num_src"),
        ((4, 2**31), torch.int32, "num_dst"),
        ((2**63, 4), torch.int64, "num_src"),
    ],
)
def test_counts_out_of_range(counts, dtype, name):
    index = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"^Expected '{name}' to fit"):
        cpu.group_by_dst(index, index, *counts, False, dtype)


@pytest.mark.parametrize(
    "dtypes", [(torch.int32, torch.int64), (torch.int64, torch.int32), (torch.uint8, torch.int32)]
)
def test_ends_of_different_dtypes(dtypes):
    ends = [torch.randint(9, (50,)), torch.randint(9, (50,))]
    want = cpu.group_by_dst(*ends, 9, 9, True, torch.int32)
    mixed = [end.to(dtype) for end, dtype in zip(ends, dtypes, strict=True)]
    got = cpu.group_by_dst(*mixed, 9, 9, True, torch.int32)
    assert got[3] == want[3]
    count = want[3].num_edges
    for mine, theirs in zip(got[:3], want[:3], strict=True):
        assert torch.equal(mine[:count], theirs[:count])


def test_more_edges_than_the_index_dtype_holds():
    index = torch.zeros(1, dtype=torch.int64).expand(2**31)
    with pytest.raises(ValueError, match=r"^Expected 'number of edges' to fit"):
        cpu.group_by_dst(index, index, 1, 1, False, torch.int32)


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (5, 0)])
def test_no_edges_to_or_from_no_nodes(sizes):
    none = torch.empty(0, dtype=torch.int64)
    ptr, idx, _, seen = cpu.group_by_dst(none, none, *sizes, True, torch.int32)
    assert ptr.tolist() == [0] * (sizes[1] + 1)
    assert (seen.num_edges, seen.max_degree, seen.bad) == (0, 0, None)
    by_src = cpu.transpose(ptr, idx, sizes[0], 7)
    assert by_src[0].tolist() == [0] * (7 * sizes[0] + 1)
    edge = torch.zeros(1, dtype=torch.int64)
    if sizes[0] == 0:
        assert cpu.group_by_dst(edge, edge, *sizes, False, torch.int32)[3].bad == ("src", 0, 0)


def test_ends_of_different_length():
    two, one = torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^Expected 'src' and 'dst' of the same length, got 2"):
        cpu.group_by_dst(two, one, 1, 1, False, torch.int32)


@pytest.mark.parametrize(
    ("ptr", "idx", "part"),
    [
        ([1, 2], [0, 0], "ptr"),
        ([0, 2, 1], [0, 0], "ptr"),
        ([0, 3], [0, 0], "ptr"),
        ([0, -1], [0, 0], "ptr"),
        ([0, 2], [0, 5], "idx"),
        ([0, 2], [-1, 0], "idx"),
    ],
)
def test_transposing_what_is_no_grouping(ptr, idx, part):
    ptr, idx = (torch.tensor(value, dtype=torch.int32) for value in (ptr, idx))
    with pytest.raises(ValueError, match=f"^Expected 'ptr' to rise .* of '{part}'"):
        cpu.transpose(ptr, idx, 5)
    with pytest.raises(ValueError, match=r"^Expected 'blocks' to be at least 1, got 0"):
        cpu.transpose(ptr, idx, 5, 0)
