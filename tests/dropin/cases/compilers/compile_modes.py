"""torch.compile in its modes, and what is around a compiled layer."""

import os
import tempfile

import torch
import torch._dynamo
from torch.fx.experimental.proxy_tensor import make_fx

from ...harness import NODES, SIZE, case, edges, features, gradients, step, weighted

_SIZES = ((12, 40), (20, 70), (31, 90))


def _trained(call, conv, sizes=_SIZES, **more):
    found = []
    for nodes, count in sizes:
        conv.zero_grad()
        x = features(nodes).requires_grad_()
        found.append(step(conv, call(x, edges(nodes, count=count)), x=x))
    return found


for _mode, _dynamic in (
    ("reduce-overhead", None),
    ("max-autotune-no-cudagraphs", True),
    ("default", False),
):

    @case(f"compile/mode {_mode}, dynamic={_dynamic}", slow=True, limit=240, paths=("auto",))
    def _(make, mode=_mode, dynamic=_dynamic):
        conv = make(edge_dim=None, bias=False)
        compiled = torch.compile(conv, mode=mode, dynamic=dynamic, fullgraph=True)
        return _trained(compiled, conv, _SIZES[:2])


@case("compile/inductor: a pair, edge features, attention, residual", slow=True, limit=240)
def _(make):
    conv = make((SIZE, 5), 4, heads=2, edge_dim=3, residual=True, add_self_loops=False)
    compiled, found = torch.compile(conv, dynamic=True), []
    for num_src, num_dst, count in ((12, 7, 40), (9, 15, 30)):
        conv.zero_grad()
        x, y = features(num_src).requires_grad_(), features(num_dst, 5).requires_grad_()
        attr = features(count, 3, seed=2).requires_grad_()
        index = edges(num_src, num_dst, count=count)
        out, (adj, alpha) = compiled((x, y), index, attr, return_attention_weights=True)
        (weighted(out) + weighted(alpha)).backward()
        found.append([out, adj, alpha, gradients(conv, x=x, y=y, attr=attr)])
    return found


@case("compile/cudagraph-like: eager backend, hooks on the layer and its maps", slow=True)
def _(make):
    conv, found = make(edge_dim=3), []
    conv.register_forward_hook(lambda m, given, out: out * 2)
    conv.lin_l.register_forward_hook(lambda m, given, out: out + 1)
    conv.lin_r.register_forward_pre_hook(lambda m, given: (given[0] * 0.5,))
    conv.register_full_backward_hook(lambda m, gi, go: found.append(len(go)))
    compiled = torch.compile(conv, backend="aot_eager")
    x = features().requires_grad_()
    return [step(conv, compiled(x, edges(), features(40, 3)), x=x), found]


@case("compile/message-passing hook: the fallback is compiled", slow=True, fused=False)
def _(make):
    conv = make()
    conv.register_message_forward_hook(lambda m, given, out: out * 2)
    compiled = torch.compile(conv, backend="aot_eager")
    x = features().requires_grad_()
    return step(conv, compiled(x, edges()), x=x)


@case("compile/graph breaks within a model of several layers", slow=True)
def _(make):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([make(SIZE, SIZE), make(SIZE, SIZE), make()])

        def forward(self, x, index):
            for at, layer in enumerate(self.layers):
                x = layer(x, index)
                if at == 0 and float(x.sum()) > -1e9:
                    x = x.relu()
                print(end="")
            return x

    model = Model()
    compiled = torch.compile(model, backend="aot_eager")
    return _trained(compiled, model, _SIZES[:2])


@case("compile/no_grad, inference_mode, train and eval in turn", slow=True, limit=240)
def _(make):
    conv, found = make(dropout=0.0), []
    compiled = torch.compile(conv, dynamic=True, backend="aot_eager")
    for train in (True, False):
        conv.train(train)
        for guard in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with guard():
                x, index = features(), edges()
                found.append(compiled(x, index).clone().tolist())
        x = features().requires_grad_()
        conv.zero_grad()
        found.append(step(conv, compiled(x, edges()), x=x))
    return found


@case("compile/a COO matrix as the argument", slow=True, limit=240, paths=("auto",))
def _(make):
    conv, x = make(add_self_loops=False), features().requires_grad_()
    ones = torch.ones(40, dtype=torch.float64)
    adj = torch.sparse_coo_tensor(edges().flip(0), ones, (NODES, NODES)).coalesce()
    return step(conv, torch.compile(conv, backend="aot_eager")(x, adj), x=x)


@case("compile/lazy sizes", slow=True, paths=("auto",))
def _(make):
    conv = make.cls(-1, 4, heads=2, **make.options).double()
    compiled = torch.compile(conv, backend="aot_eager")
    compiled(features(), edges())
    make.fill(conv)
    return compiled(features(), edges())


@case("compile/a whole step under compiled autograd", slow=True, paths=("auto",))
def _(make):
    conv, index = make(edge_dim=3), edges()
    x, attr = features().requires_grad_(), features(40, 3).requires_grad_()

    @torch.compile(backend="aot_eager")
    def train(x, attr):
        weighted(conv(x, index, attr)).backward()

    with torch._dynamo.config.patch(compiled_autograd=True):
        train(x, attr)
    return gradients(conv, x=x, attr=attr)


@case("compile/vmap inside, over features", slow=True, fused=False, paths=("auto",))
def _(make):
    conv, index = make(add_self_loops=False), edges()
    call = torch.compile(torch.vmap(lambda v: conv(v, index)), backend="aot_eager")
    return call(torch.stack([features(seed=at) for at in range(3)]))


