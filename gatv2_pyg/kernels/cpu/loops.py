"""The features of added self-loops, made of those of the edges, and the gradient of that."""

from __future__ import annotations

import ctypes
from ctypes import byref

import torch
from torch import Tensor

from gatv2_pyg.kernels.contract import Rows
from gatv2_pyg.kernels.cpu import abi
from gatv2_pyg.kernels.cpu.library import check_status, library, num_threads


def loop_features(by_dst: Rows, features: Tensor, num_loops: int, mean: bool) -> Tensor:
    """Features of edges, and below them those of the loops that were added to the first nodes.

    Args:
        by_dst: edges by destination, those of each of the nodes and then its loop.
        features: ``[E, D]``, float32 or float64, contiguous on the CPU.
        num_loops: how many nodes have a loop; their ids are those from ``E`` on.
        mean: whether a loop gets the mean over the edges that point to the node, else the sum; 0
            where there are none.

    Returns:
        ``[E + num_loops, D]``.
    """
    num_edges, dim = features.shape
    result = features.new_empty((num_edges + num_loops, dim))
    args = _arguments(by_dst, features, result, num_edges, num_loops, mean)
    check_status(library().handle.gatv2_loop_features(byref(args)))
    return result


def loop_gradients(by_dst: Rows, grad: Tensor, num_loops: int, mean: bool) -> Tensor:
    """The gradient of the edges' features, ``[E, D]``, of that of :func:`loop_features`."""
    num_edges = grad.size(0) - num_loops
    result = grad.new_empty((num_edges, grad.size(1)))
    args = _arguments(by_dst, grad, result, num_edges, num_loops, mean)
    check_status(library().handle.gatv2_loop_gradients(byref(args)))
    return result


def _arguments(
    by_dst: Rows, given: Tensor, result: Tensor, num_edges: int, num_loops: int, mean: bool
) -> ctypes.Structure:
    return abi.LoopArguments(
        wide=by_dst.ptr.dtype == torch.int64,
        is_double=given.dtype == torch.float64,
        threads=num_threads(),
        ptr=by_dst.ptr.data_ptr(),
        edge=by_dst.edge.data_ptr() if by_dst.edge.numel() else None,
        num_loops=num_loops,
        num_edges=num_edges,
        dim=given.size(1),
        mean=mean,
        given=given.data_ptr(),
        result=result.data_ptr(),
    )
