"""Tensors that are not plain memory, settings of torch, sizes of nothing."""

import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import gatv2_pyg
from gatv2_pyg import DenseGATv2Conv, Graph, gatv2_attention

from ...harness import NODES, SIZE, agree, case, edges, features, gradients, ours, step, weighted
from ...probes import harmful, harmless, told
from .bad_operators import Recorder, changed_calls, mutations


def _negated(value):
    """The same values as a view that negates what its memory holds."""
    return torch.complex(torch.zeros_like(value), -value).conj().imag


def _same(expected):
    def check(found):
        text = agree(expected, found)
        return None if text is True else text

    return check


@case("odd tensors/features and edge features are negated views", fused=True)
def _(make):
    conv, found = make(edge_dim=3), []
    for x, attr in (
        (_negated(features()), features(40, 3)),
        (features(), _negated(features(40, 3))),
    ):
        assert x.is_neg() or attr.is_neg()
        leaf = x.requires_grad_()
        conv.zero_grad()
        found.append(step(conv, conv(leaf, edges(), attr), x=leaf))
    conv.att = torch.nn.Parameter(_negated(conv.att.detach()))
    return [*found, conv(features(), edges(), features(40, 3))]


@case("odd tensors/edge_index is a negated view", fused=False)
def _(make):
    index = torch._neg_view(-edges())
    found = []
    for loops in (True, False):
        x, conv = features().requires_grad_(), make(add_self_loops=loops)
        found.append(step(conv, conv(x, index), x=x))
    return found


@case("odd tensors/a tensor of zeros without memory", fused=False)
def _(make):
    x = torch._efficientzerotensor((NODES, SIZE), dtype=torch.float64)
    attr = torch._efficientzerotensor((40, 3), dtype=torch.float64)
    index = torch._efficientzerotensor((2, 5), dtype=torch.int64)
    conv = make(edge_dim=3)
    return [
        conv(x, edges(), features(40, 3)),
        conv(features(), edges(), attr),
        conv(features(), index, features(5, 3)),
    ]


@case("odd tensors/wrappers of two tensors", fused=False)
def _(make):
    conv = make()
    found = []
    for wrapped in ("x", "both"):
        x = TwoTensor(features(), features())
        index = TwoTensor(edges(), edges()) if wrapped == "both" else edges()
        try:
            out = conv(x, index)
        except Exception as error:
            found.append(type(error).__name__)
            continue
        found.append([out.a, out.b] if isinstance(out, TwoTensor) else out)
    return found


@case("odd tensors/edge features beside a wrapped edge_index")
def _(make):
    out = make(edge_dim=3)(features(), TwoTensor(edges(), edges()), features(edges().size(1), 3))
    return [out.a, out.b] if isinstance(out, TwoTensor) else out


@case("odd tensors/expanded and overlapping memory")
def _(make):
    found = []
    conv = make(edge_dim=3, add_self_loops=False)
    x = features(1).requires_grad_()
    found.append(step(conv, conv(x.expand(NODES, -1), edges(), features(40, 3)), x=x))
    base = features(NODES + SIZE, 1).view(-1).requires_grad_()
    sliding = base.as_strided((NODES, SIZE), (1, 1))
    index = torch.arange(12).as_strided((2, 9), (2, 1))
    attr = features(1, 1).expand(9, 3)
    conv.zero_grad()
    found.append(step(conv, conv(sliding, index, attr), x=base))
    same = torch.tensor([[3], [4]]).expand(2, 40)
    found.append(conv(features(), same, features(40, 3)))
    return found


@case("odd tensors/named, quantised, MKL-DNN, nested: both refuse or agree", fused=False)
def _(make):
    conv, found = make(dtype=torch.float32), []
    x, index = features(dtype=torch.float32), edges()
    for build in (
        lambda: x.to_mkldnn(),
        lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([x, x]),
        lambda: torch.nested.nested_tensor([x, x], layout=torch.jagged),
        lambda: x.to(torch.complex64),
        lambda: x.half(),
        lambda: x.to(torch.float8_e4m3fn),
        lambda: x.bool(),
    ):
        try:
            conv(build(), index)
            found.append("accepted")
        except Exception as error:
            found.append(isinstance(error, Exception))
    return found


