"""The graph structure: edges by destination and by source, its checks, and its contents' hash."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref
from typing import NamedTuple

import torch
from torch import Tensor

from gatv2_pyg.kernels.cpu import abi
from gatv2_pyg.kernels.cpu.library import check_status, library, num_threads
from gatv2_pyg.kernels.validity import PIECE

_INTEGERS = {torch.int64: 8, torch.int32: 4, torch.int16: 2, torch.int8: 1, torch.uint8: 1}


class Grouped(NamedTuple):
    """What :func:`group_by_dst` saw of the edges."""

    num_edges: int
    """Edges in the result: those left out are not counted."""
    max_degree: int
    identity: bool
    """Whether every edge stands at the position of its id."""
    bad: tuple[str, int, int] | None
    """``("src" or "dst", position, value)`` of the first index out of range; nothing is grouped."""


_LARGEST = {dtype: torch.iinfo(dtype).max for dtype in (torch.int32, torch.int64)}


def _indices(value: Tensor) -> Tensor:
    return value if value.dtype in (torch.int32, torch.int64) else value.long()


def _count(name: str, value: int, dtype: torch.dtype) -> int:
    if not 0 <= value <= _LARGEST[dtype]:
        raise ValueError(f"Expected '{name}' to fit {dtype} and not to be negative, got {value}")
    return value


def _vector(name: str, value: Tensor, dtype: torch.dtype | None = None, columns: int = 0) -> Tensor:
    """Checks that a tensor is contiguous CPU memory of the right dtype and shape."""
    shape = f"[n, {columns}]" if columns else "[n]"
    right = value.dim() == (2 if columns else 1) and (not columns or value.size(1) == columns)
    if not right or value.device.type != "cpu" or not value.is_contiguous():
        raise ValueError(
            f"Expected '{name}' to be a contiguous {shape} tensor on the CPU, got shape "
            f"{list(value.shape)}, strides {list(value.stride())} on {value.device}"
        )
    if dtype is None and value.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"Expected '{name}' to be torch.int32 or torch.int64, got {value.dtype}")
    if dtype is not None and value.dtype != dtype:
        raise TypeError(f"Expected '{name}' to be {dtype} like 'ptr', got {value.dtype}")
    return value


def group_by_dst(
    src: Tensor,
    dst: Tensor,
    num_src: int,
    num_dst: int,
    add_self_loops: bool,
    index_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Grouped]:
    """Sorts edges by destination, keeping their order within a row.

    Args:
        src: ``[E]`` integers, of any stride.
        dst: ``[E]`` integers, of any stride.
        num_src: the number of sources.
        num_dst: the number of destinations.
        add_self_loops: leave out edges with ``src == dst``, and append an edge ``i -> i`` with the
            id ``E + i`` for every ``i < min(num_src, num_dst)``.
        index_dtype: the dtype of the result, torch.int32 or torch.int64.

    Returns:
        ``ptr``, ``idx`` and ``edge``, the last two as long as there are ids, and what was seen.

    Raises:
        ValueError: a count is negative or beyond ``index_dtype``, or the shapes differ.
        MemoryError: there is no room for the counters.
    """
    for name, value in (("src", src), ("dst", dst)):
        if value.dim() != 1 or value.dtype not in _INTEGERS or value.device.type != "cpu":
            raise ValueError(
                f"Expected '{name}' to be [E] integers on the CPU, got {list(value.shape)} of "
                f"{value.dtype} on {value.device}"
            )
    if src.numel() != dst.numel():
        raise ValueError(
            f"Expected 'src' and 'dst' of the same length, got {src.numel()} and {dst.numel()}"
        )
    num_src = _count("num_src", num_src, index_dtype)
    num_dst = _count("num_dst", num_dst, index_dtype)
    src, dst = _indices(src), _indices(dst)
    if src.dtype != dst.dtype:
        src, dst = src.long(), dst.long()
    num_edges = src.numel()
    most = num_edges + (min(num_src, num_dst) if add_self_loops else 0)
    most = _count("number of edges", most, index_dtype)
    ptr = torch.empty(num_dst + 1, dtype=index_dtype, device="cpu")
    idx = ptr.new_empty(most)
    edge = torch.empty_like(idx)
    args = abi.GroupArguments(
        wide_input=src.dtype == torch.int64,
        wide_output=index_dtype == torch.int64,
        threads=num_threads(),
        src=src.data_ptr(),
        src_stride=src.stride(0),
        dst=dst.data_ptr(),
        dst_stride=dst.stride(0),
        num_edges=num_edges,
        num_src=num_src,
        num_dst=num_dst,
        add_self_loops=bool(add_self_loops),
        ptr=ptr.data_ptr(),
        idx=idx.data_ptr(),
        edge=edge.data_ptr(),
    )
    result = abi.GroupResult()
    check_status(library().handle.gatv2_group_by_dst(byref(args), byref(result)))
    bad = None
    if result.bad:
        bad = "src" if result.bad == 1 else "dst", result.bad_position, result.bad_value
    seen = Grouped(result.num_edges, result.max_degree, bool(result.identity), bad)
    return ptr, idx, edge, seen


def transpose(
    ptr: Tensor, idx: Tensor, num_src: int, blocks: int = 1
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The same edges by source, each row ordered by destination.

    With more than one block the destinations are cut into that many ranges of the same length, and
    the edges to the first range come first, by source, then those to the next.

    Args:
        ptr: ``[num_dst + 1]`` where each destination's edges begin.
        idx: ``[>= ptr[-1]]`` the source at each position.
        num_src: the number of sources.
        blocks: the number of ranges of destinations.

    Returns:
        ``(ptr, idx, edge, max_degree)`` by source; ``ptr`` has ``blocks * num_src + 1`` elements,
        ``idx`` and ``edge`` as many as the argument ``idx``, and ``edge`` is where each edge stands
        by destination.

    Raises:
        TypeError, ValueError: the tensors are no grouping by destination.
        MemoryError: there is no room for the counters.
    """
    _vector("ptr", ptr)
    _vector("idx", idx, ptr.dtype)
    num_dst = _count("number of rows", ptr.numel() - 1, ptr.dtype)
    num_src = _count("num_src", num_src, ptr.dtype)
    if blocks < 1:
        raise ValueError(f"Expected 'blocks' to be at least 1, got {blocks}")
    out_ptr = ptr.new_empty(blocks * num_src + 1)
    out_idx, out_edge = torch.empty_like(idx), torch.empty_like(idx)
    args = abi.TransposeArguments(
        wide=ptr.dtype == torch.int64,
        threads=num_threads(),
        ptr=ptr.data_ptr(),
        idx=idx.data_ptr(),
        num_positions=idx.numel(),
        num_rows=num_dst,
        num_src=num_src,
        num_blocks=blocks,
        out_ptr=out_ptr.data_ptr(),
        out_idx=out_idx.data_ptr(),
        out_edge=out_edge.data_ptr(),
    )
    largest, finding = ctypes.c_int64(0), abi.Finding()
    check_status(library().handle.gatv2_transpose(byref(args), byref(largest), byref(finding)))
    if finding.part:
        raise ValueError(
            f"Expected 'ptr' to rise from 0 to at most {idx.numel()} and 'idx' to lie in "
            f"[0, {num_src}), got {finding.value} at {finding.position} of "
            f"'{abi.PARTS[finding.part]}'"
        )
    return out_ptr, out_idx, out_edge, largest.value


