"""Ready models on batches of small graphs with edge features, and a layer of the script's own."""

import sys

import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GAT, GATv2Conv, global_mean_pool
from torch_geometric.nn.models import basic_gnn

torch.set_default_dtype(torch.float64)
torch.manual_seed(11)
graphs = [
    Data(
        x=torch.randn(n, 6),
        edge_index=torch.randint(n, (2, 3 * n)),
        edge_attr=torch.randn(3 * n, 2),
        y=torch.randn(1, 1),
    )
    for n in (4, 9, 6, 12, 5, 7)
]


class Halved(GATv2Conv):
    """Overrides a step of message passing."""

    def message(self, x_j, alpha):
        return super().message(x_j, alpha) / 2


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gat = GAT(6, 8, num_layers=3, heads=2, v2=True, edge_dim=2, jk="cat", norm="layer")
        self.own = Halved(8, 4, edge_dim=2)
        self.lin = torch.nn.Linear(4, 1)

    def forward(self, data):
        x = self.gat(data.x, data.edge_index, edge_attr=data.edge_attr)
        x = self.own(x, data.edge_index, data.edge_attr)
        return self.lin(global_mean_pool(x, data.batch))


model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for _ in range(3):
    for batch in DataLoader(graphs, batch_size=2, shuffle=True):
        optimizer.zero_grad()
        loss = (model(batch) - batch.y).square().mean()
        loss.backward()
        optimizer.step()
        print("loss", repr(float(loss)))
assert isinstance(model.gat.convs[0], basic_gnn.GATv2Conv)
assert isinstance(model.own, GATv2Conv)
print("layer", type(model.gat.convs[0]).__module__)
sys.exit(7)
