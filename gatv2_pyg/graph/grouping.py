"""Grouping edges by the row that owns them: the torch side, and the choice of the C++ one.

A grouping is a stable counting sort.  On CPU the compiled kernel does it in O(E); elsewhere, and
without the kernel, a stable sort gives the same tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from gatv2_pyg.kernels.validity import PIECE

_BLOCK_BYTES = 32 << 20
_ROW_BYTES = 512
_RECORD_BYTES = 80
_LEAST_DEGREE = 6


class EdgeIndexError(IndexError, ValueError):
    """An index of ``edge_index`` does not point to a node."""


def index_dtype(*sizes: int) -> torch.dtype:
    """int32 where every index and count is known to fit, else int64."""
    # Within torch.compile symbolic sizes pass as integers, and a comparison is a guard, which sizes
    # without a bound would break in an exported program.
    exporting = torch.compiler.is_exporting()
    fits = all(
        size < 2**31 if type(size) is int and not exporting else statically_known_true(size < 2**31)
        for size in sizes
    )
    return torch.int32 if fits else torch.int64


def check_range(name: str, index: Tensor, size: int, extremes: tuple[int, int] | None = None):
    """Raises :class:`EdgeIndexError` unless all of ``index`` lies in ``[0, size)``."""
    if extremes is None:
        if index.numel() == 0:
            return
        low, high = torch.stack(torch.aminmax(index)).tolist()
    else:
        low, high = extremes
    if low < 0 or high >= size:
        bad = low if low < 0 else high
        position = int((index == bad).nonzero()[0])
        raise out_of_range(name, size, position, bad)


def out_of_range(name: str, size: int, position: int, value: int) -> EdgeIndexError:
    return EdgeIndexError(
        f"Expected the {name} of every edge in 'edge_index' to lie in [0, {size}), since there are "
        f"{size} {name} nodes, but edge {position} has {name} {value}"
    )


def check_pointers(name: str, ptr: Tensor, count: int, counted: str = "edges") -> None:
    """Raises ValueError unless ``ptr`` leads from 0 to the count without a step back."""
    first, last = int(ptr[0]), int(ptr[-1])
    if first != 0 or last != count:
        raise ValueError(
            f"Expected {name} to lead from 0 to {count}, the number of {counted}, got {first} to "
            f"{last}"
        )
    (steps,) = (ptr[1:] < ptr[:-1]).nonzero(as_tuple=True)
    if steps.numel():
        at = int(steps[0])
        raise ValueError(
            f"Expected {name} never to decrease, got {int(ptr[at])} and {int(ptr[at + 1])} at "
            f"{at} and {at + 1}"
        )


def group_by_dst(
    src: Tensor, dst: Tensor, num_src: int, num_dst: int, add_self_loops: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups edges by destination, in order of their ids, with a stable sort.

    With ``add_self_loops``, edges with ``src == dst`` are left out and ``i -> i`` gets the id
    ``E + i`` for every ``i < min(num_src, num_dst)``.  No host synchronisation.

    Returns:
        ``ptr``, ``idx`` and ``edge`` of :class:`Rows`, as long as there are edge ids.
    """
    key = dst
    if add_self_loops:
        loop = torch.arange(min(num_src, num_dst), dtype=src.dtype, device=src.device)
        key = torch.cat([torch.where(src == dst, num_dst, dst), loop])
        src = torch.cat([src, loop])
    ptr, order = _sort_rows(key, num_dst)
    return ptr, src[order].long(), order


