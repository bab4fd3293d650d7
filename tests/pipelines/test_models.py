"""Models around the layer as users build them: the losses of PyG's layer, step by step."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINEConv, GPSConv, TGNMemory, global_add_pool
from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

import gatv2_pyg
from tests.pipelines.test_loaders import all_nodes, assert_same_losses, big_graph, in_double

pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = (torch_geometric.nn.GATv2Conv, gatv2_pyg.GATv2Conv)


def molecules() -> list[Data]:
    """Graphs of a few nodes, some without edges and some without nodes."""
    torch.manual_seed(3)
    return [
        Data(
            x=torch.randn(nodes, 10),
            edge_index=torch.randint(max(nodes, 1), (2, edges)),
            edge_attr=torch.randn(edges, 3),
            target=torch.randn(1),
        )
        for nodes, edges in ((5, 8), (0, 0), (9, 20), (1, 0), (3, 0), (7, 12))
    ]


def regression(model, batch):
    return F.mse_loss(model(batch), batch.target)


@pytest.mark.parametrize("fill_value", ["mean", "add", "min", "max", "mul", 0.5])
def test_molecules(fill_value):
    class Net(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.conv = layer(10, 8, heads=2, edge_dim=3, fill_value=fill_value)
            self.lin = torch.nn.Linear(16, 1)

        def forward(self, data):
            x = self.conv(data.x, data.edge_index, data.edge_attr).relu()
            return self.lin(global_add_pool(x, data.batch, data.num_graphs)).squeeze(-1)

    assert_same_losses(lambda: DataLoader(molecules(), batch_size=2), regression, Net)


def test_gps():
    """Message passing beside attention between all nodes of a graph."""

    class Net(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.conv = GPSConv(10, layer(10, 5, heads=2, edge_dim=3), heads=2)
            self.plain = GPSConv(10, GINEConv(torch.nn.Linear(10, 10), edge_dim=3), heads=2)
            self.lin = torch.nn.Linear(10, 4)

        def forward(self, data):
            batch = torch.zeros(data.num_nodes, dtype=torch.long)
            x = data.x
            for conv in (self.conv, self.plain):
                x = conv(x, data.edge_index, batch, edge_attr=data.edge_attr)
            return self.lin(x)

    assert_same_losses(lambda: [big_graph()] * 2, all_nodes, Net)


class LowRank(torch.nn.Module):
    """LoRA: a map that is not trained, and beside it a product of two small ones that is."""

    def __init__(self, base: torch.nn.Module, rank: int = 2):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = torch.nn.Linear(base.in_channels, rank, bias=False)
        self.up = torch.nn.Linear(rank, base.out_channels, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_low_rank_adapters():
    class Net(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.conv = layer(10, 4, heads=2, edge_dim=3)
            self.out = layer(8, 4)
            for name in ("lin_l", "lin_r", "lin_edge"):
                setattr(self.conv, name, LowRank(getattr(self.conv, name)))

        def forward(self, data):
            x = self.conv(data.x, data.edge_index, data.edge_attr).relu()
            return self.out(x, data.edge_index)

    assert_same_losses(lambda: [big_graph()] * 2, all_nodes, Net)
    model = Net(gatv2_pyg.GATv2Conv)
    all_nodes(model, big_graph()).backward()
    found = dict(model.conv.named_parameters())
    assert found["lin_l.base.weight"].grad is None
    assert found["lin_l.up.weight"].grad.abs().sum() > 0


def interactions(layer, steps: int) -> list[float]:
    """Losses of a temporal graph network: a memory of nodes, attention over their last events."""
    torch.manual_seed(0)
    nodes, size, dim = 60, 20, 6
    src, dst = torch.randint(nodes, (2, steps * size))
    time, message = torch.arange(steps * size), torch.randn(steps * size, dim)
    memory = TGNMemory(nodes, dim, 8, 4, IdentityMessage(dim, 8, 4), LastAggregator())
    conv = layer(8, 4, heads=2, edge_dim=dim + 4)
    lin = torch.nn.Linear(16, 1)
    neighbours = LastNeighborLoader(nodes, size=5)
    position = torch.empty(nodes, dtype=torch.long)
    parameters = [*memory.parameters(), *conv.parameters(), *lin.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    found = []
    for events in torch.arange(steps * size).split(size):
        optimizer.zero_grad()
        other = torch.randint(nodes, (size,))
        ids, edge_index, event = neighbours(torch.cat([src[events], dst[events], other]).unique())
        position[ids] = torch.arange(ids.numel())
        z, last_update = memory(ids)
        age = (last_update[edge_index[0]] - time[event]).to(z.dtype)
        attributes = torch.cat([memory.time_enc(age), message[event]], dim=-1)
        z = conv(z, edge_index, attributes)
        scores = [
            lin(torch.cat([z[position[src[events]]], z[position[end]]], dim=-1)).squeeze(-1)
            for end in (dst[events], other)
        ]
        loss = F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()
        memory.update_state(src[events], dst[events], time[events], message[events])
        neighbours.insert(src[events], dst[events])
        loss.backward()
        optimizer.step()
        memory.detach()
        found.append(float(loss.detach()))
    return found


def test_temporal_graph_network():
    theirs, ours = (interactions(layer, 6) for layer in LAYERS)
    assert len(set(theirs)) == 6
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_moving_average_of_a_trained_model():
    """Its predictions are those of the mean of the weights."""
    data, found = big_graph(), []
    for layer in LAYERS:
        torch.manual_seed(0)
        model = layer(10, 4, edge_dim=3).double()
        mean = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
        )
        kept = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        arguments = data.x.double(), data.edge_index, data.edge_attr.double()
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(*arguments), data.y).backward()
            optimizer.step()
            mean.update_parameters(model)
            for name, value in model.state_dict().items():
                kept[name] = value.clone() if step == 0 else 0.5 * kept[name] + 0.5 * value
        alone = layer(10, 4, edge_dim=3).double()
        alone.load_state_dict(kept)
        with torch.no_grad():
            torch.testing.assert_close(mean(*arguments), alone(*arguments))
            found.append(mean(*arguments))
    torch.testing.assert_close(found[1], found[0])


def test_layers_listed_by_torchinfo():
    torchinfo = pytest.importorskip("torchinfo")
    data, counts = big_graph(), []
    for layer in LAYERS:
        model = layer(10, 8, heads=2, edge_dim=3)
        summary = torchinfo.summary(
            model, input_data=(data.x, data.edge_index, data.edge_attr), verbose=0
        )
        assert "[400, 16]" in str(summary)
        counts.append((summary.total_params, summary.trainable_params))
    assert counts[0] == counts[1] == (sum(p.numel() for p in model.parameters()),) * 2


def lightning_losses(layer, folder, resumed: bool = False, **options) -> list[float]:
    """Losses of four epochs; of two, and of two more that another process would go on with."""
    pl = pytest.importorskip("pytorch_lightning")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = layer(10, 8, edge_dim=3)
            self.lin = torch.nn.Linear(8, 1)
            self.found = []

        def training_step(self, batch, _):
            x = self.conv(batch.x, batch.edge_index, batch.edge_attr).relu()
            out = self.lin(global_add_pool(x, batch.batch, batch.num_graphs)).squeeze(-1)
            loss = F.mse_loss(out, batch.target)
            self.found.append(float(loss.detach()))
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.01)

    graphs = molecules()
    if options["precision"] == "64-true":
        graphs = [graph.apply(in_double) for graph in graphs]
    loader = DataLoader(graphs, batch_size=2)
    found, checkpoint = [], None
    for epochs in (2, 4) if resumed else (4,):
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            **options,
        )
        module = Module()
        trainer.fit(module, loader, ckpt_path=checkpoint)
        found += module.found
        checkpoint = folder / "last.ckpt"
        trainer.save_checkpoint(checkpoint)
    return found


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"precision": "64-true", "accumulate_grad_batches": 2}, 1e-9),
        ({"precision": "64-true", "resumed": True}, 1e-9),
        ({"precision": "bf16-mixed", "gradient_clip_val": 1.0}, 0.1),
    ],
    ids=["accumulation", "resumed", "bf16-mixed"],
)
def test_lightning(options, tolerance, tmp_path):
    theirs, ours = (lightning_losses(layer, tmp_path, **options) for layer in LAYERS)
    assert len(theirs) == 12
    assert ours == pytest.approx(theirs, rel=tolerance)
    if "resumed" in options:
        whole = lightning_losses(gatv2_pyg.GATv2Conv, tmp_path, precision="64-true")
        # Lightning loads a checkpoint before it makes the module double.
        assert ours == pytest.approx(whole, rel=1e-6)
