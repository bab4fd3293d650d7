"""In-place operations on what a layer returns."""

import torch
import torch.nn.functional as F

from ...harness import case, edges, features, gradients, step, wave, weighted

_KINDS = {
    "no bias": {"bias": False},
    "bias": {},
    "heads averaged": {"bias": False, "concat": False},
    "one head averaged": {"bias": False, "concat": False, "heads": 1},
    "residual": {"bias": False, "residual": True},
    "edge features": {"bias": False, "edge_dim": 3},
}


def _add(out):
    out += wave(out.shape)
    return out


def _set(out):
    out[0] = 0
    return out


def _half(out):
    out[:, : out.size(1) // 2].mul_(3)
    return out


_OPERATIONS = {
    "relu_": lambda out: out.relu_(),
    "elu_": lambda out: F.elu(out, inplace=True),
    "+=": _add,
    "mul_": lambda out: out.mul_(2.5),
    "row set to 0": _set,
    "mul_ on a view": _half,
    "masked_fill_": lambda out: out.masked_fill_(out > 0.1, 0.5),
    "normalised": lambda out: out.div_(out.detach().norm()),
}


def _register(kind, options, name, operation):
    @case(f"in place/{name}, {kind}")
    def _(make):
        given = {"heads": 2} | options
        conv, x = make(8, 4, **given), features().requires_grad_()
        attr = features(40, 3, seed=1) if "edge_dim" in options else None
        out = operation(conv(x, edges(), attr))
        return step(conv, out, x=x)


for _kind, _options in _KINDS.items():
    _register(_kind, _options, "relu_", _OPERATIONS["relu_"])
for _name, _operation in _OPERATIONS.items():
    if _name != "relu_":
        _register("no bias", _KINDS["no bias"], _name, _operation)


@case("in place/dropout")
def _(make):
    conv, x = make(bias=False), features().requires_grad_()
    torch.manual_seed(5)
    return step(conv, F.dropout(conv(x, edges()), 0.5, inplace=True), x=x)


@case("in place/returned attention")
def _(make):
    found = []
    for change in (lambda a: a.mul_(2), lambda a: a.clamp_(max=0.4), lambda a: a.zero_()):
        conv, x = make(bias=False), features().requires_grad_()
        _, (_, alpha) = conv(x, edges(), return_attention_weights=True)
        change(alpha)
        weighted(alpha).backward()
        found.append(gradients(conv, x=x))
    return found


@case("in place/returned attention and output without loops")
def _(make):
    conv, x = make(bias=False, add_self_loops=False), features().requires_grad_()
    out, (_, alpha) = conv(x, edges(), return_attention_weights=True)
    alpha.detach().zero_()
    out.detach().zero_()
    return out, alpha


@case("in place/returned edges may be changed")
def _(make):
    conv, x, index = make(), features(), edges()
    first, (returned, _) = conv(x, index, return_attention_weights=True)
    returned.zero_()
    return first, conv(x, index), index


@case("in place/between layers")
def _(make):
    first, second, index = make(bias=False), make(bias=False), edges()
    x = features().requires_grad_()
    out = second(first(x, index).relu_(), index).relu_()
    return step(second, out, x=x) | {f"first {k}": v for k, v in gradients(first).items()}


@case("in place/on the input before")
def _(make):
    conv, leaf = make(), features().requires_grad_()
    x = leaf * 1.0
    return step(conv, conv(x.relu_(), edges()), leaf=leaf)


@case("in place/written into a larger tensor")
def _(make):
    conv, x = make(bias=False), features().requires_grad_()
    buffer = torch.zeros(20, 8, dtype=torch.float64)
    buffer[3:15] = conv(x, edges())
    return step(conv, buffer, x=x)


@case("in place/without gradients")
def _(make):
    conv, x, index = make(bias=False), features(), edges()
    with torch.no_grad():
        first = conv(x, index)
        first.zero_()
        return conv(x, index)


@case("in place/detached alias set to zero")
def _(make):
    conv, x = make(bias=False), features().requires_grad_()
    out = conv(x, edges())
    out.data.zero_()
    return step(conv, out + 1, x=x)["out"]
