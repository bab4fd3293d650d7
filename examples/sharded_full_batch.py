"""The full batch over several processes, by torch's DTensor and local_map, on Cora:

    torchrun --nproc_per_node 2 examples/sharded_full_batch.py --shard rows

``rows``: a process holds its rows of features, output and gradients; sources are gathered.
``heads``: a process computes its heads for all nodes; they are gathered after each layer.
"""

import argparse
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import local_map
from torch_geometric.datasets import Planetoid
from torch_geometric.transforms import NormalizeFeatures

from gatv2_pyg import Graph, gatv2_attention

WHOLE, FIRST, SECOND, SUM = [Replicate()], [Shard(0)], [Shard(1)], [Partial()]
PLACEMENTS = {  # features, parameters, x_src, x_dst and the output; gradients of the arguments
    "rows": (FIRST, WHOLE, WHOLE, FIRST, (SUM, FIRST, SUM)),
    "heads": (WHOLE, FIRST, SECOND, SECOND, (SECOND, SECOND, FIRST)),
}


class Layer(torch.nn.Module):
    """GATv2 attention on DTensors; its parameters are DTensors too."""

    def __init__(self, mesh, at: tuple, in_channels: int, heads: int, channels: int):
        super().__init__()
        self.mesh, self.at, self.shape = mesh, at, (-1, heads, channels)
        shapes = {name: (heads * channels, in_channels) for name in ("lin_l", "lin_r")}
        for name, shape in (shapes | {"att": (heads, channels)}).items():
            value = torch.nn.init.xavier_uniform_(torch.empty(shape))
            setattr(self, name, torch.nn.Parameter(distribute_tensor(value, mesh, at[1])))

    def forward(self, x, graph: Graph, dropout: float, seed: int):
        def attend(x_src, x_dst, att):
            options = {"dropout": dropout, "training": self.training, "seed": seed}
            return gatv2_attention(x_src, x_dst, att, graph, **options)

        features, weight, src, dst, grads = self.at
        x_src, x_dst = (F.linear(x, lin).view(self.shape) for lin in (self.lin_l, self.lin_r))
        out = local_map(
            attend,
            out_placements=dst,
            in_placements=(src, dst, weight),
            in_grad_placements=grads,
            device_mesh=self.mesh,
        )(x_src.redistribute(placements=src), x_dst, self.att)
        return out.flatten(1).redistribute(placements=features)


def main():
    parser = argparse.ArgumentParser(description="The full batch over several processes.")
    parser.add_argument("--root", default="data", help="folder with Cora/raw, or for a download")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--shard", choices=PLACEMENTS, default="rows")
    args = parser.parse_args()
    if "RANK" not in os.environ:
        parser.error("expected to be started by torchrun --nproc_per_node 2")
    mesh = init_device_mesh("cpu", (int(os.environ["WORLD_SIZE"]),))
    rank, at = dist.get_rank(), PLACEMENTS[args.shard]

    data = Planetoid(args.root, "Cora", transform=NormalizeFeatures())[0]
    x = distribute_tensor(data.x, mesh, at[0])
    graph = Graph.from_edge_index(data.edge_index, data.num_nodes, add_self_loops=True)
    if args.shard == "rows":
        first = rank * -(-data.num_nodes // mesh.size())  # as Shard(0) cuts
        graph = graph.rows(first, first + x.to_local().size(0))

    torch.manual_seed(0)  # the same weights in all processes
    model = torch.nn.ModuleList(Layer(mesh, at, size, 8, 8) for size in (data.num_features, 64))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005, weight_decay=5e-4)
    for epoch in range(args.epochs + 1):
        model.train(epoch < args.epochs)
        # Rows of one graph drop by the same seed; heads, which each count theirs from 0, do not.
        seed = 1000 * epoch + (rank if args.shard == "heads" else 0)
        hidden = F.elu(model[0](x, graph, 0.6, seed))
        out = model[1](hidden, graph, 0.6, seed + 500).full_tensor().view(-1, 8, 8).mean(dim=1)
        loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
        if epoch < args.epochs:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if rank == 0 and epoch % 20 == 0:
            print(f"epoch {epoch:3d}  loss {loss.item():.6f}")
    right = (out.argmax(dim=-1) == data.y)[data.test_mask]
    if rank == 0:
        print(f"test accuracy {right.float().mean():.3f}, {args.shard} on {mesh.size()} processes")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
