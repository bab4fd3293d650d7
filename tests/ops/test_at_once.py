"""Calls like one before: whatever has changed since, they give what a checked call gives."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch_geometric.nn.aggr import MeanAggregation
from torch_geometric.nn.dense.linear import Linear

from gatv2_pyg import GATv2Conv, at_once, inputs, set_graph_cache, use_backend
from gatv2_pyg.graph import cache
from gatv2_pyg.ops import native
from gatv2_pyg.passing import observe_calls

pytestmark = pytest.mark.skipif(
    native.unavailable() is not None, reason=f"no step in C++: {native.unavailable()}"
)

NODES, EDGES, FEATURES, BONDS = 20, 70, 6, 3


@pytest.fixture(autouse=True)
def empty():
    at_once._checked.clear()
    set_graph_cache(False)
    set_graph_cache(True)
    yield
    set_graph_cache(True)
    observe_calls(None)


@pytest.fixture
def checks(monkeypatch):
    """How many calls were checked."""
    made, original = [], inputs.check
    monkeypatch.setattr(inputs, "check", lambda *args: made.append(1) or original(*args))
    return made


class Case:
    """A layer and what it is called with."""

    def __init__(self, with_bonds=True, **options):
        torch.manual_seed(0)
        self.layer = GATv2Conv(
            FEATURES, 5, heads=4, edge_dim=BONDS if with_bonds else None, **options
        )
        for parameter in self.layer.parameters():
            torch.nn.init.normal_(parameter)
        self.x = torch.randn(NODES, FEATURES)
        self.edge_index = torch.randint(NODES, (2, EDGES))
        self.edge_attr = torch.randn(EDGES, BONDS) if with_bonds else None

    def __call__(self):
        torch.manual_seed(7)
        return self.layer(self.x, self.edge_index, self.edge_attr)

    def found(self):
        """The output and the gradients of all that has one, or the error."""
        try:
            out = self()
        except Exception as error:
            return type(error), str(error)
        leaves = [self.x, self.edge_attr, *self.layer.parameters()]
        leaves = [leaf for leaf in leaves if getattr(leaf, "requires_grad", False)]
        grads = ()
        if out.requires_grad:
            loss = out.mul(torch.linspace(-1, 1, out.size(-1), dtype=out.dtype)).sum()
            grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return out.detach(), *grads


@contextlib.contextmanager
def all_checked():
    """No call takes what one before it found."""
    again, at_once.again = at_once.again, lambda *args: None
    set_graph_cache(False)
    yield
    set_graph_cache(True)
    at_once.again = again


def agree(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a, b)
        else:
            assert a == b


def setting(name, value):
    def change(case):
        setattr(case.layer, name, value)

    return change


OPTIONS = [
    ("negative_slope", [0.5, 0, True, 1e39, "much", torch.tensor(0.4)]),
    ("dropout", [0.5, 0, 1, 1.0, True, 2.0, float("nan"), "half", torch.tensor(0.3)]),
    ("add_self_loops", [False]),
    (
        "fill_value",
        ["add", "max", "nothing", 0.5, 1, None, [0.5], torch.tensor(0.25), torch.ones(BONDS)],
    ),
    ("edge_dim", [None]),
    ("flow", ["target_to_source", "sideways"]),
    ("backend", ["reference", "fused", "scatter", "triton", "nonsense"]),
    ("concat", [False]),
    ("share_weights", [True]),
    ("heads", [2, 5, 20]),
    ("out_channels", [10, 4]),
    ("decomposed_layers", [2]),
    ("explain", [True]),
    ("bias", [None, torch.nn.Parameter(torch.ones(3))]),
    ("att", [torch.nn.Parameter(torch.ones(1, 5, 4)), torch.nn.Parameter(torch.ones(4, 5))]),
    ("res", [torch.nn.Parameter(torch.ones(3))]),
    ("lin_edge", [None, Linear(BONDS, 20), Linear(2, 20, bias=False), torch.nn.Linear(BONDS, 20)]),
    ("lin_l", [Linear(FEATURES, 20), Linear(5, 20), Linear(FEATURES, 10), torch.nn.Identity()]),
    ("lin_r", [torch.nn.Linear(FEATURES, 20), Linear(FEATURES, 24)]),
    ("aggr_module", [MeanAggregation()]),
    ("message", [lambda x_j, alpha: x_j * alpha.unsqueeze(-1) * 2]),
]


def of_layer():
    for name, values in OPTIONS:
        for value in values:
            kind = (
                type(value).__name__
                if isinstance(value, (torch.Tensor, torch.nn.Module))
                else value
            )
            yield pytest.param(setting(name, value), id=f"{name}={kind}")


def call(function):
    return pytest.param(function, id=function.__name__)


def doubled(module, args, out):
    return out * 2


def hooks():
    @call
    def hook_of_lin_l(case):
        case.layer.lin_l.register_forward_hook(doubled)

    @call
    def hook_before_lin_r(case):
        case.layer.lin_r.register_forward_pre_hook(lambda module, args: (args[0] * 2,))

    @call
    def hook_of_backward(case):
        case.x.requires_grad_()
        case.layer.lin_r.register_full_backward_hook(lambda module, of_in, of_out: (of_in[0] * 2,))

    @call
    def hook_of_lin_edge(case):
        case.layer.lin_edge.register_forward_hook(doubled)

    @call
    def hook_of_aggregation(case):
        case.layer.aggr_module.register_forward_hook(doubled)

    @call
    def hook_of_messages(case):
        case.layer.register_message_forward_hook(lambda module, args, out: out * 2)

    @call
    def hook_before_propagation(case):
        case.layer.register_propagate_forward_pre_hook(lambda module, args: args)

    @call
    def forward_of_lin_l(case):
        case.layer.lin_l.forward = lambda x: torch.ones(len(x), 20)

    @call
    def class_of_lin_l(case):
        class Doubled(Linear):
            def forward(self, x):
                return super().forward(x) * 2

        case.layer.lin_l.__class__ = Doubled

    @call
    def weight_normed(case):
        parametrizations.weight_norm(case.layer.lin_l)

    @call
    def weight_normed_lin_edge(case):
        parametrizations.weight_norm(case.layer.lin_edge)

    @call
    def subclass(case):
        class Other(GATv2Conv):
            def message(self, x_j, alpha):
                return x_j * alpha.unsqueeze(-1) * 2

        case.layer.__class__ = Other

    @call
    def att_of_a_subclass(case):
        class Other(GATv2Conv):
            @property
            def att(self):
                return self._parameters["att"] * 2

        case.layer.__class__ = Other

    @call
    def residual(case):
        del case.layer._parameters["res"]
        case.layer.res = Linear(FEATURES, 20, bias=False)

    @call
    def properties(case):
        class Other(GATv2Conv):
            dropout = property(lambda self: 0.5)
            negative_slope = property(lambda self: 0.7)
            heads = property(lambda self: 4)

        case.layer.__class__ = Other

    return list(locals().values())


def parameters():
    @call
    def weight_of_other_numbers(case):
        case.layer.lin_l.weight.data.mul_(2)

    @call
    def weight_of_another_size(case):
        case.layer.lin_l.weight.data = torch.ones(20, FEATURES + 1)

    @call
    def weight_of_another_dtype(case):
        case.layer.lin_r.weight.data = torch.ones(20, FEATURES, dtype=torch.float64)

    @call
    def weight_without_a_parameter(case):
        weight = case.layer.lin_l.weight.detach() * 2
        del case.layer.lin_l._parameters["weight"]
        case.layer.lin_l.weight = weight

    @call
    def weight_of_lin_edge(case):
        case.layer.lin_edge.weight.data = torch.ones(20, BONDS + 1)

    @call
    def weight_that_is_a_subclass(case):
        class Seen(torch.nn.Parameter):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                found = super().__torch_function__(function, types, args, kwargs or {})
                return found * 2 if function is F.linear else found

        case.layer.lin_l.weight = Seen(case.layer.lin_l.weight.detach())

    @call
    def bias_on_meta(case):
        case.layer.bias = torch.nn.Parameter(case.layer.bias.to("meta"))

    @call
    def frozen(case):
        case.layer.requires_grad_(False)

    @call
    def frozen_maps(case):
        case.layer.lin_l.requires_grad_(False)
        case.layer.lin_r.requires_grad_(False)

    @call
    def frozen_attention(case):
        case.layer.att.requires_grad_(False)
        case.layer.bias.requires_grad_(False)

    @call
    def double(case):
        case.layer.double()

    @call
    def evaluation(case):
        case.layer.eval()

    return list(locals().values())


class Watched(torch.Tensor):
    """A tensor of a subclass, whose products are doubled."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            args = [a.as_subclass(torch.Tensor) if isinstance(a, Watched) else a for a in args]
            found = function(*args, **kwargs or {})
        return found * 2 if function is F.linear else found


