"""State: pickles, copies, state dicts, averages, pruning, parametrisations, other linear maps."""

import copy
import io
import pickle
import warnings

import torch
import torch_geometric.nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...harness import (
    NODES,
    SIZE,
    agree,
    case,
    edges,
    features,
    gradients,
    ours,
    step,
    weighted,
)


def _trained(conv, attr=None):
    x = features().requires_grad_()
    return step(conv, conv(x, edges(), attr), x=x)


def _loaded(conv, weights_only=False):
    store = io.BytesIO()
    torch.save(conv, store)
    store.seek(0)
    return torch.load(store, weights_only=weights_only)


@case("state/pickle, before and after a call")
def _(make):
    conv = make()
    return [
        _trained(pickle.loads(pickle.dumps(conv))),
        _trained(conv),
        _trained(pickle.loads(pickle.dumps(conv.zero_grad() or conv))),
    ]


@case("state/deepcopy, copy and both trained apart")
def _(make):
    conv = make(residual=True)
    conv(features(), edges())
    deep, shallow = copy.deepcopy(conv), copy.copy(conv)
    with torch.no_grad():
        deep.att.mul_(2)
    return [_trained(deep), conv(features(), edges()), shallow(features(), edges())]


@case("state/torch.save and load of the whole layer")
def _(make):
    conv = make(edge_dim=3)
    conv(features(), edges(), features(40, 3))
    return _trained(_loaded(conv), features(40, 3))


@case("state/state dict, names and metadata", fused=False)
def _(make):
    found = []
    for options in ({}, {"edge_dim": 3}, {"residual": True}, {"bias": False}, {"share_weights": 1}):
        state = make(**options).state_dict()
        found.append([list(state), [str(key) for key in state._metadata]])
        found.append([name for name, _ in make(**options).named_modules()])
    return found


@ours("state/weights load both ways, strictly")
def _(make):
    for options in (
        {},
        {"edge_dim": 3, "residual": True},
        {"share_weights": True, "concat": False},
    ):
        conv = make(SIZE, 4, heads=2, **options)
        theirs = torch_geometric.nn.GATv2Conv(SIZE, 4, heads=2, **options).double()
        theirs.load_state_dict(conv.state_dict(), strict=True)
        attr = features(40, 3) if "edge_dim" in options else None
        assert agree(theirs(features(), edges(), attr), conv(features(), edges(), attr)) is True
        conv.load_state_dict(theirs.state_dict(), strict=True)
        assert _loaded(conv.state_dict(), weights_only=True).keys() == theirs.state_dict().keys()


@ours("state/unpickled from a state without what is new")
def _(make):
    conv = make()
    expected = conv(features(), edges())
    theirs = set(torch_geometric.nn.GATv2Conv(SIZE, 4, heads=2).__dict__)
    new = type(conv).__new__(type(conv))
    new.__setstate__({k: v for k, v in conv.__dict__.items() if k in theirs})
    assert agree(new(features(), edges()), expected) is True
    assert repr(new) == repr(conv)


@case("state/load_state_dict with assign, wrong keys, wrong shapes")
def _(make):
    conv, other, errors = make(), make(), []
    conv.load_state_dict(other.state_dict(), assign=True)
    for broken in ({"att": torch.zeros(1, 2, 4)}, {**other.state_dict(), "bias": torch.zeros(3)}):
        try:
            conv.load_state_dict(broken)
        except RuntimeError as error:
            errors.append(type(error).__name__)
    return [_trained(conv), errors]


@case("state/AveragedModel and EMA")
def _(make):
    conv, found = make(), []
    for options in ({}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}):
        average = AveragedModel(conv, **options)
        for factor in (1.1, 0.7):
            with torch.no_grad():
                for value in conv.parameters():
                    value.mul_(factor)
            average.update_parameters(conv)
            found.append(average(features(), edges()))
    return found


@case("state/apply, to, float, half round trip, requires_grad_")
def _(make):
    conv = make()
    conv.apply(lambda module: module.float() if isinstance(module, torch.nn.Linear) else None)
    conv.float().double().requires_grad_(False)
    out = conv(features(), edges())
    return [out, out.requires_grad, _trained(conv.requires_grad_(True))]


@case("state/share_memory and zero_grad(set_to_none=False)")
def _(make):
    conv = make().share_memory()
    first = _trained(conv)
    conv.zero_grad(set_to_none=False)
    return [first, _trained(conv)]


_PRUNED = [("att", None), ("weight", "lin_l"), ("weight", "lin_edge"), ("bias", None)]


@case("state/pruning of att, lin_l, lin_edge, bias")
def _(make):
    found = []
    for name, inside in _PRUNED:
        conv = make(edge_dim=3)
        owner = conv if inside is None else getattr(conv, inside)
        prune.l1_unstructured(owner, name, amount=0.4)
        found.append(_trained(conv, features(40, 3)))
        prune.remove(owner, name)
        found.append(_trained(conv, features(40, 3))["out"])
    return found


