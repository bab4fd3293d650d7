"""Sparse node features: every layout, what users do to them, and what is kept between steps."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric import nn as pyg

import gatv2_pyg
from gatv2_pyg import GATv2Conv, kernels
from gatv2_pyg.graph import cache
from gatv2_pyg.maps import linear_maps, matrix
from tests.maps.problems import (
    FEATURES,
    LAYOUTS,
    NODES,
    assert_same,
    compiled,
    edges,
    features,
    layouts,
    pair_of_layers,
    step,
)


@pytest.fixture
def built(monkeypatch) -> list[int]:
    """Grows by one whenever the order of a matrix is worked out."""
    calls: list[int] = []
    original = matrix._by_row
    monkeypatch.setattr(matrix, "_by_row", lambda *a: calls.append(1) or original(*a))
    return calls


@layouts
@pytest.mark.parametrize(
    "options",
    [{}, {"share_weights": True}, {"residual": True}, {"bias": False, "concat": False}],
    ids=["plain", "shared", "residual", "no bias"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients(layout, options, dtype):
    ours, theirs = pair_of_layers(**options)
    x = features(dtype=dtype)
    want = step(theirs, x.double(), edges())
    got = step(ours.to(dtype), LAYOUTS[layout](x), edges())
    assert_same([part.double() for part in got], want, rtol=1e-5, atol=1e-5)
    if dtype == torch.float64:
        assert_same(got, want)


@layouts
def test_takes_what_pygs_layer_takes(layout):
    ours, theirs = pair_of_layers()
    x = LAYOUTS[layout](features())
    assert_same(step(ours, x, edges()), step(theirs, x, edges()))


@pytest.mark.parametrize("sparse", [(True, False), (False, True), (True, True)])
def test_either_of_a_pair(sparse):
    ours, theirs = pair_of_layers((FEATURES, FEATURES), residual=True, add_self_loops=False)
    pair = features(), features(1, rows=20)
    mixed = tuple(x.to_sparse_csr() if s else x for x, s in zip(pair, sparse, strict=True))
    edge_index = edges(NODES, 20)
    assert_same(step(ours, mixed, edge_index), step(theirs, pair, edge_index))


def test_message_passing_and_attention_weights():
    ours, theirs = pair_of_layers()
    ours.backend = "reference"
    x = features()
    out, (_, alpha) = ours(x.to_sparse_csr(), edges(), return_attention_weights=True)
    want, (_, expected) = theirs(x, edges(), return_attention_weights=True)
    assert_same([out, alpha], [want, expected])


def test_lazy_size():
    layer = GATv2Conv(-1, 4).double()
    out = layer(features().to_sparse_csr(), edges())
    assert layer.lin_l.weight.shape == (4, FEATURES)
    assert_same([layer(features(), edges())], [out])


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_another_default_device(layout, dtype):
    ours, theirs = pair_of_layers(dtype=dtype)
    x, ends = LAYOUTS[layout](features(dtype=dtype)), edges()
    with torch.device("meta"):
        out = ours(x, ends)
        out.square().sum().backward()
    want = theirs(features(dtype=dtype), ends)
    want.square().sum().backward()
    grads = ([p.grad for p in layer.parameters()] for layer in (ours, theirs))
    assert_same([out, *next(grads)], [want, *next(grads)])


@layouts
def test_new_values_on_a_kept_pattern(layout, built):
    """As dropout makes them: the matrix is a new one, its pattern is not."""
    ours, theirs = pair_of_layers()
    x = LAYOUTS[layout](features())
    for factor in (1.0, 2.0, -3.0):
        if layout == "csr":
            parts = x.crow_indices(), x.col_indices(), factor * x.values()
            scaled = torch.sparse_csr_tensor(*parts, x.shape)
        elif layout == "csc":
            parts = x.ccol_indices(), x.row_indices(), factor * x.values()
            scaled = torch.sparse_csc_tensor(*parts, x.shape)
        else:
            scaled = torch.sparse_coo_tensor(x.indices(), factor * x.values(), x.shape)
        assert_same(step(ours, scaled, edges()), step(theirs, factor * features(), edges()))
    if kernels.cpu_kernels() is not None:
        assert len(built) == (2 if layout == "coo" else 1)


def test_dropped_features_have_dropouts_gradients():
    """F.dropout of the stored values is F.dropout of the matrix: other entries are 0 either way."""
    ours, theirs = pair_of_layers()
    x = features().to_sparse_csr()
    torch.manual_seed(5)
    dropped = torch.sparse_csr_tensor(
        x.crow_indices(), x.col_indices(), F.dropout(x.values(), 0.6), x.shape
    )
    assert 0.2 < (dropped.values() == 0).double().mean() < 0.9
    assert_same(step(ours, dropped, edges()), step(theirs, dropped.to_dense(), edges()))


@compiled
def test_another_pattern_of_the_same_size_is_seen(built):
    ours, theirs = pair_of_layers()
    x = features()
    for shift in range(6):
        moved = x.roll(shift, dims=1)
        assert_same(step(ours, moved.to_sparse_csr(), edges()), step(theirs, moved, edges()))
    assert len(built) == 6
    assert len(cache._recent) == cache._MAX_RECENT


@compiled
@layouts
def test_the_same_pattern_in_another_width_is_another(layout):
    x = torch.zeros(NODES, 5, dtype=torch.float64)
    x[torch.arange(NODES), torch.arange(NODES) % 5] = 1.0
    for wide in (x, torch.nn.functional.pad(x, (0, 4)), x):
        ours, theirs = pair_of_layers(wide.size(1))
        assert_same(step(ours, LAYOUTS[layout](wide), edges()), step(theirs, wide, edges()))


@compiled
def test_indices_written_in_place_are_seen():
    ours, theirs = pair_of_layers()
    x = features().to_sparse_csr()
    step(ours, x, edges())
    columns = x.col_indices()
    columns.copy_(FEATURES - 1 - columns)
    assert_same(step(ours, x, edges()), step(theirs, features().flip(1), edges()))


@compiled
def test_nothing_is_kept_where_the_cache_is_off(built):
    gatv2_pyg.set_graph_cache(False)
    ours, theirs = pair_of_layers()
    for _ in range(2):
        got = step(ours, features().to_sparse_csr(), edges())
        assert_same(got, step(theirs, features(), edges()))
    assert len(built) == 2
    assert not cache._recent


@compiled
def test_forward_alone_transposes_nothing(built):
    ours, _ = pair_of_layers()
    with torch.no_grad():
        ours(features().to_sparse_csr(), edges())
    assert not built


def test_entries_stored_twice_add_up():
    ours, theirs = pair_of_layers()
    x = features().to_sparse_coo()
    twice = torch.sparse_coo_tensor(
        torch.cat([x.indices().flip(1), x.indices()], dim=1),
        torch.cat([x.values().flip(0), x.values()]),
        x.shape,
    )
    assert not twice.is_coalesced()
    assert_same(step(ours, twice, edges()), step(theirs, 2 * features(), edges()))


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_int32_indices(layout):
    ours, theirs = pair_of_layers()
    x = LAYOUTS[layout](features())
    if layout == "csr":
        parts = x.crow_indices().int(), x.col_indices().int(), x.values()
        x = torch.sparse_csr_tensor(*parts, x.shape)
    else:
        parts = x.ccol_indices().int(), x.row_indices().int(), x.values()
        x = torch.sparse_csc_tensor(*parts, x.shape)
    assert_same(step(ours, x, edges()), step(theirs, features(), edges()))


@layouts
def test_nothing_stored(layout):
    ours, theirs = pair_of_layers()
    empty = torch.zeros(NODES, FEATURES, dtype=torch.float64)
    assert_same(step(ours, LAYOUTS[layout](empty), edges()), step(theirs, empty, edges()))


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_node(rows):
    ours, _ = pair_of_layers()
    none = torch.empty(2, 0, dtype=torch.long)
    out, *grads = step(ours, features()[:rows].to_sparse_csr(), none)
    assert out.shape == (rows, 15)
    assert all(grad.isfinite().all() for grad in grads)


def test_values_that_need_a_gradient_get_it():
    ours, theirs = pair_of_layers()
    x = features().to_sparse_csr()
    found = []
    for layer in (ours, theirs):
        values = x.values().clone().requires_grad_()
        matrix = torch.sparse_csr_tensor(x.crow_indices(), x.col_indices(), values, x.shape)
        out = layer(matrix, edges())
        found.append(torch.autograd.grad(out.square().sum(), [values, *layer.parameters()]))
    assert_same(list(found[0]), list(found[1]))


def test_second_derivatives():
    ours, theirs = pair_of_layers()
    found = []
    for layer, x in ((ours, features().to_sparse_csr()), (theirs, features())):
        weights = [layer.lin_l.weight, layer.lin_r.weight]
        first = torch.autograd.grad(layer(x, edges()).sin().sum(), weights, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), weights))
    assert_same(list(found[0]), list(found[1]))


def test_gradients_by_a_transform():
    """In COO layout: torch's transforms take no other."""
    ours, theirs = pair_of_layers()
    found = []
    for layer, x in ((ours, features().to_sparse_coo()), (theirs, features())):

        def loss(parameters, layer=layer, x=x):
            return torch.func.functional_call(layer, parameters, (x, edges())).sin().sum()

        parameters = {name: value.detach() for name, value in layer.named_parameters()}
        found.append(list(torch.func.grad(loss)(parameters).values()))
    assert_same(*found)


