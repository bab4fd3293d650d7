"""The features of added self-loops: a value, or a reduction over the edges that point to the node.

PyG's layer takes them from the second row of ``edge_index``, whatever the flow, and leaves out the
self-loops that there were.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from gatv2_pyg import kernels
from gatv2_pyg.graph.structure import Graph
from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.plain import are_plain, has_function_mode, unwrapped

FillValue = float | Tensor | str | None

_SUMS = {"mean": True, "add": False, "sum": False}
"""Reductions that the kernels have, and whether they are means."""


def is_mean(fill_value: FillValue) -> bool | None:
    """Whether a reduction that the kernels have is a mean; None: it is none of them."""
    return _SUMS.get(fill_value) if isinstance(fill_value, str) else None


def with_loop_features(
    edge_attr: Tensor,
    edge_index: Tensor,
    num_loops: int,
    fill_value: FillValue,
    graph: Graph | None = None,
) -> Tensor:
    """``edge_attr``, and below it the features of self-loops that are added to the first nodes.

    Args:
        edge_attr: ``[E, *]``.
        edge_index: ``[2, E]``.
        num_loops: the number of nodes that get a self-loop.
        fill_value: as :class:`torch_geometric.nn.GATv2Conv` takes it.
        graph: the same edges by the second row of ``edge_index``, with the self-loops, if at hand.
    """
    size = (num_loops, *edge_attr.shape[1:])
    if isinstance(fill_value, Tensor):
        loops = fill_value.to(edge_attr.device, edge_attr.dtype)
        loops = (loops if loops.dim() == edge_attr.dim() else loops.unsqueeze(0)).expand(size)
    elif isinstance(fill_value, str):
        mean = is_mean(fill_value)
        if mean is not None and graph is not None and _suits(edge_attr, graph, num_loops):
            return _summed(edge_attr, graph, num_loops, mean)
        group = _groups(edge_index, num_loops)
        rows = edge_attr
        if mean is None:
            # A product of rows that count for none may overflow, and 0 times that is no gradient;
            # autograd keeps the rows, which the caller may change after.
            unused = (group == num_loops).view(-1, *[1] * (rows.dim() - 1))
            rows = rows.masked_fill(unused, 1)
        loops = _reduce_rows(rows, group, num_loops + 1, fill_value)[:-1]
    else:
        loops = edge_attr.new_full(size, 1.0 if fill_value is None else fill_value)
    return torch.cat([edge_attr, loops])


def _groups(edge_index: Tensor, num_loops: int) -> Tensor:
    """``[E]`` int64: the node whose loop an edge counts for, ``num_loops`` where it is none."""
    row, col = edge_index
    return torch.where((row == col) | (col >= num_loops), num_loops, col).long()


def _suits(edge_attr: Tensor, graph: Graph, num_loops: int) -> bool:
    """Whether the compiled kernels take these features."""
    return (
        graph.is_plain
        and are_plain((edge_attr,))
        and edge_attr.dim() == 2
        and edge_attr.size(0) + num_loops == graph.num_ids
        and edge_attr.dtype in (torch.float32, torch.float64)
        and unwrapped()
        and not has_function_mode()
        and kernels.cpu_kernels() is not None
    )


def _summed(edge_attr: Tensor, graph: Graph, num_loops: int, mean: bool) -> Tensor:
    call = graph.edges(with_sources=False).by_dst, num_loops, mean
    if torch.is_grad_enabled() and edge_attr.requires_grad:
        return _Summed.apply(edge_attr, *call)
    return _filled(edge_attr, *call)


def _filled(edge_attr: Tensor, by_dst: Rows, num_loops: int, mean: bool) -> Tensor:
    cpu = kernels.load_kernels("cpu")
    return cpu.loop_features(by_dst, edge_attr.contiguous(), num_loops, mean)


class _Summed(torch.autograd.Function):
    """Keeps no features: what it makes is linear in them."""

    @staticmethod
    def forward(ctx, edge_attr: Tensor, by_dst: Rows, num_loops: int, mean: bool):
        ctx.call = by_dst, num_loops, mean
        return _filled(edge_attr, by_dst, num_loops, mean)

    @staticmethod
    def backward(ctx, grad):
        by_dst, num_loops, mean = ctx.call
        if torch.is_grad_enabled() or not unwrapped() or not are_plain((grad,)):
            found = _gradient(grad, by_dst, num_loops, mean)
        else:
            cpu = kernels.load_kernels("cpu")
            found = cpu.loop_gradients(by_dst, grad.contiguous(), num_loops, mean)
        return found, None, None, None


def _gradient(grad: Tensor, by_dst: Rows, num_loops: int, mean: bool) -> Tensor:
    """The gradient of the edges' features, by operations that autograd follows."""
    num_edges = grad.size(0) - num_loops
    of_edges, of_loops = grad.split((num_edges, num_loops))
    groups = _groups_of_rows(by_dst, num_edges, num_loops)
    if mean:
        counts = torch.bincount(groups, minlength=num_loops)[:num_loops].clamp(min=1)
        of_loops = of_loops / counts.to(grad.dtype).unsqueeze(1)
    padded = torch.cat([of_loops, of_loops.new_zeros(1, of_loops.size(1))])
    return of_edges + padded[groups]


def _groups_of_rows(by_dst: Rows, num_edges: int, num_loops: int) -> Tensor:
    """:func:`_groups` of grouped edges."""
    ptr = by_dst.ptr.long()
    nodes = torch.arange(ptr.numel() - 1, device=ptr.device).repeat_interleave(ptr.diff())
    ids = by_dst.edge.long() if by_dst.edge.numel() else torch.arange(len(nodes), device=ptr.device)
    used = (ids < num_edges) & (nodes < num_loops)
    groups = ptr.new_full((num_edges,), num_loops)
    groups[ids[used]] = nodes[used]
    return groups


def _reduce_rows(rows: Tensor, group: Tensor, num_groups: int, reduce: str) -> Tensor:
    """PyG's ``scatter`` over dimension 0, in a fixed order on CUDA too.

    Args:
        rows: ``[E, *]``.
        group: ``[E]`` int64, which group each row belongs to.
        num_groups: the number of groups.
        reduce: ``"sum"``, ``"add"``, ``"mean"``, ``"min"``, ``"max"`` or ``"mul"``.

    Returns:
        ``[num_groups, *]``; 0 (1 for ``"mul"``) for an empty group.
    """
    # On CUDA sums and products of torch's scatter come in the order in which its threads do.
    if rows.device.type == "cuda" and reduce not in ("min", "max"):
        return reduce_in_order(rows, group, num_groups, reduce)
    return scatter(rows, group, 0, num_groups, reduce)


def reduce_in_order(rows: Tensor, group: Tensor, num_groups: int, reduce: str) -> Tensor:
    """:func:`_reduce_rows` for sums, means and products, by operations that sort."""
    if reduce == "mul":
        counts = torch.bincount(group, minlength=num_groups)
        rows = rows[group.argsort(stable=True)]
        return torch.segment_reduce(rows, "prod", lengths=counts, initial=1)
    # torch sorts the indices of index_put on CUDA, so each sum has its order.
    total = rows.new_zeros(num_groups, *rows.shape[1:]).index_put((group,), rows, accumulate=True)
    if reduce != "mean":
        return total
    count = torch.bincount(group, minlength=num_groups).clamp(min=1)
    return total / count.view(-1, *[1] * (rows.dim() - 1))
