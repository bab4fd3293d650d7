"""Bad graphs through public doors: an error that names the argument, or a right result."""

import copy

import torch

from gatv2_pyg import Graph, gatv2_attention

from ...harness import NODES, agree, edges, features, ours, weighted
from ...probes import harmless, refused

_FAR = 2**40


def _used(make, graph, rows=5):
    """A forward and backward over a graph, with edge features."""
    x = features(rows, 8).view(rows, 2, 4).requires_grad_()
    y = features(graph.num_dst, 8, seed=3).view(graph.num_dst, 2, 4).requires_grad_()
    attr = features(graph.num_ids, 3, seed=4).requires_grad_()
    weight = features(8, 3, seed=5)
    att = features(2, 4, seed=2)
    options = {"edge_attr": attr, "edge_weight": weight, "backend": make.backend}
    out, alpha = gatv2_attention(x, y, att, graph, return_attention=True, **options)
    (weighted(out) + weighted(alpha)).backward()
    return [out, alpha, x.grad, y.grad, attr.grad]


_PTR, _IDX = [0, 2, 2, 4], [0, 4, 1, 2]


def _csc(make, ptr=_PTR, idx=_IDX, eid=None, num_src=5, dtype=torch.long):
    def tensor(value):
        return torch.tensor(value, dtype=dtype) if isinstance(value, list) else value

    return lambda: _used(
        make, Graph.from_csc(tensor(ptr), tensor(idx), num_src, eid=tensor(eid)), 5
    )


@ours("bad inputs/from_csc: ptr", fused=False)
def _(make):
    probes = {
        "decreases": [0, 3, 2, 4],
        "starts below 0": [-1, 2, 2, 4],
        "starts far below 0": [-_FAR, 2, 2, 4],
        "ends beyond idx": [0, 2, 2, 9],
        "ends far beyond idx": [0, 2, 2, _FAR],
        "middle far beyond idx": [0, _FAR, 2, 4],
        "all beyond": [7, 8, 9, 10],
        "empty": [],
        "2-D": [_PTR],
        "a number": torch.tensor(4),
        "floats": torch.tensor(_PTR).double(),
        "booleans": torch.tensor(_PTR).bool(),
        "complex": torch.tensor(_PTR).to(torch.complex64),
        "sparse": torch.tensor(_PTR).to_sparse(),
        "on meta": torch.tensor(_PTR).to("meta"),
        "a string": "0224",
        "None": None,
        "an array": torch.tensor(_PTR).numpy(),
    }
    refused({name: _csc(make, ptr=value) for name, value in probes.items()}, "ptr")


@ours("bad inputs/from_csc: ptr in int32", fused=False)
def _(make):
    probes = {"decreases": [0, 3, 2, 4], "below 0": [-1, 2, 2, 4], "beyond": [0, 2, 2, 2**31 - 1]}
    refused({k: _csc(make, ptr=v, dtype=torch.int32) for k, v in probes.items()}, "ptr")


@ours("bad inputs/from_csc: idx", fused=False)
def _(make):
    probes = {
        "below 0": [0, -1, 1, 2],
        "beyond": [0, 5, 1, 2],
        "far beyond": [0, _FAR, 1, 2],
        "far below": [0, -_FAR, 1, 2],
        "the least integer": [0, -(2**63), 1, 2],
        "2-D": [_IDX[:2], _IDX[2:]],
        "a number": torch.tensor(0),
        "floats": torch.tensor(_IDX).double(),
        "booleans": torch.tensor(_IDX).bool(),
        "sparse": torch.tensor(_IDX).to_sparse(),
        "on meta": torch.tensor(_IDX).to("meta"),
        "None": None,
        "an array": torch.tensor(_IDX).numpy(),
    }
    refused({k: _csc(make, idx=v) for k, v in probes.items()}, "idx", "edge_index")


@ours("bad inputs/from_csc: eid", fused=False)
def _(make):
    probes = {
        "beyond": [0, 1, 2, 4],
        "far beyond": [0, 1, 2, _FAR],
        "below 0": [0, -1, 2, 3],
        "too short": [0, 1],
        "too long": [0, 1, 2, 3, 4],
        "empty": [],
        "2-D": [[0, 1], [2, 3]],
        "floats": torch.tensor([0.0, 1, 2, 3]),
        "booleans": torch.tensor([0, 1, 0, 1]).bool(),
        "on meta": torch.tensor([0, 1, 2, 3]).to("meta"),
        "a string": "0123",
    }
    refused({k: _csc(make, eid=v) for k, v in probes.items()}, "eid")


@ours("bad inputs/from_csc: num_src", fused=False)
def _(make):
    probes = {"below 0": -1, "a float": 5.5, "None": None, "a string": "5", "too small": 3}
    refused({k: _csc(make, num_src=v) for k, v in probes.items()}, "num_src", "idx", "edge_index")