@case("compile/deterministic algorithms", slow=True, paths=("auto",))
def _(make):
    torch.use_deterministic_algorithms(True)
    conv = make()
    compiled = torch.compile(conv, backend="inductor", dynamic=True)
    return _trained(compiled, conv, _SIZES[:1])


@case("compile/no nodes, no edges, one of each", slow=True, limit=200, paths=("auto",))
def _(make):
    conv = make()
    compiled = torch.compile(conv, backend="aot_eager", dynamic=True)
    return _trained(compiled, conv, ((12, 40), (3, 0), (1, 1), (1, 0)))


for _tracing in ("real", "fake", "symbolic"):
    for _loops in (True, False):

        @case(f"make_fx/{_tracing}, gradient, edge features, loops={_loops}", fused=False)
        def _(make, tracing=_tracing, loops=_loops):
            conv = make(edge_dim=3, add_self_loops=loops)

            def both(x, index, attr):
                x, attr = x.detach().requires_grad_(), attr.detach().requires_grad_()
                out = conv(x, index, attr)
                return out, *torch.autograd.grad(weighted(out), [x, attr, conv.att])

            given = features(), edges(loops=False), features(40, 3)
            graph = make_fx(both, tracing_mode=tracing, _allow_non_fake_inputs=True)(*given)
            again = features(seed=4), edges(seed=5, loops=False), features(40, 3, seed=6)
            return [graph(*given), graph(*again)]


@case("make_fx/pre_dispatch", fused=False)
def _(make):
    conv = make(add_self_loops=False)
    with torch.no_grad():
        graph = make_fx(
            lambda x, i: conv(x, i),
            pre_dispatch=True,
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(features(), edges())
    return graph(features(seed=3), edges(seed=4))


@case("functionalize/remove=mutations_and_views, with attention", fused=False)
def _(make):
    conv = make(edge_dim=3, fill_value="add")

    def call(x, index, attr):
        out, (_, alpha) = conv(x, index, attr, return_attention_weights=True)
        return out.clone().mul_(2), alpha

    whole = torch.func.functionalize(call, remove="mutations_and_views")
    return whole(features(), edges(), features(40, 3))


@case("fake/sizes unknown until run: unbacked", fused=False)
def _(make):
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    conv = make(add_self_loops=False)
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    x, index = mode.from_tensor(features()), mode.from_tensor(edges())
    with mode:
        out = conv(x, index)
        return [str(out.dtype), out.dim(), int(out.shape[-1])]


@case("trace/jit.trace with strict=False, frozen, edge features", fused=False)
def _(make):
    conv = make(edge_dim=3).eval()
    traced = torch.jit.trace(
        conv, (features(), edges(), features(40, 3)), strict=False, check_trace=True
    )
    frozen = torch.jit.freeze(traced)
    given = features(seed=5), edges(seed=6), features(40, 3, seed=7)
    return [traced(*given), frozen(*given)]


@case(
    "export/AOTInductor with self-loops, dynamic",
    slow=True,
    limit=400,
    fused=False,
    paths=("auto",),
)
def _(make):
    from torch.export import Dim, export

    conv = make().eval()
    shapes = ({0: Dim("N", min=2, max=1000)}, {1: Dim("E", min=2, max=100_000)})
    program = export(conv, (features(), edges()), dynamic_shapes=shapes)
    with tempfile.TemporaryDirectory() as folder:
        path = torch._inductor.aoti_compile_and_package(
            program, package_path=os.path.join(folder, "layer.pt2")
        )
        run = torch._inductor.aoti_load_package(path)
        with torch.no_grad():
            return [run(features(n), edges(n, count=c)) for n, c in ((12, 40), (30, 99))]


@case(
    "export/strict with attention and edge features, bipartite, sizes without bounds",
    slow=True,
    fused=False,
    quiet=False,
)
def _(make):
    from torch.export import Dim, export

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = make((SIZE, 5), 4, heads=2, edge_dim=3, add_self_loops=False)

        def forward(self, x, y, index, attr):
            out, (_, alpha) = self.conv((x, y), index, attr, return_attention_weights=True)
            return out, alpha

    e = Dim("E", min=2)
    shapes = ({0: Dim("S", min=2)}, {0: Dim("D", min=2)}, {1: e}, {0: e})
    given = features(), features(7, 5), edges(NODES, 7), features(40, 3)
    found = []
    for strict in (True, False):
        program = export(Model().eval(), given, dynamic_shapes=shapes, strict=strict)
        found.append(
            program.module()(features(20), features(9, 5), edges(20, 9, count=33), features(33, 3))
        )
    return found


@case("export/a model of PyG with the layer, non-strict, with loops", slow=True, fused=False)
def _(make):
    import torch_geometric.nn as pyg
    from torch.export import Dim, export

    model = pyg.GAT(SIZE, 8, 2, out_channels=5, heads=2, v2=True)
    if make.ours:
        import gatv2_pyg

        model = gatv2_pyg.use_gatv2(model)
    model = make.fill(model.double()).eval()
    shapes = {"x": {0: Dim("N", min=2)}, "edge_index": {1: Dim("E", min=2)}}
    program = export(
        model, (), kwargs={"x": features(), "edge_index": edges()}, dynamic_shapes=shapes
    )
    return program.module()(x=features(30), edge_index=edges(30, count=77))
