"""Half precision, scaling, deterministic algorithms, dropout, numbers of threads."""

import copy

import numpy as np
import torch

from ...harness import (
    EDGES,
    NODES,
    SIZE,
    agree,
    attempt,
    case,
    edges,
    features,
    gradients,
    ours,
    step,
    weighted,
)
from ...probes import names, outcome

_LOW = (torch.bfloat16, torch.float16)


def _dtypes(*values):
    return [str(value.dtype) for value in values]


def _autocast_dtypes(make, hooked=False, **options):
    """Dtypes of all that comes out of a call under autocast, and of the gradients."""
    found = []
    attr = features(40, 3, dtype=torch.float32) if "edge_dim" in options else None
    for dtype in _LOW:
        conv = make(dtype=torch.float32, **options)
        if hooked:
            conv.register_propagate_forward_hook(lambda *args: None)
        x = features(dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", dtype):
            out, (_, alpha) = conv(x, edges(), attr, return_attention_weights=True)
            plain = conv(x, edges(), attr)
        weighted(out.float()).backward()
        found.append(_dtypes(out, alpha, plain, x.grad, *(p.grad for p in conv.parameters())))
        found.append((out.float() * 4).round().to(torch.int8).shape)
        found.append(agree(out.float(), conv(x, edges(), attr), (0.05, 0.02)))
    return [found[0], *(list(entry) if isinstance(entry, tuple) else entry for entry in found[1:])]


for _text, _options in {
    "bias": {},
    "no bias": {"bias": False},
    "residual": {"residual": True},
    "residual, no bias": {"residual": True, "bias": False},
    "edge features": {"edge_dim": 3},
    "edge features, no bias": {"edge_dim": 3, "bias": False},
    "heads averaged, no bias": {"concat": False, "bias": False},
    "shared weights, no bias": {"share_weights": True, "bias": False},
}.items():

    @case(f"autocast/dtypes: {_text}")
    def _(make, options=_options):
        return _autocast_dtypes(make, **options)


@case("autocast/dtypes when a hook changes the path", fused=False)
def _(make):
    return [_autocast_dtypes(make, hooked=True, **o) for o in ({}, {"bias": False})]


@case("autocast/inputs in bfloat16, float64, and a bipartite pair")
def _(make):
    found = []
    for dtype in (torch.bfloat16, torch.float64):
        conv = make(dtype=torch.float32) if dtype == torch.bfloat16 else make()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(_dtypes(conv(features(dtype=dtype), edges())))
    conv = make((SIZE, 5), 4, heads=2, dtype=torch.float32, bias=False)
    pair = (features(dtype=torch.float32), features(7, 5, dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        found.append(_dtypes(conv(pair, edges(NODES, 7))))
        with torch.autocast("cpu", enabled=False):
            found.append(conv(pair, edges(NODES, 7)))
    return found


@case("autocast/a step outside after steps inside, cache of casts")
def _(make):
    conv, x = make(dtype=torch.float32), features(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            weighted(conv(x, edges()).float()).backward()
    conv.zero_grad()
    return step(conv, conv(x, edges()))


@case("autocast/the mathematics of the reference is not cast", fused=False)
def _(make):
    conv, x = make(dtype=torch.float32), features(dtype=torch.float32)
    exact = conv(x, edges())
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x, edges())
    return agree(out.float(), exact, (0.03, 0.02))


@case("autocast/second derivatives")
def _(make):
    conv = make(dtype=torch.float32)
    x = features(dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (first,) = torch.autograd.grad(weighted(conv(x, edges()).float()), x, create_graph=True)
    first.square().sum().backward()
    inside = x.grad.clone()
    x.grad = None
    (first,) = torch.autograd.grad(weighted(conv(x, edges())), x, create_graph=True)
    first.square().sum().backward()
    return [str(inside.dtype), agree(inside, x.grad, (0.1, 0.1))]


@case("autocast/GradScaler")
def _(make):
    conv, x = make(dtype=torch.float32), features(dtype=torch.float32)
    scaler, found = torch.amp.GradScaler("cpu", init_scale=2.0**10), []
    optimiser = torch.optim.SGD(conv.parameters(), lr=0.1)
    for attempted in range(3):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            loss = weighted(conv(x, edges()))
        if attempted == 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        scaler.step(optimiser)
        scaler.update()
        found += [scaler.get_scale(), *(p.detach().clone() for p in conv.parameters())]
    return found


@case("half/module and features in bfloat16 and float16")
def _(make):
    found = []
    for dtype in _LOW:
        conv, x = make(dtype=dtype, edge_dim=3), features(dtype=dtype).requires_grad_()
        out = conv(x, edges(), features(40, 3, dtype=dtype))
        out.sum().backward()
        exact = copy.deepcopy(conv).double()(
            x.detach().double(), edges(), features(40, 3, dtype=dtype).double()
        )
        found.append(
            [_dtypes(out, x.grad, conv.att.grad), agree(out.double(), exact, (5e-2, 3e-2))]
        )
    return found


@case("half/two dtypes in one call is an error")
def _(make):
    errors = (RuntimeError, TypeError, ValueError)
    conv = make()
    return [
        attempt(lambda: conv(features(dtype=torch.float32), edges()), *errors),
        attempt(lambda: make(dtype=torch.float32)(features(), edges()), *errors),
        conv(features(), edges()),
    ]


@case("settings/deterministic algorithms")
def _(make):
    conv, x = make(edge_dim=3), features().requires_grad_()
    torch.use_deterministic_algorithms(True)
    return step(conv, conv(x, edges(), features(40, 3)), x=x)


@case("settings/default dtype float64")
def _(make):
    torch.set_default_dtype(torch.float64)
    conv = make.fill(make.cls(SIZE, 4, heads=2, edge_dim=3, **make.options))
    return step(conv, conv(features(), edges(), features(40, 3)))


@case("settings/default dtype float64 around float32 tensors")
def _(make):
    conv, x = make(dtype=torch.float32, edge_dim=3, fill_value=0.5), features(dtype=torch.float32)
    torch.set_default_dtype(torch.float64)
    return step(conv, conv(x, edges(), features(40, 3, dtype=torch.float32)))


@case("settings/numbers of threads that change")
def _(make):
    conv, index = make(), edges(count=3000)
    found = []
    for threads in (1, 2, 4, 3):
        torch.set_num_threads(threads)
        conv.zero_grad()
        x = features().requires_grad_()
        found.append(step(conv, conv(x, index), x=x))
    return found


@case("settings/flush denormal, float32 matmul precision")
def _(make):
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    conv = make()
    return step(conv, conv(features() * 1e-150, edges()))


@case("values/NaN and infinity stay in their rows")
def _(make):
    conv, index = make(add_self_loops=False, bias=False), edges()
    found = []
    for bad in (float("nan"), float("inf"), 1e308):
        x = features()
        x[3] = bad
        found.append(torch.isfinite(conv(x, index)).all(1))
    return found


@case("values/large scores do not overflow")
def _(make):
    conv = make()
    with torch.no_grad():
        conv.att.mul_(1e4)
    x = features().requires_grad_()
    return step(conv, conv(x, edges()), x=x)


@case("values/negative_slope of 0, 1, above 1, below 0")
def _(make):
    found = []
    for slope in (0.0, 1.0, 2.5, -0.3):
        conv, x = make(negative_slope=slope), features().requires_grad_()
        found.append(step(conv, conv(x, edges()), x=x))
    return found


@case("values/no nodes, no edges, one node")
def _(make):
    found, empty = [], torch.empty(2, 0, dtype=torch.long)
    for loops in (True, False):
        for nodes in (0, 1, NODES):
            conv, x = make(add_self_loops=loops), features(nodes).requires_grad_()
            out, (index, alpha) = conv(x, empty, return_attention_weights=True)
            found += [index, alpha, step(conv, out, x=x)]
    return found


@case("values/a hub, many heads, wide and narrow")
def _(make):
    found = []
    star = torch.stack([torch.arange(3000) % NODES, torch.zeros(3000, dtype=torch.long)])
    for heads, channels in ((1, 1), (3, 5), (7, 1), (2, 33), (16, 2)):
        conv, x = make(SIZE, channels, heads=heads), features().requires_grad_()
        found.append(step(conv, conv(x, star), x=x))
    return found


@case("dropout/share, scale, new masks, none in eval")
def _(make):
    conv, index, x = make(dropout=0.3, add_self_loops=False), edges(count=5000), features()
    torch.manual_seed(1)
    first = conv(x, index, return_attention_weights=True)[1][1]
    second = conv(x, index, return_attention_weights=True)[1][1]
    torch.manual_seed(1)
    again = conv(x, index, return_attention_weights=True)[1][1]
    full = conv.eval()(x, index, return_attention_weights=True)[1][1]
    kept = first != 0
    return [
        abs(kept.double().mean().item() - 0.7) < 0.02,
        bool((kept != (second != 0)).any()),
        torch.equal(first, again),
        agree(first[kept], full[kept] / 0.7),
    ]


@case("dropout/the output is the sum over the kept")
def _(make):
    conv, index, x = make(dropout=0.5, bias=False), edges(), features()
    out, (index, alpha) = conv(x, index, return_attention_weights=True)
    rows = conv.lin_l(x).view(NODES, 2, 4)[index[0]] * alpha.unsqueeze(-1)
    expected = torch.zeros(NODES, 2, 4, dtype=torch.float64).index_add_(0, index[1], rows)
    return agree(expected.flatten(1), out)


@case("dropout/probability 1 and 0")
def _(make):
    found = []
    for rate in (1.0, 0.0):
        conv, x = make(dropout=rate, edge_dim=3), features().requires_grad_()
        found.append(step(conv, conv(x, edges(), features(40, 3)), x=x))
    return found


@case("dropout/changed after it was made, train and eval")
def _(make):
    conv, found = make(dropout=1.0), []
    conv.dropout = 0.0
    found.append(conv(features(), edges()))
    conv.dropout = 1.0
    found += [conv(features(), edges()), conv.eval()(features(), edges())]
    return found


@case("dropout/1.5, -0.1 and nan are errors", fused=False)
def _(make):
    def use(rate):
        make(dropout=rate).train()(features(), edges())

    def late(rate):
        conv = make()
        conv.dropout = rate
        conv(features(), edges())

    return [
        attempt(lambda call=call, rate=rate: call(rate), ValueError, RuntimeError)
        for call in (use, late)
        for rate in (1.5, -0.1, float("nan"))
    ]


@ours("dropout/errors name the argument", fused=False)
def _(make):
    for rate in (1.5, -0.1, float("nan"), "half"):
        text = outcome(lambda rate=rate: make(dropout=rate)(features(), edges()))
        assert names(text, "dropout"), f"dropout={rate!r}: {text}"


@case("dropout/gradients follow the mask")
def _(make):
    conv, index = make(dropout=0.5, edge_dim=3), edges()
    attr, found = features(EDGES, 3, seed=1), []

    def loss(x):
        torch.manual_seed(4)
        return weighted(conv(x, index, attr))

    x = features().requires_grad_()
    loss(x).backward()
    for row, column in ((0, 0), (3, 2), (7, 5)):
        moved = torch.zeros(NODES, SIZE, dtype=torch.float64)
        moved[row, column] = 1e-6
        slope = (loss(x.detach() + moved) - loss(x.detach() - moved)) / 2e-6
        found.append(agree(slope, x.grad[row, column], (1e-4, 1e-6)))
    return [*found, all(value is not None for value in gradients(conv).values())]


@case("autocast/a pair of two dtypes", tolerance=(4e-2, 2e-2))
def _(make):
    conv = make((SIZE, SIZE), 4, heads=2, dtype=torch.float32)
    first = features(dtype=torch.float32).requires_grad_()
    second = features(dtype=torch.bfloat16, seed=1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv((first, second), edges())
    return step(conv, out, first=first, second=second)


@case("dropout/a probability and slope of NumPy and torch", fused=False)
def _(make):
    found = []
    for number in (np.float32(0.25), np.float64(0.25), torch.tensor(0.25)):
        conv = make(dropout=number, negative_slope=number).eval()
        found.append(conv(features(), edges()))
        found.append(conv.train()(features(), edges()).shape == found[-1].shape)
    return found
