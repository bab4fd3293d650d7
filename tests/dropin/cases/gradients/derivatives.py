"""Batched, forward-mode and higher derivatives; torch.func."""

import torch
from torch.autograd import forward_ad
from torch.autograd import functional as AF
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    stack_module_state,
    vjp,
    vmap,
)

from ...harness import EDGES, NODES, SIZE, agree, case, edges, features, gradients, wave, weighted


def _small(make, **options):
    """A layer, features and edges for which a Hessian is small."""
    given = {"heads": 2} | options
    return make(3, 2, **given), features(5, 3), edges(5, count=12)


def _state(conv):
    return {name: value.detach() for name, value in conv.named_parameters()}


def _call(conv, index, *rest):
    return lambda state, x: functional_call(conv, state, (x, index, *rest))


for _vectorize in (False, True):

    @case(f"derivatives/jacobian, vectorize={_vectorize}", fused=not _vectorize)
    def _(make, vectorize=_vectorize):
        conv, x, index = _small(make)
        return AF.jacobian(lambda v: conv(v, index), x, vectorize=vectorize)

    @case(f"derivatives/hessian, vectorize={_vectorize}", fused=False)
    def _(make, vectorize=_vectorize):
        conv, x, index = _small(make)
        return AF.hessian(lambda v: weighted(conv(v, index)), x, vectorize=vectorize)


@case("derivatives/jacobian, forward mode", fused=False)
def _(make):
    conv, x, index = _small(make)
    return AF.jacobian(lambda v: conv(v, index), x, vectorize=True, strategy="forward-mode")


@case("derivatives/jacobian of attention and edge features, vectorize=True", fused=False)
def _(make):
    conv, x, index = _small(make, edge_dim=2)
    attr = features(12, 2, seed=1)
    return AF.jacobian(
        lambda v, a: conv(v, index, a, return_attention_weights=True)[1][1],
        (x, attr),
        vectorize=True,
    )


@case("derivatives/autograd.functional jvp, vjp, hvp, vhp")
def _(make):
    conv, x, index = _small(make)

    def out(v):
        return conv(v, index)

    def loss(v):
        return weighted(conv(v, index))

    return [
        AF.jvp(out, x, wave(x.shape)),
        AF.vjp(out, x, wave((5, 4))),
        AF.hvp(loss, x, wave(x.shape)),
        AF.vhp(loss, x, wave(x.shape)),
    ]


@case("derivatives/is_grads_batched", fused=False)
def _(make):
    conv, x = make(), features().requires_grad_()
    out = conv(x, edges())
    batch = wave((3, *out.shape))
    inputs = [x, *conv.parameters()]
    return torch.autograd.grad(out, inputs, batch, is_grads_batched=True)


@case("derivatives/is_grads_batched, then an ordinary gradient", fused=False)
def _(make):
    conv, x = make(edge_dim=3, dropout=0.0), features().requires_grad_()
    out = conv(x, edges(), features(40, 3, seed=1))
    batched = torch.autograd.grad(
        out, [x, conv.att], wave((3, *out.shape)), is_grads_batched=True, retain_graph=True
    )
    return batched, torch.autograd.grad(weighted(out), [x, conv.att])


@case("derivatives/is_grads_batched with dropout agrees with one at a time", fused=False)
def _(make):
    conv, x = make(dropout=0.5), features().requires_grad_()
    out = conv(x, edges())
    batch = wave((3, *out.shape))
    batched = torch.autograd.grad(out, x, batch, is_grads_batched=True, retain_graph=True)[0]
    single = [torch.autograd.grad(out, x, row, retain_graph=True)[0] for row in batch]
    return agree(torch.stack(single), batched)


@case("derivatives/forward-mode dual numbers", fused=False)
def _(make):
    conv, found = make(edge_dim=3, residual=True), []
    attr = features(40, 3, seed=1)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(features(), wave((NODES, SIZE)))
        out, (_, alpha) = conv(x, edges(), attr, return_attention_weights=True)
        found += [*forward_ad.unpack_dual(out), *forward_ad.unpack_dual(alpha)]
        dual = forward_ad.make_dual(attr, wave(attr.shape))
        found += list(forward_ad.unpack_dual(conv(features(), edges(), dual)))
    return found


