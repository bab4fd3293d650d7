"""Graphs and inputs for the kernel tests, and the error budget they are judged by."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from gatv2_pyg.graph import grouping
from gatv2_pyg.kernels.contract import (
    Edges,
    InputGrads,
    Inputs,
    Needs,
    Options,
    OutputGrads,
    Outputs,
    Rows,
)
from gatv2_pyg.ops import reference


class Problem(NamedTuple):
    """The tensors of one call; floats in float64, to be cast with :func:`cast`."""

    x_src: Tensor
    x_dst: Tensor
    att: Tensor
    edge_attr: Tensor | None
    edge_weight: Tensor | None
    attn_bias: Tensor | None
    by_dst: Rows
    by_src: Rows
    num_ids: int
    grad_out: Tensor
    grad_alpha: Tensor | None
    negative_slope: float
    dropout: float
    seed: int

    @property
    def inputs(self) -> Inputs:
        return Inputs(*self[: len(Inputs._fields)])

    @property
    def edges(self) -> Edges:
        return Edges(self.by_dst, self.by_src, self.num_ids)

    @property
    def options(self) -> Options:
        return Options(self.negative_slope, self.dropout, self.seed)

    @property
    def grads(self) -> OutputGrads:
        return OutputGrads(self.grad_out, self.grad_alpha)

    def forward(self, kernels) -> Outputs:
        """The call's outputs; coefficients where they have a gradient."""
        return kernels.forward(self.inputs, self.edges, self.options, self.grad_alpha is not None)

    def backward(self, kernels, outputs: Outputs, needs: Needs | None = None) -> InputGrads:
        """The call's gradients, all of them unless ``needs`` says otherwise."""
        needs = needs or Needs(*(value is not None for value in self.inputs))
        return kernels.backward(self.grads, self.inputs, outputs, self.edges, self.options, needs)


@dataclasses.dataclass(frozen=True)
class Case:
    """What to build a :class:`Problem` from."""

    heads: int = 2
    channels: int = 16
    num_src: int = 40
    num_dst: int = 40
    num_edges: int = 200
    edge_dim: int | None = None
    self_loops: bool = False
    dropout: float = 0.0
    negative_slope: float = 0.2
    grad_alpha: bool = False
    hub: int = 0
    """So many edges more point to destination 1, and so many leave source 2."""
    scale: float = 1.0
    bias: str | None = None
    """A bias by ``"edge"``, or by edge and ``"head"``; a third of them is -inf, all of those of
    destination 0, and there is none for self-loops."""
    batch: int | None = None
    """The size of a batch dimension."""
    blocks: int = 1
    """Ranges of destinations that the edges by source are cut into."""
    index_dtype: torch.dtype = torch.int32
    seed: int = 0

    def __str__(self) -> str:
        default = Case()
        return (
            "-".join(
                f"{field.name}={getattr(self, field.name)}"
                for field in dataclasses.fields(self)
                if getattr(self, field.name) != getattr(default, field.name)
            )
            or "default"
        )


def rows_of(src: Tensor, dst: Tensor, case: Case) -> tuple[Rows, Rows]:
    """The two groupings, by the torch implementation."""
    by_dst = grouping.group_by_dst(src, dst, case.num_src, case.num_dst, case.self_loops)
    by_src = grouping.transpose(*by_dst[:2], case.num_src, case.blocks)
    return tuple(
        Rows(
            *(
                part.to(case.index_dtype)
                for part in (*rows, *grouping.cut_rows(rows[0], rows[1].numel()))
            )
        )
        for rows in (by_dst, by_src)
    )