@case("settings/default dtype bfloat16 around float64 tensors")
def _(make):
    conv, x = make(edge_dim=3, dropout=0.0), features().requires_grad_()
    torch.set_default_dtype(torch.bfloat16)
    return step(conv, conv(x, edges(), features(40, 3)), x=x)


@case("settings/one thread, anomaly mode, deterministic algorithms, at once")
def _(make):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    conv, x = make(edge_dim=3, fill_value="add"), features().requires_grad_()
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        out, (_, alpha) = conv(x, edges(), features(40, 3), return_attention_weights=True)
        (weighted(out) + weighted(alpha)).backward()
    return [out, alpha, gradients(conv, x=x)]


@case("values/one destination with 200,000 edges", tolerance=(1e-9, 1e-10))
def _(make):
    index = torch.stack([torch.arange(200_000) % 11, torch.full((200_000,), 11)])
    conv, x = make(add_self_loops=False), features().requires_grad_()
    out, (_, alpha) = conv(x, index, return_attention_weights=True)
    (weighted(out) + alpha.sum()).backward()
    return [out, alpha, gradients(conv, x=x)]


@case("values/edge features of size 0")
def _(make):
    conv, x = make(edge_dim=0), features().requires_grad_()
    return step(conv, conv(x, edges(), features(40, 0)), x=x)


@ours("values/no heads or no channels, the means of them")
def _(make):
    def trained(channels, **options):
        def call():
            conv, x = make(SIZE, channels, **options), features().requires_grad_()
            out, (_, alpha) = conv(x, edges(), return_attention_weights=True)
            (out.sum() + alpha.square().sum()).backward()

        return call

    make()(features(), edges())
    harmless(
        {
            f"heads={heads}, channels={channels}, concat={concat}": trained(
                channels, heads=heads, concat=concat
            )
            for heads, channels in ((0, 4), (2, 0), (0, 0))
            for concat in (True, False)
        }
    )


def _call(make, **changes):
    good = {
        "x_src": features(5, 8).view(5, 2, 4),
        "x_dst": features(5, 8, seed=1).view(5, 2, 4),
        "att": features(2, 4, seed=2),
        "graph": Graph.from_edge_index(edges(5, count=9), 5),
    }
    return lambda: gatv2_attention(
        **{name: v() if callable(v) else v for name, v in (good | changes).items()},
        backend=make.backend,
    )