@ours("bad inputs/from_csc: odd but right", fused=False)
def _(make):
    expected = _csc(make)()

    def same(found):
        text = agree(expected, found)
        return None if text is True else text

    strided = torch.tensor([[0, 9], [4, 9], [1, 9], [2, 9]])[:, 0]
    probes = {
        "int32": (_csc(make, dtype=torch.int32), same),
        "int16": (_csc(make, dtype=torch.int16), same),
        "strided": (_csc(make, idx=strided), same),
        "eid given": (_csc(make, eid=[0, 1, 2, 3]), same),
        "two of one id": _csc(make, eid=[0, 0, 2, 3]),
        "starts above 0": _csc(make, ptr=[1, 2, 2, 4]),
        "ends before idx does": _csc(make, ptr=[0, 1, 1, 2]),
        "no destination": _csc(make, ptr=[0], idx=[]),
        "no source": lambda: Graph.from_csc(torch.tensor([0, 0]), torch.tensor([]).long(), 0),
    }
    harmless(probes)


@ours("bad inputs/from_csc: tensors changed after", fused=False)
def _(make):
    torch.set_num_threads(1)

    def change(which, dtype, how):
        def call():
            parts = [torch.tensor(v, dtype=dtype) for v in (_PTR, _IDX, [3, 2, 1, 0])]
            graph = Graph.from_csc(parts[0], parts[1], 5, eid=parts[2])
            before = _used(make, graph)
            how(parts[which])
            return before, _used(make, graph)

        return call

    def equal(found):
        text = agree(*found)
        return None if text is True else text

    hows = {"far": lambda t: t.fill_(10**6), "data": lambda t: t.data.fill_(-(10**6))}
    harmless(
        {
            f"{name} {dtype} {kind}": (change(which, dtype, how), equal)
            for which, name in enumerate(("ptr", "idx", "eid"))
            for dtype in (torch.int32, torch.int64)
            for kind, how in hows.items()
        }
    )


@ours("bad inputs/from_edge_index: edge_index", fused=False)
def _(make):
    e = edges(5, count=9)
    probes = {
        "1-D": e[0],
        "three rows": torch.cat([e, e[:1]]),
        "3-D": e[None],
        "floats": e.double(),
        "booleans": e.bool(),
        "complex": e.to(torch.complex64),
        "beyond": e + 1,
        "far beyond": e + _FAR,
        "below 0": e - 1,
        "the least integer": torch.full((2, 3), -(2**63)),
        "the largest integer": torch.full((2, 3), 2**63 - 1),
        "int8 below 0": (e - 3).to(torch.int8),
        "sparse": e.to_sparse(),
        "None": None,
        "a list": e.tolist(),
        "an array": e.numpy(),
    }
    refused(
        {
            f"{k}, self-loops={loops}": lambda v=v, loops=loops: _used(
                make, Graph.from_edge_index(v, 5, add_self_loops=loops)
            )
            for k, v in probes.items()
            for loops in (False, True)
        },
        "edge_index",
    )


@ours("bad inputs/from_edge_index: numbers of nodes, flow", fused=False)
def _(make):
    e, empty = edges(3, count=6), torch.empty(2, 0, dtype=torch.long)
    numbers = {"below 0": -1, "far below 0": -_FAR, "a float": 2.5, "a string": "3"}
    probes = {
        f"num_dst {name}, {text}": lambda value=value, index=index: Graph.from_edge_index(
            index, 3, value
        )
        for name, value in numbers.items()
        for text, index in (("edges", e), ("none", empty))
    }
    probes |= {
        f"num_src {name}": lambda value=value: Graph.from_edge_index(empty, value, 3)
        for name, value in (numbers | {"None": None}).items()
    }
    refused(probes, "num_dst", "num_src")
    flows = {"unknown": "up", "None": None, "a number": 1}
    refused({k: lambda v=v: Graph.from_edge_index(e, 3, flow=v) for k, v in flows.items()}, "flow")
    harmless(
        {
            "more nodes than memory": lambda: Graph.from_edge_index(empty, 3, 10**14),
            "more self-loops than memory": lambda: Graph.from_edge_index(
                empty, 10**14, add_self_loops=True
            ),
        }
    )


def _matrix(rows, columns, size=(5, 5)):
    values = torch.ones(len(columns), dtype=torch.float64)
    return torch.sparse_csr_tensor(
        torch.tensor(rows), torch.tensor(columns), values, size=size, check_invariants=False
    )


@ours("bad inputs/an invalid sparse_csr_tensor", fused=False)
def _(make):
    probes = {
        "rows decrease": ([0, 3, 1, 4, 4, 4], [0, 4, 1, 2]),
        "rows end beyond": ([0, 2, 2, 4, 4, 9], [0, 4, 1, 2]),
        "rows end far beyond": ([0, 2, 2, 4, 4, _FAR], [0, 4, 1, 2]),
        "rows start below 0": ([-3, 2, 2, 4, 4, 4], [0, 4, 1, 2]),
        "column beyond": ([0, 2, 2, 4, 4, 4], [0, 5, 1, 2]),
        "column far beyond": ([0, 2, 2, 4, 4, 4], [0, _FAR, 1, 2]),
        "column below 0": ([0, 2, 2, 4, 4, 4], [0, -1, 1, 2]),
    }
    calls = {
        f"{name}, loops={loops}": lambda value=value, loops=loops: make(add_self_loops=loops)(
            features(5), _matrix(*value)
        )
        for name, value in probes.items()
        for loops in (True, False)
    }
    harmless(calls)
    without_loops = {name: call for name, call in calls.items() if name.endswith("False")}
    refused(without_loops, "edge_index", "idx", "ptr")


