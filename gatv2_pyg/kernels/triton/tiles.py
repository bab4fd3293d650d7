"""Block sizes: pure functions of the shape and of the graph's size.

A program works on a tile ``[rows, edges, heads, channels]``: ``rows`` short rows side by side (or
as many pieces of long rows), ``edges`` edges of each at a time, ``heads`` heads with all their
channels.  Every extent is a power of two; tails are masked.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_CHANNELS = 8192
"""A head is never split over programs; beyond this it would not fit their registers."""

_WIDTH = 256
"""Features of an edge in one program: wider rows are split over programs by heads.

A row's own values (x_dst, att, the accumulators) then take half as many registers as the tile.
"""

_MAX_PARTIALS = 16384


class Budget(NamedTuple):
    """What a tile may hold."""

    features: int
    """Gathered features per warp."""
    slots: int
    """Edges.  With more of them narrow rows would fill the registers with their accumulators,
    which lanes that work on different edges of a row all hold."""
    edges: int
    """Edges of a row."""


DEVICE = Budget(features=1024, slots=32, edges=16)
"""32 gathered features per thread.  The rest of a kernel needs as many registers again or two to
three times as many, which leaves 16 to 28 one-warp programs on a multiprocessor of 65,536.  At
H * C = 128 in float32 each has 8 rows of 512 bytes in flight: 64 KB or more per multiprocessor,
where a latency of 700 ns at 4.8 TB/s over 132 of them needs 25 KB."""

INTERPRETER = Budget(features=2**16, slots=1024, edges=128)
"""Triton's interpreter pays for operations, not for elements."""


class Tile(NamedTuple):
    """The extents of a tile and the warps that work on it."""

    rows: int
    edges: int
    heads: int
    channels: int
    head_groups: int
    """Programs that share a row: ``ceil(H / heads)``."""
    num_warps: int

    @property
    def meta(self) -> dict[str, int]:
        return {
            "BR": self.rows,
            "BE": self.edges,
            "BH": self.heads,
            "BC": self.channels,
            "num_warps": self.num_warps,
        }


def power_of_two(value: int) -> int:
    """The smallest power of two that is not below ``value``."""
    return 1 << max(value - 1, 0).bit_length()


def tile_of(
    heads: int, channels: int, num_rows: int, num_positions: int, budget: Budget = DEVICE
) -> Tile:
    """The tile for rows of ``heads * channels`` features.

    One warp as long as a row of the tile has at most 512 features: reductions are then shuffles
    within the warp and no program waits at a barrier.  Rows of few features would leave lanes
    idle, so several edges, and then several rows, share the warp.  A row takes up to 16 edges at a
    time, or 8 where the mean degree is so low that most would be masked.
    """
    width = power_of_two(channels)
    block_heads = min(power_of_two(heads), max(1, _WIDTH // width))
    width *= block_heads
    num_warps = min(max(1, width // 512), 16)
    slots = min(max(1, num_warps * budget.features // width), budget.slots)
    edges = min(slots, budget.edges if num_positions > 8 * num_rows else 8)
    return Tile(
        rows=slots // edges,
        edges=edges,
        heads=block_heads,
        channels=width // block_heads,
        head_groups=-(-heads // block_heads),
        num_warps=num_warps,
    )


def partials_of(num_groups: int, num_positions: int, weight_size: int) -> int:
    """How many programs share the row groups of a pass that sums over all edges.

    Each leaves one partial sum of ``att``'s gradient and, if ``weight_size`` is not 0, one of so
    many elements of ``edge_weight``'s; these are kept to 64 MiB where 1024 programs allow it, and
    to one per 32 edges.
    """
    limit = _MAX_PARTIALS
    if weight_size:
        limit = min(limit, max(1024, 2**24 // weight_size), max(1, num_positions // 32))
    return min(num_groups, limit)
