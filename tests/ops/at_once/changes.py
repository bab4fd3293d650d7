"""Changes between two calls of a layer, each by itself, as parameters of a test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrizations
from torch_geometric import EdgeIndex
from torch_geometric.nn.aggr import MeanAggregation
from torch_geometric.nn.dense.linear import Linear

from gatv2_pyg import GATv2Conv
from tests.ops.at_once.case import BONDS, EDGES, FEATURES, NODES


def setting(name, value):
    def change(case):
        setattr(case.layer, name, value)

    return change


def twice(x_j, alpha):
    return x_j * alpha.unsqueeze(-1) * 2


OPTIONS = [
    ("negative_slope", [0.5, 0, True, 1e39, "much", torch.tensor(0.4)]),
    ("dropout", [0.5, 0, 1, 1.0, True, 2.0, float("nan"), "half", torch.tensor(0.3)]),
    ("add_self_loops", [False, 1, torch.tensor(False), np.array(True), [1]]),
    (
        "fill_value",
        ["add", "max", "nothing", 0.5, 1, None, [0.5], torch.tensor(0.25), torch.ones(BONDS)],
    ),
    ("edge_dim", [None]),
    ("flow", ["target_to_source", "sideways", ["source_to_target"]]),
    ("backend", ["reference", "fused", "scatter", "triton", "nonsense"]),
    ("concat", [False, 1, {}]),
    ("share_weights", [True]),
    ("heads", [2, 5, 20, 4.0, [4]]),
    ("out_channels", [10, 4, [5]]),
    ("decomposed_layers", [2]),
    ("explain", [True]),
    ("bias", [None, torch.nn.Parameter(torch.ones(3))]),
    ("att", [None, torch.nn.Parameter(torch.ones(1, 5, 4)), torch.nn.Parameter(torch.ones(4, 5))]),
    ("res", [torch.nn.Parameter(torch.ones(3))]),
    ("lin_edge", [None, Linear(BONDS, 20), Linear(2, 20, bias=False), torch.nn.Linear(BONDS, 20)]),
    ("lin_l", [Linear(FEATURES, 20), Linear(5, 20), Linear(FEATURES, 10), torch.nn.Identity()]),
    ("lin_r", [torch.nn.Linear(FEATURES, 20), Linear(FEATURES, 24)]),
    ("aggr_module", [MeanAggregation()]),
    ("message", [twice]),
]


def of_layer():
    for name, values in OPTIONS:
        for value in values:
            yield pytest.param(setting(name, value), id=f"{name}={told(value)}")


def told(value):
    """The same in every process, whatever ``value`` is: what tests are named after."""
    if isinstance(value, (torch.Tensor, torch.nn.Module)):
        return type(value).__name__
    return value.__name__ if callable(value) else value


def call(function):
    return pytest.param(function, id=function.__name__)


def doubled(module, args, out):
    return out * 2


def hooks():
    @call
    def two_wrong_options(case):
        case.layer.backend, case.layer.dropout = "nonsense", 2.0

    @call
    def a_wrong_option_and_a_lack(case):
        del case.layer.concat
        case.layer.dropout = 2.0

    @call
    def a_wrong_backend_and_features(case):
        case.layer.backend, case.x = "nonsense", case.x[:, :-1]

    @call
    def a_lack(case):
        del case.layer.share_weights

    @call
    def size_of_lin_edge(case):
        case.layer.lin_edge.in_channels = BONDS + 4

    @call
    def residual_past_the_modules(case):
        vars(case.layer)["res"] = Linear(FEATURES, 20, bias=False)

    @call
    def weight_past_the_parameters(case):
        vars(case.layer.lin_edge)["weight"] = torch.ones(20, BONDS)

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


class Refusing(torch.Tensor):
    """A tensor of a subclass that lets nobody look at its numbers."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError("refused")


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
    def edges_of_uint16(case):
        case.edge_index.data = case.edge_index.to(torch.uint16)

    @call
    def edges_of_uint64(case):
        case.edge_index.data = case.edge_index.to(torch.uint64)

    @call
    def edges_of_uint8(case):
        case.edge_index.data = case.edge_index.to(torch.uint8)

    @call
    def edges_of_int16(case):
        case.edge_index.data = case.edge_index.short()

    @call
    def edges_that_are_bools(case):
        case.edge_index.data = case.edge_index.bool()

    @call
    def edges_of_pyg(case):
        case.edge_index = EdgeIndex(case.edge_index, sparse_size=(NODES, NODES))

    @call
    def edges_of_a_class_assigned(case):
        case.edge_index.__class__ = Refusing

    @call
    def features_of_a_class_assigned(case):
        case.edge_attr.__class__ = Refusing

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
