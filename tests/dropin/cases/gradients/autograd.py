"""Checkpointing, hooks on saved tensors, and what else autograd does with a graph."""

import torch
from torch.utils import checkpoint as ckpt

from ...harness import (
    NODES,
    SIZE,
    agree,
    attempt,
    case,
    edges,
    features,
    gradients,
    step,
    wave,
    weighted,
)


def _checkpointed(make, use_reentrant, edge_attr=None, attention=False, **options):
    conv, x = make(**options), features().requires_grad_()
    extra = (edge_attr, True) if attention else (edge_attr,)
    out = ckpt.checkpoint(conv, x, edges(), *extra, use_reentrant=use_reentrant)
    if attention:
        out, (index, alpha) = out
        (weighted(out) + weighted(alpha)).backward()
        return {"out": out, "alpha": alpha, "index": index, **gradients(conv, x=x)}
    return step(conv, out, x=x)


@case("checkpoint/non-reentrant")
def _(make):
    return _checkpointed(make, False)


@case("checkpoint/reentrant")
def _(make):
    return _checkpointed(make, True)


@case("checkpoint/edge features and residual")
def _(make):
    attr = features(40, 3, seed=1)
    return [
        _checkpointed(make, form, attr, edge_dim=3, residual=True, concat=False)
        for form in (False, True)
    ]


@case("checkpoint/returned attention")
def _(make):
    return [_checkpointed(make, form, attention=True) for form in (False, True)]


@case("checkpoint/nested, each form in each")
def _(make):
    found = {}
    for outer in (False, True):
        for inner in (False, True):
            first, second = make(SIZE, 4, heads=2), make(SIZE, 4, heads=2)
            x, index = features().requires_grad_(), edges()

            def block(x, first=first, second=second, index=index, inner=inner):
                hidden = ckpt.checkpoint(first, x, index, use_reentrant=inner).relu()
                return ckpt.checkpoint(second, hidden, index, use_reentrant=inner)

            out = ckpt.checkpoint(block, x, use_reentrant=outer)
            found[f"{outer} {inner}"] = [step(second, out, x=x), gradients(first)]
    return found


class _Block(torch.nn.Module):
    def __init__(self, conv, index):
        super().__init__()
        self.conv, self.index = conv, index

    def forward(self, x):
        return self.conv(x, self.index).relu()


@case("checkpoint/checkpoint_sequential")
def _(make):
    blocks = torch.nn.Sequential(*(_Block(make(), edges()) for _ in range(4)))
    found = []
    for form in (False, True):
        blocks.zero_grad()
        x = features().requires_grad_()
        out = ckpt.checkpoint_sequential(blocks, 2, x, use_reentrant=form)
        found.append(step(blocks, out, x=x))
    return found


@case("checkpoint/selective")
def _(make):
    saved = (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)

    def policy(ctx, op, *args, **kwargs):
        keep = op in saved
        return ckpt.CheckpointPolicy.MUST_SAVE if keep else ckpt.CheckpointPolicy.PREFER_RECOMPUTE

    conv, x = make(), features().requires_grad_()
    out = ckpt.checkpoint(
        conv,
        x,
        edges(),
        use_reentrant=False,
        context_fn=lambda: ckpt.create_selective_checkpoint_contexts(policy),
    )
    return step(conv, out, x=x)


@case("checkpoint/no early stop, determinism checked")
def _(make):
    conv, x = make(), features().requires_grad_()
    with ckpt.set_checkpoint_early_stop(False):
        out = ckpt.checkpoint(conv, x, edges(), use_reentrant=False, determinism_check="default")
        return step(conv, out, x=x)


@case("checkpoint/dropout repeats its mask")
def _(make):
    conv, index, found = make(dropout=0.5), edges(), {}
    for form in (None, False, True):
        conv.zero_grad()
        x = features().requires_grad_()
        torch.manual_seed(3)
        out = (
            conv(x, index)
            if form is None
            else ckpt.checkpoint(conv, x, index, use_reentrant=form, preserve_rng_state=True)
        )
        found[form] = step(conv, out, x=x)
    return [agree(found[None], found[False]), agree(found[None], found[True])]


@case("checkpoint/twice over one graph")
def _(make):
    conv, x = make(), features().requires_grad_()
    out = ckpt.checkpoint(conv, x, edges(), use_reentrant=False)
    weighted(out).backward(retain_graph=True)
    weighted(out * out).backward()
    return gradients(conv, x=x)


@case("checkpoint/double backward")
def _(make):
    conv, x = make(), features().requires_grad_()
    out = ckpt.checkpoint(conv, x, edges(), use_reentrant=False)
    (grad,) = torch.autograd.grad(weighted(out), x, create_graph=True)
    weighted(grad).backward()
    return gradients(conv, x=x)


@case("saved tensors/packed as NumPy arrays")
def _(make):
    packed = []

    def pack(value):
        packed.append(1)
        return value.detach().numpy().copy(), value.dtype

    conv, x = make(), features().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: torch.from_numpy(kept[0])):
        out = conv(x, edges())
    return step(conv, out, x=x) | {"any packed": bool(packed)}


@case("saved tensors/written to a file and read once")
def _(make):
    store = []

    def pack(value):
        store.append(value.clone())
        return len(store) - 1

    def unpack(at):
        value, store[at] = store[at], None
        if value is None:
            raise RuntimeError("read twice")
        return value

    conv, x = make(edge_dim=3), features().requires_grad_()
    attr = features(40, 3, seed=1).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        out = conv(x, edges(), attr)
    return step(conv, out, x=x, attr=attr)