def piece_tables(ptr: Tensor, num_positions: int) -> tuple[Tensor, Tensor]:
    """The tables of long rows, in sizes that depend on E alone.

    Args:
        ptr: ``[num_rows + 1]`` where each row's edges begin; rises from 0 to ``num_positions`` at
            most.
        num_positions: the number of edges there may be.

    Returns:
        ``pieces`` and ``cuts`` of :class:`gatv2_pyg.kernels.contract.Rows`; there are at least two
        unused entries in ``cuts`` and one in ``pieces``, (-1, 0, 0) each.

    Raises:
        TypeError, ValueError: ``ptr`` is no contiguous index tensor on the CPU, or does not rise.
    """
    _vector("ptr", ptr)
    num_rows = _count("number of rows", ptr.numel() - 1, ptr.dtype)
    most = _count("num_positions", num_positions, torch.int64) // (PIECE + 1)
    pieces = torch.empty((2 * most + 2, 3), dtype=ptr.dtype, device="cpu")
    cuts = torch.empty((most + 2, 3), dtype=ptr.dtype, device="cpu")
    args = abi.PieceArguments(
        wide=ptr.dtype == torch.int64,
        ptr=ptr.data_ptr(),
        num_rows=num_rows,
        num_positions=num_positions,
        pieces=pieces.data_ptr(),
        num_pieces=pieces.size(0),
        cuts=cuts.data_ptr(),
        num_cuts=cuts.size(0),
    )
    finding = abi.Finding()
    check_status(library().handle.gatv2_piece_tables(byref(args), byref(finding)))
    if finding.part:
        raise ValueError(
            f"Expected 'ptr' to rise from 0 to at most {num_positions}, got {finding.value} at "
            f"{finding.position}"
        )
    return pieces, cuts


