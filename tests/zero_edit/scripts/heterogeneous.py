"""Two kinds of nodes: HeteroConv with lazy sizes, and a homogeneous model made heterogeneous."""

import torch
import torch_geometric.transforms as T
from torch_geometric import nn as gnn
from torch_geometric.data import HeteroData
from torch_geometric.nn.conv import GATv2Conv

torch.set_default_dtype(torch.float64)
torch.manual_seed(5)
data = HeteroData()
data["author"].x = torch.randn(30, 7)
data["paper"].x = torch.randn(50, 11)
data["author"].y = torch.randint(3, (30,))
data["author", "writes", "paper"].edge_index = torch.stack(
    [torch.randint(30, (200,)), torch.randint(50, (200,))]
)
data["paper", "cites", "paper"].edge_index = torch.randint(50, (2, 150))
data = T.ToUndirected()(data)


class Converted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GATv2Conv((-1, -1), 6, heads=2, add_self_loops=False)
        self.lin = gnn.Linear(-1, 12)

    def forward(self, x, edge_index):
        return (self.conv1(x, edge_index) + self.lin(x)).relu()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = gnn.to_hetero(Converted(), data.metadata(), aggr="sum")
        self.conv = gnn.HeteroConv(
            {
                edge_type: gnn.GATv2Conv((-1, -1), 4, add_self_loops=False)
                for edge_type in data.edge_types
            },
            aggr="mean",
        )
        self.out = gnn.Linear(4, 3)

    def forward(self, x, edge_index):
        return self.out(self.conv(self.encoder(x, edge_index), edge_index)["author"])


model = Net()
with torch.no_grad():
    model(data.x_dict, data.edge_index_dict)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(4):
    optimizer.zero_grad()
    out = model(data.x_dict, data.edge_index_dict)
    loss = torch.nn.functional.cross_entropy(out, data["author"].y)
    loss.backward()
    optimizer.step()
    print("loss", repr(float(loss)))
print("layer", type(next(iter(model.conv.convs.values()))).__module__)
