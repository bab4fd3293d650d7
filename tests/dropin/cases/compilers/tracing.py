"""Tracing, fake and meta tensors, functionalisation, modes that see every operator."""

import warnings

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ...harness import EDGES, NODES, SIZE, case, edges, features, gradients, step, weighted


def _shape(value):
    return [list(value.shape), str(value.dtype), value.device.type]


def _meta(module):
    return module.to("meta")


def _trace(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(function, args, **options)


@case("trace/torch.jit.trace", fused=False)
def _(make):
    conv, x, index = make().eval(), features(), edges()
    traced = _trace(conv, x, index)
    return [traced(x, index), traced(features(seed=3), index)]


@case("trace/torch.jit.trace, other edges of the same nodes", fused=False)
def _(make):
    conv, x = make(add_self_loops=False).eval(), features()
    traced = _trace(conv, x, edges())
    return [traced(x, edges(count=70, seed=4)), traced(features(seed=2), edges(count=9))]


@case("trace/torch.jit.trace with edge features, trained", fused=False)
def _(make):
    conv, x, attr = make(edge_dim=3), features().requires_grad_(), features(40, 3, seed=1)
    traced = _trace(conv, x, edges(), attr)
    return step(traced, traced(x, edges(), attr), x=x)


class _WithAttention(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, index):
        return self.conv(x, index, return_attention_weights=True)


@case("trace/torch.jit.trace of attention, saved and loaded", fused=False)
def _(make):
    import io

    conv, x, index = make().eval(), features(), edges()
    traced = _trace(_WithAttention(conv), x, index)
    whole = _trace(conv, x, index)
    store = io.BytesIO()
    torch.jit.save(whole, store)
    store.seek(0)
    return [traced(x, index), torch.jit.load(store)(x, index)]


class _Model(torch.nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, index):
        return self.second(self.first(x, index).relu(), index)


@case("trace/TensorBoard's graph", needs=("tensorboard",), fused=False)
def _(make):
    import tempfile

    from torch.utils.tensorboard import SummaryWriter

    model, x, index = _Model(make(), make()).eval(), features(), edges()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with SummaryWriter(folder) as writer:
            writer.add_graph(model, (x, index))
    return model(x, index)


@case("trace/torch.jit.trace of a model, then the model itself trained", fused=False)
def _(make):
    model, x, index = _Model(make(), make()), features().requires_grad_(), edges()
    _trace(model, x, index, check_trace=False)
    return step(model, model(x, index), x=x)


@case("trace/torch.fx with the layer as a leaf")
def _(make):
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, name):
            return hasattr(module, "propagate") or super().is_leaf_module(module, name)

    model, x, index = _Model(make(), make()), features(), edges()
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    return step(model, traced(x, index))


@case("fake/module and arguments made under FakeTensorMode", fused=False)
def _(make):
    with FakeTensorMode():
        conv = make.cls(SIZE, 4, heads=2, add_self_loops=False, residual=True, **make.options)
        x, index = torch.empty(NODES, SIZE), torch.empty(2, EDGES, dtype=torch.long)
        out = conv(x, index)
        out.sum().backward()
    return [_shape(out), _shape(conv.att.grad)]


@case("fake/real arguments taken as fake, forward and backward", fused=False)
def _(make):
    conv, x, index = make(add_self_loops=False), features(), edges()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x).requires_grad_()
        out = conv(fake, mode.from_tensor(index))
        out.sum().backward()
    after = conv(x, index)
    return [_shape(out), _shape(fake.grad), after]


