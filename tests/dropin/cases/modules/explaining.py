"""What PyG does to a layer beyond calling it: explainers, conversions, registers, copies."""

import contextlib
import io

import torch
import torch_geometric
import torch_geometric.nn as pyg
from torch_geometric import EdgeIndex, explain
from torch_geometric.explain import Explainer

from ...harness import NODES, SIZE, case, edges, features, gradients, step, weighted

_CONFIG = {"mode": "multiclass_classification", "task_level": "node", "return_type": "raw"}


class _Net(torch.nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x, edge_index, edge_attr=None):
        for layer in self.layers:
            x = layer(x, edge_index) if edge_attr is None else layer(x, edge_index, edge_attr)
        return x


def _explanation(make, algorithm, nodes="attributes", mask="object", **options):
    net = _Net(make(SIZE, SIZE, **options), make(SIZE, 4, heads=2, **options)).eval()
    explainer = Explainer(
        model=net,
        algorithm=algorithm,
        explanation_type="phenomenon",
        node_mask_type=nodes,
        edge_mask_type=mask,
        model_config=_CONFIG,
    )
    torch.manual_seed(5)
    attr = {"edge_attr": features(40, options["edge_dim"])} if "edge_dim" in options else {}
    with contextlib.redirect_stderr(io.StringIO()):
        found = explainer(
            features(), edges(loops=False), target=torch.arange(NODES) % 8, index=2, **attr
        )
    return [found.get("node_mask"), found.get("edge_mask"), net(features(), edges(), **attr)]


@case("explain/GNNExplainer: features alone, with self-loops")
def _(make):
    return _explanation(make, explain.GNNExplainer(epochs=5), mask=None)


@case("explain/GNNExplainer with edge features", fused=False)
def _(make):
    return _explanation(make, explain.GNNExplainer(epochs=5), edge_dim=3)


@case("explain/DummyExplainer")
def _(make):
    return _explanation(make, explain.DummyExplainer())


@case("explain/PGExplainer", fused=False)
def _(make):
    net = _Net(make(SIZE, SIZE), make(SIZE, 4, heads=2)).eval()
    algorithm = explain.PGExplainer(epochs=2).double()
    explainer = Explainer(
        model=net,
        algorithm=algorithm,
        explanation_type="phenomenon",
        edge_mask_type="object",
        model_config=_CONFIG,
    )
    x, index, target = features(), edges(loops=False), torch.arange(NODES) % 8
    torch.manual_seed(3)
    for epoch in range(2):
        for node in (1, 4):
            algorithm.train(epoch, net, x, index, target=target, index=node)
    found = explainer(x, index, target=target, index=2)
    return [found.edge_mask, net(x, index)]


@case("explain/GraphMaskExplainer", fused=False)
def _(make):
    options = {"add_self_loops": False, "dtype": torch.float32}
    net = _Net(make(SIZE, SIZE, **options), make(SIZE, 8, **options)).eval()
    explainer = Explainer(
        model=net,
        algorithm=explain.GraphMaskExplainer(2, epochs=2, log=False),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config=_CONFIG,
    )
    torch.manual_seed(5)
    x, index = features(dtype=torch.float32), edges(loops=False)
    found = explainer(x, index, index=2)
    return [found.get("node_mask"), found.get("edge_mask"), net(x, index)]


@case("explain/metrics: fidelity and unfaithfulness", fused=False)
def _(make):
    net = _Net(make(SIZE, SIZE)).eval()
    explainer = Explainer(
        model=net,
        algorithm=explain.GNNExplainer(epochs=3),
        explanation_type="model",
        node_mask_type="object",
        edge_mask_type="object",
        model_config=_CONFIG,
    )
    torch.manual_seed(5)
    with contextlib.redirect_stderr(io.StringIO()):
        found = explainer(features(), edges(loops=False))
    return [
        explain.unfaithfulness(explainer, found),
        list(explain.fidelity(explainer, found)),
        net(features(), edges()),
    ]


