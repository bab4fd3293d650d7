"""How a described call is carried out, and what is said of it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch_geometric.nn
from torch_geometric import EdgeIndex

import gatv2_pyg
from gatv2_pyg import Graph, gatv2_attention

from ..harness import agree, wave

_REFUSALS = (TypeError, ValueError, IndexError, NotImplementedError)


def carry_out(call: dict[str, Any]) -> str:
    """Carries out a call.

    Returns:
        ``"right"``, ``"refused: ..."`` or ``"both refuse: ..."``; anything else is a fault.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _CARRIED_OUT[call["door"]](call)
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
    elif spec["form"] == "masked" and value.numel() and value.dtype.is_floating_point:
        value.view(-1)[::3] = -torch.inf
    return value


def _made_index(spec: dict[str, Any]):
    plain = torch.tensor([spec["src"], spec["dst"]], dtype=torch.int64)
    form, (num_src, num_dst) = spec["form"], spec["size"]
    if form == "EdgeIndex":
        return EdgeIndex(plain)
    if form in ("CSR", "COO"):
        return _made_matrix(plain, form, (num_dst, num_src))
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


def _made_matrix(plain: torch.Tensor, form: str, size: tuple[int, int]) -> torch.Tensor:
    """A sparse matrix; torch's own conversions of one with bad indices write beyond its memory."""
    values = torch.ones(plain.size(1))
    src, dst = plain
    bad = bool(((plain < 0) | (plain >= torch.tensor(size[::-1]).view(2, 1))).any())
    if not bad:
        adj = torch.sparse_coo_tensor(plain.flip(0), values, size).coalesce()
        return adj.to_sparse_csr() if form == "CSR" else adj
    if form == "COO":
        return torch.sparse_coo_tensor(plain.flip(0), values, size, is_coalesced=True)
    counts = torch.bincount(dst.clamp(0, max(size[0] - 1, 0)), minlength=size[0])
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return torch.sparse_csr_tensor(crow, src[dst.argsort(stable=True)], values, size)


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
    # PyG's gradients are wrong where its scatter gets indices of fewer bits.
    given = edge_index.long() if _is_narrow(edge_index) else edge_index
    theirs = _attempt(torch_geometric.nn.GATv2Conv, options, call, given)
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
    if _is_narrow(edge_index):
        ours = [_with_wide_indices(value) for value in ours]
    found = agree(theirs, ours, _tolerance(call["dtype"]))
    return "right" if found is True else f"wrong: {found}"


def _is_narrow(edge_index: Any) -> bool:
    narrow = (torch.int32, torch.int16, torch.int8, torch.uint8)
    return type(edge_index) is torch.Tensor and edge_index.dtype in narrow


def _with_wide_indices(value: Any) -> Any:
    floats = not isinstance(value, torch.Tensor) or value.is_floating_point()
    return value if floats else value.long()


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


def _naive(given, edges, num_ids):
    """Attention and its coefficients, edge by edge; ``edges`` are (source, destination, id)."""
    x_src, x_dst, att, edge_attr, weight, bias = given
    if x_src.dim() > 3:
        lead = x_src.shape[:-3]
        parts = [
            _naive([one, other, *given[2:]], edges, num_ids)
            for one, other in zip(x_src.flatten(0, -4), x_dst.flatten(0, -4), strict=True)
        ]
        if not parts:
            empty = torch.zeros(*lead, num_ids, x_dst.size(-2), dtype=torch.float64)
            return [x_dst.double() * 0, empty]
        return [torch.stack(part).unflatten(0, lead) for part in zip(*parts, strict=True)]
    out = torch.zeros(x_dst.shape, dtype=torch.float64)
    alpha = torch.zeros(num_ids, x_dst.size(1), dtype=torch.float64)
    scores = {}
    for src, dst, edge in edges:
        z = x_src[src].double() + x_dst[dst].double()
        if weight is not None:
            z = z + (weight.double() @ edge_attr[edge].double()).view_as(z)
        score = (torch.nn.functional.leaky_relu(z, 0.2) * att.double()).sum(-1)
        score = score if bias is None else score + bias[edge].double()
        scores.setdefault(dst, []).append((src, edge, score))
    for dst, row in scores.items():
        every = torch.stack([score for *_, score in row])
        masked = every == -torch.inf
        shares = every.masked_fill(masked, -1e300).softmax(0).masked_fill(masked, 0.0)
        for (src, edge, _), share in zip(row, shares, strict=True):
            out[dst] += share.unsqueeze(-1) * x_src[src].double()
            alpha[edge] = share
    return [out, alpha]


