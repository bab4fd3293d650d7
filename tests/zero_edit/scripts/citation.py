"""A two-layer GATv2 on a citation-like graph, as one trains it on Cora."""

import argparse

import torch
import torch.nn.functional as F
from torch_geometric.nn import GATv2Conv
from torch_geometric.utils import erdos_renyi_graph

parser = argparse.ArgumentParser()
parser.add_argument("--hidden_channels", type=int, default=8)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--epochs", type=int, default=5)
args = parser.parse_args()

torch.set_default_dtype(torch.float64)
torch.manual_seed(3)
x = torch.randn(120, 24)
edge_index = erdos_renyi_graph(120, 0.06)
y = torch.randint(5, (120,))
train = torch.rand(120) < 0.5


class Net(torch.nn.Module):
    def __init__(self, in_channels, hidden_channels, out_channels, heads):
        super().__init__()
        self.conv1 = GATv2Conv(in_channels, hidden_channels, heads)
        self.conv2 = GATv2Conv(hidden_channels * heads, out_channels, heads=1, concat=False)

    def forward(self, x, edge_index):
        x = F.dropout(x, p=0.6, training=self.training)
        x = F.elu(self.conv1(x, edge_index))
        x = F.dropout(x, p=0.6, training=self.training)
        return self.conv2(x, edge_index)


model = Net(24, args.hidden_channels, 5, args.heads)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
for _ in range(args.epochs):
    model.train()
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x, edge_index)[train], y[train])
    loss.backward()
    optimizer.step()
    print("loss", repr(float(loss)))
model.eval()
print("loss", repr(float(F.cross_entropy(model(x, edge_index)[~train], y[~train]))))
print("layer", type(model.conv1).__module__)
