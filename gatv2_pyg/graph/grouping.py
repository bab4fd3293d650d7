"""Grouping edges by the row that owns them: the torch side, and the choice of the C++ one.

A grouping is a stable counting sort.  On CPU the compiled kernel does it in O(E); elsewhere, and
without the kernel, a stable sort gives the same tensors.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import torch
from torch import Tensor

PIECE = 512
"""Rows with more edges than this are cut into pieces of this many edges."""


class EdgeIndexError(IndexError, ValueError):
    """An index of ``edge_index`` does not point to a node."""


class Rows(NamedTuple):
    """Edges grouped by the row that owns them; all int32 or all int64.

    ``idx`` and ``edge`` may be longer than ``ptr[-1]``; what lies beyond is undefined.
    """

    ptr: Tensor
    """``[num_rows + 1]``: the edges of row ``i`` stand at positions ``ptr[i]`` to ``ptr[i+1]``."""
    idx: Tensor
    """``[>= ptr[-1]]``: the other end of the edge at each position."""
    edge: Tensor
    """``[>= ptr[-1]]``: which edge stands at each position.  By destination its id, and empty where
    that is the position; by source its position by destination."""
    pieces: Tensor
    """``[P, 3]``: (row, begin, end) of each piece of the long rows, in order."""
    cuts: Tensor
    """``[R, 3]``: (row, first piece, end piece) of each long row, in order.

    In the tables of a traced graph, whose sizes are bounds, unused entries have row -1.
    """


def index_dtype(*sizes: int) -> torch.dtype:
    """int32 while every index and count fits, int64 beyond."""
    return torch.int32 if all(size < 2**31 for size in sizes) else torch.int64


def cpu_kernels():
    """The compiled CPU kernels, or None where they can't run."""
    try:
        kernels = importlib.import_module("gatv2_pyg.kernels.cpu")
    except ImportError:
        return None
    return kernels if kernels.unavailable() is None else None


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
    dtype = index_dtype(num_src, num_dst, key.numel())
    ptr, order = _sort_rows(key, num_dst)
    return ptr.to(dtype), src[order].to(dtype), order.to(dtype)


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


def cut_rows(ptr: Tensor, max_degree: int | None = None) -> tuple[Tensor, Tensor]:
    """The tables ``pieces`` and ``cuts`` of :class:`Rows`; they depend on ``ptr`` alone.

    Synchronises with the device unless ``max_degree`` shows that no row is long.
    """
    if max_degree is not None and max_degree <= PIECE:
        empty = ptr.new_empty((0, 3))
        return empty, empty
    count = _pieces_per_row(ptr)
    num_pieces, num_cuts = torch.stack([count.sum(), (count > 0).sum()]).tolist()
    return _piece_tables(ptr, count, num_pieces, num_cuts)


def cut_rows_bounded(ptr: Tensor, num_positions: int) -> tuple[Tensor, Tensor]:
    """:func:`cut_rows` with the sizes replaced by bounds: no size depends on data."""
    num_cuts, num_pieces = table_bounds(num_positions)
    return _piece_tables(ptr, _pieces_per_row(ptr), num_pieces, num_cuts)


def table_bounds(num_positions: int) -> tuple[int, int]:
    """How many long rows, and pieces of them, so many edges can have at most."""
    return num_positions // (PIECE + 1), 2 * (num_positions // (PIECE + 1))


def _pieces_per_row(ptr: Tensor) -> Tensor:
    degree = ptr.diff()
    return torch.where(degree > PIECE, (degree + PIECE - 1) // PIECE, 0)


def _piece_tables(
    ptr: Tensor, count: Tensor, num_pieces: int, num_cuts: int
) -> tuple[Tensor, Tensor]:
    if count.numel() == 0:
        return ptr.new_full((num_pieces, 3), -1), ptr.new_full((num_cuts, 3), -1)
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