def _judge(graph, edges, call, given) -> str:
    """Compares attention over the graph, and gradients, with those over its edges, one by one."""
    x_src, x_dst, att, edge_attr, edge_weight, attn_bias = given
    extra = {"attn_bias": attn_bias}
    if edge_attr is not None or edge_weight is not None:
        extra |= {"edge_attr": edge_attr, "edge_weight": edge_weight}
    leaves = [v for v in given if v is not None and v.dtype.is_floating_point]
    for value in leaves:
        value.requires_grad_()
    try:
        out, alpha = gatv2_attention(
            x_src, x_dst, att, graph, return_attention=True, backend=call["backend"], **extra
        )
    except Exception as error:
        return _refused(error)
    if out.device.type == "meta":
        return "right"
    found = [out, alpha]
    expected = _naive(given, edges, graph.num_ids)
    # A narrower dtype rounds its gradient; how far a NaN spreads is no one's promise.
    precise = x_src.dtype in (torch.float64, torch.float32)
    precise = precise and all(v.dtype == x_src.dtype for v in leaves)
    if precise and not any(bool(v.isnan().any()) for v in leaves):
        both = [[v.double() for v in values] for values in (expected, found)]
        nothing = sum(leaf.flatten()[:0].sum() for leaf in leaves)  # no edges: no gradient
        for values in both:
            loss = sum((v * wave(v.shape)).sum() for v in values) + nothing
            values += torch.autograd.grad(loss, leaves, materialize_grads=True)
        expected, found = both
    tolerance = _tolerance(str(out.dtype).removeprefix("torch."))
    same = agree([v.double() for v in expected], [v.double() for v in found], tolerance)
    return "right" if same is True else f"wrong: {same}"


def _function(call: dict[str, Any]) -> str:
    try:
        edge_index = _made_index(call["edge_index"])
    except Exception as error:
        return f"refused: by torch or PyG before the door, {type(error).__name__}"
    try:
        graph = Graph.from_edge_index(edge_index, **call["graph"])
    except Exception as error:
        return _refused(error)
    # Numbers are what their dtype makes of them.
    spec = call["edge_index"]
    src, dst = (spec["src"], spec["dst"]) if edge_index.is_meta else edge_index.tolist()
    edges = [(s, d, at) for at, (s, d) in enumerate(zip(src, dst, strict=True))]
    if call["graph"]["add_self_loops"]:
        nodes = min(call["graph"]["num_src"], call["graph"]["num_dst"])
        edges = [edge for edge in edges if edge[0] != edge[1]]
        edges += [(at, at, len(src) + at) for at in range(nodes)]
    names = ("x_src", "x_dst", "att", "edge_attr", "edge_weight", "attn_bias")
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
    return _judge(graph, edges, call, [*given, None])


def _used(graph, call) -> bool:
    x = wave((graph.num_src, 2, 3)).requires_grad_()
    y = wave((graph.num_dst, 2, 3), shift=1.0)
    gatv2_attention(x, y, wave((2, 3)), graph, backend=call["backend"]).sum().backward()
    return True


def _raw(call: dict[str, Any]) -> str:
    from ..cases.arguments.bad_operators import Recorder, mutations

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


_CARRIED_OUT = {"layer": _layer, "function": _function, "from_csc": _csc, "raw": _raw}
