"""Kendall's tau-b between many pairs of rankings at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 20  # elements of a temporary


def query_pairs(
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
        path = torch.randint(total, (num_pairs,), generator=generator, device="cpu").to(code.device)
    group, first, second = _unrank_pairs(path, offsets)
    # Queries of a key are ascending, so a pair has one spelling.
    low, high = query[start[group] + first], query[start[group] + second]
    pair, num_paths = torch.unique(low * num_queries + high, return_counts=True)
    return torch.stack([pair // num_queries, pair % num_queries]), num_paths, complete


def kendall_tau_b(
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
