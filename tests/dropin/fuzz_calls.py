"""Random calls of the public doors: how they are drawn, carried out and judged."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch_geometric.nn
from hypothesis import strategies as st
from torch_geometric import EdgeIndex

import gatv2_pyg
from gatv2_pyg import Graph, gatv2_attention

from .harness import agree, wave

_REFUSALS = (TypeError, ValueError, IndexError, NotImplementedError)
_FLOATS = ("float64", "float32", "bfloat16", "float16")
_INTEGERS = ("int64", "int32", "int16", "uint8")
_FAR = (2**31, 2**40, -(2**40), 2**63 - 1)


def _mostly(good, bad):
    """``good``, and one time in eight ``bad``."""
    return st.integers(0, 7).flatmap(lambda at: bad if at == 7 else good)


def _shape(*sizes: int, most: int = 6):
    """A shape, one time in eight with a dimension or a size too many or too few."""
    good = st.just(list(sizes))
    bad = st.lists(st.integers(0, most), min_size=0, max_size=4)
    return _mostly(good, bad)


@st.composite
def _tensor(draw, *sizes, dtype="float64"):
    other = st.sampled_from(_FLOATS + _INTEGERS + ("bool", "complex64"))
    return {
        "shape": draw(_shape(*sizes)),
        "dtype": draw(_mostly(st.just(dtype), other)),
        "form": draw(
            _mostly(st.just("plain"), st.sampled_from(["strided", "expanded", "meta", "nan"]))
        ),
        "shift": draw(st.integers(0, 5)),
    }


def _index(size: int):
    good = st.integers(0, max(size - 1, 0))
    return st.integers(0, 30).flatmap(
        lambda at: st.sampled_from((-1, size, size + 1, *_FAR)) if at == 30 else good
    )


@st.composite
def _edge_index(draw, num_src, num_dst):
    count = draw(st.integers(0, 12)) if min(num_src, num_dst) else 0
    form = st.sampled_from(
        ["strided", "EdgeIndex", "CSR", "COO", "1-D", "three rows", "meta", "list"]
    )
    return {
        "src": draw(st.lists(_index(num_src), min_size=count, max_size=count)),
        "dst": draw(st.lists(_index(num_dst), min_size=count, max_size=count)),
        "dtype": draw(_mostly(st.just("int64"), st.sampled_from(_INTEGERS + ("float32", "bool")))),
        "form": draw(_mostly(st.just("plain"), form)),
        "size": [num_src, num_dst],
    }


@st.composite
def _layer_call(draw):
    size, rows = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    pair = draw(st.booleans())
    num_dst = draw(st.integers(0, 6)) if pair else rows
    edge_dim = draw(st.sampled_from([None, None, 1, 3]))
    dtype = draw(_mostly(st.just("float64"), st.sampled_from(_FLOATS)))
    edge_index = draw(_edge_index(rows, num_dst))
    attr = _tensor(len(edge_index["src"]), edge_dim or 1, dtype=dtype)
    channels = _mostly(st.integers(1, 4), st.sampled_from([0, -1, 65]))
    return {
        "door": "layer",
        "layer": {
            "in_channels": [size, size] if pair else size,
            "out_channels": draw(channels),
            "heads": draw(_mostly(st.integers(1, 3), st.sampled_from([0, -1, 9]))),
            "concat": draw(st.booleans()),
            "negative_slope": draw(
                _mostly(st.just(0.2), st.sampled_from([0.0, 1.0, -1.0, 3.0, float("nan")]))
            ),
            "dropout": draw(_mostly(st.just(0.0), st.sampled_from([1.0, 1.5, -0.1, float("nan")]))),
            "add_self_loops": draw(st.booleans()),
            "edge_dim": edge_dim,
            "fill_value": draw(st.sampled_from(["mean", "add", "max", "min", "mul", 0.5, "median"])),
            "bias": draw(st.booleans()),
            "share_weights": draw(st.booleans()),
            "residual": draw(st.booleans()),
            "flow": draw(
                _mostly(st.just("source_to_target"), st.sampled_from(["target_to_source", "up"]))
            ),
            "aggr": draw(_mostly(st.just("add"), st.sampled_from(["max", "mean", "bogus"]))),
        },
        "backend": draw(st.sampled_from(["auto", "auto", "reference"])),
        "dtype": dtype,
        "x": [draw(_tensor(n, size, dtype=dtype)) for n in ((rows, num_dst) if pair else (rows,))],
        "edge_index": edge_index,
        "edge_attr": draw(attr) if edge_dim or draw(st.integers(0, 9)) == 0 else None,
        "attention": draw(st.sampled_from([None, True])),
    }


@st.composite
def _function_call(draw):
    num_src, num_dst = draw(st.integers(0, 6)), draw(st.integers(0, 6))
    heads, channels, features = (draw(st.integers(1, most)) for most in (3, 5, 3))
    loops = draw(st.booleans())
    given = draw(_edge_index(num_src, num_dst))
    ids = len(given["src"]) + (min(num_src, num_dst) if loops else 0)
    dtype = draw(_mostly(st.just("float64"), st.sampled_from(_FLOATS)))
    with_attr = draw(st.booleans())
    return {
        "door": "function",
        "edge_index": given,
        "graph": {
            "num_src": draw(_mostly(st.just(num_src), st.integers(-2, 9))),
            "num_dst": draw(_mostly(st.just(num_dst), st.integers(-2, 9))),
            "add_self_loops": loops,
        },
        "x_src": draw(_tensor(num_src, heads, channels, dtype=dtype)),
        "x_dst": draw(_tensor(num_dst, heads, channels, dtype=dtype)),
        "att": draw(_tensor(heads, channels, dtype=dtype)),
        "edge_attr": draw(_tensor(ids, features, dtype=dtype)) if with_attr else None,
        "edge_weight": draw(_tensor(heads * channels, features, dtype=dtype)) if with_attr else None,
        "backend": draw(st.sampled_from(["auto", "reference"])),
    }


@st.composite
def _csc_call(draw):
    num_src, num_dst = draw(st.integers(0, 6)), draw(st.integers(0, 5))
    degrees = draw(st.lists(st.integers(0, 3), min_size=num_dst, max_size=num_dst))
    degrees = degrees if num_src else [0] * num_dst
    ptr = [sum(degrees[:at]) for at in range(num_dst + 1)]
    count = ptr[-1]
    ids = draw(st.permutations(range(count)))
    lists = {
        "ptr": ptr,
        "idx": draw(st.lists(_index(num_src), min_size=count, max_size=count)),
        "eid": draw(st.sampled_from([None, list(ids)])),
    }
    for name in draw(st.lists(st.sampled_from(list(lists)), max_size=1)):
        value = list(lists[name] or [])
        change = draw(st.integers(0, 3))
        if change == 0 or not value:
            value = value[:-1]
        elif change == 1:
            value = [*value, draw(st.integers(-2, 20))]
        else:
            at = draw(st.integers(0, len(value) - 1))
            value[at] = draw(st.one_of(st.integers(-3, 12), st.sampled_from(_FAR)))
        lists[name] = value
    return {
        "door": "from_csc",
        **lists,
        "num_src": draw(_mostly(st.just(num_src), st.integers(-2, 8))),
        "dtype": draw(_mostly(st.just("int64"), st.sampled_from(_INTEGERS + ("float32",)))),
        "backend": draw(st.sampled_from(["auto", "reference"])),
    }


@st.composite
def _raw_call(draw):
    return {
        "door": "raw",
        "operator": draw(st.integers(0, 7)),
        "argument": draw(st.integers(0, 31)),
        "change": draw(st.integers(0, 63)),
        "loops": draw(st.booleans()),
        "edge_dim": draw(st.sampled_from([None, 3])),
    }


def calls():
    """Descriptions of calls, as plain dictionaries."""
    return st.one_of(_layer_call(), _function_call(), _csc_call(), _raw_call())


def carry_out(call: dict[str, Any]) -> str:
    """Carries out a call.

    Returns:
        ``"right"``, ``"refused: ..."`` or ``"both refuse: ..."``; anything else is a fault.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _DOORS[call["door"]](call)
        except Exception as error:
            return f"unexpected {type(error).__name__}: {error}"


