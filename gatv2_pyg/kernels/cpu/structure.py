"""The graph structure: edges sorted by destination and by source, in O(E + N)."""

from __future__ import annotations

import struct
from ctypes import byref, c_int64
from typing import NamedTuple

import torch
from torch import Tensor

from gatv2_pyg.kernels.cpu.library import check_status, library, num_threads

_GROUP = struct.Struct("3q 4q 4q 3q")
_TRANSPOSE = struct.Struct("2q 2q 3q 3q")


class Grouped(NamedTuple):
    """What :func:`group_by_dst` saw of the edges."""

    num_edges: int
    """Edges in the result: those left out are not counted."""
    max_degree: int
    identity: bool
    """Whether every edge stands at the position of its id."""
    bad: tuple[str, int, int] | None
    """``("src" or "dst", position, value)`` of the first index out of range; nothing is grouped."""


def _indices(value: Tensor) -> Tensor:
    return value if value.dtype in (torch.int32, torch.int64) else value.long()


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
        ``ptr``, ``idx`` and ``eid``, the last two as long as there are ids, and what was seen.
    """
    src, dst = _indices(src), _indices(dst)
    if src.dtype != dst.dtype:
        src, dst = src.long(), dst.long()
    num_edges = src.numel()
    most = num_edges + (min(num_src, num_dst) if add_self_loops else 0)
    ptr = torch.empty(num_dst + 1, dtype=index_dtype, device="cpu")
    idx = torch.empty(most, dtype=index_dtype, device="cpu")
    eid = torch.empty(most, dtype=index_dtype, device="cpu")
    args = _GROUP.pack(
        src.dtype == torch.int64,
        index_dtype == torch.int64,
        num_threads(),
        src.data_ptr(),
        src.stride(0),
        dst.data_ptr(),
        dst.stride(0),
        num_edges,
        num_src,
        num_dst,
        add_self_loops,
        ptr.data_ptr(),
        idx.data_ptr(),
        eid.data_ptr(),
    )
    result = (c_int64 * 6)()
    check_status(library().handle.gatv2_group_by_dst(args, result))
    edges, max_degree, identity, bad, position, value = result
    where = (("", "src", "dst")[bad], position, value) if bad else None
    return ptr, idx, eid, Grouped(edges, max_degree, bool(identity), where)


def transpose(
    ptr: Tensor, idx: Tensor, num_src: int, blocks: int = 1
) -> tuple[Tensor, Tensor, Tensor, int]:
    """The same edges by source, each row ordered by destination.

    With more than one block the destinations are cut into that many ranges of the same length, and
    the edges to the first range come first, by source, then those to the next.

    Args:
        ptr: ``[num_dst + 1]`` where each destination's edges begin.
        idx: the source at each position.
        num_src: the number of sources.
        blocks: the number of ranges of destinations.

    Returns:
        ``(ptr, idx, edge, max_degree)`` by source; ``ptr`` has ``blocks * num_src + 1`` elements,
        ``idx`` and ``edge`` as many as the argument ``idx``, and ``edge`` is where each edge stands
        by destination.
    """
    num_dst = ptr.numel() - 1
    out_ptr = ptr.new_empty(blocks * num_src + 1)
    out_idx = torch.empty_like(idx)
    out_edge = torch.empty_like(idx)
    args = _TRANSPOSE.pack(
        ptr.dtype == torch.int64,
        num_threads(),
        ptr.data_ptr(),
        idx.data_ptr(),
        num_dst,
        num_src,
        blocks,
        out_ptr.data_ptr(),
        out_idx.data_ptr(),
        out_edge.data_ptr(),
    )
    largest = c_int64(0)
    check_status(library().handle.gatv2_transpose(args, byref(largest)))
    return out_ptr, out_idx, out_edge, largest.value


def content_hash(parts: list[Tensor]) -> int:
    """A hash of the contents of index tensors."""
    import hashlib

    h = hashlib.blake2b(digest_size=8)
    for part in parts:
        h.update(part.contiguous().numpy().tobytes())
    return int.from_bytes(h.digest(), "little")