def tensors():
    @call
    def x_in_place(case):
        case.x.mul_(2)

    @call
    def x_wider(case):
        case.x = torch.randn(NODES, FEATURES + 1)

    @call
    def x_double(case):
        case.x = case.x.double()

    @call
    def all_double(case):
        case.layer.double()
        case.x, case.edge_attr = case.x.double(), case.edge_attr.double()

    @call
    def x_of_fewer_nodes(case):
        case.x = case.x[:-1]

    @call
    def x_of_more_nodes(case):
        case.x = torch.randn(NODES + 2, FEATURES)

    @call
    def x_strided(case):
        case.x = torch.randn(FEATURES, NODES).t()

    @call
    def x_expanded(case):
        case.x = torch.randn(1, FEATURES).expand(NODES, FEATURES)

    @call
    def x_followed(case):
        case.x.requires_grad_()

    @call
    def x_of_a_subclass(case):
        case.x = case.x.as_subclass(Watched)

    @call
    def x_sparse(case):
        case.x = case.x.relu().to_sparse_csr()

    @call
    def x_on_meta(case):
        case.x = case.x.to("meta")

    @call
    def x_a_pair(case):
        case.x = (case.x, case.x * 2)

    @call
    def x_a_batch(case):
        case.x = torch.stack([case.x, case.x * 2])

    @call
    def x_of_numbers(case):
        case.x = case.x.tolist()

    @call
    def edges_in_place(case):
        case.edge_index[0] = torch.randint(NODES, (EDGES,))

    @call
    def edges_past_their_version(case):
        case.edge_index.data[1, 3] = (case.edge_index[1, 3] + 1) % NODES

    @call
    def edges_by_numpy(case):
        case.edge_index.numpy()[0, 5] = (case.edge_index[0, 5] + 1) % NODES

    @call
    def edges_to_no_node(case):
        case.edge_index[0, 4] = NODES

    @call
    def edges_below_all_nodes(case):
        case.edge_index[1, 4] = -1

    @call
    def edges_of_another_dtype(case):
        case.edge_index.data = case.edge_index.int()

    @call
    def edges_that_are_floats(case):
        case.edge_index = case.edge_index.float()

    @call
    def edges_resized(case):
        case.edge_index.resize_(2, EDGES - 5)

    @call
    def edges_of_another_storage(case):
        case.edge_index.set_(torch.randint(NODES, (2, EDGES)))

    @call
    def edges_transposed(case):
        case.edge_index.t_()

    @call
    def edges_turned(case):
        case.edge_index.data = case.edge_index.flip(0)

    @call
    def other_edges(case):
        case.edge_index = torch.randint(NODES, (2, EDGES))

    @call
    def a_matrix(case):
        case.edge_attr, case.layer.edge_dim, case.layer.lin_edge = None, None, None
        case.layer.add_self_loops = False
        adj = torch.zeros(NODES, NODES)
        adj[case.edge_index[1], case.edge_index[0]] = 1
        case.edge_index = adj.to_sparse_csr()

    @call
    def features_in_place(case):
        case.edge_attr.mul_(2)

    @call
    def features_past_their_version(case):
        case.edge_attr.data[3, 1] += 1

    @call
    def features_followed(case):
        case.edge_attr.requires_grad_()

    @call
    def features_wider(case):
        case.edge_attr = torch.randn(EDGES, BONDS + 1)

    @call
    def features_of_another_shape(case):
        case.edge_attr.data = case.edge_attr.data.view(BONDS, EDGES)

    @call
    def features_strided(case):
        case.edge_attr.data = case.edge_attr.t().contiguous().t()

    @call
    def features_double(case):
        case.edge_attr.data = case.edge_attr.double()

    @call
    def features_resized(case):
        case.edge_attr.resize_(EDGES - 2, BONDS)

    @call
    def no_features(case):
        case.edge_attr = None

    @call
    def other_features(case):
        case.edge_attr = torch.randn(EDGES, BONDS)

    @call
    def features_of_a_subclass(case):
        case.edge_attr = case.edge_attr.as_subclass(Watched)

    @call
    def features_of_numbers(case):
        case.edge_attr = case.edge_attr.tolist()

    @call
    def fewer_of_both(case):
        case.edge_index.resize_(2, EDGES - 5)
        case.edge_attr.resize_(EDGES - 5, BONDS)

    return list(locals().values())