def test_gradients_of_a_matrix_by_a_transform():
    ours, theirs = pair_of_layers()
    x = features()
    found = [
        torch.func.grad(lambda x, layer=layer: layer(x, edges()).sin().sum())(given)
        for layer, given in ((ours, x.to_sparse_coo()), (theirs, x))
    ]
    torch.testing.assert_close(found[0].to_dense(), found[1])


def test_batched_gradients():
    ours, theirs = pair_of_layers()
    grads = torch.randn(3, NODES, 15, dtype=torch.float64, generator=torch.manual_seed(0))
    found = []
    for layer, x in ((ours, features().to_sparse_csr()), (theirs, features())):
        weights = [layer.lin_l.weight, layer.lin_r.weight]
        out = layer(x, edges())
        if layer is ours:
            found.append(torch.autograd.grad(out, weights, grads, is_grads_batched=True))
        else:
            each = [torch.autograd.grad(out, weights, g, retain_graph=True) for g in grads]
            found.append([torch.stack(parts) for parts in zip(*each, strict=True)])
    assert_same(list(found[0]), list(found[1]))


def test_frozen_maps():
    ours, _ = pair_of_layers()
    ours.lin_l.requires_grad_(False)
    ours(features().to_sparse_csr(), edges()).sum().backward()
    assert ours.lin_l.weight.grad is None
    assert ours.lin_r.weight.grad is not None


