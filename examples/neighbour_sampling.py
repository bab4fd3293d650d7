"""Mini-batches of sampled neighbourhoods on Tolokers (11,758 workers, a million edges).

PyG's NeighborLoader needs torch_sparse or pyg-lib.  Where neither is there, this example says so
and trains on random parts of the graph instead.  Only pyg-lib counts hops, for trim_to_layer.
"""

import argparse

import torch
import torch.nn.functional as F
import torch_geometric.typing as installed
from torch_geometric.datasets import HeterophilousGraphDataset
from torch_geometric.loader import NeighborLoader, RandomNodeLoader
from torch_geometric.utils import trim_to_layer

from gatv2_pyg import GATv2Conv

CAN_SAMPLE = installed.WITH_TORCH_SPARSE or installed.WITH_PYG_LIB


class Net(torch.nn.Module):
    def __init__(self, in_channels: int, hidden: int = 16, heads: int = 4):
        super().__init__()
        width = hidden * heads
        self.conv1 = GATv2Conv(in_channels, hidden, heads, residual=True)
        self.conv2 = GATv2Conv(width, hidden, heads, residual=True)
        self.lin = torch.nn.Linear(width, 1)

    def forward(self, x, edge_index, num_nodes=None, num_edges=None):
        for layer, conv in enumerate((self.conv1, self.conv2)):
            if num_nodes is not None:  # hops that no later layer needs are left out
                x, edge_index, _ = trim_to_layer(layer, num_nodes, num_edges, x, edge_index)
            x = F.elu(conv(x, edge_index))
        return self.lin(x).squeeze(-1)


def batches(data, mask, batch_size: int):
    """Yields (output-giving function's arguments, rows that count, their labels)."""
    if CAN_SAMPLE:
        loader = NeighborLoader(
            data, [15, 10], input_nodes=mask, batch_size=batch_size, shuffle=True
        )
        for batch in loader:
            counts = ("num_sampled_nodes", "num_sampled_edges")  # torch_sparse gives none
            hops = (getattr(batch, count, None) for count in counts)
            rows = slice(0, batch.batch_size)
            yield (batch.x, batch.edge_index, *hops), rows, batch.y[rows]
    else:
        for batch in RandomNodeLoader(data, num_parts=8, shuffle=True):
            rows = batch.train
            yield (batch.x, batch.edge_index), rows, batch.y[rows]


def area_under_curve(score, label) -> float:
    """The probability that a positive node scores higher than a negative one (no ties)."""
    rank = score.argsort().argsort().double() + 1
    positive = label.bool()
    pos, neg = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - pos * (pos + 1) / 2) / (pos * neg))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--root", default="data", help="folder with tolokers/raw, or for a download"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=512)
    args = parser.parse_args()
    if not CAN_SAMPLE:
        print("torch_sparse and pyg-lib are missing: random parts instead of sampled neighbours")

    torch.manual_seed(0)
    data = HeterophilousGraphDataset(args.root, "Tolokers")[0]
    data.train, data.test = data.train_mask[:, 0], data.test_mask[:, 0]  # the first of ten splits
    model = Net(data.num_features)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(1, args.epochs + 1):
        model.train()
        total = 0.0
        for arguments, rows, label in batches(data, data.train, args.batch_size):
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(*arguments)[rows], label.float())
            loss.backward()
            optimizer.step()
            total += loss.item() * label.numel()
        print(f"epoch {epoch:2d}  loss {total / int(data.train.sum()):.4f}")

    model.eval()
    with torch.no_grad():
        score = model(data.x, data.edge_index)  # the whole graph at once
    auc = area_under_curve(score[data.test], data.y[data.test])
    print(f"test area under the ROC curve {auc:.3f}")


if __name__ == "__main__":
    main()
