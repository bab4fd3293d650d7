"""What the processes of a group run, and what one process runs instead."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import local_map
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Data

from gatv2_pyg import GATv2Conv, Graph, gatv2_attention

NAMES = ("x_src", "x_dst", "att", "edge_attr", "edge_weight")


class Net(torch.nn.Module):
    """Two layers with edge features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = GATv2Conv(12, 8, heads=2, edge_dim=3)
        self.conv2 = GATv2Conv(16, 4, edge_dim=3, residual=True)

    def forward(self, data: Data) -> Tensor:
        x = self.conv1(data.x, data.edge_index, data.edge_attr).relu()
        return self.conv2(x, data.edge_index, data.edge_attr)

    def loss(self, out: Tensor, data: Data) -> Tensor:
        return F.cross_entropy(out, data.y, reduction="sum") / 16


def batch(seed: int, num_nodes: int = 40) -> Data:
    generator = torch.Generator().manual_seed(seed)
    edges = 5 * num_nodes
    return Data(
        x=torch.randn(num_nodes, 12, generator=generator),
        edge_index=torch.randint(max(num_nodes, 1), (2, edges), generator=generator),
        edge_attr=torch.randn(edges, 3, generator=generator),
        y=torch.randint(4, (num_nodes,), generator=generator),
    )


def grads_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): value.grad.clone() for name, value in model.named_parameters()
    }