def test_gradients_batched_by_vmap():
    ours, _ = pair_of_layers()
    weights = [ours.lin_l.weight, ours.lin_r.weight]
    at = linear_maps(features().to_sparse_csr())
    out = at(ours.lin_l) * at(ours.lin_r)
    grads = torch.randn(3, NODES, 15, dtype=torch.float64, generator=torch.manual_seed(0))

    def of(grad: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, weights, grad, retain_graph=True)

    each = [torch.stack(parts) for parts in zip(*map(of, grads), strict=True)]
    assert_same(list(torch.func.vmap(of)(grads)), each)


HOOKS = {
    "forward": lambda lin, f: lin.register_forward_hook(f),
    "forward pre": lambda lin, f: lin.register_forward_pre_hook(f),
    "backward": lambda lin, f: lin.register_full_backward_hook(f),
    "backward pre": lambda lin, f: lin.register_full_backward_pre_hook(f),
    "global": lambda lin, f: torch.nn.modules.module.register_module_forward_hook(f),
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_on_the_maps_are_called(kind):
    ours, _ = pair_of_layers()
    seen = []
    handle = HOOKS[kind](ours.lin_l, lambda module, *_: seen.append(module))
    try:
        ours(features().to_sparse_csr(), edges()).sum().backward()
    finally:
        handle.remove()
    assert seen.count(ours.lin_l) == 1


def test_a_forward_of_the_maps_own_is_called():
    ours, theirs = pair_of_layers()
    for layer in (ours, theirs):
        layer.lin_r.forward = lambda x, lin=layer.lin_r: 2 * type(lin).forward(lin, x)
    assert_same(step(ours, features().to_sparse_csr(), edges()), step(theirs, features(), edges()))


def check_products(matrices: list[Tensor]) -> None:
    """One after the other: what is kept of one is not taken for the next."""
    for x in matrices:
        linear = torch.nn.Linear(x.size(1), 4).double()
        out = linear_maps(x)(linear)
        grad = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out)
        dense = x.to_dense()
        torch.testing.assert_close(out, linear(dense))
        (got,) = torch.autograd.grad(out, [linear.weight], grad)
        torch.testing.assert_close(got, grad.t() @ dense)