@pytest.mark.filterwarnings(
    "ignore:.*got no 'edge_attr'",
    "ignore:Sparse CSR tensor support",
)
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("change", [*of_layer(), *hooks(), *parameters(), *tensors()])
def test_what_changed_is_noticed(change, loops, checks):
    case = Case(add_self_loops=loops, dropout=0.25)
    case()
    case()
    assert len(checks) == 1
    change(case)
    got = case.found()
    with all_checked():
        agree(got, case.found())
    case.found()
    agree(case.found(), got)


@contextlib.contextmanager
def observed():
    seen = []
    observe_calls(lambda layer, backend: seen.append(backend.name))
    yield
    observe_calls(None)
    assert seen


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "gatv2_pyg.layer_step" not in str(func)
        return func(*args, **kwargs or {})


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        return found * 2 if func is F.linear else found


@contextlib.contextmanager
def hooked_modules():
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, args, out: out * 2 if isinstance(module, Linear) else None
    )
    yield
    handle.remove()


@contextlib.contextmanager
def replaced_linear():
    original = F.linear
    F.linear = lambda *args: original(*args) * 2
    yield
    F.linear = original


MODES = [
    torch.no_grad,
    torch.inference_mode,
    lambda: torch.autocast("cpu"),
    lambda: use_backend("reference"),
    lambda: use_backend("scatter"),
    lambda: use_backend("fused"),
    torch.profiler.profile,
    torch.autograd.detect_anomaly,
    forward_ad.dual_level,
    observed,
    Operators,
    Functions,
    hooked_modules,
    replaced_linear,
    lambda: torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t),
]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_modes_are_noticed(mode, checks):
    case = Case(dropout=0.25)
    case()
    with mode():
        got = case.found()
    with all_checked(), mode():
        agree(got, case.found())