@ours("odd tensors/gatv2_attention: right or refused", fused=False)
def _(make):
    good = _call(make)()
    x, y = features(5, 8).view(5, 2, 4), features(5, 8, seed=1).view(5, 2, 4)
    att = features(2, 4, seed=2)
    index = edges(5, count=9)
    right = {
        "x_src negated": _call(make, x_src=lambda: _negated(x)),
        "x_dst negated": _call(make, x_dst=lambda: _negated(y)),
        "att negated": _call(make, att=lambda: _negated(att)),
        "edges negated": _call(
            make, graph=lambda: Graph.from_edge_index(torch._neg_view(-index), 5)
        ),
        "a bias of zeros without memory": _call(
            make, attn_bias=lambda: torch._efficientzerotensor((9,), dtype=torch.float64)
        ),
        "a bias negated": _call(
            make, attn_bias=lambda: _negated(torch.zeros(9, dtype=torch.float64))
        ),
        "a bias expanded": _call(
            make, attn_bias=lambda: torch.zeros(1, 1, dtype=torch.float64).expand(9, 2)
        ),
        "a bias in half precision": _call(make, attn_bias=lambda: torch.zeros(9).half()),
        "a seed": _call(make, seed=3, dropout=0.5),
        "a seed of any sign": _call(make, seed=lambda: torch.tensor(-1)),
    }
    doubtful = {
        "a seed on meta": _call(
            make, seed=lambda: torch.tensor(1, device="meta"), dropout=0.5, training=True
        ),
        "a seed below 0": _call(make, seed=lambda: torch.tensor(-1), dropout=0.5, training=True),
        "a seed of zeros without memory": _call(
            make,
            seed=lambda: torch._efficientzerotensor((), dtype=torch.int64),
            dropout=0.5,
            training=True,
        ),
        "a seed that is a wrapper": _call(
            make,
            seed=lambda: TwoTensor(torch.tensor(1), torch.tensor(1)),
            dropout=0.5,
            training=True,
        ),
        "no channels": _call(
            make, x_src=x[..., :0], x_dst=y[..., :0], att=att[..., :0], return_attention=True
        ),
        "no heads": _call(make, x_src=x[:, :0], x_dst=y[:, :0], att=att[:0]),
        "no batch": _call(make, x_src=x.expand(0, 5, 2, 4), x_dst=y.expand(0, 5, 2, 4)),
        "many batches": _call(
            make, x_src=x.expand(2, 0, 3, 5, 2, 4), x_dst=y.expand(2, 0, 3, 5, 2, 4)
        ),
        "no edge features": _call(
            make,
            edge_attr=torch.zeros(9, 0, dtype=torch.float64),
            edge_weight=torch.zeros(8, 0, dtype=torch.float64),
        ),
        "wrapped": _call(make, x_src=lambda: TwoTensor(x, x)),
        "a bias wrapped": _call(
            make,
            attn_bias=lambda: TwoTensor(torch.zeros(9).double(), torch.zeros(9).double()),
        ),
        "sparse": _call(make, x_src=lambda: x.to_sparse()),
        "nested": _call(make, x_src=lambda: torch.nested.nested_tensor([x, x])),
        "complex": _call(make, x_src=lambda: x + 0j),
        "numbers": _call(make, x_src=3.0),
        "a bias of booleans": _call(make, attn_bias=torch.zeros(9).bool()),
        "a bias of ten": _call(make, attn_bias=torch.zeros(10)),
        "a bias for three heads": _call(make, attn_bias=torch.zeros(9, 3)),
        "a bias of a number": _call(make, attn_bias=torch.zeros(())),
        "a bias on meta": _call(make, attn_bias=torch.zeros(9, device="meta")),
        "slope of a thousand": _call(make, negative_slope=1000.0),
        "slope nan": _call(make, negative_slope=float("nan")),
    }
    harmless({k: (v, lambda found: _same(good)(found)) for k, v in right.items()} | doubtful)