@ours("bad inputs/other invalid sparse tensors", fused=False)
def _(make):
    def coo(indices):
        values = torch.ones(len(indices[0]), dtype=torch.float64)
        return torch.sparse_coo_tensor(
            torch.tensor(indices), values, (5, 5), check_invariants=False
        )._coalesced_(True)

    def csc(pointers, rows):
        values = torch.ones(len(rows), dtype=torch.float64)
        return torch.sparse_csc_tensor(
            torch.tensor(pointers), torch.tensor(rows), values, (5, 5), check_invariants=False
        )

    conv = make(add_self_loops=False)
    adjacencies = {
        "COO beyond": lambda: coo([[0, 5], [1, 2]]),
        "COO far": lambda: coo([[0, 1], [1, _FAR]]),
        "COO below 0": lambda: coo([[0, -1], [1, 2]]),
        "CSC rows beyond": lambda: csc([0, 1, 2, 2, 2, 2], [0, 7]),
        "CSC far": lambda: csc([0, 1, 2, 2, 2, 2], [0, _FAR]),
        "wrong shape": lambda: _matrix([0, 1, 1], [0], (2, 5)),
        "blocks": lambda: torch.eye(6).to_sparse_bsr((2, 2)),
        "dense floats": lambda: torch.eye(5),
    }
    refused(
        {
            name: lambda build=build: conv(features(5), build())
            for name, build in adjacencies.items()
        },
        "edge_index",
        "idx",
        "ptr",
    )


@ours("bad inputs/a Graph altered by hand", fused=False)
def _(make):
    def altered(**changes):
        def call():
            graph = copy.copy(Graph.from_edge_index(edges(5, count=30), 5, add_self_loops=True))
            _used(make, graph)
            for name, value in changes.items():
                setattr(graph, name, value(graph) if callable(value) else value)
            return _used(make, graph, graph.num_src if isinstance(graph.num_src, int) else 5)

        return call

    def field(name, change):
        return lambda graph: graph.by_dst._replace(
            **{name: change(getattr(graph.by_dst, name).clone())}
        )

    changes = {
        "num_src less": {"num_src": 1},
        "num_dst less": {"num_dst": 1},
        "num_dst more": {"num_dst": 5000},
        "num_ids less": {"num_ids": 2},
        "by_dst None": {"by_dst": None},
        "by_dst short": {"by_dst": lambda graph: tuple(graph.by_dst)[:2]},
    }
    for name in ("ptr", "idx", "pieces", "cuts", "edge", "eid"):
        if hasattr(Graph.from_edge_index(edges(5), NODES).by_dst, name):
            changes |= {
                f"{name} far": {"by_dst": field(name, lambda v: v.fill_(10**7))},
                f"{name} below 0": {"by_dst": field(name, lambda v: v.fill_(-(10**7)))},
                f"{name} empty": {"by_dst": field(name, lambda v: v[:0])},
                f"{name} floats": {"by_dst": field(name, lambda v: v.double())},
                f"{name} on meta": {"by_dst": field(name, lambda v: v.to("meta"))},
                f"{name} strided": {
                    "by_dst": field(name, lambda v: v.repeat(2, *v.shape[1:])[::2])
                },
            }
    harmless({name: altered(**change) for name, change in changes.items()})


@ours("bad inputs/tensors of a Graph written to", fused=False)
def _(make):
    def written(name, value, data):
        def call():
            graph = Graph.from_edge_index(edges(5, count=30), 5, add_self_loops=True)
            before = _used(make, graph)
            part = getattr(graph.by_dst, name)
            (part.data if data else part).fill_(value)
            return before, _used(make, graph)

        return call

    harmless(
        {
            f"{name} = {value}, data={data}": written(name, value, data)
            for name in ("ptr", "idx", "edge", "eid", "pieces", "cuts")
            if hasattr(Graph.from_edge_index(edges(5), NODES).by_dst, name)
            for value in (10**7, -(10**7))
            for data in (False, True)
        }
    )


@ours("bad inputs/Graph made by hand", fused=False)
def _(make):
    good = Graph.from_edge_index(edges(5, count=30), 5)
    rows = tuple(good.by_dst)
    probes = {
        "of nothing": lambda: Graph(),
        "of tensors": lambda: _used(make, Graph(*rows)),
        "of None": lambda: _used(make, Graph(None, 5, 5, 30, True)),
        "of a list": lambda: _used(make, Graph(list(rows), 5, 5, 30, True)),
        "fewer sources": lambda: _used(make, Graph(good.by_dst, 1, 5, 30, True), 1),
        "fewer ids": lambda: _used(make, Graph(good.by_dst, 5, 5, 3, True)),
        "more destinations": lambda: _used(make, Graph(good.by_dst, 5, 900, 30, True)),
    }
    harmless(probes)
