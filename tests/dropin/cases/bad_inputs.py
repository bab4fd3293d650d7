"""Bad inputs through public doors: an error that names the argument, or a right result."""

import copy

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gatv2_pyg
from gatv2_pyg import Graph, gatv2_attention

from ..harness import NODES, SIZE, agree, edges, features, ours, weighted
from ..probes import harmful, names, outcome

_FAR = 2**40


def _not_refused(probes, *arguments):
    """What became of the calls that are not refused with the name of an argument."""
    torch.set_num_threads(1)
    found = {name: outcome(call) for name, call in probes.items()}
    return [f"{k}: {v[:160]}" for k, v in found.items() if not names(v, *arguments)]


def _refused(probes, *arguments):
    """Asserts that each call is refused with the name of an argument."""
    wrong = _not_refused(probes, *arguments)
    assert not wrong, f"{len(wrong)} of {len(probes)} are not refused:\n" + "\n".join(wrong)


def _harmless(probes):
    """Asserts that each call, with its check of the result if it has one, does no harm."""
    torch.set_num_threads(1)
    found = {
        name: outcome(*probe) if isinstance(probe, tuple) else outcome(probe)
        for name, probe in probes.items()
    }
    wrong = [f"{k}: {v[:160]}" for k, v in found.items() if harmful(v)]
    assert not wrong, f"{len(wrong)} of {len(found)} do harm:\n" + "\n".join(wrong)


def _backend(make):
    return "reference" if make.variant == "reference" else "auto"


def _used(make, graph, rows=5):
    """A forward and backward over a graph, with edge features."""
    x = features(rows, 8).view(rows, 2, 4).requires_grad_()
    y = features(graph.num_dst, 8, seed=3).view(graph.num_dst, 2, 4).requires_grad_()
    attr = features(graph.num_ids, 3, seed=4).requires_grad_()
    weight = features(8, 3, seed=5)
    att = features(2, 4, seed=2)
    options = {"edge_attr": attr, "edge_weight": weight, "backend": _backend(make)}
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
    _refused({name: _csc(make, ptr=value) for name, value in probes.items()}, "ptr")


@ours("bad inputs/from_csc: ptr in int32", fused=False)
def _(make):
    probes = {"decreases": [0, 3, 2, 4], "below 0": [-1, 2, 2, 4], "beyond": [0, 2, 2, 2**31 - 1]}
    _refused({k: _csc(make, ptr=v, dtype=torch.int32) for k, v in probes.items()}, "ptr")


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
    _refused({k: _csc(make, idx=v) for k, v in probes.items()}, "idx", "edge_index")


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
    _refused({k: _csc(make, eid=v) for k, v in probes.items()}, "eid")