@ours("odd tensors/Graph: right or refused", fused=False)
def _(make):
    index = edges(5, count=9)

    def used(graph):
        return _call(make, graph=graph)()

    def trained(graph, x, att):
        options = {"backend": make.backend}
        return gatv2_attention(x.requires_grad_(), x, att, graph, **options).sum().backward()

    def fake_then_real():
        with FakeTensorMode(allow_non_fake_inputs=True):
            graph = Graph.from_edge_index(torch.zeros(2, 9).long(), 5)
        trained(graph, features(5, 8).view(5, 2, 4), features(2, 4))

    def used_under_fake():
        graph = Graph.from_edge_index(index, 5)
        with FakeTensorMode(allow_non_fake_inputs=True):
            trained(graph, torch.zeros(5, 2, 4).double(), torch.zeros(2, 4).double())
        trained(graph, features(5, 8).view(5, 2, 4), features(2, 4))
        return used(graph)

    good = used(Graph.from_edge_index(index, 5))
    plain = Graph.from_edge_index(index, 5).by_dst
    order = plain.edge if plain.edge.numel() else None
    right = {
        "parameter": lambda: torch.nn.Parameter(index, requires_grad=False),
        "negated": lambda: torch._neg_view(-index),
        "strided": lambda: index.repeat_interleave(3, 1)[:, ::3],
        "transposed": lambda: index.t().contiguous().t(),
        "int32": lambda: index.int(),
        "uint8": lambda: index.to(torch.uint8),
    }
    probes = {
        k: (lambda v=v: used(Graph.from_edge_index(v(), 5)), _same(good)) for k, v in right.items()
    }
    probes |= {
        "csc negated": (
            lambda: used(
                Graph.from_csc(
                    torch._neg_view(-plain.ptr), torch._neg_view(-plain.idx), 5, eid=order
                )
            ),
            _same(good),
        ),
        "zeros without memory": lambda: used(
            Graph.from_edge_index(torch._efficientzerotensor((2, 9), dtype=torch.int64), 5)
        ),
        "csc of zeros without memory": lambda: used(
            Graph.from_csc(
                torch._efficientzerotensor((6,), dtype=torch.int64), torch.empty(0).long(), 5
            )
        ),
        "wrapped": lambda: used(Graph.from_edge_index(TwoTensor(index, index), 5)),
        "csc wrapped": lambda: used(
            Graph.from_csc(TwoTensor(plain.ptr, plain.ptr), plain.idx, 5, eid=order)
        ),
        "csc, idx wrapped": lambda: used(
            Graph.from_csc(plain.ptr, TwoTensor(plain.idx, plain.idx), 5, eid=order)
        ),
        "csc, eid wrapped": lambda: used(
            Graph.from_csc(plain.ptr, plain.idx, 5, eid=TwoTensor(plain.edge, plain.edge))
        ),
        "uint16": lambda: used(Graph.from_edge_index(index.to(torch.uint16), 5)),
        "nested": lambda: Graph.from_edge_index(torch.nested.nested_tensor([index[0]] * 2), 5),
        "num_src a tensor": lambda: Graph.from_edge_index(index, torch.tensor(5)),
        "num_src huge": lambda: Graph.from_edge_index(index, 2**63),
        "num_dst huge": lambda: Graph.from_edge_index(index, 5, 2**62, add_self_loops=True),
        "csc, num_src huge": lambda: Graph.from_csc(plain.ptr, plain.idx, 2**63),
        "rows": lambda: Graph.from_edge_index(index, 5).rows(-1, 3),
        "rows of a tensor": lambda: Graph.from_edge_index(index, 5).rows(torch.tensor(0), 3),
        "rows backwards": lambda: Graph.from_edge_index(index, 5).rows(4, 3),
    }
    harmless(probes)
    # Not in a fork: there the threads of autograd's engine race for torch's thread pool.
    here = [told(fake_then_real), told(used_under_fake, _same(good))]
    assert not any(map(harmful, here)), here


@ours("odd tensors/DenseGATv2Conv: right or refused", fused=False)
def _(make):
    dense = DenseGATv2Conv(SIZE, 4, heads=2, backend=make.backend).double()
    x = torch.stack([features(6, SIZE, seed=at) for at in range(3)])
    adj = (torch.stack([features(6, 6, seed=at + 5) for at in range(3)]) > 0.4).double()
    good = dense(x, adj)
    right = {
        "booleans": lambda: dense(x, adj.bool()),
        "integers": lambda: dense(x, adj.to(torch.int8)),
        "complex": lambda: dense(x, adj + 0j),
        "negative": lambda: dense(x, -adj),
        "infinite": lambda: (
            dense(x, adj * torch.inf * 1.0).nan_to_num(0)
            if False
            else dense(x, torch.where(adj > 0, torch.inf, 0.0))
        ),
        "strided": lambda: dense(x, adj.repeat_interleave(2, -1)[..., ::2]),
        "negated": lambda: dense(_negated(x), _negated(adj)),
        "requires grad": lambda: dense(x, adj.clone().requires_grad_()).detach(),
        "a mask of ones": lambda: dense(x, adj, torch.ones(3, 6)),
        "half": lambda: dense(x, adj.half()),
    }
    probes = {k: (v, _same(good)) for k, v in right.items()} | {
        "no nodes": lambda: dense(x[:, :0], adj[:, :0, :0]),
        "no graphs": lambda: dense(x[:0], adj[:0]),
        "no graphs, one adj": lambda: dense(x[:0], adj[:1]),
        "wrapped adj": lambda: dense(x, TwoTensor(adj, adj)),
        "wrapped x": lambda: dense(TwoTensor(x, x), adj),
        "adj of zeros without memory": lambda: dense(
            x, torch._efficientzerotensor((3, 6, 6), dtype=torch.float64)
        ),
        "sparse": lambda: dense(x, adj.to_sparse()),
        "nan": lambda: dense(x, adj * torch.nan),
        "meta": lambda: dense(x, adj.to("meta")),
        "mask of nan": lambda: dense(x, adj, torch.full((3, 6), torch.nan)),
        "mask 3-D": lambda: dense(x, adj, torch.ones(3, 6, 1)),
        "mask of one size": lambda: dense(x, adj, torch.ones(6)),
        "mask None twice": lambda: dense(x, adj, None, None),
        "adj 4-D": lambda: dense(x, adj[None]),
        "x 4-D": lambda: dense(x[None], adj),
        "x 1-D": lambda: dense(x[0, 0], adj),
        "None": lambda: dense(None, None),
        "heads=0": lambda: DenseGATv2Conv(SIZE, 4, heads=0).double()(x, adj),
        "channels=0": lambda: DenseGATv2Conv(SIZE, 0).double()(x, adj),
        "adj wrong": lambda: dense(x, adj[:2]),
    }
    harmless(probes)


