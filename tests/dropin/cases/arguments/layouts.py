"""What a layer takes as adjacency, features and edge features."""

import torch
from torch_geometric import EdgeIndex
from torch_geometric.utils import (
    to_torch_coo_tensor,
    to_torch_csc_tensor,
    to_torch_csr_tensor,
    to_undirected,
)

from gatv2_pyg import Graph, gatv2_attention

from ...harness import EDGES, NODES, SIZE, agree, attempt, case, edges, features, ours, step


def _simple():
    return edges(loops=False).unique(dim=1)


def _trained(conv, adj, attr=None, x=None):
    x = (features() if x is None else x).requires_grad_()
    return step(conv, conv(x, adj, attr), x=x)


for _name, _layout in {
    "CSR": to_torch_csr_tensor,
    "COO": to_torch_coo_tensor,
    "CSC": to_torch_csc_tensor,
}.items():

    @case(f"layouts/{_name}", both=_name != "CSC")
    def _(make, layout=_layout, name=_name):
        found = []
        for loops in (True, False):
            conv, adj = make(add_self_loops=loops), layout(_simple().flip(0), size=(NODES, NODES))
            found.append(_trained(conv, adj))
            out, (matrix, alpha) = conv(features(), adj, return_attention_weights=True)
            found += [out, matrix, alpha.sum(0)]
            plain = _trained(make.fill(conv), adj)
            assert name != "CSC" or agree(plain, _trained(conv.zero_grad() or conv, _simple()))
        return found

    @case(f"layouts/{_name}, bipartite", both=_name != "CSC")
    def _(make, layout=_layout):
        conv, index = make(add_self_loops=False), edges(NODES, 7).unique(dim=1)
        adj = layout(index.flip(0), size=(7, NODES))
        out = conv((features(), features(7, seed=3)), adj)
        expected = conv((features(), features(7, seed=3)), index)
        return [out, agree(out, expected)]


@case("layouts/CSR with edge features as values")
def _(make):
    conv = make(add_self_loops=False, edge_dim=3)
    index = _simple()
    attr = features(index.size(1), 3)
    return _trained(conv, to_torch_csr_tensor(index.flip(0), attr, size=(NODES, NODES)))


@case("layouts/EdgeIndex in every order, undirected")
def _(make):
    found = []
    for loops in (True, False):
        conv = make(add_self_loops=loops)
        for order in (None, "row", "col"):
            index = edges()
            if order is not None:
                index = index[:, index[0 if order == "row" else 1].argsort(stable=True)]
            given = EdgeIndex(index.contiguous(), sparse_size=(NODES, NODES), sort_order=order)
            conv.zero_grad()
            found.append(_trained(conv, given))
            found.append(conv(features(), given, return_attention_weights=True)[1])
        both = to_undirected(edges())
        given = EdgeIndex(both, sparse_size=(NODES, NODES), sort_order="row", is_undirected=True)
        found.append(conv(features(), given))
        found.append(conv(features(), given.fill_cache_()))
    return found


@case("layouts/EdgeIndex transposed, with edge features")
def _(make):
    conv, index = make(edge_dim=3), edges()
    given = EdgeIndex(index, sparse_size=(NODES, NODES)).sort_by("col")
    attr = features(EDGES, 3)[given.indices]
    return [_trained(conv, given.values, attr), conv(features(), given.values.flip(0), attr)]


@ours("layouts/Graph.from_edge_index of an EdgeIndex")
def _(make):
    index = edges()
    x, att = features(NODES, 8).view(NODES, 2, 4), features(2, 4, seed=3)
    for loops in (True, False):
        found = [
            gatv2_attention(
                x,
                x,
                att,
                Graph.from_edge_index(given, NODES, add_self_loops=loops),
                backend=make.backend,
            )
            for given in (index, EdgeIndex(index, sparse_size=(NODES, NODES)))
        ]
        assert agree(*found) is True, agree(*found)


@case("layouts/SparseTensor", needs=("torch_sparse",))
def _(make):
    from torch_sparse import SparseTensor

    conv = make()
    adj = SparseTensor.from_edge_index(edges(), sparse_sizes=(NODES, NODES)).t()
    return _trained(conv, adj)


@case("layouts/int32 and other integers without self-loops", fused=False)
def _(make):
    conv, found = make(add_self_loops=False), []
    for dtype in (torch.int64, torch.int32):
        found.append(str(conv(features(), edges().to(dtype)).dtype))
    return [*found, conv(features(), edges())]


