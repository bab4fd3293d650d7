"""A generated citation graph of Cora's size, for machines where Cora can't be had."""

from __future__ import annotations

from typing import Any

import torch

# Papers per class, links, words and mean words per paper of Cora.
CLASS_SIZES = (351, 217, 418, 818, 426, 298, 180)
NUM_LINKS = 5278
NUM_WORDS = 1433
WORDS_PER_PAPER = 18
HOMOPHILY = 0.81
TOPIC_SHARE = 0.22


def citation_graph(seed: int = 0) -> Any:
    """A degree-corrected planted partition with class-dependent words.

    2708 nodes, 2 × 5278 directed edges (81 % within a class, skewed degrees), 1433 binary features
    row-normalised, 7 classes, masks as in the public split (20 a class, 500, 1000).
    """
    from torch_geometric.data import Data

    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(CLASS_SIZES)
    num_nodes, num_classes = int(sizes.sum()), len(sizes)
    y = torch.repeat_interleave(torch.arange(num_classes), sizes)
    y = y[torch.randperm(num_nodes, generator=generator)]

    edge_index = _links(y, generator)
    x = _words(y, num_classes, generator)
    masks = _masks(y, num_classes, generator)
    return Data(x=x, y=y, edge_index=edge_index, **masks)


def _links(y: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    from torch_geometric.utils import coalesce

    num_nodes = y.numel()
    popularity = torch.rand(num_nodes, generator=generator).clamp(min=1e-3) ** -0.5
    same_class = popularity * (y[:, None] == y[None, :])
    links = torch.empty(2, 0, dtype=torch.long)
    while links.size(1) < NUM_LINKS:
        i = torch.multinomial(popularity, NUM_LINKS, replacement=True, generator=generator)
        inside = torch.multinomial(same_class[i], 1, generator=generator).squeeze(1)
        anywhere = torch.multinomial(popularity, NUM_LINKS, replacement=True, generator=generator)
        keep = torch.rand(NUM_LINKS, generator=generator) < HOMOPHILY
        j = torch.where(keep, inside, anywhere)
        pairs = torch.stack([torch.minimum(i, j), torch.maximum(i, j)])[:, i != j]
        links = coalesce(torch.cat([links, pairs], dim=1))
    links = links[:, torch.randperm(links.size(1), generator=generator)[:NUM_LINKS]]
    return coalesce(torch.cat([links, links.flip(0)], dim=1))


def _words(y: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    common = torch.rand(NUM_WORDS, generator=generator) ** 2
    topical = torch.rand(num_classes, NUM_WORDS, generator=generator) ** 12
    common, topical = common / common.sum(), topical / topical.sum(dim=1, keepdim=True)
    weight = (1 - TOPIC_SHARE) * common + TOPIC_SHARE * topical[y]
    chosen = torch.multinomial(weight, WORDS_PER_PAPER, generator=generator)
    x = torch.zeros(y.numel(), NUM_WORDS).scatter_(1, chosen, 1.0)
    return x / x.sum(dim=1, keepdim=True)


def _masks(
    y: torch.Tensor, num_classes: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    order = torch.randperm(y.numel(), generator=generator)
    train = torch.cat([order[y[order] == label][:20] for label in range(num_classes)])
    rest = order[~torch.isin(order, train)]
    chosen = {"train_mask": train, "val_mask": rest[:500], "test_mask": rest[500:1500]}
    masks = {}
    for name, nodes in chosen.items():
        masks[name] = torch.zeros(y.numel(), dtype=torch.bool)
        masks[name][nodes] = True
    return masks