def check_rows(
    ptr: Tensor,
    idx: Tensor,
    edge: Tensor,
    pieces: Tensor,
    cuts: Tensor,
    num_rows: int,
    num_other: int,
    num_ids: int,
    *,
    by_dst: tuple[Tensor, Tensor] | None = None,
    blocks: int = 1,
) -> tuple[str, int, int] | None:
    """Whether the kernels may follow these :class:`~gatv2_pyg.kernels.contract.Rows`; O(N + E).

    Args:
        ptr, idx, edge, pieces, cuts: the rows; all int32 or all int64.
        num_rows: the rows there ought to be; by source, of all ranges together.
        num_other: the rows at the other end: ``idx`` lies in ``[0, num_other)``.
        num_ids: ``edge`` holds distinct numbers in ``[0, num_ids)``; by source, of positions.
        by_dst: by source, ``ptr`` and ``idx`` of the same edges by destination, checked before:
            each edge must be there what it is here.
        blocks: by source, the number of ranges of destinations.

    Returns:
        None, or ``(what, position, value)`` of the first thing that is wrong: the name of a tensor,
        an index into it (counted flat), and what is there (0 past its end).

    Raises:
        TypeError, ValueError: a tensor has the wrong dtype, shape or layout, or a count is
            negative.
        MemoryError: there is no room for a bit for each of ``num_ids``.
    """
    _vector("ptr", ptr)
    _vector("idx", idx, ptr.dtype)
    _vector("edge", edge, ptr.dtype)
    _vector("pieces", pieces, ptr.dtype, columns=3)
    _vector("cuts", cuts, ptr.dtype, columns=3)
    counts = {"num_rows": num_rows, "num_other": num_other, "num_ids": num_ids, "blocks": blocks}
    for name, value in counts.items():
        _count(name, value, torch.int64)
    if ptr.numel() != num_rows + 1:
        raise ValueError(f"Expected 'ptr' to have {num_rows + 1} elements, got {ptr.numel()}")
    dst_ptr = dst_idx = None
    if by_dst is not None:
        dst_ptr = _vector("by_dst ptr", by_dst[0], ptr.dtype)
        dst_idx = _vector("by_dst idx", by_dst[1], ptr.dtype)
        if dst_ptr.numel() != num_other + 1:
            raise ValueError(
                f"Expected 'by_dst' to have {num_other + 1} elements in 'ptr', got "
                f"{dst_ptr.numel()}"
            )
    if blocks < 1 or num_rows % blocks:
        raise ValueError(f"Expected 'blocks' to divide 'num_rows' {num_rows}, got {blocks}")
    args = abi.CheckArguments(
        wide=ptr.dtype == torch.int64,
        rows=grouped_edges(ptr, idx, edge, pieces, cuts),
        num_rows=num_rows,
        num_positions=idx.numel(),
        num_edge=edge.numel(),
        num_other=num_other,
        num_ids=num_ids,
        dst_ptr=None if dst_ptr is None else dst_ptr.data_ptr(),
        dst_idx=None if dst_idx is None else dst_idx.data_ptr(),
        num_blocks=blocks,
    )
    finding = abi.Finding()
    check_status(library().handle.gatv2_check_rows(byref(args), byref(finding)))
    what = abi.PARTS[finding.part]
    return None if what is None else (what, finding.position, finding.value)