def _made(spec: dict[str, Any] | None) -> torch.Tensor | None:
    if spec is None:
        return None
    value = wave(spec["shape"], shift=float(spec["shift"]))
    if not spec["dtype"].startswith(("float", "bfloat", "complex")):
        value = value * 4
    value = value.to(getattr(torch, spec["dtype"]))
    if spec["form"] == "strided" and value.dim():
        value = value.repeat_interleave(2, -1)[..., ::2]
    elif spec["form"] == "expanded" and value.dim() and value.size(0):
        value = value[:1].expand(value.shape)
    elif spec["form"] == "meta":
        value = value.to("meta")
    elif spec["form"] == "nan" and value.numel() and value.dtype.is_floating_point:
        value.view(-1)[0] = float("nan")
    return value


def _made_index(spec: dict[str, Any]):
    plain = torch.tensor([spec["src"], spec["dst"]], dtype=torch.int64)
    form, (num_src, num_dst) = spec["form"], spec["size"]
    if form == "EdgeIndex":
        return EdgeIndex(plain)
    if form in ("CSR", "COO"):
        values = torch.ones(plain.size(1))
        adj = torch.sparse_coo_tensor(plain.flip(0), values, (num_dst, num_src)).coalesce()
        return adj.to_sparse_csr() if form == "CSR" else adj
    value = plain.to(getattr(torch, spec["dtype"]))
    if form == "strided":
        return value.t().contiguous().t()
    if form == "1-D":
        return value[0]
    if form == "three rows":
        return torch.cat([value, value[:1]])
    if form == "meta":
        return value.to("meta")
    return value.tolist() if form == "list" else value


