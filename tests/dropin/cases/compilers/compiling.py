"""torch.compile: sizes that change, options of the layer, what is compiled with it."""

import torch
import torch._dynamo

from ...harness import NODES, SIZE, agree, case, edges, features, gradients, step, weighted


def _steps(make, sizes, edge_dim=None, **options):
    """Training steps of a compiled layer on graphs of these sizes (nodes, edges)."""
    compiled_with = {"backend": "aot_eager", "fullgraph": True} | options.pop("compile", {})
    conv = make(edge_dim=edge_dim, **options)
    compiled, found = torch.compile(conv, **compiled_with), []
    for nodes, count in sizes:
        conv.zero_grad()
        x = features(nodes).requires_grad_()
        attr = None if edge_dim is None else features(count, edge_dim, seed=1)
        out = compiled(x, edges(nodes, count=count), attr)
        found.append(step(conv, out, x=x))
    return found


@case("compile/aot_eager, sizes that change", slow=True)
def _(make):
    return _steps(make, [(12, 40), (20, 70), (31, 90)])


@case("compile/aot_eager, dynamic=True", slow=True, paths=("auto",))
def _(make):
    return _steps(make, [(12, 40), (40, 200)], compile={"dynamic": True})


@case("compile/aot_eager, no self-loops, edge features, residual", slow=True, paths=("auto",))
def _(make):
    sizes = [(12, 40), (20, 70)]
    return _steps(make, sizes, edge_dim=3, add_self_loops=False, residual=True, concat=False)


@case("compile/aot_eager, edge features with self-loops", slow=True, paths=("auto",))
def _(make):
    return _steps(make, [(12, 40), (20, 70)], edge_dim=3)


@case("compile/inductor, sizes that change", slow=True, limit=150)
def _(make):
    return _steps(make, [(12, 40), (20, 70)], compile={"backend": "inductor"})


@case("compile/returned attention", slow=True, paths=("auto",))
def _(make):
    conv, x = make(add_self_loops=False), features().requires_grad_()
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    out, (index, alpha) = compiled(x, edges(), return_attention_weights=True)
    (weighted(out) + weighted(alpha)).backward()
    return [out, index, alpha, gradients(conv, x=x)]


@case("compile/dropout keeps the share and the mean", slow=True, paths=("auto",))
def _(make):
    conv = make(dropout=0.5, add_self_loops=False)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    x, index = features(), edges(count=4000)
    first = compiled(x, index, return_attention_weights=True)[1][1]
    second = compiled(x, index, return_attention_weights=True)[1][1]
    full = compiled.eval()(x, index, return_attention_weights=True)[1][1]
    kept = first != 0
    return [
        abs(kept.double().mean().item() - 0.5) < 0.03,
        bool((kept != (second != 0)).any()),
        agree(first[kept], 2 * full[kept]),
    ]


@case("compile/a graph break beside the layer", slow=True)
def _(make):
    first, second, index = make(), make(bias=False), edges()

    def model(x):
        hidden = first(x, index)
        torch._dynamo.graph_break()
        return second(hidden.relu(), index).relu_()

    x = features().requires_grad_()
    out = torch.compile(model, backend="aot_eager")(x)
    return step(second, out, x=x) | {f"first {k}": v for k, v in gradients(first).items()}


@case("compile/Module.compile, then pickled and copied", slow=True, paths=("auto",))
def _(make):
    import copy

    conv, x, index = make(), features(), edges()
    conv.compile(backend="aot_eager")
    return [conv(x, index), copy.deepcopy(conv)(x, index), dict(conv.state_dict())]


@case("compile/under no_grad, inference mode, then trained", slow=True, paths=("auto",))
def _(make):
    conv, index = make(), edges()
    compiled, found = torch.compile(conv, backend="aot_eager"), []
    with torch.no_grad():
        found.append(compiled(features(), index))
    with torch.inference_mode():
        found.append(compiled(features(), index).tolist())
    x = features().requires_grad_()
    return [*found, step(conv, compiled(x, index), x=x)]


@case("compile/checkpoint inside", slow=True, paths=("auto",))
def _(make):
    conv, index = make(), edges()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def model(x):
        return torch.utils.checkpoint.checkpoint(conv, x, index, use_reentrant=False)

    x = features().requires_grad_()
    return step(conv, model(x), x=x)


@case("compile/bipartite, shared weights", slow=True, paths=("auto",))
def _(make):
    conv = make((SIZE, SIZE), 4, heads=2, share_weights=True)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    x, index = features().requires_grad_(), edges(NODES, 7)
    return step(conv, compiled((x, features(7, seed=2)), index), x=x)


@case("compile/autocast to bfloat16", slow=True, paths=("auto",))
def _(make):
    conv = make(dtype=torch.float32)
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = compiled(features(dtype=torch.float32), edges())
    return str(out.dtype), out.float().mul(1).to(torch.bfloat16)


@case("compile/a training step with its optimiser and gradient", slow=True, paths=("auto",))
def _(make):
    conv, index = make(), edges()
    optimiser = torch.optim.SGD(conv.parameters(), lr=0.1)

    @torch.compile(backend="aot_eager")
    def train(x):
        optimiser.zero_grad()
        loss = weighted(conv(x, index))
        loss.backward()
        optimiser.step()
        return loss

    return [train(features()), train(features()), dict(conv.named_parameters())]


@case("compile/torch.func.grad inside", slow=True, fused=False, paths=("auto",))
def _(make):
    conv, index = make(add_self_loops=False), edges()

    @torch.compile(backend="aot_eager")
    def slope(x):
        return torch.func.grad(lambda v: weighted(conv(v, index)))(x)

    return slope(features())


@case("compile/edge_index changed in place between calls", slow=True, paths=("auto",))
def _(make):
    conv, x, index = make(), features(), edges()
    compiled = torch.compile(conv, backend="aot_eager")
    first = compiled(x, index)
    index.data.copy_(edges(seed=9))
    return [first, compiled(x, index)]
