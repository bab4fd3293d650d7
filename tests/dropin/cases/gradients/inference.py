"""Inference mode and no_grad, in every order with training."""

import torch
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csr_tensor

import gatv2_pyg

from ...harness import NODES, SIZE, agree, attempt, case, edges, features, ours, step, weighted


def _adjacency(kind):
    index = edges(loops=False)
    index = index[:, (index[1] * NODES + index[0]).argsort(stable=True)].unique(dim=1).contiguous()
    if kind == "CSR":
        return to_torch_csr_tensor(index.flip(0), size=(NODES, NODES))
    if kind == "COO":
        return to_torch_coo_tensor(index.flip(0), size=(NODES, NODES))
    return index


def _train(conv, adj, **given):
    conv.zero_grad()
    x = features().requires_grad_()
    return step(conv, conv(x, adj, **given), x=x)


def _register(kind, self_loops):
    loops = "" if self_loops else ", no self-loops"

    @case(f"inference/then train: {kind}{loops}")
    def _(make):
        conv, adj = make(add_self_loops=self_loops), _adjacency(kind)
        with torch.inference_mode():
            first = conv(features(), adj).tolist()
        return [first, _train(conv, adj)]


for _kind in ("edge_index", "CSR", "COO"):
    for _loops in (True, False):
        _register(_kind, _loops)


@case("inference/between training steps")
def _(make):
    conv, index, found = make(), edges(), []
    for _ in range(2):
        found.append(_train(conv, index))
        with torch.inference_mode():
            found.append(conv(features(), index).tolist())
    return found


@case("inference/with attention, edge features and other layers, then train")
def _(make):
    index, attr = edges(), features(40, 3, seed=1)
    layers = [
        make(edge_dim=3),
        make(flow="target_to_source", edge_dim=3),
        make(add_self_loops=False, edge_dim=3),
        make(edge_dim=3, aggr="max"),
    ]
    with torch.inference_mode():
        for conv in layers:
            conv(features(), index, attr, return_attention_weights=True)
    return [_train(conv, index, edge_attr=attr) for conv in layers]


@case("inference/edge_index made inside")
def _(make):
    conv = make()
    with torch.inference_mode():
        index = edges()
        first = conv(features(), index).tolist()
    x = features().requires_grad_()
    second = conv(x, index.clone())
    with torch.no_grad():
        third = conv(features(), index).tolist()
    return [first, step(conv, second, x=x), third]


@case("inference/features made inside, trained on a copy")
def _(make):
    conv, index = make(), edges()
    with torch.inference_mode():
        x = conv(features(), index)
    return step(conv, conv(x.clone(), index))


@case("inference/mode switched off within")
def _(make):
    conv, index = make(), edges()
    with torch.inference_mode():
        conv(features(), index)
        with torch.inference_mode(False), torch.enable_grad():
            return _train(conv, index)


@case("inference/no_grad and eval in all orders")
def _(make):
    conv, index, found = make(), edges(), []
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        for training in (False, True):
            conv.train(training)
            with mode():
                out = conv(features(), index)
                found.append([out.tolist(), out.requires_grad])
            found.append(_train(conv, index))
    return found


@case("inference/as a decorator, then train a bipartite layer")
def _(make):
    conv, index = make((SIZE, 5), 4, heads=2), edges(NODES, 7)

    @torch.inference_mode()
    def evaluate():
        return conv((features(), features(7, 5, seed=2)), index).tolist()

    first = evaluate()
    x = features().requires_grad_()
    return [first, step(conv, conv((x, features(7, 5, seed=2)), index), x=x)]


@case("inference/then double backward and checkpoint")
def _(make):
    conv, index = make(), edges()
    with torch.inference_mode():
        conv(features(), index)
    x = features().requires_grad_()
    out = torch.utils.checkpoint.checkpoint(conv, x, index, use_reentrant=False)
    (grad,) = torch.autograd.grad(weighted(out), x, create_graph=True)
    weighted(grad).backward()
    return [grad, x.grad]


@case("inference/the output is an inference tensor")
def _(make):
    conv = make()
    with torch.inference_mode():
        out = conv(features(), edges())
    return [out.is_inference(), attempt(lambda: out.requires_grad_(), RuntimeError)]


def _edge_index_class(sort_order):
    index = edges(loops=False)
    if sort_order is not None:
        index = index[:, index[0 if sort_order == "row" else 1].argsort(stable=True)]
    return EdgeIndex(index.contiguous(), sparse_size=(NODES, NODES), sort_order=sort_order)


@case("inference/no_grad, then train: EdgeIndex in every order")
def _(make):
    found = []
    for order in (None, "row", "col"):
        for loops in (True, False):
            conv, index = make(add_self_loops=loops), _edge_index_class(order)
            with torch.no_grad():
                found.append(conv(features(), index))
            found.append(_train(conv, index))
    return found


@ours("inference/EdgeIndex, which PyG's layer does not take there, then train", paths=("auto",))
def _(make):
    for order in (None, "row", "col"):
        for loops in (True, False):
            conv, index = make(add_self_loops=loops), _edge_index_class(order)
            with torch.inference_mode():
                first = conv(features(), index).tolist()
            plain = index.as_tensor().clone()
            assert agree(_train(conv, index), _train(conv, plain)) is True
            assert agree(first, conv(features(), plain).tolist()) is True


@ours("inference/a Graph made inside, or used inside, then trained with")
def _(make):
    x, att = features(NODES, 8).view(NODES, 2, 4), features(2, 4, seed=3)

    def train(graph):
        leaf = x.clone().requires_grad_()
        out = gatv2_pyg.gatv2_attention(leaf, leaf, att, graph, backend=make.backend)
        weighted(out).backward()
        return leaf.grad

    expected = train(gatv2_pyg.Graph.from_edge_index(edges(), NODES))
    with torch.inference_mode():
        inside = gatv2_pyg.Graph.from_edge_index(edges(), NODES)
    assert agree(train(inside), expected) is True
    outside = gatv2_pyg.Graph.from_edge_index(edges(), NODES)
    with torch.inference_mode():
        gatv2_pyg.gatv2_attention(x, x, att, outside, backend=make.backend)
        _ = outside.by_src
    assert agree(train(outside), expected) is True
