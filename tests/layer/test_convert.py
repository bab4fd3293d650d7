"""Swapping layers inside a model, and back: nothing but the class may change."""

import copy
import io
import logging
import warnings

import pytest
import torch
import torch_geometric.nn as pyg
from torch.nn.utils import parametrizations, parametrize
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv

from gatv2_pyg import GATv2Conv, to_pyg, use_gatv2

MESSAGE_PASSING_HOOKS = [
    "propagate_forward_pre",
    "propagate_forward",
    "message_forward_pre",
    "message_forward",
    "aggregate_forward_pre",
    "aggregate_forward",
    "edge_update_forward_pre",
    "edge_update_forward",
]

METADATA = (
    ["paper", "author"],
    [
        ("paper", "cites", "paper"),
        ("paper", "written_by", "author"),
        ("author", "writes", "paper"),
    ],
)


def graph(num_nodes=20, num_edges=70, channels=6, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(num_nodes, channels, generator=rng, dtype=dtype)
    return x, torch.randint(num_nodes, (2, num_edges), generator=rng)


def layers_of(model, cls):
    return [module for module in model.modules() if type(module) is cls]


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def check_both_ways(model, *inputs, count):
    """Swap, compare outputs and gradients, go back, and compare again."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    text = repr(model)

    def outputs_and_gradients():
        model.zero_grad()
        torch.manual_seed(3)
        out = model(*inputs)
        parts = list(out.values()) if isinstance(out, dict) else [out]
        sum(part.square().sum() for part in parts).backward()
        return parts, [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = outputs_and_gradients()
    for swap, old, new in (
        (use_gatv2, PyGGATv2Conv, GATv2Conv),
        (to_pyg, GATv2Conv, PyGGATv2Conv),
    ):
        assert len(layers_of(model, old)) == count
        assert swap(model) is model
        assert len(layers_of(model, new)) == count
        assert not layers_of(model, old)
        now = dict(model.named_parameters(remove_duplicate=False))
        assert now.keys() == parameters.keys()
        assert all(now[name] is parameters[name] for name in now)
        assert repr(model) == text
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
        assert_close(outputs_and_gradients(), expected)


class TestModels:
    def test_gat(self):
        model = pyg.GAT(6, 8, num_layers=3, out_channels=4, heads=2, v2=True, jk="cat").double()
        check_both_ways(model, *graph(), count=3)

    def test_gat_keeps_its_other_layers(self):
        model = pyg.GAT(6, 8, num_layers=2, v2=False)
        model.extra = PyGGATv2Conv(6, 4)
        before = [type(module) for module in model.modules()]
        use_gatv2(model)
        after = [type(module) for module in model.modules()]
        assert [t for t in after if t is not GATv2Conv] == [
            t for t in before if t is not PyGGATv2Conv
        ]
        assert type(model.extra) is GATv2Conv

    def test_the_layer_itself(self):
        conv = PyGGATv2Conv(6, 4, heads=2).double()
        check_both_ways(conv, *graph(), count=1)
        assert type(use_gatv2(conv)) is GATv2Conv

    def test_hetero_conv(self):
        model = pyg.HeteroConv(
            {
                ("a", "to", "b"): PyGGATv2Conv((6, 6), 4, add_self_loops=False),
                ("b", "to", "a"): PyGGATv2Conv(
                    (6, 6), 4, heads=2, concat=False, add_self_loops=False
                ),
                ("a", "to", "a"): pyg.GATConv((6, 6), 4, add_self_loops=False),
            }
        ).double()
        x, edge_index = graph()
        edges = {key: edge_index for key in [("a", "to", "b"), ("b", "to", "a"), ("a", "to", "a")]}
        check_both_ways(model, {"a": x, "b": x}, edges, count=2)

    @pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
    def test_to_hetero(self):
        model = pyg.GAT((6, 6), 8, num_layers=2, v2=True, add_self_loops=False)
        model = pyg.to_hetero(model, METADATA).double()
        x, edge_index = graph()
        x_dict = {"paper": x, "author": x.flip(0)}
        edges = {key: edge_index.roll(i, 1) for i, key in enumerate(METADATA[1])}
        check_both_ways(model, x_dict, edges, count=6)

    def test_sequential_and_containers(self):
        model = pyg.Sequential(
            "x, edge_index",
            [
                (PyGGATv2Conv(6, 4), "x, edge_index -> x"),
                (torch.nn.ReLU(), "x -> x"),
                (torch.nn.ModuleDict({"one": PyGGATv2Conv(4, 4)})["one"], "x, edge_index -> x"),
            ],
        ).double()
        check_both_ways(model, *graph(), count=2)

    def test_shared_layer_stays_shared(self):
        class Tied(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.convs = torch.nn.ModuleList([PyGGATv2Conv(6, 3, heads=2)] * 2)

            def forward(self, x, edge_index):
                for conv in self.convs:
                    x = conv(x, edge_index).relu()
                return x

        model = Tied().double()
        check_both_ways(model, *graph(), count=1)
        use_gatv2(model)
        assert model.convs[0] is model.convs[1]


OPTIONS = {
    "share_weights": dict(share_weights=True),
    "mean_of_heads": dict(heads=3, concat=False, bias=False),
    "residual": dict(heads=2, residual=True),
    "no_self_loops": dict(add_self_loops=False),
    "slope": dict(negative_slope=0.5),
    "target_to_source": dict(flow="target_to_source"),
    "max": dict(aggr="max"),
    "softmax": dict(aggr="softmax", aggr_kwargs={"learn": True}),
    "several": dict(aggr=["sum", "mean"], heads=1),
    "decomposed": dict(decomposed_layers=2),
    "dropout": dict(dropout=0.5),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_options(options):
    conv = PyGGATv2Conv(6, 4, **options).double()
    if "dropout" in options:
        conv.eval()
    if "decomposed_layers" in options or isinstance(options.get("aggr"), list):
        # Calling PyG's layer with these fails; the settings must survive all the same.
        kept = {name: getattr(conv, name) for name in ("aggr", "_decomposed_layers", "fuse")}
        use_gatv2(conv)
        assert {name: getattr(conv, name) for name in kept} == kept
        return
    check_both_ways(conv, *graph(), count=1)
    assert (conv.lin_l is conv.lin_r) == options.get("share_weights", False)


@pytest.mark.parametrize("fill_value", ["mean", 0.5, torch.tensor([0.1, 0.2, 0.3]).double()])
def test_edge_features(fill_value):
    x, edge_index = graph()
    conv = PyGGATv2Conv(6, 4, heads=2, edge_dim=3, fill_value=fill_value).double()
    check_both_ways(conv, x, edge_index, torch.randn(70, 3, dtype=torch.float64), count=1)
    assert conv.fill_value is fill_value


def test_state_stays():
    conv = PyGGATv2Conv(6, 4, dropout=0.3).half().eval()
    conv.att.requires_grad_(False)
    conv.my_own = object()
    kept = {k: v for k, v in vars(conv).items() if k not in ("inspector",)}
    use_gatv2(conv)
    assert not conv.training
    assert conv.att.dtype == torch.float16
    assert not conv.att.requires_grad
    assert conv.lin_l.weight.requires_grad
    for name, value in kept.items():
        assert vars(conv)[name] is value or vars(conv)[name] == value, name


def test_round_trip_leaves_no_trace():
    conv = PyGGATv2Conv(6, 4)
    before = vars(conv).keys()
    use_gatv2(conv, backend="reference")
    assert conv.backend == "reference"
    to_pyg(conv)
    assert vars(conv).keys() == before
    assert not hasattr(conv, "backend")


def test_attributes_are_those_of_a_new_layer():
    conv = use_gatv2(PyGGATv2Conv(6, 4))
    assert vars(conv).keys() == vars(GATv2Conv(6, 4)).keys()
    back = to_pyg(GATv2Conv(6, 4))
    assert vars(back).keys() == vars(PyGGATv2Conv(6, 4)).keys()


def test_random_state_is_untouched():
    model = pyg.GAT(6, 8, num_layers=2, v2=True)
    state = torch.random.get_rng_state()
    use_gatv2(model)
    to_pyg(model)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_optimizer_goes_on():
    """Training that is interrupted by a swap ends where training without one ends."""
    x, edge_index = graph()

    def train(swaps):
        torch.manual_seed(0)
        model = pyg.GAT(6, 8, num_layers=2, v2=True).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for step in range(6):
            if step in swaps:
                swaps[step](model)
            optimizer.zero_grad()
            model(x, edge_index).square().mean().backward()
            optimizer.step()
        return model

    start = train({}).state_dict()
    swapped = train({2: use_gatv2, 4: to_pyg})
    for name, value in swapped.state_dict().items():
        assert_close(value, start[name])
    torch.manual_seed(0)
    initial = pyg.GAT(6, 8, num_layers=2, v2=True).double()
    assert not torch.equal(initial.convs[0].att, swapped.convs[0].att)


def test_lazy_layers():
    conv = use_gatv2(PyGGATv2Conv(-1, 4, heads=2))
    expected = PyGGATv2Conv(-1, 4, heads=2)
    x, edge_index = graph(dtype=torch.float32)
    expected(x, edge_index)
    conv(x, edge_index)
    assert conv.lin_l.weight.shape == (8, 6)
    conv.load_state_dict(expected.state_dict(), strict=True)
    torch.testing.assert_close(conv(x, edge_index), expected(x, edge_index))

    unused = use_gatv2(PyGGATv2Conv((-1, -1), 4))
    unused.load_state_dict(PyGGATv2Conv((5, 7), 4).state_dict(), strict=True)
    assert unused.lin_r.weight.shape == (4, 7)


def test_module_hooks_and_handles():
    conv = PyGGATv2Conv(6, 4).double()
    calls = []
    handles = [
        conv.register_forward_pre_hook(lambda *_: calls.append("pre")),
        conv.register_forward_hook(lambda *_: calls.append("forward")),
        conv.register_full_backward_pre_hook(lambda *_: calls.append("backward_pre")),
        conv.register_full_backward_hook(lambda *_: calls.append("backward")),
        conv.register_state_dict_pre_hook(lambda *_: calls.append("state_dict_pre")),
        conv.register_state_dict_post_hook(lambda *_: calls.append("state_dict_post")),
        conv.register_load_state_dict_pre_hook(lambda *_: calls.append("load_pre")),
        conv.register_load_state_dict_post_hook(lambda *_: calls.append("load_post")),
    ]
    x, edge_index = graph()

    def run():
        calls.clear()
        conv(x.requires_grad_(), edge_index).sum().backward()
        conv.load_state_dict(conv.state_dict())
        return sorted(calls)

    expected = run()
    assert len(set(expected)) == 8
    use_gatv2(conv)
    assert run() == expected
    for handle in handles:
        handle.remove()
    assert run() == []


@pytest.mark.parametrize("kind", MESSAGE_PASSING_HOOKS)
def test_message_passing_hooks(kind):
    conv = PyGGATv2Conv(6, 4).double()
    calls = []

    def hook(module, *rest):
        assert module is conv
        calls.append(kind)

    handle = getattr(conv, f"register_{kind}_hook")(hook)
    x, edge_index = graph()
    expected = conv(x, edge_index)
    for swap in (use_gatv2, to_pyg):
        swap(conv)
        assert_close(conv(x, edge_index), expected)
    assert len(calls) == 3
    handle.remove()
    conv(x, edge_index)
    assert len(calls) == 3


def test_a_hook_that_changes_messages_still_does():
    conv = PyGGATv2Conv(6, 4).double()
    conv.register_message_forward_hook(lambda module, inputs, out: 2 * out)
    x, edge_index = graph()
    expected = conv(x, edge_index)
    assert_close(use_gatv2(conv)(x, edge_index), expected)


@pytest.mark.parametrize("explain", [True, False])
def test_explain_state(explain):
    """An edge mask keeps weighing the messages, also with a message of the user's own."""
    x, edge_index = graph()
    conv = PyGGATv2Conv(6, 4, add_self_loops=False).double()
    conv.explain = explain
    conv._edge_mask = torch.linspace(0, 1, 70, dtype=torch.float64)
    conv._loop_mask = torch.ones(70, dtype=torch.bool)
    conv._apply_sigmoid = False
    expected = conv(x, edge_index)
    if explain:
        plain = PyGGATv2Conv(6, 4, add_self_loops=False).double()
        plain.load_state_dict(conv.state_dict())
        assert not torch.allclose(plain(x, edge_index), expected)
    for swap in (use_gatv2, to_pyg):
        swap(conv)
        assert conv.explain is explain
        assert_close(conv(x, edge_index), expected)
    use_gatv2(conv)
    conv.explain = not explain
    conv.explain = explain
    assert_close(conv(x, edge_index), expected)


def test_own_explain_message():
    def explain_message(self, inputs, x_i, dim_size):
        return inputs + x_i

    x, edge_index = graph()
    conv = PyGGATv2Conv(6, 4, add_self_loops=False).double()
    conv.explain_message = explain_message.__get__(conv)
    conv.explain = True
    expected = conv(x, edge_index)
    assert_close(use_gatv2(conv)(x, edge_index), expected)
    assert_close(to_pyg(conv)(x, edge_index), expected)


class TestParametrizations:
    @pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
    @pytest.mark.parametrize(
        "norm",
        [parametrizations.spectral_norm, parametrizations.weight_norm, torch.nn.utils.weight_norm],
        ids=["spectral", "weight", "old_weight"],
    )
    def test_of_a_linear_layer(self, norm):
        conv = PyGGATv2Conv(6, 4).double()
        norm(conv.lin_l)
        conv.eval()  # spectral norm iterates in training mode
        check_both_ways(conv, *graph(), count=1)

    def test_of_the_layer_itself(self):
        class Double(torch.nn.Module):
            def forward(self, value):
                return 2 * value

        conv = PyGGATv2Conv(6, 4).double()
        plain = copy.deepcopy(conv)
        parametrize.register_parametrization(conv, "att", Double())
        x, edge_index = graph()
        expected = conv(x, edge_index)
        assert not torch.allclose(expected, plain(x, edge_index))

        use_gatv2(conv)
        assert isinstance(conv, GATv2Conv)
        assert isinstance(conv, PyGGATv2Conv)
        assert_close(conv(x, edge_index), expected)
        assert_close(copy.deepcopy(conv)(x, edge_index), expected)
        to_pyg(conv)
        assert isinstance(conv, PyGGATv2Conv)
        assert_close(conv(x, edge_index), expected)
        use_gatv2(conv)
        parametrize.remove_parametrizations(conv, "att", leave_parametrized=False)
        assert type(conv) is GATv2Conv
        assert_close(conv(x, edge_index), plain(x, edge_index))


class TestCopies:
    @pytest.mark.parametrize("copier", ["deepcopy", "save"])
    def test_copy(self, copier):
        model = use_gatv2(pyg.GAT(6, 8, num_layers=2, v2=True).double(), backend="reference")
        x, edge_index = graph()
        if copier == "deepcopy":
            other = copy.deepcopy(model)
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        assert [type(conv) for conv in other.convs] == [GATv2Conv] * 2
        assert other.convs[0].backend == "reference"
        assert other.convs[0].att is not model.convs[0].att
        assert_close(other(x, edge_index), model(x, edge_index))
        assert_close(to_pyg(other)(x, edge_index), model(x, edge_index))

    def test_state_dicts_load_both_ways(self):
        x, edge_index = graph()
        theirs = pyg.GAT(6, 8, num_layers=2, heads=2, v2=True).double()
        ours = use_gatv2(pyg.GAT(6, 8, num_layers=2, heads=2, v2=True).double())
        assert not torch.allclose(ours(x, edge_index), theirs(x, edge_index))
        ours.load_state_dict(theirs.state_dict(), strict=True)
        assert_close(ours(x, edge_index), theirs(x, edge_index))
        torch.nn.init.normal_(ours.convs[1].att)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        assert_close(ours(x, edge_index), theirs(x, edge_index))


class Own(PyGGATv2Conv):
    """A user's layer: its messages are their own business."""

    def message(self, x_j, alpha):
        return -x_j * alpha.unsqueeze(-1)


def test_subclasses_are_left_alone(caplog):
    model = torch.nn.ModuleList([Own(6, 4), PyGGATv2Conv(6, 4)])
    with caplog.at_level(logging.INFO, logger="gatv2_pyg.convert"):
        use_gatv2(model)
    assert [type(module) for module in model] == [Own, GATv2Conv]
    assert "left '0' alone: Own is a subclass" in caplog.text
    assert "swapped '1': torch_geometric.nn.conv.gatv2_conv -> gatv2_pyg.conv" in caplog.text


def test_twice_is_once():
    model = use_gatv2(torch.nn.ModuleList([PyGGATv2Conv(6, 4)]), backend="scatter")
    use_gatv2(model)
    assert model[0].backend == "scatter"


def test_bad_input():
    with pytest.raises(TypeError, match=r"^Expected 'model' to be a torch\.nn\.Module, got list"):
        use_gatv2([PyGGATv2Conv(6, 4)])
    conv = PyGGATv2Conv(6, 4)
    with pytest.raises(ValueError, match="backend"):
        use_gatv2(conv, backend="cudnn")
    assert type(conv) is PyGGATv2Conv
    for model in (torch.nn.Linear(2, 2), Own(6, 4)):
        for swap in (use_gatv2, to_pyg):
            with pytest.warns(UserWarning, match="has no GATv2Conv layer"):
                assert swap(model) is model
    already = torch.nn.ModuleList([PyGGATv2Conv(6, 4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        to_pyg(already)