@case("saved tensors/save_on_cpu")
def _(make):
    conv, x = make(dropout=0.0), features().requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        out = conv(x, edges())
    return step(conv, out, x=x)


@case("saved tensors/hooks disabled")
def _(make):
    conv, x = make(), features().requires_grad_()
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        out = conv(x, edges())
    return step(conv, out, x=x)


@case("saved tensors/mutation allowed")
def _(make):
    conv, x = make(), features().requires_grad_()
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        hidden = x * 1.0
        out = conv(hidden, edges())
        hidden.detach().zero_()
        return step(conv, out, x=x)


@case("saved tensors/changed between forward and backward is an error")
def _(make):
    found = []
    for name in ("att", "lin_l.weight", "lin_edge.weight"):
        conv, x = make(edge_dim=3), features().requires_grad_()
        out = conv(x, edges(), features(40, 3, seed=1).requires_grad_())
        with torch.no_grad():
            conv.get_parameter(name).mul_(2)
        found.append(attempt(weighted(out).backward, RuntimeError))
    return found


@case("graph/backward twice")
def _(make):
    conv, x = make(), features().requires_grad_()
    out = conv(x, edges())
    loss = weighted(out)
    loss.backward(retain_graph=True)
    loss.backward()
    return gradients(conv, x=x) | {"third": attempt(loss.backward, RuntimeError)}


@case("graph/leaves reached from the output")
def _(make):
    conv, x = make(edge_dim=3, residual=True), features().requires_grad_()
    out = conv(x, edges(), features(40, 3, seed=1))
    seen, stack, leaves = set(), [out.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(tuple(node.variable.shape))
        stack += [parent for parent, _ in node.next_functions]
    return sorted(map(str, leaves))


@case("graph/some parameters frozen")
def _(make):
    found = []
    for names in (["att"], ["lin_l.weight"], ["lin_r.weight", "bias"], ["lin_edge.weight"], []):
        conv, x = make(edge_dim=3), features()
        attr = features(40, 3, seed=1).requires_grad_(not names)
        for name, value in conv.named_parameters():
            value.requires_grad_(name in names)
        found.append(step(conv, conv(x, edges(), attr), attr=attr))
    return found


@case("graph/grad of some inputs")
def _(make):
    conv, x = make(), features().requires_grad_()
    other = features(seed=5).requires_grad_()
    loss = weighted(conv(x, edges()))
    return list(torch.autograd.grad(loss, [conv.att, other, x], allow_unused=True))


@case("graph/hooks and kept gradients on tensors")
def _(make):
    conv, leaf, seen = make(), features().requires_grad_(), []
    x = leaf * 1.0
    x.retain_grad()
    x.register_hook(lambda grad: grad * 2)
    out = conv(x, edges())
    out.retain_grad()
    out.register_hook(lambda grad: seen.append(grad.clone()))
    conv.att.register_post_accumulate_grad_hook(lambda value: seen.append(value.grad.clone()))
    return step(conv, out, leaf=leaf) | {"x": x.grad, "out grad": out.grad, "seen": seen}


@case("graph/loss of attention alone, output alone, both")
def _(make):
    found = []
    for share in ((1, 0), (0, 1), (1, 1)):
        conv, x = make(edge_dim=3), features().requires_grad_()
        out, (_, alpha) = conv(x, edges(), features(40, 3, seed=1), return_attention_weights=True)
        terms = [w for use, w in zip(share, (weighted(out), weighted(alpha)), strict=True) if use]
        sum(terms).backward()
        found.append(gradients(conv, x=x))
    return found


@case("graph/strided gradients and inputs")
def _(make):
    found = []
    index = edges().t().contiguous().t()
    for x in (
        features(SIZE, NODES).t(),
        features(1, SIZE).expand(NODES, SIZE),
        features(2 * NODES, SIZE)[::2],
        features(NODES, 2 * SIZE)[:, ::2],
    ):
        for seed in (torch.ones(()).double(), wave((8, NODES)).t(), wave((1, 8))):
            conv, leaf = make(), x.detach().requires_grad_()
            out = conv(leaf, index)
            out.backward(seed.expand_as(out))
            found.append([out, gradients(conv, x=leaf)])
        found.append(make()(x, edges(count=80)[:, ::2]))
    return found


@case("graph/a pair that shares memory")
def _(make):
    found = []
    for rows in (NODES, 7):
        conv, x = make((SIZE, SIZE), 4, heads=2), features().requires_grad_()
        out = conv((x, x[:rows]), edges(NODES, rows))
        found.append(step(conv, out, x=x))
    return found


@case("graph/anomaly mode")
def _(make):
    conv, x = make(edge_dim=3), features().requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        return step(conv, conv(x, edges(), features(40, 3, seed=1)), x=x)


@case("graph/gradients accumulate over steps")
def _(make):
    conv, x = make(), features().requires_grad_()
    for seed in range(3):
        weighted(conv(x, edges(seed=seed))).backward()
    return gradients(conv, x=x)


@case("graph/backward in another thread")
def _(make):
    import threading

    conv, x = make(), features().requires_grad_()
    out = conv(x, edges())
    thread = threading.Thread(target=lambda: weighted(out).backward())
    thread.start()
    thread.join()
    return gradients(conv, x=x)


@case("graph/custom function and gradient scale around it")
def _(make):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.view_as(value)

        @staticmethod
        def backward(ctx, grad):
            return -grad

    conv, x = make(bias=False), features().requires_grad_()
    return step(conv, Reverse.apply(conv(Reverse.apply(x), edges())), x=x)
