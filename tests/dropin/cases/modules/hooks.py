"""Hooks on the layer, its linear maps and its messages; subclasses."""

import torch
import torch.nn.functional as F
from torch.nn.modules import module as nn_module

from ...harness import SIZE, case, edges, features, step


def _called(make, register, **options):
    """A step of a hooked layer, and how often the hook was called."""
    calls = []
    conv, x = make(edge_dim=3, **options), features().requires_grad_()
    register(conv, calls)
    out = conv(x, edges(), features(40, 3, seed=1).requires_grad_())
    return step(conv, out, x=x) | {"calls": calls}


def _record(calls, name):
    return lambda *args: calls.append(name)


_PARTS = {
    "the layer": lambda conv: conv,
    "lin_l": lambda conv: conv.lin_l,
    "lin_r": lambda conv: conv.lin_r,
    "lin_edge": lambda conv: conv.lin_edge,
    "res": lambda conv: conv.res,
    "aggr_module": lambda conv: conv.aggr_module,
}
_KINDS = {
    "forward hook": "register_forward_hook",
    "forward pre-hook": "register_forward_pre_hook",
    "full backward hook": "register_full_backward_hook",
    "full backward pre-hook": "register_full_backward_pre_hook",
}

for _kind, _method in _KINDS.items():

    @case(f"hooks/{_kind} on every part", fused=False)
    def _(make, kind=_kind, method=_method):
        return {
            part: _called(
                make,
                lambda conv, calls, part=part: getattr(_PARTS[part](conv), method)(
                    _record(calls, kind)
                ),
                residual=True,
            )
            for part in _PARTS
        }


@case("hooks/that change what passes", fused=False)
def _(make):
    changes = (
        lambda conv: conv.register_forward_hook(lambda m, i, out: out * 2),
        lambda conv: conv.lin_edge.register_forward_hook(lambda m, i, out: out * 3),
        lambda conv: conv.lin_edge.register_forward_pre_hook(lambda m, i: (i[0] * 2,)),
        lambda conv: conv.lin_l.register_forward_pre_hook(lambda m, i: (i[0] * 2,)),
        lambda conv: conv.lin_edge.register_full_backward_hook(
            lambda m, inputs, outputs: tuple(None if g is None else g * 5 for g in inputs)
        ),
        lambda conv: conv.register_full_backward_pre_hook(lambda m, g: tuple(v * 2 for v in g)),
    )
    return [_called(make, lambda conv, _, change=change: change(conv)) for change in changes]


@case("hooks/with keyword arguments")
def _(make):
    conv, seen = make(edge_dim=3), []

    def before(module, args, kwargs):
        seen.append(sorted(kwargs))
        return args, kwargs | {"edge_attr": kwargs["edge_attr"] * 2}

    conv.register_forward_pre_hook(before, with_kwargs=True)
    conv.register_forward_hook(lambda m, a, kw, out: seen.append(sorted(kw)), with_kwargs=True)
    out = conv(features(), edge_index=edges(), edge_attr=features(40, 3))
    return [out, seen]


@case("hooks/always called, removed, counted", fused=False)
def _(make):
    conv, calls = make(), []
    handle = conv.lin_l.register_forward_hook(_record(calls, "removed"))
    handle.remove()
    conv.register_forward_hook(_record(calls, "always"), always_call=True)
    conv(features(), edges())
    return calls


@case("hooks/for all modules", fused=False)
def _(make):
    calls = []
    conv, x = make(edge_dim=3), features().requires_grad_()
    name = lambda kind: lambda module, *args: calls.append(f"{kind} {type(module).__name__}")  # noqa: E731
    handles = [
        nn_module.register_module_forward_hook(name("forward")),
        nn_module.register_module_forward_pre_hook(name("before")),
        nn_module.register_module_full_backward_hook(name("backward")),
    ]
    attr = features(40, 3).requires_grad_()
    found = step(conv, conv(x, edges(), attr), x=x, attr=attr)
    for handle in handles:
        handle.remove()
    return found | {"calls": sorted(calls)}


_STEPS = ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")

for _step in _STEPS:

    @case(f"hooks/message passing: {_step}", fused=False)
    def _(make, name=_step):
        found = []
        for when in ("forward", "forward_pre"):
            conv, calls = make(), []
            getattr(conv, f"register_{name}_{when}_hook")(_record(calls, when))
            found.append([conv(features(), edges()), calls])
        return found


