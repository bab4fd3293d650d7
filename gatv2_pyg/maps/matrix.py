"""A sparse matrix by rows, its transpose, and their products with dense matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gatv2_pyg import kernels
from gatv2_pyg.graph.cache import recent
from gatv2_pyg.graph.grouping import EdgeIndexError, index_dtype
from gatv2_pyg.graph.operators import trimmed_edges
from gatv2_pyg.graph.tracing import reading_values


class Order(NamedTuple):
    """The stored values of a matrix by row: where rows begin, the columns, the places they had."""

    ptr: Tensor
    columns: Tensor
    places: Tensor | None
    """None where they stood in this order."""


class SparseMatrix:
    """A matrix by rows, ``[rows, columns]``, on the CPU.

    Args:
        ptr: ``[rows + 1]`` integers: the values of row i are those from ``ptr[i]`` to ``ptr[i+1]``.
        columns: ``[nnz]`` integers of the dtype of ``ptr``.
        values: ``[nnz]``.
        num_columns: how many columns there are.
    """

    def __init__(self, ptr: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> None:
        self.ptr, self.columns, self.values = ptr, columns, values
        self.num_rows, self.num_columns = ptr.numel() - 1, num_columns
        self._transposed: SparseMatrix | None = None

    @classmethod
    def of(cls, x: Tensor) -> SparseMatrix:
        """That of a ``torch.sparse`` matrix ``x`` in CSR, CSC or COO layout.

        Raises:
            ValueError: an index of ``x`` lies beyond its shape.
        """
        rows, columns = x.shape
        if x.layout == torch.sparse_csr:
            return cls(x.crow_indices(), x.col_indices(), x.values(), columns)
        if x.layout == torch.sparse_csc:
            return cls(x.ccol_indices(), x.row_indices(), x.values(), rows).transposed()
        indices, values = x._indices(), x._values()
        key = "coo", rows, columns, _compiled().content_hash(indices.unbind(0))
        order = recent(key, lambda: _by_row(indices[0], indices[1], rows, columns))
        return cls(order.ptr, order.columns, _ordered(values, order), columns)

    def transposed(self) -> SparseMatrix:
        """The transpose; where its values stand is kept for matrices of the same pattern."""
        if self._transposed is None:
            size = self.num_rows, self.num_columns
            key = "csr", *size, _compiled().content_hash([self.ptr, self.columns])
            order = recent(key, self._order_by_column)
            values = _ordered(self.values, order)
            self._transposed = SparseMatrix(order.ptr, order.columns, values, self.num_rows)
            self._transposed._transposed = self
        return self._transposed

    def _order_by_column(self) -> Order:
        rows = torch.arange(self.num_rows, dtype=self.columns.dtype)
        rows = rows.repeat_interleave(self.ptr.diff(), output_size=self.columns.numel())
        return _by_row(self.columns, rows, self.num_columns, self.num_rows)

    def times(self, dense: Tensor) -> Tensor:
        """The product with ``[columns, width]``, in its dtype; summed in float32 at least."""
        if dense.dtype == torch.float64:
            size = self.num_rows, self.num_columns
            parts = self.ptr, self.columns, self.values
            return torch.sparse_csr_tensor(*parts, size, check_invariants=False) @ dense
        product = F.embedding_bag(
            self.columns,
            dense.float().contiguous(),
            self.ptr,
            mode="sum",
            per_sample_weights=self.values.float(),
            include_last_offset=True,
        )
        return product.to(dense.dtype)


def _compiled() -> Any:
    return kernels.cpu_kernels()


def _ordered(values: Tensor, order: Order) -> Tensor:
    return values if order.places is None else values.index_select(0, order.places)


def _by_row(rows: Tensor, columns: Tensor, num_rows: int, num_columns: int) -> Order:
    """The order of values whose rows and columns are given, for a ``num_rows``-rowed matrix."""
    with reading_values():
        wide = index_dtype(num_rows, num_columns, rows.numel()) == torch.int64
        ends = torch.stack([columns, rows])
        try:
            grouped, _ = trimmed_edges(ends, num_columns, num_rows, False, True, wide)
        except EdgeIndexError:
            raise ValueError(
                "Expected the indices of 'x' to lie within its shape, got rows up to "
                f"{int(rows.max())} and columns up to {int(columns.max())}"
            ) from None
    in_order = grouped.edge.numel() == 0
    return Order(grouped.ptr, grouped.idx, None if in_order else grouped.edge)