def test_within_transforms():
    case = Case()
    case()
    batch = torch.stack([case.x, case.x * 2])
    over = torch.func.vmap(lambda x: case.layer(x, case.edge_index, case.edge_attr))(batch)
    assert torch.equal(over[0], case()) or (over[0] - case()).abs().max() < 1e-5
    _, along = torch.func.jvp(
        lambda x: case.layer(x, case.edge_index, case.edge_attr), (case.x,), (case.x,)
    )
    assert along.abs().max() > 0


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*is deprecated")
def test_while_traced():
    case = Case(with_bonds=False)
    want = case()
    traced = torch.jit.trace(case.layer, (case.x, case.edge_index), check_trace=False)
    assert "layer_step" not in str(traced.inlined_graph)
    assert (traced(case.x, case.edge_index) - want).abs().max() < 1e-5


@pytest.mark.parametrize("with_bonds", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("share_weights", [True, False])
def test_a_repeated_call_is_not_checked_again(checks, with_bonds, dropout, share_weights):
    case = Case(with_bonds, dropout=dropout, share_weights=share_weights)
    first = case.found()
    for _ in range(3):
        agree(case.found(), first)
    assert len(checks) == 1


def test_layers_share_what_was_checked(checks):
    case, alike = Case(), Case()
    case()
    alike.edge_index, alike.edge_attr = case.edge_index, case.edge_attr
    for parameter in alike.layer.parameters():
        torch.nn.init.normal_(parameter)
    got = alike.found()
    assert len(checks) == 1
    with all_checked():
        agree(got, alike.found())


def test_layers_that_fill_loops_otherwise_on_the_same_edges():
    cases = [Case(fill_value=value) for value in ("mean", "add", 0.5)]
    for case in cases:
        case.edge_index, case.edge_attr = cases[0].edge_index, cases[0].edge_attr
    with all_checked():
        wanted = [case.found() for case in cases]
    for _ in range(3):
        for case, want in zip(cases, wanted, strict=True):
            agree(case.found(), want)
            agree(case.found(), want)


def test_features_that_a_layer_lacks_or_does_not_take():
    with_bonds, without = Case(), Case(with_bonds=False)
    without.edge_index = with_bonds.edge_index
    for case in (with_bonds, without):
        case()
        case()
    without.edge_attr, with_bonds.edge_attr = with_bonds.edge_attr, None
    with pytest.raises(ValueError, match="Expected no 'edge_attr'"):
        without()
    with pytest.warns(UserWarning, match="got no 'edge_attr'"):
        with_bonds()


@pytest.mark.parametrize(("name", "known"), [("dropout", 1), ("negative_slope", 1)])
def test_a_number_that_equals_one_that_was_checked(name, known):
    case = Case(**{name: known})
    case()
    setattr(case.layer, name, True)
    got = case.found()
    with all_checked():
        agree(got, case.found())


def test_layers_with_and_without_features_on_the_same_edges(checks):
    with_bonds, without = Case(), Case(with_bonds=False)
    without.edge_index = with_bonds.edge_index
    for _ in range(3):
        with_bonds()
        without()
    assert len(checks) == 2


def test_each_call_draws_its_own_mask(checks):
    case = Case(dropout=0.5)
    torch.manual_seed(3)
    one, two = (case.layer(case.x, case.edge_index, case.edge_attr) for _ in range(2))
    state = torch.get_rng_state()
    assert len(checks) == 1
    assert not torch.equal(one, two)
    torch.manual_seed(3)
    with all_checked():
        for want in (one, two):
            assert torch.equal(case.layer(case.x, case.edge_index, case.edge_attr), want)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_call_that_is_refused_draws_nothing(checks):
    case = Case(dropout=0.5)
    case()
    case.edge_index[0, 0] = (case.edge_index[0, 0] + 1) % NODES
    got = case.found()
    with all_checked():
        agree(got, case.found())


def test_nothing_is_kept_alive():
    case = Case()
    case()
    found = cache.known(case.edge_index, (NODES, NODES, True, "source_to_target"))
    graph, filled = weakref.ref(found.value), weakref.ref(found.features.filled)
    edge_attr = weakref.ref(case.edge_attr)
    del found
    case.edge_attr = None
    gc.collect()
    assert edge_attr() is None
    case.edge_index = None
    gc.collect()
    assert graph() is None
    assert filled() is None


def test_many_graphs_are_told_apart(checks):
    """More tensors than are kept, some of them at the address of one that is gone."""
    case = Case(with_bonds=False)
    for round_ in range(60):
        case.edge_index = torch.randint(NODES, (2, 10 + round_ % 7))
        got = case.found()
        agree(case.found(), got)
        cache._made.clear()
        agree(case.found(), got)
    assert len(cache._known) <= cache._MAX_KNOWN


def test_copies_and_pickles_of_a_layer(checks):
    case = Case()
    want = case.found()
    for again in (copy.deepcopy(case.layer), pickle.loads(pickle.dumps(case.layer))):
        case.layer = again
        agree(case.found(), want)


def test_threads(checks):
    case = Case()
    want = case()
    graphs = [torch.randint(NODES, (2, EDGES)) for _ in range(3)]
    wanted = [case.layer(case.x, edges, case.edge_attr) for edges in graphs]
    wrong = []

    def run(at):
        for step in range(200):
            place = (at + step) % 3
            out = case.layer(case.x, graphs[place], case.edge_attr)
            if not torch.equal(out, wanted[place]):
                wrong.append(place)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert torch.equal(case(), want)
