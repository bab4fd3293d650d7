"""What PyG wraps around a layer."""

import contextlib
import io

import torch
import torch_geometric
import torch_geometric.nn as pyg
from torch_geometric.data import Data, HeteroData
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import summary

from ...harness import NODES, SIZE, case, edges, features, gradients, step, weighted


def _model_with(make, model, **options):
    """A PyG model whose GATv2Conv are the class at hand's."""
    if make.ours:
        import gatv2_pyg

        model = gatv2_pyg.use_gatv2(model)
    return make.fill(model.double())


@case("pyg/GAT(v2=True): a model")
def _(make):
    model = _model_with(make, pyg.GAT(SIZE, 8, 3, out_channels=5, heads=2, v2=True, jk="cat"))
    x = features().requires_grad_()
    return step(model, model(x, edges()), x=x)


@case("pyg/GAT with edge features, norm, residual")
def _(make):
    model = _model_with(
        make,
        pyg.GAT(SIZE, 8, 2, heads=2, v2=True, edge_dim=3, norm="LayerNorm", residual=True),
    )
    x = features().requires_grad_()
    return step(model, model(x, edges(), edge_attr=features(40, 3)), x=x)


@case("pyg/BasicGNN with the class named")
def _(make):
    class Model(pyg.models.basic_gnn.BasicGNN):
        supports_edge_weight = False
        supports_edge_attr = True

        def init_conv(self, in_channels, out_channels, **kwargs):
            return make.cls(in_channels, out_channels, **make.options, **kwargs)

    model = make.fill(Model(SIZE, 8, 2, add_self_loops=False).double())
    x = features().requires_grad_()
    trimmed = model(x, edges())
    return [step(model, trimmed, x=x), model.inference_per_layer(0, x, edges(), 5)]


@case("pyg/Sequential")
def _(make):
    model = pyg.Sequential(
        "x, index, attr",
        [
            (make(edge_dim=3), "x, index, attr -> x"),
            torch.nn.ReLU(inplace=True),
            (make(bias=False), "x, index -> x"),
            torch.nn.ReLU(inplace=True),
        ],
    )
    x = features().requires_grad_()
    return step(model, model(x, edges(), features(40, 3)), x=x)


def _hetero():
    x = {"a": features(seed=1), "b": features(7, seed=2)}
    index = {
        ("a", "to", "a"): edges(seed=3),
        ("a", "to", "b"): edges(NODES, 7, seed=4),
        ("b", "rev", "a"): edges(7, NODES, seed=5),
    }
    return x, index


@case("pyg/HeteroConv")
def _(make):
    x, index = _hetero()
    conv = pyg.HeteroConv(
        {kind: make((SIZE, SIZE), 4, heads=2, add_self_loops=kind[0] == kind[2]) for kind in index},
        aggr="sum",
    )
    out = conv(x, index)
    sum(weighted(value) for value in out.values()).backward()
    return [out, gradients(conv)]


@case("pyg/to_hetero")
def _(make):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = make((SIZE, SIZE), 4, heads=2, add_self_loops=False)
            self.second = make((8, 8), 3, heads=1, add_self_loops=False)

        def forward(self, x, edge_index):
            return self.second(self.first(x, edge_index).relu(), edge_index)

    x, index = _hetero()
    model = pyg.to_hetero(Model(), (list(x), list(index)), aggr="sum")
    make.fill(model)
    out = model(x, index)
    sum(weighted(value) for value in out.values()).backward()
    return [out, gradients(model)]


@case("pyg/to_hetero with lazy sizes")
def _(make):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = make.cls((-1, -1), 4, add_self_loops=False, **make.options)

        def forward(self, x, edge_index):
            return self.conv(x, edge_index)

    x, index = _hetero()
    model = pyg.to_hetero(Model(), (list(x), list(index)), aggr="mean").double()
    model(x, index)
    return make.fill(model)(x, index)


@case("pyg/summary", needs=("tabulate",))
def _(make):
    return summary(torch.nn.Sequential(make())[0], features(), edges())


@case("pyg/summary with the parts of layers", needs=("tabulate",), fused=False)
def _(make):
    return summary(make(edge_dim=3), features(), edges(), features(40, 3), leaf_module=None)