@pytest.mark.parametrize("shapes", [((6, 5), (9, 5)), ((6, 5), (6, 8))], ids=str)
@layouts
def test_a_pattern_of_another_shape_is_another(layout, shapes):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=rng, dtype=torch.float64)
    x = x * (torch.rand(6, 5, generator=rng) < 0.4)
    grown = [F.pad(x, (0, columns - 5, 0, rows - 6)) for rows, columns in shapes]
    check_products([LAYOUTS[layout](one) for one in grown])


def test_rows_that_begin_elsewhere_are_another_pattern():
    columns, values = torch.tensor([0, 2, 1, 3]), torch.arange(1.0, 5.0, dtype=torch.float64)
    begins = ([0, 1, 2, 4], [0, 2, 3, 4], [0, 0, 2, 4])
    check_products(
        [torch.sparse_csr_tensor(torch.tensor(ptr), columns, values, (3, 4)) for ptr in begins]
    )


def test_hooks_on_the_maps_see_the_matrix():
    ours, _ = pair_of_layers()
    seen = []
    ours.lin_l.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].layout))
    ours(features().to_sparse_csr(), edges())
    ours.lin_r.register_forward_pre_hook(lambda module, inputs: seen.append("before"))
    ours(features().to_sparse_csr(), edges())
    assert seen == [torch.sparse_csr, torch.sparse_csr, "before"]