class _Doubled(torch.nn.Module):
    def forward(self, value):
        return value * 2

    def right_inverse(self, value):
        return value / 2


@case("state/a parametrisation of att, lin_l, lin_r, lin_edge, bias")
def _(make):
    found = []
    for inside, name in (
        (None, "att"),
        ("lin_l", "weight"),
        ("lin_r", "weight"),
        ("lin_edge", "weight"),
        (None, "bias"),
        ("lin_l", "bias"),
    ):
        conv = make(edge_dim=3)
        owner = conv if inside is None else getattr(conv, inside)
        parametrize.register_parametrization(owner, name, _Doubled())
        found.append(_trained(conv, features(40, 3)))
        with parametrize.cached():
            found.append(_trained(conv, features(40, 3))["out"])
        found.append(conv.state_dict())
    return found


@case("state/weight_norm, spectral_norm, orthogonal")
def _(make):
    found = []
    for norm in (
        parametrizations.weight_norm,
        parametrizations.orthogonal,
        lambda module: parametrizations.spectral_norm(module, n_power_iterations=30),
    ):
        for name in ("lin_l", "lin_edge"):
            torch.manual_seed(2)
            conv = make(edge_dim=3)
            norm(getattr(conv, name))
            found.append(_trained(conv, features(40, 3)))
    return found


@case("state/weight norm of the old kind", fused=False)
def _(make):
    conv = make(edge_dim=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(conv.lin_edge)
        torch.nn.utils.weight_norm(conv.lin_l)
    return _trained(conv, features(40, 3))


class _LowRank(torch.nn.Module):
    """A frozen map with a trained correction of low rank."""

    def __init__(self, base, size):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = torch.nn.Linear(size, 2, bias=False, dtype=torch.float64)
        self.up = torch.nn.Linear(2, 8, bias=False, dtype=torch.float64)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def _register(what, build):
    @case(f"state/{what} in place of each linear map", fused=what.startswith("torch"))
    def _(make):
        found = []
        for name, size in (("lin_l", SIZE), ("lin_r", SIZE), ("lin_edge", 3), ("res", SIZE)):
            conv = make(edge_dim=3, residual=True)
            setattr(conv, name, build(getattr(conv, name), size))
            found.append(_trained(make.fill(conv), features(40, 3)))
        return found


_register("a low-rank correction", _LowRank)
_register(
    "a small network",
    lambda _, size: torch.nn.Sequential(
        torch.nn.Linear(size, 5, dtype=torch.float64),
        torch.nn.ReLU(),
        torch.nn.Linear(5, 8, dtype=torch.float64),
    ),
)
_register(
    "torch.nn.Linear",
    lambda _, size: torch.nn.Linear(size, 8, dtype=torch.float64),
)


class _Quantised(torch.nn.Module):
    def __init__(self, base, size):
        super().__init__()
        weight = (base.weight.detach() * 100).to(torch.int8)
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) / 100)


class _Single(torch.nn.Linear):
    """Computes in float32, whatever it gets."""

    def __init__(self, base, size):
        super().__init__(size, 8, bias=False)

    def forward(self, x):
        return super().forward(x.float())


class _Lookup(torch.nn.Embedding):
    def forward(self, x):
        return super().forward(x).flatten(1)


@case("state/quantised weights in place of each linear map", fused=False)
def _(make):
    found = []
    for name, size in (("lin_l", SIZE), ("lin_r", SIZE), ("lin_edge", 3), ("res", SIZE)):
        conv, x = make(edge_dim=3, residual=True), features().requires_grad_()
        setattr(conv, name, _Quantised(getattr(conv, name), size))
        out = conv(x, edges(), features(40, 3))
        found.append([out, torch.autograd.grad(weighted(out), x)[0]])
    return found


@case("state/a map of another dtype in place of each", fused=False)
def _(make):
    found = []
    for name, size in (("lin_l", SIZE), ("lin_r", SIZE), ("lin_edge", 3), ("res", SIZE)):
        conv = make(edge_dim=3, residual=True)
        setattr(conv, name, _Single(getattr(conv, name), size))
        used = _trained(make.fill(conv), features(40, 3))
        found.append([str(used["out"].dtype), {k: v.float() for k, v in used.items()}])
    return found


@case("state/nodes looked up in place of mapped")
def _(make):
    conv = make()
    conv.lin_l = conv.lin_r = _Lookup(5, 8, dtype=torch.float64)
    return step(make.fill(conv), conv((torch.arange(NODES) % 5).view(-1, 1), edges()))


