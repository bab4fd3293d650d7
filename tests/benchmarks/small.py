"""A data set small enough for tests."""

from __future__ import annotations

import torch
from torch_geometric.data import Data

from benchmarks.datasets import data


def small_dataset(name: str, root: object = None) -> data.Dataset:
    """A two-class random graph under any name, with ten splits where the real one has them."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(40, 5, generator=generator) + y[:, None]
    source, target = torch.randint(40, (2, 60), generator=generator)
    edge_index = torch.stack([torch.cat([source, target]), torch.cat([target, source])])
    masks = torch.zeros(3, 40, dtype=torch.bool)
    for number in range(3):
        masks[number, number * 12 : number * 12 + 12] = True
    shape = (40, 10) if name in data.HETEROPHILOUS else (40,)
    masks = masks.unsqueeze(-1).expand(3, 40, 10) if len(shape) == 2 else masks
    graph = Data(
        x=x,
        y=y,
        edge_index=edge_index,
        train_mask=masks[0],
        val_mask=masks[1],
        test_mask=masks[2],
    )
    return data.Dataset(name, graph, 2)


def small_molecules(root: object = None) -> list[Data]:
    """Twenty rings with integer features, as ESOL has them; the target is their size."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(20):
        atoms = 3 + number % 5
        source = torch.arange(atoms)
        target = (source + 1) % atoms
        found.append(
            Data(
                x=torch.randint(4, (atoms, 9), generator=generator),
                edge_index=torch.stack([torch.cat([source, target]), torch.cat([target, source])]),
                edge_attr=torch.randint(3, (2 * atoms, 3), generator=generator),
                y=torch.tensor([[float(atoms)]]),
            )
        )
    return found
