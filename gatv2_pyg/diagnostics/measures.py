"""Measures of attention: entropy, static or dynamic ranking, strongest edges.

Every measure takes `edge_index` ([2, E]; row 0 the keys j, row 1 the queries i that attend to them,
PyG's source-to-target order) and `alpha` ([E, H], or [E] for one head), as returned by an attention
layer under `return_attention_weights=True` or gathered from a whole model by `collect_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.utils import scatter

from gatv2_pyg.diagnostics.kendall import kendall_tau_b, query_pairs


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

    queries, num_paths, complete = query_pairs(code, num_keys, num_queries, num_pairs, generator)
    tau, num_shared = kendall_tau_b(code, alpha, queries, num_keys, num_queries, rtol)
    weight = torch.ones_like(num_paths) if complete else num_paths.double() / num_shared
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