@case("layouts/bipartite pair, both flows, features of two sizes")
def _(make):
    found = []
    for flow in ("source_to_target", "target_to_source"):
        for loops in (True, False):
            conv = make((SIZE, 5), 4, heads=2, flow=flow, add_self_loops=loops)
            pair = (features().requires_grad_(), features(NODES, 5, seed=2).requires_grad_())
            out, attention = conv(pair, edges(), return_attention_weights=True)
            found.append([attention, step(conv, out, src=pair[0], dst=pair[1])])
    return found


@case("layouts/a list or tuple for x, size of a bipartite graph")
def _(make):
    conv, pair = make((SIZE, SIZE), 4, heads=2), [features(), features(7, seed=2)]
    index = edges(NODES, 7)
    return [conv(pair, index), conv(tuple(pair), index)]


@case("layouts/share_weights with a pair and with one")
def _(make):
    conv = make((SIZE, SIZE), 4, heads=2, share_weights=True)
    x, index = features().requires_grad_(), edges(NODES, 7)
    first = step(conv, conv((x, features(7, seed=2)), index), x=x)
    conv.zero_grad()
    return [first, _trained(conv, edges())]


@case("layouts/x_dst is None is an error in both", fused=False)
def _(make):
    kinds = (ValueError, TypeError, AssertionError, RuntimeError)
    conv = make((SIZE, SIZE), 4, heads=2)
    return attempt(lambda: conv((features(), None), edges()), *kinds)


_FILLS = {
    "a number": 0.25,
    "a tensor": torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64),
    **{name: name for name in ("mean", "add", "sum", "min", "max", "mul")},
}

for _name, _fill in _FILLS.items():

    @case(f"edge features/fill_value: {_name}")
    def _(make, fill=_fill):
        conv = make(edge_dim=3, fill_value=fill)
        attr = features(EDGES, 3, seed=1).requires_grad_()
        x = features().requires_grad_()
        out, attention = conv(x, edges(), attr, return_attention_weights=True)
        return [attention, step(conv, out, x=x, attr=attr)]


@case("edge features/one-dimensional, every fill_value")
def _(make):
    found = []
    for fill in (0.25, torch.tensor(0.5).double(), "mean", "add", "min", "max", "mul"):
        conv = make(edge_dim=1, fill_value=fill)
        attr = features(EDGES, 1, seed=1)[:, 0].requires_grad_()
        x = features().requires_grad_()
        found.append(step(conv, conv(x, edges(), attr), x=x, attr=attr))
    return found


@case("edge features/integers, as MoleculeNet has them")
def _(make):
    found = []
    for dtype in (torch.long, torch.int32, torch.int16):
        attr = (features(EDGES, 3, seed=1) * 3).round().abs().to(dtype)
        conv, x = make(edge_dim=3, dtype=torch.float32), features(dtype=torch.float32)
        found.append(_trained(conv, edges(), attr, x))
    return found


@case("edge features/1-D integers, float32 features of a float32 layer")
def _(make):
    conv = make(edge_dim=1, dtype=torch.float32, add_self_loops=False)
    x = features(dtype=torch.float32)
    return _trained(conv, edges(), features(EDGES, 1, dtype=torch.float32)[:, 0], x)


@case("edge features/strided, expanded, transposed")
def _(make):
    found = []
    for attr in (
        features(3, EDGES).t(),
        features(1, 3).expand(EDGES, 3),
        features(EDGES, 6)[:, ::2],
        features(EDGES, 0),
    ):
        conv = make(edge_dim=attr.size(1))
        found.append(_trained(conv, edges(), attr))
    return found


@case("edge features/returned attention in PyG's order of edges")
def _(make):
    found = []
    for loops in (True, False):
        conv = make(add_self_loops=loops, edge_dim=3)
        found.append(conv(features(), edges(), features(EDGES, 3), return_attention_weights=True))
        found.append(conv(features(), edges(), features(EDGES, 3), True))
        found.append(conv(features(), edges(), features(EDGES, 3), return_attention_weights=False))
    return found


@case("layouts/a graph without an edge to some nodes, duplicates")
def _(make):
    index = torch.tensor([[0, 0, 0, 3, 3], [1, 1, 1, 3, 2]])
    return [_trained(make(add_self_loops=loops), index) for loops in (True, False)]


@ours("layouts/a COO matrix that is not coalesced stays so", paths=("auto",))
def _(make):
    index, values = edges(loops=False), torch.ones(EDGES)
    adj = torch.sparse_coo_tensor(index.flip(0), values, (NODES, NODES), is_coalesced=False)
    out = make(add_self_loops=False)(features(), adj)
    assert not adj.is_coalesced()
    make._made = 0
    assert agree(out, make(add_self_loops=False)(features(), index)) is True


@case("edge features/fill_value: none")
def _(make):
    conv, attr = make(edge_dim=3, fill_value=None), features(EDGES, 3).requires_grad_()
    return step(conv, conv(features(), edges(), attr), attr=attr)