def transpose(
    ptr: Tensor, idx: Tensor, num_src: int, blocks: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Groups edges by source, in order of their destinations, from their grouping by destination.

    With more than one block the destinations are cut into so many ranges of the same length; row
    ``b * num_src + j`` holds the edges from source ``j`` to range ``b``.

    Returns:
        ``ptr``, ``idx`` and ``edge`` of :class:`Rows`.
    """
    position = torch.arange(idx.numel(), dtype=ptr.dtype, device=ptr.device)
    row = torch.searchsorted(ptr[1:], position, right=True)
    key = idx
    if blocks > 1:
        length = max(1, -(-(ptr.numel() - 1) // blocks))
        key = row // length * num_src + idx
    key = torch.where(position < ptr[-1], key, blocks * num_src)
    ptr_src, order = _sort_rows(key, blocks * num_src)
    return ptr_src.to(ptr.dtype), row[order].to(ptr.dtype), order.to(ptr.dtype)


def _sort_rows(key: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    key, order = key.sort(stable=True)
    rows = torch.arange(num_rows + 1, dtype=key.dtype, device=key.device)
    return torch.searchsorted(key, rows), order


def cut_rows(ptr: Tensor, num_positions: int) -> tuple[Tensor, Tensor]:
    """The tables ``pieces`` and ``cuts`` of :class:`~gatv2_pyg.kernels.contract.Rows`.

    They depend on ``ptr`` alone, and their sizes on ``num_positions``: unused entries have row -1.
    """
    num_cuts, num_pieces = table_bounds(num_positions)
    return _piece_tables(ptr, _pieces_per_row(ptr), num_pieces, num_cuts)


def table_bounds(num_positions: int) -> tuple[int, int]:
    """How many long rows, and pieces of them, so many edges can have at most, and two more.

    Without the two a traced graph would hold for tables of 0 rows, of 1 row, or of more only.
    """
    return num_positions // (PIECE + 1) + 2, 2 * (num_positions // (PIECE + 1)) + 2


def smaller(one: int, other: int) -> int:
    """The smaller of two numbers, which may be symbolic."""
    if type(one) is int and type(other) is int:
        return min(one, other)
    return torch.sym_min(one, other)


def larger(one: int, other: int) -> int:
    """The larger of two numbers, which may be symbolic."""
    if type(one) is int and type(other) is int:
        return max(one, other)
    return torch.sym_max(one, other)


def source_blocks(num_src: int, num_dst: int, num_edges: int) -> int:
    """Into how many ranges of destinations the edges by source are cut.

    For each range backward goes over the edges by destination, which leaves a record of each, and
    then by source, which gathers the records and the rows of ``grad_out``.  What stays in the
    caches comes three times as fast as what does not, but each range adds to the sums of all
    sources: a source must have several edges in it.  Rows are taken to be 128 floats, so that the
    ranges, and with them the order of sums, depend on the graph alone.
    """
    size = larger(_ROW_BYTES * num_dst, _RECORD_BYTES * num_edges)
    wanted = (size + _BLOCK_BYTES - 1) // _BLOCK_BYTES
    most = num_edges // (_LEAST_DEGREE * larger(num_src, 1))
    return larger(1, smaller(wanted, most))


def _pieces_per_row(ptr: Tensor) -> Tensor:
    degree = ptr.diff()
    return torch.where(degree > PIECE, (degree + PIECE - 1) // PIECE, 0)


def _piece_tables(
    ptr: Tensor, count: Tensor, num_pieces: int, num_cuts: int
) -> tuple[Tensor, Tensor]:
    if count.numel() == 0:
        unused = ptr.new_tensor([[-1, 0, 0]])
        return unused.repeat(num_pieces, 1), unused.repeat(num_cuts, 1)
    end = count.cumsum(0)
    piece = torch.arange(num_pieces, dtype=end.dtype, device=ptr.device)
    row = torch.searchsorted(end, piece, right=True).clamp_(max=count.numel() - 1)
    begin = ptr[row] + (piece - end[row] + count[row]) * PIECE
    pieces = torch.stack([row, begin, torch.minimum(begin + PIECE, ptr[row + 1])], dim=1)
    pieces = torch.where((piece < end[-1]).unsqueeze(1), pieces, pieces.new_tensor([-1, 0, 0]))

    rank = (count > 0).cumsum(0)
    cut = torch.arange(num_cuts, dtype=rank.dtype, device=ptr.device)
    row = torch.searchsorted(rank, cut, right=True).clamp_(max=count.numel() - 1)
    cuts = torch.stack([row, end[row] - count[row], end[row]], dim=1)
    cuts = torch.where((cut < rank[-1]).unsqueeze(1), cuts, cuts.new_tensor([-1, 0, 0]))
    return pieces.to(ptr.dtype).contiguous(), cuts.to(ptr.dtype).contiguous()