@case("state/edge types looked up in place of mapped", fused=False)
def _(make):
    conv = make(edge_dim=1, add_self_loops=False)
    conv.lin_edge = _Lookup(5, 8, dtype=torch.float64)
    return _trained(make.fill(conv), (torch.arange(40) % 5).view(-1, 1))


@case("state/weights that hooks bring and take away", fused=False)
def _(make):
    conv = make(edge_dim=3, residual=True)

    def bring(module, _):
        module.weight = torch.nn.Parameter(module.kept)

    def take(module, *_):
        module.weight = torch.nn.Parameter(module.weight.detach().to("meta"))

    for name in ("lin_l", "lin_r", "lin_edge", "res"):
        lin = getattr(conv, name)
        lin.kept = lin.weight.detach()
        take(lin)
        lin.register_forward_pre_hook(bring)
        lin.register_forward_hook(take)
    with torch.no_grad():
        return [conv(features(), edges(), features(40, 3)) for _ in range(2)]


@case("state/features cast by hooks of the maps")
def _(make):
    conv, x = make(), features(dtype=torch.float32).requires_grad_()
    for lin in (conv.lin_l, conv.lin_r):
        lin.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    return step(conv, conv(x, edges()), x=x)


@case("state/lin_edge with a bias", fused=False)
def _(make):
    conv = make(edge_dim=3)
    conv.lin_edge = torch.nn.Linear(3, 8, bias=True, dtype=torch.float64)
    return _trained(make.fill(conv), features(40, 3))


@case("state/dynamic quantisation", fused=False)
def _(make):
    conv = make(dtype=torch.float32).eval()
    conv.lin_l, conv.lin_r = (torch.nn.Linear(SIZE, 8) for _ in range(2))
    make.fill(conv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = quantize_dynamic(conv, {torch.nn.Linear}, dtype=torch.qint8)
    return small(features(dtype=torch.float32), edges())


@case("state/reset_parameters draws as PyG does", fused=False)
def _(make):
    found = []
    for options in ({}, {"edge_dim": 3, "residual": True}, {"share_weights": True}):
        torch.manual_seed(7)
        conv = make.cls(SIZE, 4, heads=2, **options)
        found.append({name: value.clone() for name, value in conv.named_parameters()})
        torch.manual_seed(8)
        conv.reset_parameters()
        found.append({name: value.clone() for name, value in conv.named_parameters()})
    return found


@case("state/lazy sizes, two calls, then copied and saved")
def _(make):
    conv = make.cls(-1, 4, heads=2, edge_dim=-1, residual=True, **make.options).double()
    x, index, attr = features(), edges(), features(40, 3)
    conv(x, index, attr)
    make.fill(conv)
    first = _trained(conv, attr)
    again = conv(features(seed=2), edges(seed=2), features(40, 3, seed=2))
    return [first, again, copy.deepcopy(conv)(x, index, attr), list(conv.state_dict())]


@case("state/lazy pair and lazy state loaded")
def _(make):
    conv = make.cls((-1, -1), 4, heads=2, **make.options).double()
    source = make((SIZE, 5), 4, heads=2)
    conv.load_state_dict(source.state_dict())
    pair, index = (features(), features(7, 5)), edges(NODES, 7)
    return [conv(pair, index), conv(pair, index)]


@case("state/lazy edge_dim without self-loops, 1-D features")
def _(make):
    conv = make.cls(SIZE, 4, heads=2, edge_dim=-1, add_self_loops=False, **make.options).double()
    attr = features(40, 1)[:, 0]
    conv(features(), edges(), attr.unsqueeze(1))
    make.fill(conv)
    return [conv(features(), edges(), attr), conv(features(), edges(), attr.unsqueeze(1))]


@case("state/modules seen by a walk, extra attributes kept", fused=False)
def _(make):
    conv = make(edge_dim=3, residual=True)
    conv.note = "kept"
    conv.register_buffer("scale", torch.ones(2))
    again = copy.deepcopy(conv)
    return [
        [f"{name}: {type(module).__name__}" for name, module in again.named_modules() if name],
        again.note,
        list(again.state_dict()),
        isinstance(again, torch_geometric.nn.GATv2Conv),
        isinstance(again, torch_geometric.nn.MessagePassing),
        repr(again),
        str(torch_geometric.nn.GATv2Conv.__name__ == type(again).__name__),
    ]


@case("state/optimisers change parameters between calls")
def _(make):
    conv, index = make(edge_dim=3), edges()
    optimiser, found = torch.optim.Adam(conv.parameters(), lr=0.05), []
    for _ in range(3):
        optimiser.zero_grad()
        loss = weighted(conv(features(), index, features(40, 3)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(conv.parameters(), 1.0)
        optimiser.step()
        found.append(loss)
    return [found, gradients(conv), dict(conv.named_parameters())]