@ours("odd tensors/a layer: batches, biases, what is not a tensor", fused=False)
def _(make):
    conv = make(edge_dim=3)
    x, index, attr = features(), edges(), features(40, 3)
    good = conv(x, index, attr)

    def call(*given, **more):
        return lambda: weighted(conv(*given, **more)).backward()

    right = {
        "a batch of one": lambda: conv(x[None], index, attr)[0],
        "a batch of two dimensions": lambda: conv(x.expand(2, 3, -1, -1), index, attr)[1, 2],
        "a bias of zeros": lambda: conv(x, index, attr, attn_bias=torch.zeros(40)),
        "a bias without memory": lambda: conv(
            x, index, attr, attn_bias=torch._efficientzerotensor((40, 2))
        ),
        "an edge_index negated": lambda: conv(x, torch._neg_view(-index), attr),
        "a batch negated": lambda: conv(_negated(x)[None], index, attr)[0],
    }
    probes = {k: (v, _same(good)) for k, v in right.items()} | {
        "a batch of none": call(x.expand(0, -1, -1), index, attr),
        "a batch of none, biased": call(
            x.expand(0, -1, -1), index, attr, attn_bias=torch.zeros(40)
        ),
        "many dimensions": call(x.expand(1, 1, 1, 1, 1, 1, 1, -1, -1), index, attr),
        "a pair of batches": call((x.expand(2, -1, -1), x.expand(3, -1, -1)), index, attr),
        "a pair, one in a batch": call((x.expand(2, -1, -1), x), index, attr),
        "bias inf": call(x, index, attr, attn_bias=torch.full((40,), torch.inf)),
        "bias nan": call(x, index, attr, attn_bias=torch.full((40,), torch.nan)),
        "bias -inf": call(x, index, attr, attn_bias=torch.full((40,), -torch.inf)),
        "bias of integers": call(x, index, attr, attn_bias=torch.zeros(40).long()),
        "bias 3-D": call(x, index, attr, attn_bias=torch.zeros(1, 40, 2)),
        "bias sparse": call(x, index, attr, attn_bias=torch.zeros(40).to_sparse()),
        "bias wrapped": call(x, index, attr, attn_bias=TwoTensor(torch.zeros(40), torch.zeros(40))),
        "bias a list": call(x, index, attr, attn_bias=[0.0] * 40),
        "bias meta": call(x, index, attr, attn_bias=torch.zeros(40, device="meta")),
        "bias nested": call(
            x, index, attr, attn_bias=torch.nested.nested_tensor([torch.zeros(40)])
        ),
        "x a sparse batch": call(x[None].to_sparse(), index, attr),
        "attr wrapped": call(x, index, TwoTensor(attr, attr)),
        "index wrapped": call(x, TwoTensor(index, index), attr),
        "all huge": call(x * 1e300, index, attr * 1e300),
        "all NaN": call(x * torch.nan, index, attr),
        "att with NaN": call(x, index, attr),
    }
    harmless(probes)