def _refused(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, _REFUSALS) and str(error).startswith("Expected "):
        return f"refused: {text}"
    return f"unclear {text}"


def _layer(call: dict[str, Any]) -> str:
    options = dict(call["layer"])
    options["in_channels"] = (
        tuple(options["in_channels"])
        if isinstance(options["in_channels"], list)
        else options["in_channels"]
    )
    try:
        edge_index = _made_index(call["edge_index"])
    except Exception as error:
        return f"refused: by torch or PyG before the layer, {type(error).__name__}"
    theirs = _attempt(torch_geometric.nn.GATv2Conv, options, call, edge_index)
    ours = _attempt(gatv2_pyg.GATv2Conv, options | {"backend": call["backend"]}, call, edge_index)
    if isinstance(ours, Exception):
        if isinstance(theirs, Exception):
            if str(ours) == str(theirs):
                return f"both refuse: {ours}"
            return _refused(ours)
        text = _refused(ours)
        return text if _narrower(text) else f"refused what PyG's layer takes: {text}"
    if isinstance(theirs, Exception):
        return "right"
    found = agree(theirs, ours, _tolerance(call["dtype"]))
    return "right" if found is True else f"wrong: {found}"


def _narrower(text: str) -> bool:
    """Whether a call that PyG's layer takes is refused on purpose."""
    purposes = (
        "'dropout'",  # PyG raises only where dropout is applied
        "'edge_index' to hold integers",
        "lie in [0,",  # PyG's softmax and scatter take some indices beyond the nodes
        "'edge_attr'",
        "'edge_index' to be a sparse matrix of shape",
    )
    return text.startswith("refused") and any(purpose in text for purpose in purposes)


def _tolerance(dtype: str):
    return {"float64": None, "float32": (1e-3, 1e-4)}.get(dtype, (0.1, 0.1))


def _attempt(cls, options, call, edge_index):
    try:
        conv = cls(**options).to(getattr(torch, call["dtype"]))
        state = {k: wave(v.shape, v.dtype, shift=len(k)) for k, v in conv.state_dict().items()}
        conv.load_state_dict(state)
        x = [_made(spec) for spec in call["x"]]
        x = [v.requires_grad_() if v.dtype.is_floating_point else v for v in x]
        given = tuple(x) if len(x) > 1 else x[0]
        out = conv(
            given,
            edge_index,
            _made(call["edge_attr"]),
            return_attention_weights=call["attention"],
        )
        out, extra = (out[0], [out[1][0], out[1][1]]) if isinstance(out, tuple) else (out, [])
        out.sum().backward()
        grads = [None if value.grad is None else value.grad for value in x]
        return [out, *extra, *grads]
    except Exception as error:
        return error


def _naive(x_src, x_dst, att, edge_attr, edge_weight, edges, num_ids):
    """Attention and its coefficients, edge by edge; ``edges`` are (source, destination, id)."""
    out = torch.zeros(x_dst.shape, dtype=torch.float64)
    alpha = torch.zeros(num_ids, x_dst.size(1), dtype=torch.float64)
    weight = None if edge_weight is None else edge_weight.double()
    scores = {}
    for src, dst, edge in edges:
        z = x_src[src].double() + x_dst[dst].double()
        if weight is not None:
            z = z + (weight @ edge_attr[edge].double()).view_as(z)
        score = (torch.nn.functional.leaky_relu(z, 0.2) * att.double()).sum(-1)
        scores.setdefault(dst, []).append((src, edge, score))
    for dst, row in scores.items():
        shares = torch.stack([score for *_, score in row]).softmax(0)
        for (src, edge, _), share in zip(row, shares, strict=True):
            out[dst] += share.unsqueeze(-1) * x_src[src].double()
            alpha[edge] = share
    return [out, alpha]