@case("explain/masks set and cleared by hand", fused=False)
def _(make):
    from torch_geometric.explain.algorithm.utils import clear_masks, set_masks

    net, index = _Net(make(SIZE, SIZE), make()), edges(loops=False)
    mask = torch.nn.Parameter(torch.linspace(-1, 1, index.size(1)).double())
    set_masks(net, mask, index, apply_sigmoid=True)
    masked = net(features(), index)
    (grad,) = torch.autograd.grad(weighted(masked), mask)
    clear_masks(net)
    return [masked, grad, net(features(), index)]


@case("explain/captum's model wrappers", fused=False)
def _(make):
    from torch_geometric.explain.algorithm.captum import CaptumModel

    net, found = _Net(make(SIZE, SIZE), make()).eval(), []
    for kind in ("edge", "node_and_edge", "node"):
        x = features().requires_grad_()
        index = edges(loops=False)
        mask = torch.linspace(0.1, 1, index.size(1)).double().unsqueeze(0).requires_grad_()
        wrapped = CaptumModel(net, kind, 2)
        if kind == "node":
            out = wrapped(x.unsqueeze(0), index)
        elif kind == "edge":
            out = wrapped(mask, x, index)
        else:
            out = wrapped(x.unsqueeze(0), mask, index)
        found.append([out, *torch.autograd.grad(weighted(out), [x] if kind == "node" else [mask])])
    return [*found, net(features(), edges())]


@case("pyg/to_fixed_size")
def _(make):
    model = pyg.to_fixed_size(_Net(make(add_self_loops=True)), NODES)
    x = features().requires_grad_()
    return step(model, model(x, edges()), x=x)


@case("pyg/to_hetero with explain, and bases")
def _(make):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = make((SIZE, SIZE), 4, heads=2, add_self_loops=False)

        def forward(self, x, edge_index):
            return self.first(x, edge_index).relu()

    x = {"a": features(seed=1), "b": features(7, seed=2)}
    index = {
        ("a", "to", "b"): edges(NODES, 7, seed=4),
        ("b", "rev", "a"): edges(7, NODES, seed=5),
    }
    model = make.fill(pyg.to_hetero(Model(), (list(x), list(index)), aggr="max"))
    out = model(x, index)
    sum(weighted(value) for value in out.values()).backward()
    return [out, gradients(model)]


@case("pyg/torch_geometric.compile", slow=True)
def _(make):
    conv = torch_geometric.compile(make(), backend="aot_eager")
    x = features().requires_grad_()
    return step(conv, conv(x, edges()), x=x)


@case("pyg/message-passing hooks of every kind, then removed", fused=False)
def _(make):
    conv, found, x, index = make(), [], features(), edges()
    handles = [
        getattr(conv, f"register_{name}_hook")(hook)
        for name, hook in {
            "propagate_forward_pre": lambda m, given: found.append(sorted(map(str, given[-1]))),
            "propagate_forward": lambda m, given, out: out * 2,
            "message_forward_pre": lambda m, given: found.append(given[0]["x_j"].clone()),
            "message_forward": lambda m, given, out: out + 1,
            "aggregate_forward_pre": lambda m, given: found.append(len(given)),
            "aggregate_forward": lambda m, given, out: out - 0.5,
            "edge_update_forward_pre": lambda m, given: found.append(sorted(map(str, given[-1]))),
            "edge_update_forward": lambda m, given, out: out * 0.5,
            "message_and_aggregate_forward_pre": lambda m, given: None,
            "message_and_aggregate_forward": lambda m, given, out: None,
        }.items()
    ]
    hooked = conv(x, index, return_attention_weights=True)
    for handle in handles:
        handle.remove()
    return [hooked, conv(x, index), found]


@case("pyg/decomposed layers", fused=False)
def _(make):
    found = []
    for count in (1, 2, 4):
        conv = make(decomposed_layers=count)
        x = features().requires_grad_()
        try:
            found.append(step(conv, conv(x, edges()), x=x))
        except Exception as error:
            found.append(type(error).__name__)
    return found


