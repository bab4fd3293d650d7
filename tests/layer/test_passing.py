"""The layer takes PyG's message passing whenever fusing would change what a user sees."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv

from gatv2_pyg import GATv2Conv


def problem():
    rng = torch.Generator().manual_seed(0)
    return (
        torch.randn(9, 5, generator=rng),
        torch.randint(9, (2, 40), generator=rng),
        torch.randn(40, 3, generator=rng),
    )


class OwnMessage(GATv2Conv):
    def message(self, x_j, alpha):
        return 2 * super().message(x_j, alpha)


class OwnEdgeUpdate(GATv2Conv):
    def edge_update(self, x_j, x_i, edge_attr, index, ptr, dim_size):
        return 3 * super().edge_update(x_j, x_i, edge_attr, index, ptr, dim_size)


class OwnAggregate(GATv2Conv):
    def aggregate(self, inputs, index, ptr=None, dim_size=None):
        return 4 * super().aggregate(inputs, index, ptr, dim_size)


class OwnUpdate(GATv2Conv):
    def update(self, inputs):
        return 5 * inputs


class OwnPropagate(GATv2Conv):
    def propagate(self, edge_index, size=None, **kwargs):
        return 6 * super().propagate(edge_index, size=size, **kwargs)


class OwnNothing(GATv2Conv):
    def reset_parameters(self):
        super().reset_parameters()


@pytest.mark.parametrize(
    ("cls", "step", "factor"),
    [
        (OwnMessage, "message", 2),
        (OwnEdgeUpdate, "edge_update", 3),
        (OwnAggregate, "aggregate", 4),
        (OwnUpdate, "update", 5),
        (OwnPropagate, "propagate", 6),
    ],
)
def test_overridden_steps_are_respected(cls, step, factor):
    x, index, _ = problem()
    conv, plain = cls(5, 4, bias=False), GATv2Conv(5, 4, bias=False)
    plain.load_state_dict(conv.state_dict())
    backend = conv.backend_for(x, index)
    assert backend.name == "reference"
    assert f"'{step}' is overridden" in backend.reason
    torch.testing.assert_close(conv(x, index), factor * plain(x, index))
    assert conv.backend_for(x, index).name == "reference", "PyG's generated code changed the answer"


def test_other_subclasses_stay_fused():
    x, index, _ = problem()
    want = GATv2Conv(5, 4).backend_for(x, index)
    assert OwnNothing(5, 4).backend_for(x, index) == want


def test_methods_put_on_an_instance_are_respected():
    x, index, _ = problem()
    conv = GATv2Conv(5, 4)
    conv.update = lambda inputs: 0 * inputs
    assert conv.backend_for(x, index).name == "reference"
    assert not conv(x, index).any()


HOOKS = [
    "propagate_forward_pre",
    "propagate_forward",
    "message_forward_pre",
    "message_forward",
    "aggregate_forward_pre",
    "aggregate_forward",
    "edge_update_forward_pre",
    "edge_update_forward",
]


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_fire(name):
    x, index, attr = problem()
    conv = GATv2Conv(5, 4, heads=2, edge_dim=3)
    before = conv(x, index, attr)
    calls = []
    handle = getattr(conv, f"register_{name}_hook")(lambda *arguments: calls.append(arguments))
    backend = conv.backend_for(x, index, attr)
    assert backend.name == "reference"
    assert "hook" in backend.reason
    torch.testing.assert_close(conv(x, index, attr), before)
    assert len(calls) == 1
    handle.remove()
    conv(x, index, attr)
    assert len(calls) == 1


def test_hooks_may_change_messages():
    x, index, _ = problem()
    conv = GATv2Conv(5, 4, bias=False)
    conv.register_message_forward_hook(lambda module, arguments, out: torch.zeros_like(out))
    assert not conv(x, index).any()


@pytest.mark.parametrize("aggr", ["mean", "max", ["sum", "max"]])
def test_other_aggregations(aggr):
    x, index, _ = problem()
    options = {"heads": 2, "aggr": aggr, "bias": False, "residual": False}
    mine, theirs = GATv2Conv(5, 4, **options), PyGGATv2Conv(5, 4, **options)
    theirs.load_state_dict(mine.state_dict())
    assert "aggregation" in mine.backend_for(x, index).reason
    if isinstance(aggr, list):
        return
    torch.testing.assert_close(mine(x, index), theirs(x, index))


def test_decomposed_layers_are_respected():
    x, index, _ = problem()
    for count in (2, 4):
        conv = GATv2Conv(5, 4, decomposed_layers=count)
        backend = conv.backend_for(x, index)
        assert backend.name == "reference"
        assert f"there are {count} decomposed layers" in backend.reason


@pytest.mark.parametrize("slope", [float("nan"), float("inf"), -float("inf")])
def test_slopes_that_no_lane_may_be_multiplied_by(slope):
    """A row ends in lanes without a channel, whose 0 times the slope must be 0."""
    x, edge_index = torch.rand(9, 3), torch.randint(9, (2, 30))
    layer, other = (
        cls(3, 5, heads=2, negative_slope=slope, bias=False) for cls in (GATv2Conv, PyGGATv2Conv)
    )
    for parameter in (*layer.parameters(), *other.parameters()):
        parameter.data.abs_()  # no score is below 0
    other.load_state_dict(layer.state_dict())
    out = layer(x, edge_index)
    assert out.isfinite().all()
    torch.testing.assert_close(out, other(x, edge_index))
    assert "negative_slope" in layer.backend_for(x, edge_index).reason


def test_the_largest_slopes_stay_fused():
    x, edge_index = torch.rand(9, 3), torch.randint(9, (2, 30))
    layer = GATv2Conv(3, 5, negative_slope=torch.finfo(torch.float32).max)
    assert layer.backend_for(x, edge_index).name == "fused"


def test_hooks_on_lin_edge_fire():
    x, index, attr = problem()
    conv = GATv2Conv(5, 4, edge_dim=3)
    before = conv(x, index, attr)
    calls = []
    conv.lin_edge.register_forward_hook(lambda *arguments: calls.append(arguments))
    torch.testing.assert_close(conv(x, index, attr), before)
    assert len(calls) == 1


def test_module_hooks_leave_the_layer_fused():
    x, index, _ = problem()
    conv = GATv2Conv(5, 4)
    want = conv.backend_for(x, index)
    calls = []
    conv.register_forward_hook(lambda *arguments: calls.append(arguments))
    assert conv.backend_for(x, index) == want
    conv(x, index)
    assert len(calls) == 1


def test_explain_is_respected_and_left_again():
    x, index, _ = problem()
    conv = GATv2Conv(5, 4)
    want = conv.backend_for(x, index)
    conv.explain = True
    assert "explain" in conv.backend_for(x, index).reason
    conv.explain = False
    assert conv.backend_for(x, index) == want


def test_copies_and_pickles_work():
    x, index, _ = problem()
    conv = GATv2Conv(5, 4, heads=2, backend="reference")
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert other.backend == "reference"
        torch.testing.assert_close(other(x, index), conv(x, index))


def test_ids_of_edges_do_not_outlive_a_call():
    """A step that is called by itself numbers its edges from 0."""
    x, index, _ = problem()
    conv = GATv2Conv(5, 4, dropout=0.5, backend="reference")
    features = torch.randn(9, 1, 4)

    def coefficients():
        torch.manual_seed(0)
        return conv.edge_updater(index[:, :7], x=(features, features), edge_attr=None)

    want = coefficients()
    conv(x, index)
    assert torch.equal(coefficients(), want)


def test_reasons_are_sentences():
    x, index, _ = problem()
    for backend in ("auto", "reference"):
        chosen = GATv2Conv(5, 4, backend=backend).backend_for(x, index)
        assert str(chosen) == f"{chosen.name}: {chosen.reason}"
        assert chosen.reason