def grouped_edges(
    ptr: Tensor, idx: Tensor, edge: Tensor, pieces: Tensor, cuts: Tensor
) -> ctypes.Structure:
    """The addresses of :class:`~gatv2_pyg.kernels.contract.Rows`; that of nothing is 0."""
    rows = abi.GroupedEdges(ptr=ptr.data_ptr(), idx=idx.data_ptr())
    if edge.numel():
        rows.edge = edge.data_ptr()
    if pieces.numel():
        rows.pieces, rows.num_pieces = pieces.data_ptr(), pieces.size(0)
    if cuts.numel():
        rows.cuts, rows.num_cuts = cuts.data_ptr(), cuts.size(0)
    return rows


def content_hash(parts: Sequence[Tensor]) -> int:
    """A 64-bit hash of the values of some index tensors, in order.

    Args:
        parts: ``[n]`` integers each, of any stride, on the CPU.

    Returns:
        The same number for the same values, whatever the dtypes, strides and number of threads;
        another one whenever a single value differs.

    Raises:
        TypeError: a part does not hold integers.
        ValueError: a part is not one-dimensional or not on the CPU.
        MemoryError: there is no room for the hashes of its chunks.
    """
    for part in parts:
        if part.dim() != 1 or part.device.type != "cpu":
            raise ValueError(
                f"Expected 'parts' to be one-dimensional on the CPU, got shape "
                f"{list(part.shape)} on {part.device}"
            )
    return _hash([_hash_part(part, part.data_ptr()) for part in parts])


def hash_of_rows(indices: Tensor) -> int:
    """:func:`content_hash` of the rows of ``[n, E]`` indices, without a tensor for each.

    Raises:
        The errors of :func:`content_hash`.
    """
    if indices.dim() != 2 or indices.device.type != "cpu":
        raise ValueError(
            f"Expected 'indices' to be two-dimensional on the CPU, got shape "
            f"{list(indices.shape)} on {indices.device}"
        )
    address, step = indices.data_ptr(), indices.stride(0) * indices.element_size()
    return _hash([_hash_part(indices, address + row * step) for row in range(indices.size(0))])


def hash_of_bits(values: Tensor) -> int:
    """:func:`content_hash` of numbers of any kind, contiguous, taken as integers of their size."""
    if not values.is_contiguous() or values.device.type != "cpu":
        raise ValueError(
            f"Expected 'values' to be contiguous on the CPU, got strides {values.stride()} on "
            f"{values.device}"
        )
    size = values.element_size()
    return _hash([abi.HashPart(values.data_ptr(), values.numel(), 1, size, True)])


def _hash_part(part: Tensor, address: int) -> ctypes.Structure:
    """The last dimension of ``part``, from an address on."""
    dtype = part.dtype
    if dtype not in _INTEGERS:
        raise TypeError(f"Expected 'parts' to hold integers, got {dtype}")
    return abi.HashPart(
        address, part.size(-1), part.stride(-1), _INTEGERS[dtype], dtype != torch.uint8
    )


def _hash(parts: Sequence[ctypes.Structure]) -> int:
    array = (abi.HashPart * max(len(parts), 1))(*parts)
    value = ctypes.c_uint64(0)
    check_status(
        library().handle.gatv2_content_hash(array, len(parts), num_threads(), byref(value))
    )
    return value.value