@case("pyg/every aggregation", fused=False)
def _(make):
    found = []
    for aggr in ("mean", "max", "min", "mul", "std", "var", "median", ["sum", "max"], None, "add"):
        conv = make(aggr=aggr, bias=False)
        try:
            x = features().requires_grad_()
            found.append(step(conv, conv(x, edges(loops=False)), x=x))
        except Exception as error:
            found.append(f"{aggr}: {type(error).__name__}")
    for aggr in (pyg.aggr.SumAggregation(), pyg.aggr.SoftmaxAggregation(learn=True)):
        conv = make(aggr=aggr, bias=False)
        out = conv(features(), edges(loops=False))
        found.append([out, gradients(conv)])
    return found


@case("pyg/node_dim", fused=False)
def _(make):
    found = []
    for value in (0, -3, -2, 1):
        try:
            found.append(make(node_dim=value)(features(), edges()))
        except Exception as error:
            found.append(f"{value}: {type(error).__name__}")
    return found


@case("pyg/GraphGym's register")
def _(make):
    from torch_geometric.graphgym import register

    name = f"attack_{make.variant}"
    register.register_layer(name, make.cls)
    conv = make.fill(register.layer_dict[name](SIZE, 4, heads=2, **make.options).double())
    x = features().requires_grad_()
    return step(conv, conv(x, edges()), x=x)


@case("EdgeIndex/every layout, with what is kept filled beforehand")
def _(make):
    found = []
    for order in (None, "row", "col"):
        for undirected in (False, True):
            for filled in (False, True):
                index = edges()
                if undirected:
                    index = torch_geometric.utils.to_undirected(index)
                index = EdgeIndex(index, sparse_size=(NODES, NODES), is_undirected=undirected)
                if order is not None:
                    index = index.sort_by(order).values
                if filled:
                    index.validate()
                    if order is not None:
                        index.fill_cache_()
                        index.get_csr()
                        index.get_csc()
                for loops in (True, False):
                    conv, x = make(add_self_loops=loops), features().requires_grad_()
                    out, (adj, alpha) = conv(x, index, return_attention_weights=True)
                    (weighted(out) + weighted(alpha)).backward()
                    found.append([out, adj, alpha, gradients(conv, x=x)])
    return found


@case("EdgeIndex/its operations between calls")
def _(make):
    conv, x = make(), features()
    index = EdgeIndex(edges(), sparse_size=(NODES, NODES), sort_order=None)
    by_row = index.sort_by("row").values
    by_col = index.sort_by("col").values
    return [
        conv(x, index),
        conv(x, by_row),
        conv(x, by_col.flip(0)),
        conv(x, by_row[:, :20]),
        conv(x, by_row[:, torch.arange(40) % 2 == 0]),
        conv(x, torch.cat([by_row, by_col], dim=1)),
        conv(x, index.clone()),
        conv(x, index.to(torch.int64)),
        conv(x, by_col.sparse_resize_(NODES, NODES)),
        conv(x, index + 0),
        conv(x, index.as_tensor()),
    ]


def _matrices():
    index, count = edges(loops=True), 40
    index = torch.stack([index[1], index[0]])
    ones = torch.ones(count, dtype=torch.float64)
    wide = features(count, 3, seed=6)
    coo = torch.sparse_coo_tensor(index, ones, (NODES, NODES))
    return {
        "COO, uncoalesced": coo,
        "COO": coo.coalesce(),
        "CSR": coo.coalesce().to_sparse_csr(),
        "CSR of values": (coo.coalesce() * 0.5).to_sparse_csr(),
        "COO, features": torch.sparse_coo_tensor(index, wide, (NODES, NODES, 3)).coalesce(),
    }


@case("matrices/every layout, with and without self-loops, values, features")
def _(make):
    found = []
    for name, adj in _matrices().items():
        for loops in (True, False):
            for edge_dim in (None, 1, 3):
                for wanted in (None, True):
                    text = f"{name} {loops} {edge_dim} {wanted}"
                    conv = make(add_self_loops=loops, edge_dim=edge_dim)
                    x = features().requires_grad_()
                    try:
                        out = conv(x, adj, return_attention_weights=wanted)
                    except Exception as error:
                        found.append(f"{text} raises {isinstance(error, Exception)}")
                        continue
                    extra = None
                    if wanted:
                        out, extra = out
                        extra = [str(getattr(extra, "layout", None)), extra]
                    weighted(out).backward()
                    found.append([text, out, extra, gradients(conv, x=x)])
    return found