@case("hooks/message passing: messages changed", fused=False)
def _(make):
    conv, x = make(), features().requires_grad_()
    handle = conv.register_message_forward_hook(lambda m, inputs, out: out * 0.5)
    changed = step(conv, conv(x, edges()), x=x)
    handle.remove()
    return [changed, conv(features(), edges())]


@case("hooks/attention changed after edge_update", fused=False)
def _(make):
    conv = make()
    conv.register_edge_update_forward_hook(lambda m, inputs, alpha: alpha.square())
    out, (_, alpha) = conv(features(), edges(), return_attention_weights=True)
    return [out, alpha]


def _subclass(make, body, **options):
    derived = type("GATv2Conv", (make.cls,), body)
    made = derived(SIZE, 4, heads=2, **options, **make.options).double()
    return make.fill(made)


def _used(conv, **given):
    conv.zero_grad()
    x = features().requires_grad_()
    return step(conv, conv(x, edges(), **given), x=x)


@case("subclass/message", fused=False)
def _(make):
    def message(self, x_j, alpha):
        return 2 * x_j * alpha.unsqueeze(-1)

    return _used(_subclass(make, {"message": message}))


@case("subclass/edge_update", fused=False)
def _(make):
    def edge_update(self, x_j, x_i, edge_attr, index, ptr, dim_size):
        return torch.sigmoid((F.elu(x_i + x_j) * self.att).sum(-1))

    return _used(_subclass(make, {"edge_update": edge_update}))


@case("subclass/update, aggregate", fused=False)
def _(make):
    def update(self, inputs):
        return inputs + 1

    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        return super(derived, self).aggregate(inputs, index, ptr, dim_size) * 3

    derived = type("GATv2Conv", (make.cls,), {"aggregate": aggregate})
    conv = make.fill(derived(SIZE, 4, heads=2, **make.options).double())
    return [_used(conv), _used(_subclass(make, {"update": update}))]


@case("subclass/instance attributes in place of methods", fused=False)
def _(make):
    conv = make()
    conv.message = lambda x_j, alpha: 4 * x_j * alpha.unsqueeze(-1)
    return _used(conv)


@case("subclass/forward with super().forward and more arguments")
def _(make):
    class Scaled(make.cls):
        def __init__(self, *args, scale=1.0, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))

        def forward(self, x, edge_index, edge_attr=None, return_attention_weights=None):
            return self.scale * super().forward(x, edge_index, edge_attr).relu()

    conv = make.fill(Scaled(SIZE, 4, heads=2, scale=0.5, **make.options).double())
    return [_used(conv), list(conv.state_dict())]


@case("subclass/of a class that has instances, then message overridden", fused=False)
def _(make):
    make()(features(), edges())

    class Doubled(make.cls):
        def message(self, x_j, alpha):
            return 2 * super().message(x_j, alpha)

    class Same(make.cls):
        pass

    build = lambda kind: make.fill(kind(SIZE, 4, heads=2, **make.options).double())  # noqa: E731
    return [_used(build(Doubled)), _used(build(Same))]


@case("subclass/another aggregation than the sum", fused=False)
def _(make):
    found = []
    for aggr in ("mean", "max", "add", ["sum", "mean"]):
        options = {"aggr": aggr}
        if isinstance(aggr, list):
            options |= {"aggr_kwargs": {"mode": "sum"}}
        conv, x = make(**options), features().requires_grad_()
        found.append(step(conv, conv(x, edges()), x=x))
    return found


@case("subclass/calls to propagate, edge_updater and message by hand", fused=False)
def _(make):
    conv, index = make(), edges()
    x = conv.lin_l(features()).view(-1, 2, 4)
    alpha = conv.edge_updater(index, x=(x, x), edge_attr=None)
    return [
        alpha,
        conv.propagate(index, x=(x, x), alpha=alpha),
        conv.message(x, alpha[: x.size(0)]),
        list(conv.inspector.get_signature("message").param_dict),
    ]


@case("hooks/one map shared by a pair is called for each of them")
def _(make):
    conv, x, calls = make(share_weights=True), features().requires_grad_(), []
    conv.lin_l.register_forward_hook(_record(calls, "lin_l"))
    return [step(conv, conv((x, x), edges()), x=x), calls]