def _judge(graph, edges, call, given) -> str:
    """Compares attention over the graph with that over its edges, one by one."""
    x_src, x_dst, att, edge_attr, edge_weight = given
    extra = {} if edge_attr is None and edge_weight is None else {
        "edge_attr": edge_attr,
        "edge_weight": edge_weight,
    }
    for value in (x_src, x_dst, edge_attr):
        if value is not None and value.dtype.is_floating_point:
            value.requires_grad_()
    try:
        out, alpha = gatv2_attention(
            x_src, x_dst, att, graph, return_attention=True, backend=call["backend"], **extra
        )
    except Exception as error:
        return _refused(error)
    if out.device.type == "meta":
        return "right"
    (out.sum() + alpha.sum()).backward() if out.requires_grad else None
    with torch.no_grad():
        expected = _naive(x_src, x_dst, att, edge_attr, edge_weight, edges, graph.num_ids)
    tolerance = _tolerance(str(out.dtype).removeprefix("torch."))
    found = agree(expected, [out.double(), alpha.double()], tolerance)
    return "right" if found is True else f"wrong: {found}"


def _function(call: dict[str, Any]) -> str:
    try:
        edge_index = _made_index(call["edge_index"])
    except Exception as error:
        return f"refused: by torch or PyG before the door, {type(error).__name__}"
    try:
        graph = Graph.from_edge_index(edge_index, **call["graph"])
    except Exception as error:
        return _refused(error)
    src, dst = call["edge_index"]["src"], call["edge_index"]["dst"]
    edges = [(s, d, at) for at, (s, d) in enumerate(zip(src, dst, strict=True))]
    if call["graph"]["add_self_loops"]:
        nodes = min(call["graph"]["num_src"], call["graph"]["num_dst"])
        edges = [edge for edge in edges if edge[0] != edge[1]]
        edges += [(at, at, len(src) + at) for at in range(nodes)]
    names = ("x_src", "x_dst", "att", "edge_attr", "edge_weight")
    return _judge(graph, edges, call, [_made(call[name]) for name in names])


def _csc(call: dict[str, Any]) -> str:
    try:
        dtype = getattr(torch, call["dtype"])
        ptr, idx, eid = (
            None if call[name] is None else torch.tensor(call[name]).to(dtype)
            for name in ("ptr", "idx", "eid")
        )
    except Exception as error:
        return f"refused: by torch before the door, {type(error).__name__}"
    try:
        graph = Graph.from_csc(ptr, idx, call["num_src"], eid=eid)
    except Exception as error:
        return _refused(error)
    starts, sources = ptr.tolist(), idx.tolist()
    ids = list(range(len(sources))) if eid is None else eid.tolist()
    edges = [
        (sources[at], row, ids[at])
        for row in range(len(starts) - 1)
        for at in range(starts[row], starts[row + 1])
    ]
    if len({edge for *_, edge in edges}) < len(edges):
        return "right" if _used(graph, call) else "wrong"
    shapes = ((call["num_src"], 2, 3), (len(starts) - 1, 2, 3), (2, 3), (graph.num_ids, 2), (6, 2))
    given = [wave(shape, shift=float(at)) for at, shape in enumerate(shapes)]
    return _judge(graph, edges, call, given)


def _used(graph, call) -> bool:
    x = wave((graph.num_src, 2, 3)).requires_grad_()
    y = wave((graph.num_dst, 2, 3), shift=1.0)
    gatv2_attention(x, y, wave((2, 3)), graph, backend=call["backend"]).sum().backward()
    return True


def _raw(call: dict[str, Any]) -> str:
    from .cases.bad_inputs import Recorder, mutations

    conv = gatv2_pyg.GATv2Conv(
        4, 3, heads=2, edge_dim=call["edge_dim"], add_self_loops=call["loops"], dropout=0.5
    )
    index = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 2, 0, 0, 0]])
    attr = None if call["edge_dim"] is None else wave((6, 3), torch.float32)
    with Recorder() as recorder:
        x = wave((5, 4), torch.float32).requires_grad_()
        out, (_, alpha) = conv(x, index, attr, return_attention_weights=True)
        (out.sum() + alpha.square().sum()).backward()
    found = list(recorder.calls.values())
    op, args, kwargs = found[call["operator"] % len(found)]
    given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
    name = list(given)[call["argument"] % len(given)]
    others = list(mutations(given[name]))
    if not others:
        return "right"
    try:
        op(**(given | {name: others[call["change"] % len(others)][1]}))
    except Exception as error:
        return f"refused: {type(error).__name__}: {error}"
    return "right"


_DOORS = {"layer": _layer, "function": _function, "from_csc": _csc, "raw": _raw}
