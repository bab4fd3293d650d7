"""Regression on molecules: solubility (ESOL) from atoms and bonds, with edge features.

PyG reads the molecules with rdkit; without it this example says so and ends.
"""

import argparse
import importlib.util

import torch
import torch.nn.functional as F
from torch_geometric.datasets import MoleculeNet
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_add_pool

from gatv2_pyg import GATv2Conv


class Net(torch.nn.Module):
    def __init__(self, atom_features: int, bond_features: int, hidden: int = 16, heads: int = 4):
        super().__init__()
        width = hidden * heads
        self.lin = torch.nn.Linear(atom_features, width)
        self.convs = torch.nn.ModuleList(
            GATv2Conv(width, hidden, heads, edge_dim=bond_features, residual=True) for _ in range(3)
        )
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(width) for _ in range(3))
        self.out = torch.nn.Sequential(
            torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )

    def forward(self, data):
        x, edge_attr = self.lin(data.x.float()), data.edge_attr.float()
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x, data.edge_index, edge_attr)))
        return self.out(global_add_pool(x, data.batch, data.num_graphs) / 10)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder with esol/raw, or for a download")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    if importlib.util.find_spec("rdkit") is None:
        print("skipped: PyG reads molecules with rdkit, which is missing (pip install rdkit)")
        return

    torch.manual_seed(0)
    dataset = MoleculeNet(args.root, "ESOL").shuffle()
    cut, end = int(0.8 * len(dataset)), int(0.9 * len(dataset))
    train = DataLoader(dataset[:cut], batch_size=64, shuffle=True)
    valid = DataLoader(dataset[cut:end], batch_size=256)
    test = DataLoader(dataset[end:], batch_size=256)
    mean = dataset[:cut].y.mean()

    model = Net(dataset.num_node_features, dataset.num_edge_features)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for epoch in range(1, args.epochs + 1):
        model.train()
        for batch in train:
            optimizer.zero_grad()
            F.mse_loss(model(batch), batch.y - mean).backward()
            optimizer.step()
        if epoch % 10 == 0 or epoch == args.epochs:
            errors = error(model, train, mean), error(model, valid, mean)
            print("epoch {:3d}  RMSE: training {:.3f}, validation {:.3f}".format(epoch, *errors))
    print(f"test RMSE {error(model, test, mean):.3f} log mol/L")


@torch.no_grad()
def error(model, loader, mean) -> float:
    model.eval()
    squares = [(model(batch) + mean - batch.y).square() for batch in loader]
    return float(torch.cat(squares).mean().sqrt())


if __name__ == "__main__":
    main()
