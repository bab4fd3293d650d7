"""Node classification on Cora: the two-layer network of the GAT paper, with GATv2 attention."""

import argparse
import copy

import torch
import torch.nn.functional as F
from torch_geometric.datasets import Planetoid
from torch_geometric.transforms import NormalizeFeatures

from gatv2_pyg import GATv2Conv


class Net(torch.nn.Module):
    def __init__(self, in_channels: int, out_channels: int, hidden: int = 8, heads: int = 8):
        super().__init__()
        self.conv1 = GATv2Conv(in_channels, hidden, heads, dropout=0.6)
        self.conv2 = GATv2Conv(hidden * heads, out_channels, heads=1, dropout=0.6)

    def forward(self, x, edge_index):
        x = F.dropout(x, 0.6, self.training)
        x = F.elu(self.conv1(x, edge_index))
        x = F.dropout(x, 0.6, self.training)
        return self.conv2(x, edge_index)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder with Cora/raw, or for a download")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = Planetoid(args.root, "Cora", transform=NormalizeFeatures())
    data = dataset[0].to(device)
    model = Net(dataset.num_features, dataset.num_classes).to(device)
    print("path:", model.conv1.backend_for(data.x, data.edge_index))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)

    best, weights = 0.0, model.state_dict()
    for epoch in range(1, args.epochs + 1):
        model.train()
        optimizer.zero_grad()
        out = model(data.x, data.edge_index)
        loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
        loss.backward()
        optimizer.step()

        accuracy = test(model, data, data.val_mask)
        if accuracy > best:
            best, weights = accuracy, copy.deepcopy(model.state_dict())
        if epoch % 20 == 0 or epoch == args.epochs:
            print(f"epoch {epoch:3d}  loss {loss.item():.3f}  validation {accuracy:.3f}")

    model.load_state_dict(weights)
    print(f"test accuracy {test(model, data, data.test_mask):.3f}")


@torch.no_grad()
def test(model, data, mask) -> float:
    model.eval()
    out = model(data.x, data.edge_index)
    return float((out[mask].argmax(dim=-1) == data.y[mask]).float().mean())


if __name__ == "__main__":
    main()