@case("derivatives/forward-mode through parameters", fused=False)
def _(make):
    conv = make()
    state = _state(conv)
    with forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value, wave(value.shape)) for name, value in state.items()
        }
        out = functional_call(conv, duals, (features(), edges()))
        return list(forward_ad.unpack_dual(out))


@case("derivatives/forward over reverse", fused=False)
def _(make):
    conv, index = make(), edges()
    with forward_ad.dual_level():
        x = forward_ad.make_dual(features().requires_grad_(), wave((NODES, SIZE)))
        out = forward_ad.unpack_dual(conv(x, index)).tangent
        return torch.autograd.grad(weighted(out), list(conv.parameters()), allow_unused=True)


@case("derivatives/gradient penalty")
def _(make):
    conv, x = make(edge_dim=3, residual=True), features().requires_grad_()
    out = conv(x, edges(), features(40, 3, seed=1))
    (first,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (weighted(out) + (first.norm(dim=1) - 1).square().mean()).backward()
    return gradients(conv, x=x)


@case("derivatives/gradient penalty with dropout: one mask for both")
def _(make):
    # With one mask, out is linear in a factor on x_src beyond attention: checked by differences.
    conv, index = make(dropout=0.4), edges()
    x = features().requires_grad_()

    def first(v):
        torch.manual_seed(11)
        return torch.autograd.grad(weighted(conv(v, index)), v, create_graph=True)[0]

    direction = wave((NODES, SIZE), shift=0.9)
    (second,) = torch.autograd.grad(weighted(first(x)), x)
    up = weighted(first((x + 1e-5 * direction).detach().requires_grad_()))
    down = weighted(first((x - 1e-5 * direction).detach().requires_grad_()))
    return agree((up - down) / 2e-5, (second * direction).sum(), (1e-4, 1e-6))


@case("derivatives/third order", fused=False)
def _(make):
    conv, x, index = _small(make)
    x.requires_grad_()
    value, found = weighted(conv(x, index)), []
    for _ in range(3):
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        found.append(slope)
        value = weighted(slope)
    return found


@case("derivatives/MAML: a step, then the gradient through it")
def _(make):
    conv, x, index = make(), features(), edges()
    state = dict(conv.named_parameters())
    loss = weighted(functional_call(conv, state, (x, index)).tanh())
    slopes = torch.autograd.grad(loss, list(state.values()), create_graph=True)
    moved = {name: w - 0.1 * s for (name, w), s in zip(state.items(), slopes, strict=True)}
    weighted(functional_call(conv, moved, (x, index)).tanh()).backward()
    return gradients(conv)


@case("derivatives/gradcheck and gradgradcheck")
def _(make):
    conv, x, index = _small(make, edge_dim=2)
    x.requires_grad_()
    attr = features(12, 2, seed=1).requires_grad_()

    def call(v, a, *state):
        names = [name for name, _ in conv.named_parameters()]
        return functional_call(conv, dict(zip(names, state, strict=True)), (v, index, a))

    inputs = (x, attr, *conv.parameters())
    return [
        torch.autograd.gradcheck(call, inputs, fast_mode=True, atol=1e-4),
        torch.autograd.gradgradcheck(call, inputs, fast_mode=True, atol=1e-4),
    ]


@case("derivatives/gradcheck, batched and forward mode", fused=False)
def _(make):
    conv, x, index = _small(make)
    x.requires_grad_()
    return torch.autograd.gradcheck(
        lambda v: conv(v, index),
        (x,),
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
        atol=1e-4,
    )


@case("torch.func/grad of parameters and features", fused=False)
def _(make):
    conv, x, index = make(), features(), edges()
    call = _call(conv, index)
    return grad(lambda s, v: weighted(call(s, v)), argnums=(0, 1))(_state(conv), x)


@case("torch.func/grad of attention with edge features", fused=False)
def _(make):
    conv, index = make(edge_dim=3), edges()

    def loss(x, attr):
        out, (_, alpha) = conv(x, index, attr, return_attention_weights=True)
        return weighted(out) + weighted(alpha)

    return grad(loss, argnums=(0, 1))(features(), features(40, 3, seed=1))


@case("torch.func/vjp, jvp, linearize", fused=False)
def _(make):
    conv, x, index = make(), features(), edges()
    out, pull = vjp(lambda v: conv(v, index), x)
    value, tangent = jvp(lambda v: conv(v, index), (x,), (wave(x.shape),))
    _, push = linearize(lambda v: conv(v, index), x)
    return [out, pull(wave(out.shape)), value, tangent, push(wave(x.shape))]


@case("torch.func/jacrev, jacfwd, hessian", fused=False)
def _(make):
    conv, x, index = _small(make)

    def out(v):
        return conv(v, index)

    return [jacrev(out)(x), jacfwd(out)(x), hessian(lambda v: weighted(out(v)))(x)]


@case("torch.func/jacrev in chunks, of parameters", fused=False)
def _(make):
    conv, x, index = _small(make)
    call = _call(conv, index)
    return jacrev(lambda state: call(state, x), chunk_size=3)(_state(conv))


@case("torch.func/vmap over features", fused=False)
def _(make):
    conv, index = make(edge_dim=3), edges()
    x, attr = wave((3, NODES, SIZE)), wave((3, EDGES, 3))
    return [
        vmap(lambda v: conv(v, index, attr[0]))(x),
        vmap(lambda v, a: conv(v, index, a))(x, attr),
        vmap(lambda v: conv(v, index, attr[0]), in_dims=1, out_dims=2)(x.movedim(0, 1)),
    ]


@case("torch.func/vmap over features, trained", fused=False)
def _(make):
    conv, index, x = make(), edges(), wave((3, NODES, SIZE)).requires_grad_()
    weighted(vmap(lambda v: conv(v, index))(x)).backward()
    return gradients(conv, x=x)


@case("torch.func/vmap over parameters: an ensemble", fused=False)
def _(make):
    layers, x, index = [make() for _ in range(3)], features(), edges()
    state, buffers = stack_module_state(layers)
    base = layers[0]
    call = vmap(lambda s, b: functional_call(base, (s, b), (x, index)))
    out = call(state, buffers)
    weighted(out).backward()
    return out, {name: value.grad for name, value in state.items()}


@case("torch.func/vmap over edge_index", fused=False)
def _(make):
    conv, x = make(add_self_loops=False), features()
    index = torch.stack([edges(seed=seed) for seed in range(3)])
    return [
        vmap(lambda i: conv(x, i))(index),
        vmap(lambda v, i: conv(v, i))(wave((3, NODES, SIZE)), index),
        vmap(lambda i: conv(x, i, return_attention_weights=True)[1][1])(index),
    ]


@case("torch.func/per-sample gradients", fused=False)
def _(make):
    conv, index = make(), edges()
    call = _call(conv, index)

    def loss(state, x, target):
        return (call(state, x) - target).square().mean()

    x, target = wave((4, NODES, SIZE)), wave((4, NODES, 8), shift=1.0)
    return vmap(grad(loss), in_dims=(None, 0, 0))(_state(conv), x, target)


@case("torch.func/per-sample gradients over edge_index", fused=False)
def _(make):
    conv, x = make(add_self_loops=False), features()
    index = torch.stack([edges(seed=seed) for seed in range(3)])

    def loss(state, i):
        return weighted(functional_call(conv, state, (x, i)))

    return vmap(grad(loss), in_dims=(None, 0))(_state(conv), index)


@case("torch.func/vmap with dropout: randomness same and different", fused=False)
def _(make):
    conv, index, x = make(dropout=0.5, bias=False), edges(count=200), features()
    batch = x.expand(2, *x.shape)
    same = vmap(lambda v: conv(v, index), randomness="same")(batch)
    different = vmap(lambda v: conv(v, index), randomness="different")(batch)
    return [
        torch.equal(same[0], same[1]),
        bool((different[0] - different[1]).abs().max() > 1e-3),
        bool((same[0] - conv.eval()(x, index)).abs().max() > 1e-3),
    ]


@case("torch.func/functional_call with tied and replaced parameters")
def _(make):
    conv, x, index = make(share_weights=True, residual=True), features(), edges()
    state = {name: value * 0.5 for name, value in conv.named_parameters()}
    return [
        functional_call(conv, state, (x, index)),
        functional_call(conv, {"att": state["att"]}, (x, index)),
        functional_call(conv, state, (x, index), {"return_attention_weights": True})[1][1],
        conv(x, index),
    ]