@case("fake/attention, heads averaged, edge features", fused=False)
def _(make):
    conv = make(add_self_loops=False, edge_dim=3, concat=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, index = mode.from_tensor(features()), mode.from_tensor(edges())
        attr = mode.from_tensor(features(40, 3))
        out, (_, alpha) = conv(x, index, attr, return_attention_weights=True)
    return [_shape(out), _shape(alpha)]


@case("meta/module and arguments on meta", fused=False)
def _(make):
    conv = _meta(make(add_self_loops=False, edge_dim=3))
    x, index = features().to("meta").requires_grad_(), edges().to("meta")
    out = conv(x, index, features(40, 3).to("meta"))
    out.sum().backward()
    return [_shape(out), _shape(x.grad), _shape(conv.att.grad)]


@case("meta/bipartite, attention", fused=False)
def _(make):
    conv = _meta(make((SIZE, 5), 4, heads=2, add_self_loops=False))
    pair = (features().to("meta"), features(7, 5).to("meta"))
    out, (_, alpha) = conv(pair, edges(NODES, 7).to("meta"), return_attention_weights=True)
    return [_shape(out), _shape(alpha)]


@case("meta/module made on meta, then given memory")
def _(make):
    with torch.device("meta"):
        conv = make()
    kind = conv.att.device.type
    conv = make.fill(conv.to_empty(device="cpu"))
    return [kind, conv(features(), edges())]


@case("device/default device meta around a call on CPU tensors", fused=False)
def _(make):
    conv, x, index = make(add_self_loops=False), features().requires_grad_(), edges()
    torch.set_default_device("meta")
    try:
        out = conv(x, index)
    finally:
        torch.set_default_device(None)
    return step(conv, out, x=x)


@case("device/default device cpu around making and calling")
def _(make):
    with torch.device("cpu"):
        conv = make(dropout=0.0)
        return step(conv, conv(features(), edges()))


def _graphed(make, mode, **options):
    conv, x, index = make(**options), features(), edges()
    graph = make_fx(lambda v, i: conv(v, i), tracing_mode=mode, _allow_non_fake_inputs=True)(
        x, index
    )
    return [graph(x, index), graph(features(seed=2), index)]


@case("make_fx/real", fused=False)
def _(make):
    return _graphed(make, "real", add_self_loops=False)


@case("make_fx/fake", fused=False)
def _(make):
    return _graphed(make, "fake", add_self_loops=False)


@case("make_fx/symbolic, then other sizes", fused=False)
def _(make):
    conv = make(add_self_loops=False)
    graph = make_fx(lambda v, i: conv(v, i), tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        features(), edges()
    )
    return [graph(features(), edges()), graph(features(30), edges(30, count=77))]


@case("make_fx/real, self-loops", fused=False)
def _(make):
    return _graphed(make, "real")


@case("make_fx/forward and backward", fused=False)
def _(make):
    conv, index = make(add_self_loops=False, edge_dim=3), edges()
    attr = features(40, 3, seed=1)

    def training(v, w):
        out = torch.func.functional_call(conv, {"att": w}, (v, index, attr))
        return torch.autograd.grad(weighted(out), [v, w])

    x, att = features().requires_grad_(), conv.att.detach().clone().requires_grad_()
    return make_fx(training, tracing_mode="real")(x, att)(x, att)


@case("functionalize/forward and gradient", fused=False)
def _(make):
    conv, index = make(), edges()
    plain = torch.func.functionalize(lambda v: conv(v, index).relu_())(features())
    slope = torch.func.functionalize(torch.func.grad(lambda v: weighted(conv(v, index))))
    return [plain, slope(features())]


class _Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


class _SeenFunctions(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@case("modes/a dispatch mode around a step")
def _(make):
    conv, x = make(edge_dim=3), features().requires_grad_()
    with _Seen() as seen:
        found = step(conv, conv(x, edges(), features(40, 3, seed=1)), x=x)
    return found | {"seen": seen.count > 5}


@case("modes/a function mode around a step")
def _(make):
    conv, x = make(edge_dim=3), features().requires_grad_()
    with _SeenFunctions():
        return step(conv, conv(x, edges(), features(40, 3, seed=1)), x=x)


@case("modes/FLOP counter: the linear maps are counted", fused=False)
def _(make):
    conv, x = make(), features().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        weighted(conv(x, edges())).backward()
    counts = counter.get_flop_counts()["Global"]
    return {str(op): count for op, count in counts.items() if "gatv2" not in str(op)}


@case("modes/a tensor subclass passes through")
def _(make):
    class Named(torch.Tensor):
        pass

    conv, x = make(), features().as_subclass(Named)
    out = conv(x, edges())
    return [isinstance(out, Named), torch.Tensor(out.as_subclass(torch.Tensor))]


@case("modes/profiler")
def _(make):
    conv, x = make(), features().requires_grad_()
    with torch.profiler.profile(record_shapes=True, with_stack=False) as profile:
        found = step(conv, conv(x, edges()), x=x)
    names = {event.key for event in profile.key_averages()}
    return found | {"linear seen": "aten::linear" in names} | gradients(conv)