@ours("odd tensors/diagnostics: right or refused", fused=False)
def _(make):
    from gatv2_pyg import diagnostics

    index = edges()
    alpha = torch.rand(40, 2)
    functions = {
        name: getattr(diagnostics, name)
        for name in diagnostics.__all__
        if name not in ("collect_attention", "LayerAttention", "AttentionLayer")
        and callable(getattr(diagnostics, name))
    }
    odd = {
        "no edges": (index[:, :0], alpha[:0]),
        "no heads": (index, alpha[:, :0]),
        "1-D": (index, alpha[:, 0]),
        "3-D": (index, alpha[None]),
        "floats": (index.double(), alpha),
        "integers": (index, alpha.long()),
        "far": (index + 2**40, alpha),
        "below 0": (index - 2**40, alpha),
        "nan": (index, alpha * torch.nan),
        "inf": (index, alpha * torch.inf),
        "negative": (index, -alpha),
        "meta": (index.to("meta"), alpha.to("meta")),
        "other lengths": (index, alpha[:7]),
        "None": (None, None),
        "sparse": (index.to_sparse(), alpha),
        "lists": (index.tolist(), alpha.tolist()),
        "expanded": (index[:, :1].expand(2, 40), alpha),
        "negated": (torch._neg_view(-index), alpha),
    }
    found = {}
    for name, function in functions.items():
        if isinstance(function, type):
            continue
        for text, given in odd.items():
            for more in ((), (3,), (-1,), (0,)):
                found[f"{name} {text} {more}"] = lambda function=function, given=given, more=more: (
                    function(*given, *more)
                )
    harmless(found)


@ours("odd tensors/patch, use_gatv2, to_pyg in odd orders", fused=False)
def _(make):
    import torch_geometric.nn as pyg

    def nested():
        own = pyg.GATv2Conv
        with gatv2_pyg.patch(), gatv2_pyg.patch():
            assert pyg.GATv2Conv is gatv2_pyg.GATv2Conv
        return pyg.GATv2Conv is own

    def out_of_order():
        own = pyg.GATv2Conv
        first, second = gatv2_pyg.patch(), gatv2_pyg.patch()
        first.undo()
        second.undo()
        first.undo()
        return pyg.GATv2Conv is own

    def raised():
        own = pyg.GATv2Conv
        with contextlib.suppress(KeyError), gatv2_pyg.patch():
            raise KeyError
        return pyg.GATv2Conv is own

    def back_and_forth():
        conv = make()
        before = conv(features(), edges())
        for _ in range(3):
            gatv2_pyg.to_pyg(conv)
            assert type(conv) is pyg.GATv2Conv
            gatv2_pyg.use_gatv2(conv, backend=make.backend)
        return agree(before, conv(features(), edges())) is True

    def check(found):
        return None if found is True else repr(found)

    harmless({f.__name__: (f, check) for f in (nested, out_of_order, raised, back_and_forth)})


def _odd_forms(value):
    yield from mutations(value)
    if isinstance(value, torch.Tensor):
        yield "negated", torch._neg_view(-value)
        yield "zeros", torch._efficientzerotensor(value.shape, dtype=value.dtype)
        yield "wrapped", TwoTensor(value.detach(), value.detach())
        if value.dim():
            yield "expanded", value.detach()[:1].expand(value.shape)
            yield "sparse", value.detach().to_sparse()


@ours("odd tensors/raw operators with a batch, a bias, by hand", fused=False, limit=400)
def _(make):
    torch.set_num_threads(1)
    index = edges(5, count=9)
    graph = Graph.from_edge_index(index, 5, add_self_loops=True)
    x = features(10, 8).view(2, 5, 2, 4).requires_grad_()
    bias = features(14, 2).requires_grad_()
    with Recorder() as recorder:
        out, alpha = gatv2_attention(
            x, x, features(2, 4), graph, attn_bias=bias, return_attention=True
        )
        (out.sum() + alpha.square().sum()).backward()
    probes = changed_calls(recorder, _odd_forms)
    harmless(probes)
