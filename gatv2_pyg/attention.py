"""What attention does: entropy, static or dynamic ranking, strongest edges, on any model.

Every measure takes `edge_index` ([2, E]; row 0 the keys j, row 1 the queries i that attend to them,
PyG's source-to-target order) and `alpha` ([E, H], or [E] for one head), as returned by an attention
layer under `return_attention_weights=True` or gathered from a whole model by `collect_attention`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import is_sparse, scatter, to_edge_index

__all__ = [
    "AttentionWeights",
    "RankAgreement",
    "attention_entropy",
    "attention_matrix",
    "collect_attention",
    "mean_attention_entropy",
    "rank_agreement",
    "top_k_edges",
]

_CHUNK = 1 << 20  # elements of a temporary


class AttentionWeights(NamedTuple):
    """The attention of one call of one layer.

    Attributes:
        name: the layer's name in the model (`""` if the model is the layer).
        edge_index: [2, E] edges the layer attended over, self-loops it added included; row 0 the
            keys, row 1 the queries, whatever the layer's `flow`.
        alpha: [E, H] attention weights, in the same order.
    """

    name: str
    edge_index: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class RankAgreement:
    """Kendall's tau-b between the rankings that pairs of queries give to the keys they share.

    Attributes:
        queries: [2, P] the pairs of queries.
        num_shared: [P] how many keys the two share (at least two).
        tau: [P, H] tau-b in [-1, 1]: 1 the same ranking, -1 the reverse. NaN if one of the two
            gives all shared keys the same weight.
        weight: [P] weight of the pair that makes `mean` an estimate over all pairs of queries;
            all ones if every pair was compared.
    """

    queries: Tensor
    num_shared: Tensor
    tau: Tensor
    weight: Tensor

    def mean(self) -> Tensor:
        """[H] mean of tau over the pairs of queries, NaN left out (NaN if nothing is left)."""
        return _weighted_mean(self.tau, self.weight)


def attention_entropy(
    edge_index: Tensor, alpha: Tensor, num_nodes: int | None = None, *, normalize: bool = False
) -> Tensor:
    """Entropy of each query's attention: -Σ_j α_ij ln α_ij, in nats.

    Args:
        edge_index: [2, E] integer edges, row 1 the queries. Parallel edges count as separate keys.
        alpha: [E, H] or [E] weights that sum to 1 over the edges of each query.
        num_nodes: number of queries N; the largest query plus one if not given.
        normalize: divide by ln(number of the query's edges), its largest possible value, so that
            0 is attention to a single key and 1 is uniform attention.

    Returns:
        [N, H] entropies (float32 for half-precision weights). NaN where undefined: for a query
        without edges, and with `normalize` for a query with one edge.

    Raises:
        ValueError: on wrong shapes or indices, or if some query's weights do not sum to 1 (as with
            dropout on the weights: collect them in evaluation mode).
        TypeError: on wrong dtypes.
    """
    edge_index, alpha = _check(edge_index, alpha)
    query = edge_index[1]
    size = _num_nodes(query, num_nodes, "num_nodes")
    degree = torch.bincount(query, minlength=size)
    _check_distribution(query, alpha, degree)

    if alpha.dtype in (torch.float16, torch.bfloat16):
        alpha = alpha.float()
    entropy = alpha.new_zeros(size, alpha.size(1)).index_add_(0, query, torch.special.entr(alpha))
    undefined = degree < 1
    if normalize:
        entropy = entropy / degree.clamp(min=2).to(alpha.dtype).log().unsqueeze(1)
        undefined = degree < 2
    return entropy.masked_fill(undefined.unsqueeze(1), float("nan"))


def mean_attention_entropy(
    edge_index: Tensor,
    alpha: Tensor,
    num_nodes: int | None = None,
    *,
    normalize: bool = False,
    weight: str | Tensor = "node",
) -> Tensor:
    """Mean of `attention_entropy` over the queries where it is defined.

    Args:
        edge_index, alpha, num_nodes, normalize: as for `attention_entropy`.
        weight: `"node"` (every query counts the same), `"degree"` (every edge counts the same), or
            a tensor [N] of non-negative weights.

    Returns:
        [H] mean entropies; NaN if no query has any weight.

    Raises:
        ValueError: on an unknown or wrongly shaped `weight`; otherwise as `attention_entropy`.
    """
    entropy = attention_entropy(edge_index, alpha, num_nodes, normalize=normalize)
    size = entropy.size(0)
    if isinstance(weight, Tensor):
        if weight.shape != (size,) or (weight.numel() and float(weight.detach().min()) < 0):
            raise ValueError(
                f"'weight' must hold {size} non-negative numbers, one for each query, but has "
                f"shape {tuple(weight.shape)}"
            )
    elif weight == "node":
        weight = entropy.new_ones(size)
    elif weight == "degree":
        weight = torch.bincount(edge_index[1], minlength=size)
    else:
        raise ValueError(f"'weight' must be 'node', 'degree' or a tensor, not {weight!r}")
    return _weighted_mean(entropy, weight)


def rank_agreement(
    edge_index: Tensor,
    alpha: Tensor,
    *,
    num_pairs: int = 10_000,
    rtol: float = 0.0,
    generator: torch.Generator | None = None,
) -> RankAgreement:
    """How much the ranking of keys depends on the query: static or dynamic attention.

    Attention is static if all queries rank the keys alike, and dynamic if every query may have its
    own ranking (Brody, Alon, Yahav, "How Attentive are Graph Attention Networks?", ICLR 2022,
    section 3). For pairs of queries that share at least two keys, this is Kendall's tau-b between
    the weights that the two give to the shared keys. Softmax is monotonic, so ranking weights is
    ranking scores. GAT's tau is 1 up to rounding, by its theorem 1; tau far below 1 is dynamic.

    All pairs of queries are compared if that takes at most `num_pairs` (query, key, query) paths;
    otherwise `num_pairs` such paths are drawn uniformly with replacement, and the weights in the
    result correct for pairs with many shared keys being drawn more often.

    Args:
        edge_index: [2, E] integer edges, row 0 the keys, row 1 the queries.
        alpha: [E, H] or [E] weights or scores. Of parallel edges the strongest counts.
        num_pairs: how many paths to draw at most. Time and memory grow with the square of the
            number of keys that a pair shares.
        rtol: two weights are tied if they differ by at most `rtol` times the larger magnitude.
        generator: random number generator, on the CPU, for a reproducible draw.

    Returns:
        A `RankAgreement`; its `mean()` is the measure, one number for each head.

    Raises:
        ValueError: on wrong shapes or indices, `num_pairs` < 1, or a negative `rtol`.
        TypeError: on wrong dtypes.
    """
    edge_index, alpha = _check(edge_index, alpha)
    if num_pairs < 1:
        raise ValueError(f"'num_pairs' must be at least 1, not {num_pairs}")
    if not rtol >= 0:
        raise ValueError(f"'rtol' must not be negative, but is {rtol}")
    num_keys = _num_nodes(edge_index[0], None, "num_nodes")
    num_queries = _num_nodes(edge_index[1], None, "num_nodes")

    code, inverse = torch.unique(edge_index[1] * num_keys + edge_index[0], return_inverse=True)
    alpha = scatter(alpha.detach(), inverse, dim_size=code.numel(), reduce="max")

    queries, num_paths, complete = _query_pairs(code, num_keys, num_queries, num_pairs, generator)
    tau, num_shared = _kendall_tau_b(code, alpha, queries, num_keys, num_queries, rtol)
    weight = torch.ones_like(num_paths) if complete else num_paths / num_shared
    keep = num_shared >= 2
    return RankAgreement(
        queries[:, keep], num_shared[keep], tau[keep], weight[keep].to(torch.float64)
    )


def top_k_edges(edge_index: Tensor, alpha: Tensor, k: int, num_nodes: int | None = None) -> Tensor:
    """The k strongest edges of each query and head.

    Args:
        edge_index: [2, E] integer edges, row 1 the queries.
        alpha: [E, H] or [E] attention weights.
        k: how many edges for each query.
        num_nodes: number of queries N; the largest query plus one if not given.

    Returns:
        [N, k, H] positions in `edge_index`, strongest first (among equals the earlier edge first);
        -1 where a query has fewer than k edges.

    Raises:
        ValueError: on wrong shapes or indices, or `k` < 1.
        TypeError: on wrong dtypes.
    """
    edge_index, alpha = _check(edge_index, alpha)
    if k < 1:
        raise ValueError(f"'k' must be at least 1, not {k}")
    query = edge_index[1]
    size = _num_nodes(query, num_nodes, "num_nodes")
    degree = torch.bincount(query, minlength=size)
    start = degree.cumsum(0) - degree

    order = alpha.argsort(dim=0, descending=True, stable=True)
    order = order.gather(0, query[order].argsort(dim=0, stable=True))
    row = query[order]
    rank = torch.arange(query.numel(), device=query.device).unsqueeze(1) - start[row]
    head = torch.arange(alpha.size(1), device=query.device).expand_as(row)
    keep = rank < k
    top = query.new_full((size, k, alpha.size(1)), -1)
    top[row[keep], rank[keep], head[keep]] = order[keep]
    return top


def attention_matrix(
    edge_index: Tensor, alpha: Tensor, size: tuple[int, int] | None = None
) -> Tensor:
    """Attention as dense matrices, for small graphs and for heat maps.

    Args:
        edge_index: [2, E] integer edges, row 0 the keys, row 1 the queries.
        alpha: [E, H] or [E] attention weights.
        size: (number of keys, number of queries), PyG's (source, destination) order; the largest
            indices plus one if not given.

    Returns:
        [H, queries, keys] weights; 0 where there is no edge, the sum where there are several.

    Raises:
        ValueError: on wrong shapes or indices.
        TypeError: on wrong dtypes.
    """
    edge_index, alpha = _check(edge_index, alpha)
    num_keys = _num_nodes(edge_index[0], None if size is None else size[0], "size[0]")
    num_queries = _num_nodes(edge_index[1], None if size is None else size[1], "size[1]")
    matrix = alpha.new_zeros(num_queries * num_keys, alpha.size(1))
    matrix = matrix.index_add(0, edge_index[1] * num_keys + edge_index[0], alpha)
    return matrix.t().reshape(-1, num_queries, num_keys)


@contextmanager
def collect_attention(
    model: torch.nn.Module, *, detach: bool = True
) -> Iterator[list[AttentionWeights]]:
    """Collect the attention weights of all attention layers while a model runs.

    Inside the `with` block every `MessagePassing` layer in the model whose `forward` takes
    `return_attention_weights` (`GATConv`, both `GATv2Conv`, `TransformerConv`, ...) is asked for
    its weights, and the answer is taken out of its output again: the model computes what it
    computes without it. On leaving, the model is as it was before.

        with collect_attention(model.eval()) as layers:
            out = model(x, edge_index)
        for layer in layers:
            print(layer.name, mean_attention_entropy(layer.edge_index, layer.alpha))

    In training mode the weights are those after dropout. A call that passes
    `return_attention_weights` itself keeps its own result and is collected if that has weights.

    Args:
        model: the model, or a single layer.
        detach: collect weights cut off from autograd; `False` keeps their graph (and its memory).

    Yields:
        A list that gets an `AttentionWeights` for each call of a layer, in order of the calls.

    Raises:
        ValueError: if the model has no attention layer.
    """
    layers = {
        name: module for name, module in model.named_modules() if _takes_attention_request(module)
    }
    if not layers:
        raise ValueError(
            "'model' has no attention layer: no MessagePassing module in "
            f"{type(model).__name__} takes 'return_attention_weights'"
        )
    collected: list[AttentionWeights] = []
    handles: list[RemovableHandle] = []
    try:
        for name, module in layers.items():
            handles.extend(_observe(name, module, collected, detach))
        yield collected
    finally:
        for handle in handles:
            handle.remove()


_REQUEST = "return_attention_weights"


def _takes_attention_request(module: torch.nn.Module) -> bool:
    return isinstance(module, MessagePassing) and _REQUEST in (
        inspect.signature(module.forward).parameters
    )


def _observe(
    name: str, module: torch.nn.Module, collected: list[AttentionWeights], detach: bool
) -> tuple[RemovableHandle, RemovableHandle]:
    position = list(inspect.signature(module.forward).parameters).index(_REQUEST)
    asked: list[bool] = []

    def ask(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = args[position] if len(args) > position else kwargs.get(_REQUEST)
        asked.append(given is None)
        if given is None and len(args) > position:
            args = (*args[:position], True, *args[position + 1 :])
        elif given is None:
            kwargs = {**kwargs, _REQUEST: True}
        return args, kwargs

    def take(_: Any, args: Any, output: Any) -> Any:
        ours = asked.pop()
        if not isinstance(output, tuple):
            return None
        collected.append(_weights(name, module, output[1], detach))
        return output[0] if ours else None

    # The request is added after, and taken out before, all hooks of the user.
    return (
        module.register_forward_pre_hook(ask, with_kwargs=True),
        module.register_forward_hook(take, prepend=True),
    )


def _weights(name: str, module: Any, answer: Any, detach: bool) -> AttentionWeights:
    edges, alpha = answer if isinstance(answer, tuple) else (answer, None)
    if is_sparse(edges):
        transposed, alpha = to_edge_index(edges)  # of the transposed adjacency: (query, key)
        edge_index = transposed.flip(0)
    elif module.flow == "target_to_source":
        edge_index = edges.flip(0)
    else:
        edge_index = edges
    if alpha.dim() == 1:
        alpha = alpha.unsqueeze(1)
    if detach:
        alpha = alpha.detach()
    return AttentionWeights(name, edge_index.as_subclass(Tensor), alpha)


def _query_pairs(
    code: Tensor,
    num_keys: int,
    num_queries: int,
    num_pairs: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, bool]:
    """Pairs of queries that share a key, how many paths led to each, and whether these are all."""
    key, query = code % num_keys, code // num_keys
    order = key.argsort(stable=True)
    query = query[order]
    degree = torch.bincount(key, minlength=num_keys)
    start = degree.cumsum(0) - degree
    offsets = _pair_offsets(degree)

    total = int(offsets[-1])
    complete = total <= num_pairs
    if complete:
        path = torch.arange(total, device=code.device)
    else:
        path = torch.randint(total, (num_pairs,), generator=generator).to(code.device)
    group, first, second = _unrank_pairs(path, offsets)
    # Queries of a key are ascending, so a pair has one spelling.
    low, high = query[start[group] + first], query[start[group] + second]
    pair, num_paths = torch.unique(low * num_queries + high, return_counts=True)
    return torch.stack([pair // num_queries, pair % num_queries]), num_paths, complete


def _kendall_tau_b(
    code: Tensor, alpha: Tensor, queries: Tensor, num_keys: int, num_queries: int, rtol: float
) -> tuple[Tensor, Tensor]:
    """tau-b [P, H] (NaN for fewer than two shared keys) and the number of shared keys [P]."""
    degree = torch.bincount(code // num_keys, minlength=num_queries)
    start = degree.cumsum(0) - degree
    smaller = degree[queries[0]] <= degree[queries[1]]
    few = torch.where(smaller, queries[0], queries[1])
    many = torch.where(smaller, queries[1], queries[0])

    tau = alpha.new_full((queries.size(1), alpha.size(1)), float("nan"), dtype=torch.float64)
    num_shared = torch.zeros_like(few)
    for begin, end in _spans(degree[few], _CHUNK):
        size = degree[few[begin:end]]
        pair = torch.repeat_interleave(size)
        within = torch.arange(pair.numel(), device=code.device) - (size.cumsum(0) - size)[pair]
        mine = start[few[begin:end]][pair] + within
        wanted = many[begin:end][pair] * num_keys + code[mine] % num_keys
        other = torch.searchsorted(code, wanted).clamp(max=code.numel() - 1)
        shared = code[other] == wanted
        num_shared[begin:end] = torch.bincount(pair[shared], minlength=end - begin)
        tau[begin:end] = _tau_b_of_groups(
            alpha[mine[shared]], alpha[other[shared]], num_shared[begin:end], rtol
        )
    return tau, num_shared


def _tau_b_of_groups(x: Tensor, y: Tensor, sizes: Tensor, rtol: float) -> Tensor:
    """tau-b [G, H] of x against y ([M, H]), rows being grouped in runs of `sizes` ([G])."""
    start = sizes.cumsum(0) - sizes
    offsets = _pair_offsets(sizes)
    counts = torch.zeros(3, sizes.numel(), x.size(1), dtype=torch.int64, device=x.device)
    step = max(1, _CHUNK // max(1, x.size(1)))
    for begin in range(0, int(offsets[-1]), step):
        rank = torch.arange(begin, min(begin + step, int(offsets[-1])), device=x.device)
        group, first, second = _unrank_pairs(rank, offsets)
        first, second = first + start[group], second + start[group]
        sign_x = _sign_of_difference(x[first], x[second], rtol)
        sign_y = _sign_of_difference(y[first], y[second], rtol)
        for count, sign in zip(counts, (sign_x * sign_y, sign_x.abs(), sign_y.abs()), strict=True):
            count.index_add_(0, group, sign)
    concordance, untied_x, untied_y = counts.double()
    return concordance / (untied_x * untied_y).sqrt()  # 0 / 0 is NaN, as it should be


def _sign_of_difference(a: Tensor, b: Tensor, rtol: float) -> Tensor:
    difference = a - b
    sign = difference.sign()
    if rtol > 0:
        sign.masked_fill_(difference.abs() <= rtol * torch.maximum(a.abs(), b.abs()), 0)
    return sign.long()


def _pair_offsets(sizes: Tensor) -> Tensor:
    """[G + 1] running total of the n(n-1)/2 pairs within groups of n members."""
    return torch.nn.functional.pad((sizes * (sizes - 1) // 2).cumsum(0), (1, 0))


def _unrank_pairs(rank: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rank-th pair over all groups: its group and its members first < second."""
    group = torch.searchsorted(offsets, rank, right=True) - 1
    rank = rank - offsets[group]
    second = ((1 + (1 + 8 * rank.double()).sqrt()) / 2).long()
    second -= (second * (second - 1) // 2 > rank).long()  # the root was rounded up
    second += (second * (second + 1) // 2 <= rank).long()  # or down
    return group, rank - second * (second - 1) // 2, second


def _spans(sizes: Tensor, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges over `sizes` that add up to about `limit` each."""
    part = (sizes.cumsum(0) - sizes) // limit
    begin = 0
    for length in torch.unique_consecutive(part, return_counts=True)[1].tolist():
        yield begin, begin + length
        begin += length


def _weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    """Mean over dimension 0 with weights [N], NaN entries left out."""
    weight = weight.to(value.dtype).unsqueeze(1).expand_as(value)
    weight = weight.masked_fill(value.isnan(), 0)
    return (value.nan_to_num() * weight).sum(0) / weight.sum(0)


def _check(edge_index: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Validated arguments: edges as int64, alpha as [E, H]."""
    for name, value in (("edge_index", edge_index), ("alpha", alpha)):
        if not isinstance(value, Tensor):
            raise TypeError(f"'{name}' must be a tensor, not {type(value).__name__}")
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"'edge_index' must have dtype int64 or int32, not {edge_index.dtype}")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(f"'edge_index' must have shape [2, E], not {list(edge_index.shape)}")
    if not alpha.is_floating_point():
        raise TypeError(f"'alpha' must have a floating-point dtype, not {alpha.dtype}")
    num_edges = edge_index.size(1)
    if alpha.dim() not in (1, 2) or alpha.size(0) != num_edges:
        raise ValueError(
            f"'alpha' must have shape [E, H] or [E] with E = {num_edges} edges as in 'edge_index', "
            f"not {list(alpha.shape)}"
        )
    if edge_index.device != alpha.device:
        raise ValueError(
            f"'edge_index' and 'alpha' must be on one device, not on {edge_index.device} and "
            f"{alpha.device}"
        )
    if not bool(alpha.detach().isfinite().all()):
        raise ValueError("'alpha' must be finite, but holds infinite or NaN values")
    if num_edges and int(edge_index.min()) < 0:
        raise ValueError(f"'edge_index' must not be negative, but holds {int(edge_index.min())}")
    edge_index = edge_index.as_subclass(Tensor).long()
    return edge_index, alpha.unsqueeze(1) if alpha.dim() == 1 else alpha


def _num_nodes(index: Tensor, given: int | None, name: str) -> int:
    least = int(index.max()) + 1 if index.numel() else 0
    if given is None:
        return least
    if given < least:
        raise ValueError(
            f"'{name}' is {given}, but 'edge_index' holds index {least - 1}: it must be at least "
            f"{least}"
        )
    return given


def _check_distribution(query: Tensor, alpha: Tensor, degree: Tensor) -> None:
    alpha = alpha.detach()
    total = alpha.new_zeros(degree.numel(), alpha.size(1), dtype=torch.float64)
    total.index_add_(0, query, alpha.double())
    error = (total - 1).abs().masked_fill((degree == 0).unsqueeze(1), 0)
    # Rounding of each weight, and of the sum of the exponentials they were divided by.
    allowed = 1e-4 + 2 * torch.finfo(alpha.dtype).eps * degree.clamp(min=1).sqrt().unsqueeze(1)
    if alpha.numel() and float(alpha.min()) < 0:
        raise ValueError(f"'alpha' must not be negative, but holds {float(alpha.min()):.4g}")
    if bool((error > allowed).any()):
        node, head = divmod(int((error - allowed).argmax()), alpha.size(1))
        raise ValueError(
            f"'alpha' must sum to 1 over the edges of each query, but sums to "
            f"{float(total[node, head]):.4g} for query {node}, head {head} (in training mode "
            "dropout scales the weights: collect them in evaluation mode)"
        )