@ours("bad inputs/from_csc: num_src", fused=False)
def _(make):
    probes = {"below 0": -1, "a float": 5.5, "None": None, "a string": "5", "too small": 3}
    _refused(
        {k: _csc(make, num_src=v) for k, v in probes.items()}, "num_src", "idx", "edge_index"
    )


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
    _harmless(probes)


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
    _harmless(
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
    _refused(
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
    _refused(probes, "num_dst", "num_src")
    flows = {"unknown": "up", "None": None, "a number": 1}
    _refused(
        {k: lambda v=v: Graph.from_edge_index(e, 3, flow=v) for k, v in flows.items()}, "flow"
    )
    _harmless(
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
    _harmless(calls)
    refused = {name: call for name, call in calls.items() if name.endswith("False")}
    _refused(refused, "edge_index", "idx", "ptr")


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
    _refused(
        {name: lambda build=build: conv(features(5), build()) for name, build in adjacencies.items()},
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
                f"{name} strided": {"by_dst": field(name, lambda v: v.repeat(2, *v.shape[1:])[::2])},
            }
    _harmless({name: altered(**change) for name, change in changes.items()})


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

    _harmless(
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
    _harmless(probes)


@ours("bad inputs/gatv2_attention", fused=False)
def _(make):
    graph = Graph.from_edge_index(edges(5, count=9), 5)
    good = {
        "x_src": features(5, 8).view(5, 2, 4),
        "x_dst": features(5, 8, seed=1).view(5, 2, 4),
        "att": features(2, 4, seed=2),
        "graph": graph,
        "edge_attr": features(9, 3),
        "edge_weight": features(8, 3),
        "dropout": 0.0,
        "negative_slope": 0.2,
    }
    gatv2_attention(**good, backend=_backend(make))
    bad = {
        "x_src": [features(5, 8), features(4, 8).view(4, 2, 4), torch.zeros(5, 2, 4).long(), None],
        "x_dst": [
            features(4, 8).view(4, 2, 4),
            features(5, 8).view(5, 4, 2),
            torch.zeros(5, 2, 4),
            torch.zeros(5, 2, 4, device="meta").double(),
            None,
        ],
        "att": [features(2, 5), features(1, 8), torch.zeros(2, 4).long(), None, "att"],
        "graph": [None, edges(5), "graph", Graph.from_edge_index(edges(4), 4)],
        "edge_attr": [features(8, 3), features(9, 2), features(9, 3)[:, 0], None, "attr"],
        "edge_weight": [features(7, 3), features(8, 2), None, 3.0],
        "dropout": [1.5, -0.1, float("nan"), "half", None],
        "negative_slope": ["steep", None],
    }
    others = {
        "edge_attr": ("edge_weight",),
        "edge_weight": ("edge_attr",),
        "graph": ("x_src", "x_dst"),
    }
    wrong = []
    for name, values in bad.items():
        calls = {
            f"{name} {at}": lambda name=name, value=value: gatv2_attention(
                **(good | {name: value}), backend=_backend(make)
            )
            for at, value in enumerate(values)
        }
        wrong += _not_refused(calls, name, *others.get(name, ()))
    assert not wrong, "are not refused:\n" + "\n".join(wrong)


@ours("bad inputs/a layer's attributes set to what does not fit", fused=False)
def _(make):
    def changed(**values):
        def call():
            conv = make(edge_dim=3)
            for name, value in values.items():
                setattr(conv, name, value)
            out = conv(features(), edges(), features(40, 3))
            return weighted(out).backward()

        return call

    double = {"dtype": torch.float64}
    _harmless(
        {
            "heads": changed(heads=3),
            "heads 0": changed(heads=0),
            "out_channels": changed(out_channels=7),
            "att": changed(att=torch.nn.Parameter(torch.zeros(1, 3, 4, **double))),
            "att flat": changed(att=torch.nn.Parameter(torch.zeros(8, **double))),
            "lin_l": changed(lin_l=torch.nn.Linear(SIZE, 12, **double)),
            "lin_r": changed(lin_r=torch.nn.Linear(SIZE, 4, **double)),
            "lin_edge": changed(lin_edge=torch.nn.Linear(3, 5, bias=False, **double)),
            "bias": changed(bias=torch.nn.Parameter(torch.zeros(3, **double))),
            "dropout": changed(dropout=7.0),
            "negative_slope": changed(negative_slope=None),
            "flow": changed(flow="up"),
            "backend": changed(backend="none"),
            "node_dim": changed(node_dim=-2),
        }
    )


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the package's operators."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "gatv2_pyg":
            self.calls.setdefault(str(func), (func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def mutations(value):
    """Other values for one argument of an operator."""
    if isinstance(value, torch.Tensor):
        yield "meta", value.to("meta")
        yield "empty", value.new_empty(0)
        yield "one row less", value[:-1] if value.dim() else value.reshape(1)
        yield "one dimension more", value.unsqueeze(0)
        yield "strided", value.repeat_interleave(2, -1)[..., ::2] if value.dim() else value
        yield "another dtype", value.float() if value.dtype == torch.float64 else value.double()
        yield "int16", value.to(torch.int16)
        if not value.dtype.is_floating_point:
            yield "far", torch.full_like(value, 10**8)
            yield "below 0", torch.full_like(value, -5)
    elif isinstance(value, (list, tuple)):
        yield "nothing", type(value)()
        yield "one less", value[:-1]
        for at, item in enumerate(value):
            for text, other in mutations(item):
                yield f"[{at}] {text}", [*value[:at], other, *value[at + 1 :]]
    elif isinstance(value, bool):
        yield "not", not value
    elif isinstance(value, int):
        yield "0", 0
        yield "below 0", -3
        yield "more", value + 1000
        yield "far", 2**62
    elif isinstance(value, float):
        yield "nan", float("nan")
        yield "below 0", -4.0
        yield "large", 1e300
    elif isinstance(value, str):
        yield "unknown", "nothing"
    if value is not None:
        yield "None", None


@ours("bad inputs/raw operators with inconsistent arguments", fused=False, limit=150)
def _(make):
    torch.set_num_threads(1)
    with Recorder() as recorder:
        conv, x = make(edge_dim=3, dropout=0.5), features().requires_grad_()
        out, (_, alpha) = conv(x, edges(), features(40, 3), return_attention_weights=True)
        (weighted(out) + weighted(alpha)).backward()
    probes = {}
    for name, (op, args, kwargs) in recorder.calls.items():
        given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
        for argument, value in given.items():
            for text, other in mutations(value):
                probes[f"{name}({argument}: {text})"] = (
                    lambda op=op, changed=given | {argument: other}: op(**changed)
                )
    assert make.variant == "reference" or probes
    _harmless(probes)
    if make.variant != "reference":
        far = {k: v for k, v in probes.items() if k.endswith((" far)", "int16)"))}
        silent = [name for name, call in far.items() if outcome(call) == "returned"]
        indices = [name for name in silent if "seed" not in name and "num_" not in name]
        assert not indices, f"accepted: {indices}"


@ours("bad inputs/use_backend, set_graph_cache, conversion", fused=False)
def _(make):
    _refused(
        {
            "unknown": lambda: gatv2_pyg.use_backend("none").__enter__(),
            "None": lambda: gatv2_pyg.use_backend(None).__enter__(),
            "a layer's": lambda: gatv2_pyg.GATv2Conv(4, 4, backend="none"),
        },
        "backend",
        "name",
    )
    _harmless(
        {
            "use_gatv2 of None": lambda: gatv2_pyg.use_gatv2(None),
            "use_gatv2 of a number": lambda: gatv2_pyg.use_gatv2(3),
            "to_pyg of a tensor": lambda: gatv2_pyg.to_pyg(features()),
            "set_graph_cache(None)": lambda: gatv2_pyg.set_graph_cache(None),
        }
    )
