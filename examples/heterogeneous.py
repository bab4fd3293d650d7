"""Two kinds of nodes: Cora as papers that cite papers and contain words.

Two ways to a heterogeneous network, both with sizes that the first call finds (-1):
``to_hetero`` turns an ordinary model into one, ``HeteroConv`` holds a layer for each kind of edge.
"""

import argparse

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.datasets import Planetoid
from torch_geometric.nn import HeteroConv, Linear, to_hetero

from gatv2_pyg import GATv2Conv


class Homogeneous(torch.nn.Module):
    """For one kind of nodes; between two kinds are no self-loops: linear maps keep a node."""

    def __init__(self, out_channels: int):
        super().__init__()
        self.conv1 = GATv2Conv((-1, -1), 8, heads=4, dropout=0.3, add_self_loops=False)
        self.lin1 = Linear(-1, 32)
        self.dropout = torch.nn.Dropout(0.5)  # a module: its mode outlives the conversion
        self.conv2 = GATv2Conv((-1, -1), out_channels, add_self_loops=False)
        self.lin2 = Linear(-1, out_channels)

    def forward(self, x, edge_index):
        x = F.elu(self.conv1(x, edge_index) + self.lin1(x))
        x = self.dropout(x)
        return self.conv2(x, edge_index) + self.lin2(x)


class ByEdgeType(torch.nn.Module):
    def __init__(self, edge_types, out_channels: int):
        super().__init__()
        options = {"add_self_loops": False, "residual": True}
        self.convs = torch.nn.ModuleList(
            HeteroConv({kind: GATv2Conv((-1, -1), 8, heads=4, **options) for kind in edge_types})
            for _ in range(2)
        )
        self.lin = Linear(-1, out_channels)

    def forward(self, x, edge_index):
        for conv in self.convs:
            x = {kind: F.elu(value) for kind, value in conv(x, edge_index).items()}
            x = {kind: F.dropout(value, 0.5, self.training) for kind, value in x.items()}
        return {"paper": self.lin(x["paper"])}


def papers_and_words(root: str) -> tuple[HeteroData, int]:
    cora = Planetoid(root, "Cora")
    paper, word = cora[0].x.nonzero().t()
    data = HeteroData()
    data["paper"].update({key: cora[0][key] for key in ("y", "train_mask", "test_mask")})
    data["paper"].x = cora[0].x
    data["word"].x = torch.randn(cora.num_features, 32)
    data["paper", "cites", "paper"].edge_index = cora[0].edge_index
    data["paper", "contains", "word"].edge_index = torch.stack([paper, word])
    data["word", "is_in", "paper"].edge_index = torch.stack([word, paper])
    return data, cora.num_classes


def train(model, data, epochs: int) -> float:
    with torch.no_grad():
        model(data.x_dict, data.edge_index_dict)  # finds the lazy sizes
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
    paper = data["paper"]
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        x = {kind: F.dropout(value, 0.6) for kind, value in data.x_dict.items()}
        out = model(x, data.edge_index_dict)["paper"]
        F.cross_entropy(out[paper.train_mask], paper.y[paper.train_mask]).backward()
        optimizer.step()
    found = model.eval()(data.x_dict, data.edge_index_dict)["paper"].argmax(dim=-1)
    return float((found == paper.y)[paper.test_mask].float().mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder with Cora/raw, or for a download")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    torch.manual_seed(0)
    data, classes = papers_and_words(args.root)
    print(data)
    models = {
        "to_hetero": to_hetero(Homogeneous(classes), data.metadata(), aggr="sum"),
        "HeteroConv": ByEdgeType(data.edge_types, classes),
    }
    for name, model in models.items():
        print(f"{name}: test accuracy {train(model, data, args.epochs):.3f}")


if __name__ == "__main__":
    main()