class _Net(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, edge_index, edge_attr=None):
        return self.conv(x, edge_index, edge_attr)


def _explained(make, algorithm, edge_mask, **options):
    explainer = Explainer(
        model=_Net(make(**options)).eval(),
        algorithm=algorithm,
        explanation_type="model",
        node_mask_type="attributes" if isinstance(algorithm, GNNExplainer) else None,
        edge_mask_type=edge_mask,
        model_config={
            "mode": "multiclass_classification",
            "task_level": "node",
            "return_type": "raw",
        },
    )
    torch.manual_seed(5)
    found = explainer(features(), edges(loops=False), index=2)
    return [found.get("node_mask"), found.get("edge_mask")]


@contextlib.contextmanager
def _quietly():
    with contextlib.redirect_stderr(io.StringIO()):
        yield


@case("pyg/GNNExplainer", fused=False)
def _(make):
    with _quietly():
        return [
            _explained(make, GNNExplainer(epochs=8), "object", add_self_loops=loops)
            for loops in (True, False)
        ]


@case("pyg/AttentionExplainer", fused=False)
def _(make):
    return [
        _explained(make, AttentionExplainer(), "object", add_self_loops=loops)
        for loops in (True, False)
    ]


@case("pyg/explain on and off", fused=False)
def _(make):
    conv, index, found = make(), edges(loops=False), []
    for switch in (False, True, False):
        conv.explain = switch
        if switch:
            conv._edge_mask = torch.linspace(-1, 1, index.size(1)).double()
            conv._loop_mask = index[0] != index[1]
            conv._apply_sigmoid = True
        found.append(conv(features(), index))
    return found


@case("pyg/models' utilities see the layer: isinstance, count, device")
def _(make):
    model = torch.nn.Sequential(make(), torch.nn.ReLU(), make())
    kinds = (pyg.GATv2Conv, pyg.MessagePassing, torch.nn.Module)
    return [
        [sum(isinstance(module, kind) for module in model.modules()) for kind in kinds],
        sum(value.numel() for value in model.parameters()),
        [issubclass(make.cls, kind) for kind in kinds],
        model[0](features(), edges()),
    ]


@case("pyg/NeighborLoader-like batches, trim_to_layer")
def _(make):
    from torch_geometric.utils import trim_to_layer

    layers, found, x = [make(), make()], [], features(20)
    near, far = edges(12, 4, count=20), edges(20, 8, count=40) + torch.tensor([[0], [4]])
    index, nodes, counts = torch.cat([near, far], 1), [4, 8, 8], [20, 40]
    for i, conv in enumerate(layers):
        x, index, _ = trim_to_layer(i, nodes, counts, x, index)
        x = conv(x, index).relu()
        found.append(x)
    return found


@case("pyg/Batch of graphs, HeteroData and transforms")
def _(make):
    from torch_geometric.data import Batch

    batch = Batch.from_data_list(
        [Data(x=features(n, seed=n), edge_index=edges(n, count=3 * n)) for n in (4, 7, 9)]
    )
    data = HeteroData()
    data["a"].x = features()
    data["a", "to", "a"].edge_index = edges()
    homogeneous = data.to_homogeneous()
    conv = make()
    return [
        _x(conv, batch),
        conv(homogeneous.x, torch_geometric.transforms.AddSelfLoops()(homogeneous).edge_index),
    ]


def _x(conv, data):
    x = data.x.clone().requires_grad_()
    return step(conv, conv(x, data.edge_index), x=x)


@case("pyg/JumpingKnowledge, DeepGCNLayer with checkpointing")
def _(make):
    norm = torch.nn.LayerNorm(8, dtype=torch.float64)
    layer = pyg.DeepGCNLayer(
        make(bias=False), norm, torch.nn.ReLU(inplace=True), block="res+", ckpt_grad=True
    )
    x = features().requires_grad_()
    return step(layer, layer(x, edges()), x=x)


@case("pyg/DataParallel-like replicas, and a list of layers in a ModuleDict")
def _(make):
    layers = torch.nn.ModuleDict({"a": make(), "b": make()})
    x = features().requires_grad_()
    return step(layers, sum(layer(x, edges()) for layer in layers.values()), x=x)