def train_data_parallel(rank: int, sizes: list[list[int]], settings: dict) -> list[dict]:
    """Steps of DistributedDataParallel; gradients after each.  ``sizes[step][rank]`` nodes."""
    model = DistributedDataParallel(Net(), **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for step, of_ranks in enumerate(sizes):
        data = batch(10 * step + rank, of_ranks[rank])
        optimizer.zero_grad()
        model.module.loss(model(data), data).backward()
        found.append(grads_of(model))
        optimizer.step()
    return found


def train_alone(sizes: list[list[int]]) -> list[dict]:
    """The same steps in one process: the mean of the ranks' gradients."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for step, of_ranks in enumerate(sizes):
        optimizer.zero_grad()
        for rank, size in enumerate(of_ranks):
            data = batch(10 * step + rank, size)
            (model.loss(model(data), data) / len(of_ranks)).backward()
        found.append(grads_of(model))
        optimizer.step()
    return found


def train_fully_sharded(rank: int, sizes: list[list[int]]) -> list[dict]:
    """The same steps with FSDP2; gradients gathered."""
    model = Net()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model.conv1, model.conv2, model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for step, of_ranks in enumerate(sizes):
        data = batch(10 * step + rank, of_ranks[rank])
        optimizer.zero_grad()
        model.loss(model(data), data).backward()
        assert all(isinstance(value.grad, DTensor) for value in model.parameters())
        found.append({name: p.grad.full_tensor() for name, p in model.named_parameters()})
        optimizer.step()
    return found


def whole_problem(heads: int = 4, channels: int = 8) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Inputs of attention by name, its edges, and a gradient of its output."""
    generator = torch.Generator().manual_seed(5)
    num_src, num_dst, num_edges, edge_dim = 150, 130, 2000, 3

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    edge_index = torch.stack(
        [
            torch.randint(num_src, (num_edges,), generator=generator),
            torch.randint(num_dst, (num_edges,), generator=generator),
        ]
    )
    edge_index[1, :700] = 3  # a destination with a long row
    values = {
        "x_src": draw(num_src, heads, channels),
        "x_dst": draw(num_dst, heads, channels),
        "att": draw(heads, channels),
        "edge_attr": draw(num_edges + num_dst, edge_dim),
        "edge_weight": draw(heads * channels, edge_dim),
    }
    return values, edge_index, draw(num_dst, heads, channels)


def attend_alone(dropout: float, seed: int, heads: slice = slice(None)) -> dict[str, Tensor]:
    """Output and gradients in one process, for some of the heads."""
    values, edge_index, grad = whole_problem()
    num_heads, channels = values["att"].shape
    weight = values["edge_weight"].view(num_heads, channels, -1)[heads].flatten(0, 1)
    values = {
        "x_src": values["x_src"][:, heads],
        "x_dst": values["x_dst"][:, heads],
        "att": values["att"][heads],
        "edge_attr": values["edge_attr"],
        "edge_weight": weight,
    }
    values = {name: value.clone().requires_grad_() for name, value in values.items()}
    graph = Graph.from_edge_index(edge_index, 150, 130, add_self_loops=True)
    out = attention_over(graph, dropout, seed)(*values.values())
    grads = torch.autograd.grad(out, list(values.values()), grad[:, heads])
    return {"out": out.detach(), **dict(zip(values, grads, strict=True))}


def attention_over(graph: Graph, dropout: float, seed: int) -> Callable[..., Tensor]:
    """Attention as a function of tensors alone, in the order of :data:`NAMES`."""

    def attend(*values: Tensor) -> Tensor:
        given = dict(zip(NAMES, values, strict=True))
        return gatv2_attention(**given, graph=graph, dropout=dropout, training=True, seed=seed)

    return attend


def attend_in_row_shards(rank: int, dropout: float, seed: int) -> dict[str, Tensor]:
    """The same with the destinations sharded, by ``local_map``; output and gradients gathered."""
    mesh = init_device_mesh("cpu", (2,))
    values, edge_index, grad = whole_problem()
    placed = {name: [Shard(0)] if name == "x_dst" else [Replicate()] for name in values}
    sharded = {
        name: distribute_tensor(value, mesh, placed[name]).requires_grad_()
        for name, value in values.items()
    }
    first = 0 if rank == 0 else 130 // 2
    rows = sharded["x_dst"].to_local().size(0)
    graph = Graph.from_edge_index(edge_index, 150, 130, add_self_loops=True)
    graph = graph.rows(first, first + rows)

    attend_rows = local_map(
        attention_over(graph, dropout, seed),
        out_placements=[Shard(0)],
        in_placements=tuple(placed[name] for name in NAMES),
        in_grad_placements=tuple([Shard(0)] if name == "x_dst" else [Partial()] for name in NAMES),
        device_mesh=mesh,
    )
    out = attend_rows(*(sharded[name] for name in NAMES))
    grads = torch.autograd.grad(
        out, [sharded[name] for name in NAMES], distribute_tensor(grad, mesh, [Shard(0)])
    )
    found = {"out": out.detach(), **dict(zip(NAMES, grads, strict=True))}
    return {name: value.full_tensor() for name, value in found.items()}


def attend_in_head_shards(rank: int, dropout: float, seed: int) -> dict[str, Tensor]:
    """The same with the heads sharded; each process has a seed of its own, ``seed + rank``."""
    mesh = init_device_mesh("cpu", (2,))
    values, edge_index, grad = whole_problem()
    heads = {"x_src": 1, "x_dst": 1, "att": 0, "edge_weight": 0}
    placed = {name: [Shard(heads[name])] if name in heads else [Replicate()] for name in NAMES}
    sharded = {
        name: distribute_tensor(values[name], mesh, placed[name]).requires_grad_() for name in NAMES
    }
    graph = Graph.from_edge_index(edge_index, 150, 130, add_self_loops=True)

    attend_heads = local_map(
        attention_over(graph, dropout, seed + rank),
        out_placements=[Shard(1)],
        in_placements=tuple(placed[name] for name in NAMES),
        in_grad_placements=tuple(placed[name] if name in heads else [Partial()] for name in NAMES),
        device_mesh=mesh,
    )
    out = attend_heads(*(sharded[name] for name in NAMES))
    grads = torch.autograd.grad(
        out, [sharded[name] for name in NAMES], distribute_tensor(grad, mesh, [Shard(1)])
    )
    found = {"out": out.detach(), **dict(zip(NAMES, grads, strict=True))}
    return {name: value.full_tensor() for name, value in found.items()}


def errors_of_dtensors(rank: int) -> dict[str, tuple[str, str]]:
    """What each argument says that is a DTensor: the type of the error and its message."""
    mesh = init_device_mesh("cpu", (2,))
    values, edge_index, _ = whole_problem()
    graph = Graph.from_edge_index(edge_index, 150, 130, add_self_loops=True)
    found = {}

    def note(name, call):
        try:
            call()
        except Exception as error:
            found[name] = type(error).__name__, str(error)

    for name in NAMES:
        given = values | {name: distribute_tensor(values[name], mesh, [Replicate()])}
        note(name, lambda given=given: gatv2_attention(**given, graph=graph))
    data = batch(0)
    conv = GATv2Conv(12, 4, edge_dim=3)
    arguments = {"x": data.x, "edge_index": data.edge_index, "edge_attr": data.edge_attr}
    for name, value in arguments.items():
        given = arguments | {name: distribute_tensor(value, mesh, [Replicate()])}
        note(f"layer {name}", lambda given=given: conv(**given))
    conv = torch.distributed.tensor.distribute_module(conv, mesh)
    note("layer att", lambda: conv(**arguments))
    return found