def test_a_map_of_the_users_own():
    class Doubled(pyg.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    ours, theirs = pair_of_layers()
    for layer in (ours, theirs):
        own = Doubled(FEATURES, 15).double()
        own.load_state_dict(layer.lin_r.state_dict())
        layer.lin_r = own
    assert_same(step(ours, features().to_sparse_csr(), edges()), step(theirs, features(), edges()))


@compiled
@layouts
def test_a_lazy_map_of_the_users_own(layout):
    ours, _ = pair_of_layers()
    ours.lin_l = torch.nn.LazyLinear(15).double()
    out = ours(LAYOUTS[layout](features()), edges())
    assert_same([out], [ours(features(), edges())])


def test_a_checkpointed_layer():
    ours, theirs = pair_of_layers()
    x = features().to_sparse_csr()
    out = torch.utils.checkpoint.checkpoint(ours, x, edges(), use_reentrant=False)
    weights = list(ours.parameters())
    got = torch.autograd.grad(out.sum(), weights)
    want = torch.autograd.grad(theirs(features(), edges()).sum(), list(theirs.parameters()))
    assert_same(list(got), list(want))


@compiled
def test_equal_bits_for_any_number_of_threads():
    ours, _ = pair_of_layers(dtype=torch.float32)
    x = features(dtype=torch.float32).to_sparse_csr()
    threads = torch.get_num_threads()
    first = step(ours, x, edges())
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            assert all(map(torch.equal, step(ours, x, edges()), first))
    finally:
        torch.set_num_threads(threads)


@compiled
@pytest.mark.parametrize(
    ("indices", "found"),
    [
        ([[0, 1], [2, FEATURES]], f"rows from 0 to 1 and columns from 2 to {FEATURES}"),
        ([[0, 1], [2, -7]], "rows from 0 to 1 and columns from -7 to 2"),
        ([[-1, 1], [2, 3]], "rows from -1 to 1 and columns from 2 to 3"),
        ([[NODES, 1], [2, 3]], f"rows from 1 to {NODES} and columns from 2 to 3"),
    ],
    ids=str,
)
def test_indices_beyond_the_shape(indices, found):
    ours, _ = pair_of_layers()
    with torch.sparse.check_sparse_tensor_invariants(False):
        values = torch.ones(2, dtype=torch.float64)
        parts = torch.tensor(indices), values, (NODES, FEATURES)
        x = torch.sparse_coo_tensor(*parts, check_invariants=False)
    match = f"^Expected the indices of 'x' to lie within its shape, got {found}$"
    with pytest.raises(ValueError, match=match):
        ours(x, edges())


def with_indices(layout: str, ptr: list[int], indices: list[int]) -> Tensor:
    """A matrix ``[3, 4]`` of ones that torch has not checked."""
    make = torch.sparse_csr_tensor if layout == "csr" else torch.sparse_csc_tensor
    values = torch.ones(len(indices), dtype=torch.float64)
    parts = torch.tensor(ptr), torch.tensor(indices), values
    return make(*parts, (3, 4), check_invariants=False)


@compiled
@pytest.mark.parametrize(
    ("layout", "ptr", "indices", "match"),
    [
        ("csr", [0, 1, 2, 2], [0, 10**9], r"^Expected the col_indices of 'x' to lie in \[0, 4\)"),
        ("csr", [0, 1, 2, 2], [-1, 0], r"col_indices of 'x' to lie in \[0, 4\), got -1"),
        ("csr", [0, 1, 2, 9], [0, 1], r"^Expected the crow_indices of 'x' to lead from 0 to 2"),
        ("csr", [0, 2, 1, 2], [0, 1], r"^Expected the crow_indices of 'x' never to decrease"),
        ("csc", [0, 1, 2, 2, 2], [0, 3], r"^Expected the row_indices of 'x' to lie in \[0, 3\)"),
        ("csc", [0, 1, 2, 2, 3], [0, 1], r"number of values, got 0 to 3"),
    ],
)
def test_unsound_matrices(layout, ptr, indices, match):
    """Torch's products would read beyond their memory."""
    with pytest.raises(ValueError, match=match):
        linear_maps(with_indices(layout, ptr, indices))(torch.nn.Linear(4, 2).double())


@pytest.mark.parametrize(
    "x",
    [
        torch.stack([features(), features()]).to_sparse_csr(),
        torch.stack([features(), features(1)]).to_sparse_coo(),
        features().to_sparse(1),
    ],
    ids=["batched csr", "three sparse dimensions", "a dense dimension"],
)
def test_sparse_tensors_that_are_no_matrix(x):
    ours, _ = pair_of_layers()
    with pytest.raises(ValueError, match=r"^Expected 'x' to be dense or a sparse matrix"):
        ours(x, edges())


@layouts
def test_values_changed_before_backward_are_an_error(layout):
    """As with dense features: the gradient would be that of other features."""
    ours, _ = pair_of_layers()
    x = LAYOUTS[layout](features())
    out = ours(x, edges())
    (x._values() if layout == "coo" else x.values()).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@compiled
@layouts
def test_a_matrix_goes_with_its_step(layout):
    """Without waiting for the collector of cycles, which does not know how large it is."""
    made = []
    original = matrix.SparseMatrix.of

    def of(x):
        made.append(weakref.ref(found := original(x)))
        return found

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(matrix.SparseMatrix, "of", staticmethod(of))
            step(pair_of_layers()[0], LAYOUTS[layout](features()), edges())
        assert len(made) == 1
        assert made[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (features()[:, 1:].to_sparse_csr(), r"shape \[\*, num_nodes, 40\]"),
        (features().float().to_sparse_csr(), "dtype torch.float64"),
    ],
)
def test_wrong_features(x, match):
    ours, _ = pair_of_layers()
    with pytest.raises((TypeError, ValueError), match=match):
        ours(x, edges())


def test_without_the_compiled_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "cpu_kernels", lambda: None)
    ours, theirs = pair_of_layers()
    for layout in LAYOUTS.values():
        got = step(ours, layout(features()), edges())
        assert_same(got, step(theirs, features(), edges()))


def test_a_copied_model_goes_on():
    ours, theirs = pair_of_layers()
    step(ours, features().to_sparse_csr(), edges())
    again = copy.deepcopy(ours)
    assert_same(step(again, features().to_sparse_csr(), edges()), step(theirs, features(), edges()))
