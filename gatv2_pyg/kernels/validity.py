"""Which grouped edges are known to be sound, so that no kernel reads outside its tensors.

A grouping is checked once, in O(N + E), and again if one of its tensors was written to.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from gatv2_pyg import kernels
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.locks import process_lock

PIECE = 512
"""Rows with more edges than this are cut into pieces of this many edges."""

_lock = process_lock()
_sound: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Extent(NamedTuple):
    """The numbers that a grouping must fit."""

    num_rows: int
    """Owning rows; by source a row for each source in each range of destinations."""
    num_other: int
    """Nodes at the other end."""
    num_edges: int
    """What ``Rows.edge`` counts: edge ids, or positions by destination."""
    num_src: int
    """Sources."""


class Ends(NamedTuple):
    """The edges by destination, for the check of the same edges by source."""

    ptr: Tensor
    idx: Tensor


def mark_sound(rows: Rows, extent: Extent, by_dst: Ends | None = None) -> None:
    """Notes that ``rows`` are sound: the caller made them.

    Args:
        rows: edges by their owning row.
        extent: the numbers they fit.
        by_dst: for edges by source the same edges by destination.
    """
    state = _state(rows, extent, by_dst)
    if state is not None:
        with _lock:
            _sound[rows.idx] = state


def require_sound(name: str, rows: Rows, extent: Extent, by_dst: Ends | None = None) -> None:
    """Raises unless ``rows`` are sound (see :func:`mark_sound` for the other arguments).

    Raises:
        TypeError: the tensors are not all int32 or all int64.
        ValueError: they have wrong shapes, devices or values; the message names ``name``.
    """
    state = _state(rows, extent, by_dst)
    if state is not None and _sound.get(rows.idx) == state:
        return
    _check_form(name, rows, extent.num_rows)
    compiled = kernels.cpu_kernels() if rows.ptr.device.type == "cpu" else None
    if compiled is None:
        problem = _find_problem(rows, extent, by_dst)
    else:
        blocks = max(extent.num_rows // max(extent.num_src, 1), 1) if by_dst is not None else 1
        wrong = compiled.check_rows(
            *rows, *extent[:3], by_dst=None if by_dst is None else tuple(by_dst), blocks=blocks
        )
        problem = None if wrong is None else "'{}' has at {} the value {}".format(*wrong)
    if problem is not None:
        raise ValueError(f"Expected '{name}' to be a sound grouping of edges, but {problem}")
    mark_sound(rows, extent, by_dst)


def _state(rows: Rows, extent: Extent, by_dst: Ends | None) -> Hashable | None:
    """What must be the same for rows to be sound still; None where writes are not counted."""
    parts = rows if by_dst is None else (*rows, *by_dst)
    if any(part.is_inference() for part in parts):
        return None
    return extent, tuple((id(part), part._version, part.data_ptr(), part.numel()) for part in parts)


def _check_form(name: str, rows: Rows, num_rows: int) -> None:
    ptr = rows.ptr
    for field, part in zip(Rows._fields, rows, strict=True):
        where = f"'{name}_{field}'"
        if part.dtype not in (torch.int32, torch.int64) or part.dtype != ptr.dtype:
            raise TypeError(
                f"Expected {where} to be int32 or int64 as all of them, got {part.dtype}"
            )
        if part.device != ptr.device:
            raise ValueError(f"Expected {where} to be on {ptr.device}, got {part.device}")
        if part.layout != torch.strided or not part.is_contiguous():
            raise ValueError(f"Expected {where} to be contiguous")
        tables = field in ("pieces", "cuts")
        if part.dim() != (2 if tables else 1) or (tables and part.size(1) != 3):
            want = "[*, 3]" if tables else "[*]"
            raise ValueError(f"Expected {where} to have the shape {want}, got {list(part.shape)}")
    if ptr.numel() != num_rows + 1:
        raise ValueError(
            f"Expected '{name}_ptr' to have {num_rows + 1} elements, one more than there are rows, "
            f"got {ptr.numel()}"
        )


def _find_problem(rows: Rows, extent: Extent, by_dst: Ends | None) -> str | None:
    """What is wrong with rows of the right form, by plain torch (waits for the device)."""
    ptr = rows.ptr.long()
    if int(ptr[0]) != 0:
        return f"'ptr' begins with {int(ptr[0])}, not 0"
    if bool((ptr.diff() < 0).any()):
        return "'ptr' decreases"
    count = int(ptr[-1])
    if count > rows.idx.numel():
        return f"'ptr' ends with {count}, beyond the {rows.idx.numel()} elements of 'idx'"
    idx = rows.idx[:count]
    if count and (int(idx.min()) < 0 or int(idx.max()) >= extent.num_other):
        return f"'idx' leaves [0, {extent.num_other})"
    if by_dst is None and rows.edge.numel() == 0:
        if count > extent.num_edges:
            return f"it has {count} edges, and there are {extent.num_edges} ids"
    else:
        if rows.edge.numel() < count:
            return f"'edge' has {rows.edge.numel()} elements for {count} edges"
        edge = rows.edge[:count].long()
        if count and (int(edge.min()) < 0 or int(edge.max()) >= extent.num_edges):
            return f"'edge' leaves [0, {extent.num_edges})"
        if count and int(torch.bincount(edge).max()) > 1:
            return "'edge' names an edge twice"
    return _find_table_problem(rows, ptr) or (
        None if by_dst is None else _find_transpose_problem(rows, by_dst, extent.num_src)
    )


def _find_transpose_problem(by_src: Rows, by_dst: Ends, num_src: int) -> str | None:
    ptr_dst, ptr_src = by_dst.ptr.long(), by_src.ptr.long()
    count = int(ptr_dst[-1])
    if int(ptr_src[-1]) != count:
        return f"it has {int(ptr_src[-1])} edges, and there are {count} by destination"
    if count == 0:
        return None
    num_dst, num_rows = ptr_dst.numel() - 1, ptr_src.numel() - 1
    row = torch.repeat_interleave(torch.arange(num_rows, device=ptr_src.device), ptr_src.diff())
    dst = torch.repeat_interleave(torch.arange(num_dst, device=ptr_dst.device), ptr_dst.diff())
    position, end = by_src.edge[:count].long(), by_src.idx[:count].long()
    if int(position.max()) >= count:
        return f"'edge' leaves [0, {count})"
    blocks = num_rows // num_src
    per_block = (num_dst + blocks - 1) // blocks
    same = (
        (by_dst.idx[position].long() == row % num_src)
        & (dst[position] == end)
        & (end // per_block == row // num_src)
    )
    return None if bool(same.all()) else "it does not hold the edges by destination"


def _find_table_problem(rows: Rows, ptr: Tensor) -> str | None:
    degree = ptr.diff()
    (long_rows,) = (degree > PIECE).nonzero(as_tuple=True)
    count = (degree[long_rows] + PIECE - 1) // PIECE
    end = count.cumsum(0)
    cuts = torch.stack([long_rows, end - count, end], dim=1)
    row = torch.repeat_interleave(long_rows, count)
    first = torch.repeat_interleave(end - count, count)
    begin = ptr[row] + (torch.arange(row.numel(), device=ptr.device) - first) * PIECE
    pieces = torch.stack([row, begin, torch.minimum(begin + PIECE, ptr[row + 1])], dim=1)
    for name, given, right in (("pieces", rows.pieces, pieces), ("cuts", rows.cuts, cuts)):
        used, unused = given[: right.size(0)], given[right.size(0) :]
        empty = unused.new_tensor([-1, 0, 0])
        if not torch.equal(used.long(), right) or bool((unused != empty).any()):
            return f"'{name}' does not fit 'ptr'"
    return None
