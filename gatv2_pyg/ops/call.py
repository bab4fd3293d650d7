"""The arguments of the attention operators, flat as torch wants them, and by name."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gatv2_pyg.kernels.contract import Edges, Inputs, Options, Rows


class Call(NamedTuple):
    """What both operators take, in the order of their schemas."""

    x_src: Tensor
    x_dst: Tensor
    att: Tensor
    edge_attr: Tensor | None
    edge_weight: Tensor | None
    attn_bias: Tensor | None
    by_dst_ptr: Tensor
    by_dst_idx: Tensor
    by_dst_edge: Tensor
    by_dst_pieces: Tensor
    by_dst_cuts: Tensor
    by_src_ptr: Tensor | None
    by_src_idx: Tensor | None
    by_src_edge: Tensor | None
    by_src_pieces: Tensor | None
    by_src_cuts: Tensor | None
    num_ids: int
    negative_slope: float
    dropout: float
    seed: Tensor | None

    @classmethod
    def of(cls, inputs: Inputs, edges: Edges, options: Options) -> Call:
        """The flat form; ``options.seed`` is a tensor, or the dropout is 0."""
        by_src = (None,) * len(Rows._fields) if edges.by_src is None else edges.by_src
        seed = options.seed if isinstance(options.seed, Tensor) else None
        numbers = (edges.num_ids, options.negative_slope, options.dropout, seed)
        return cls._make((*inputs, *edges.by_dst, *by_src, *numbers))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors there are, by name."""
        return {
            name: value
            for name, value in zip(self._fields, self, strict=True)
            if isinstance(value, Tensor)
        }

    @property
    def inputs(self) -> Inputs:
        return Inputs(
            self.x_src, self.x_dst, self.att, self.edge_attr, self.edge_weight, self.attn_bias
        )

    @property
    def by_dst(self) -> Rows:
        return Rows(
            self.by_dst_ptr,
            self.by_dst_idx,
            self.by_dst_edge,
            self.by_dst_pieces,
            self.by_dst_cuts,
        )

    @property
    def by_src(self) -> Rows | None:
        ptr, idx, edge = self.by_src_ptr, self.by_src_idx, self.by_src_edge
        pieces, cuts = self.by_src_pieces, self.by_src_cuts
        if ptr is None or idx is None or edge is None or pieces is None or cuts is None:
            return None
        return Rows(ptr, idx, edge, pieces, cuts)

    @property
    def edges(self) -> Edges:
        return Edges(self.by_dst, self.by_src, self.num_ids)

    @property
    def options(self) -> Options:
        return Options(self.negative_slope, self.dropout, 0 if self.seed is None else self.seed)


SCHEMA = ", ".join(
    f"{kind} {name}"
    for name, kind in {
        **dict.fromkeys(Inputs._fields[:3], "Tensor"),
        **dict.fromkeys(Inputs._fields[3:], "Tensor?"),
        **{f"by_dst_{field}": "Tensor" for field in Rows._fields},
        **{f"by_src_{field}": "Tensor?" for field in Rows._fields},
        "num_ids": "SymInt",
        "negative_slope": "float",
        "dropout": "float",
        "seed": "Tensor?",
    }.items()
)
"""The arguments as torch's schema language has them, by the names and in the order of Call."""
