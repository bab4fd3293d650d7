"""What kernels are called with and what they return: plain tensors, by name.

The reference, the ``torch_scatter`` path and every set of kernels share these types.  A set of
kernels is two functions::

    forward(inputs: Inputs, edges: Edges, options: Options, return_attention: bool) -> Outputs
    backward(grads: OutputGrads, inputs: Inputs, outputs: Outputs, edges: Edges, options: Options,
             needs: Needs) -> InputGrads
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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

    Unused entries at the end of both tables have row -1.
    """


class Edges(NamedTuple):
    """The edges of a graph, grouped for the kernels."""

    by_dst: Rows
    """By destination, each row in order of ids."""
    by_src: Rows | None
    """By range of destinations, then by source; None where no gradient needs it."""
    num_ids: int
    """The number of edge ids: rows of ``edge_attr`` and of returned coefficients."""


class Inputs(NamedTuple):
    """The tensors of a call; contiguous, on one device.

    ``x_src`` and ``x_dst`` may have a batch dimension before those that are said, of any size; the
    outputs, and their gradients, then have it too.  All else is shared by the batch.
    """

    x_src: Tensor
    """``[N_src, H, C]``."""
    x_dst: Tensor
    """``[N_dst, H, C]``."""
    att: Tensor
    """``[H, C]``, in the accumulation dtype."""
    edge_attr: Tensor | None
    """``[num_ids, D]``."""
    edge_weight: Tensor | None
    """``[H * C, D]``, in the accumulation dtype."""
    attn_bias: Tensor | None = None
    """``[K, H]``, or ``[K, 1]`` for all heads alike, ``K <= num_ids``, in the accumulation dtype:
    of the edges with the ids from 0 to K - 1; the others have none.  An edge whose score is -inf
    with it takes no part, and a row of no other edges is one without edges."""


class Options(NamedTuple):
    """The numbers of a call."""

    negative_slope: float
    """The slope of LeakyReLU below zero."""
    dropout: float
    """The probability that a coefficient is dropped; 0 outside training."""
    seed: Tensor | int
    """The seed of the dropout: a non-negative integer below 2**63, or a 0-dimensional int64 tensor
    of it."""


class Outputs(NamedTuple):
    """What a forward pass returns."""

    out: Tensor
    """``[N_dst, H, C]`` in the accumulation dtype: (5) needs it as it was before rounding."""
    lse: Tensor
    """``[N_dst, H]`` in the accumulation dtype, -inf for a row without edges that take part."""
    alpha: Tensor | None
    """``keep_e alpha_e [num_ids, H]`` in the accumulation dtype, where asked for."""


class OutputGrads(NamedTuple):
    """Gradients of a loss by what a forward pass returned; None for zero."""

    out: Tensor | None
    """``[N_dst, H, C]`` in the dtype of ``x_src``."""
    alpha: Tensor | None
    """``[num_ids, H]`` in the accumulation dtype."""


class Needs(NamedTuple):
    """Which gradients are wanted."""

    x_src: bool
    x_dst: bool
    att: bool
    edge_attr: bool
    edge_weight: bool
    attn_bias: bool = False


class InputGrads(NamedTuple):
    """Gradients of a loss by the :class:`Inputs`, in their dtypes; None where not wanted."""

    x_src: Tensor | None
    x_dst: Tensor | None
    att: Tensor | None
    edge_attr: Tensor | None
    edge_weight: Tensor | None
    attn_bias: Tensor | None = None
