"""A sparse matrix by rows, its transpose, and their products with dense matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gatv2_pyg import kernels
from gatv2_pyg.graph.cache import recent
from gatv2_pyg.graph.grouping import EdgeIndexError, check_pointers, index_dtype
from gatv2_pyg.graph.operators import trimmed_edges
from gatv2_pyg.graph.tracing import reading_values


class Order(NamedTuple):
    """The stored values of a matrix by row: where rows begin, the columns, the places they had."""

    ptr: Tensor
    columns: Tensor
    places: Tensor | None
    """None where they stood in this order."""


class Form(NamedTuple):
    """A matrix row by row: that of the features, or its transpose."""

    ptr: Tensor
    """``[rows + 1]`` integers: the values of row i are those from ``ptr[i]`` to ``ptr[i + 1]``."""
    columns: Tensor
    """``[nnz]`` integers of the dtype of ``ptr``."""
    values: Tensor
    """``[nnz]``."""
    num_columns: int

    def transposed(self) -> Form:
        """The transpose; where its values stand is kept for matrices of the same pattern."""
        num_rows = self.ptr.numel() - 1
        key = "csr", num_rows, self.num_columns, _compiled().content_hash([self.ptr, self.columns])
        order = recent(key, self._order_by_column)
        return Form(order.ptr, order.columns, _ordered(self.values, order), num_rows)

    def _order_by_column(self) -> Order:
        num_rows = self.ptr.numel() - 1
        rows = torch.arange(num_rows, dtype=self.columns.dtype, device=self.ptr.device)
        rows = rows.repeat_interleave(self.ptr.diff(), output_size=self.columns.numel())
        return _by_row(self.columns, rows, self.num_columns, num_rows)

    def times(self, dense: Tensor) -> Tensor:
        """The product with ``[columns, width]``, in its dtype; summed in float32 at least."""
        if dense.dtype == torch.float64:
            size = self.ptr.numel() - 1, self.num_columns
            parts = self.ptr, self.columns, self.values
            device = self.ptr.device
            matrix = torch.sparse_csr_tensor(*parts, size, device=device, check_invariants=False)
            return matrix @ dense
        product = F.embedding_bag(
            self.columns,
            dense.float().contiguous(),
            self.ptr,
            mode="sum",
            per_sample_weights=self.values.float(),
            include_last_offset=True,
        )
        return product.to(dense.dtype)


class SparseMatrix:
    """A matrix on the CPU by row and by column, each made when it is first asked for.

    Args:
        form: of the matrix or of its transpose.
        transposed: which of them.
    """

    def __init__(self, form: Form, transposed: bool = False) -> None:
        self._forms = {transposed: form}

    @classmethod
    def of(cls, x: Tensor) -> SparseMatrix:
        """That of a ``torch.sparse`` matrix ``x`` in CSR, CSC or COO layout.

        Raises:
            ValueError: an index of ``x`` lies beyond its shape, or its pointers are not sound.
        """
        rows, columns = x.shape
        if x.layout == torch.sparse_csr:
            form = Form(x.crow_indices(), x.col_indices(), x.values(), columns)
            _check_form(form, "crow_indices", "col_indices")
            return cls(form)
        if x.layout == torch.sparse_csc:
            form = Form(x.ccol_indices(), x.row_indices(), x.values(), rows)
            _check_form(form, "ccol_indices", "row_indices")
            return cls(form, transposed=True)
        indices, values = x._indices(), x._values()
        key = "coo", rows, columns, _compiled().content_hash(indices.unbind(0))
        order = recent(key, lambda: _by_row(indices[0], indices[1], rows, columns))
        return cls(Form(order.ptr, order.columns, _ordered(values, order), columns))

    def form(self, transposed: bool) -> Form:
        """The matrix row by row, or its transpose."""
        if transposed not in self._forms:
            self._forms[transposed] = self._forms[not transposed].transposed()
        return self._forms[transposed]

    def parts(self) -> list[Tensor]:
        """The tensors that products read, some of them the user's own."""
        return [part for form in self._forms.values() for part in form[:3]]


def _check_form(form: Form, ptr_name: str, columns_name: str) -> None:
    """Raises ValueError for indices that torch's products would follow beyond their memory."""
    check_pointers(f"the {ptr_name} of 'x'", form.ptr, form.columns.numel(), "values")
    if form.columns.numel() == 0:
        return
    low, high = torch.stack(torch.aminmax(form.columns)).tolist()
    if low < 0 or high >= form.num_columns:
        raise ValueError(
            f"Expected the {columns_name} of 'x' to lie in [0, {form.num_columns}), got "
            f"{low if low < 0 else high}"
        )


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
            (low, first), (high, last) = torch.stack(torch.aminmax(ends, dim=1)).tolist()
            raise ValueError(
                "Expected the indices of 'x' to lie within its shape, got rows from "
                f"{first} to {last} and columns from {low} to {high}"
            ) from None
    in_order = grouped.edge.numel() == 0
    return Order(grouped.ptr, grouped.idx, None if in_order else grouped.edge)