def build(case: Case) -> Problem:
    """The problem of a case: the last fifth of the destinations stay isolated."""
    rng = torch.Generator().manual_seed(case.seed)

    def randn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    def randint(high, size):
        return torch.randint(max(high, 1), (size,), generator=rng)

    heads, channels = case.heads, case.channels
    src = randint(case.num_src, case.num_edges)
    dst = randint(case.num_dst - case.num_dst // 5, case.num_edges)
    if case.hub:
        src = torch.cat([src, randint(case.num_src, case.hub), torch.full((case.hub,), 2)])
        dst = torch.cat([dst, torch.full((case.hub,), 1), randint(case.num_dst, case.hub)])
    order = torch.randperm(src.numel(), generator=rng)
    by_dst, by_src = rows_of(src[order], dst[order], case)
    num_ids = src.numel() + (min(case.num_src, case.num_dst) if case.self_loops else 0)
    edge_attr = edge_weight = None
    if case.edge_dim is not None:
        edge_attr = randn(num_ids, case.edge_dim)
        edge_weight = randn(heads * channels, case.edge_dim) / max(case.edge_dim, 1) ** 0.5
    attn_bias = None
    if case.bias is not None:
        shape = src.numel(), heads if case.bias == "head" else 1
        attn_bias = randn(*shape)
        masked = torch.rand(shape, generator=rng) < 1 / 3
        masked |= (dst[order] == 0).unsqueeze(1)
        attn_bias = attn_bias.masked_fill(masked, -torch.inf)
    lead = () if case.batch is None else (case.batch,)
    return Problem(
        x_src=case.scale * randn(*lead, case.num_src, heads, channels),
        x_dst=case.scale * randn(*lead, case.num_dst, heads, channels),
        att=randn(heads, channels) / channels**0.5,
        edge_attr=edge_attr,
        edge_weight=edge_weight,
        attn_bias=attn_bias,
        by_dst=by_dst,
        by_src=by_src,
        num_ids=num_ids,
        grad_out=randn(*lead, case.num_dst, heads, channels),
        grad_alpha=randn(*lead, num_ids, heads) if case.grad_alpha else None,
        negative_slope=case.negative_slope,
        dropout=case.dropout,
        seed=0x1234_5678_9ABC_DEF0 + case.seed,
    )


def cast(problem: Problem, dtype: torch.dtype, device: str = "cpu") -> Problem:
    """The problem in a dtype (weights, biases, ``grad_alpha`` in the accumulation dtype)."""
    acc = reference.accumulation_dtype(dtype)
    kept = dict.fromkeys(("att", "edge_weight", "attn_bias", "grad_alpha"), acc)

    def move(name, value):
        if isinstance(value, Rows):
            return Rows(*(part.to(device) for part in value))
        if isinstance(value, Tensor):
            return value.to(device, kept.get(name, dtype))
        return value

    return Problem(**{name: move(name, value) for name, value in problem._asdict().items()})


def run(kernels, problem: Problem) -> dict[str, Tensor]:
    """Outputs and all gradients of a call, by name."""
    outputs = problem.forward(kernels)
    grads = problem.backward(kernels, outputs)
    results = outputs._asdict()
    results |= {f"grad {name}": grad for name, grad in grads._asdict().items()}
    return {name: value for name, value in results.items() if value is not None}


def exact(problem: Problem) -> dict[str, Tensor]:
    """The reference's results in float64, for the problem's values as they were rounded."""
    return run(reference, cast(problem, torch.float64, "cpu"))


def by_autograd(problem: Problem) -> dict[str, Tensor]:
    """The gradients that autograd takes from the reference's outputs, as it does in PyG's layer."""
    leaves = [None if v is None else v.clone().requires_grad_() for v in problem.inputs]
    outputs = problem._replace(**Inputs(*leaves)._asdict()).forward(reference)
    given = [(outputs.out, problem.grad_out), (outputs.alpha, problem.grad_alpha)]
    ends = [(value, grad.to(value.dtype)) for value, grad in given if value is not None]
    wanted = {name: v for name, v in zip(Inputs._fields, leaves, strict=True) if v is not None}
    values, of_values = zip(*ends, strict=True)
    grads = torch.autograd.grad(values, list(wanted.values()), of_values)
    return {f"grad {name}": grad for name, grad in zip(wanted, grads, strict=True)}


def assert_within_budget(
    problem: Problem,
    got: dict[str, Tensor],
    factor: float = 2.0,
    scale: float = 1e-20,
    beside_autograd: bool = False,
) -> None:
    """Every result errs by at most ``factor`` times what the reference loses in that dtype.

    Args:
        scale: that of the terms which a result may be the small difference of.
        beside_autograd: or by as many times what :func:`by_autograd` loses, where that is more.
    """
    rounded = cast(problem, problem.x_src.dtype, "cpu")
    truth, peer = exact(problem), run(reference, rounded)
    beside = by_autograd(rounded) if beside_autograd else {}
    assert got.keys() == truth.keys()
    for name, value in got.items():
        value, want = value.cpu().double(), truth[name]
        assert value.shape == want.shape, name
        assert torch.equal(value.isinf(), want.isinf()), name
        finite = want.isfinite()
        value, want = value[finite], want[finite]
        others = [peer[name].double()[finite], beside.get(name, peer[name]).double()[finite]]
        if value.numel() == 0:
            continue
        assert value.isfinite().all(), f"{name} has NaN or infinite values"
        eps = torch.finfo(got[name].dtype).eps
        lost = max((other - want).abs().max() for other in others)
        budget = factor * lost + 8 * eps * (want.abs().max() + scale)
        error = (value - want).abs().max()
        assert error <= budget, f"{name}: error {error:.3g} is over the budget {budget:.3g}"
