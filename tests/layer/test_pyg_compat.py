"""What PyG promises of GATv2Conv, asked of PyG's own layer and of this one alike.

Each test takes the layer's class as a parameter: PyG's shows that the test itself is right.
"""

import copy

import pytest
import torch
import torch_geometric.nn as pyg
from torch_geometric import EdgeIndex
from torch_geometric.explain import AttentionExplainer, Explainer, GNNExplainer
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv
from torch_geometric.utils import to_torch_coo_tensor, to_torch_csc_tensor, to_torch_csr_tensor

from gatv2_pyg import GATv2Conv

both_classes = pytest.mark.parametrize("conv_class", [PyGGATv2Conv, GATv2Conv], ids=["pyg", "ours"])
quiet_sparse = pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|invariant):UserWarning")
quiet_scripting = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
X_DST = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
EDGE_INDEX = torch.tensor([[0, 1, 2, 3], [0, 0, 1, 1]])  # one self-loop among them
LAYOUTS = [to_torch_csr_tensor, to_torch_coo_tensor]


def line_graph(num_nodes):
    """An undirected path, edges of both directions side by side."""
    step = torch.stack([torch.arange(num_nodes - 1), torch.arange(1, num_nodes)])
    return torch.stack([step, step.flip(0)], dim=2).flatten(1)


def transposed(layout, edge_index, size):
    """The adjacency as PyG wants it: rows are destinations."""
    return layout(edge_index.flip(0), size=(size[1], size[0]))


@both_classes
class TestLayer:
    def test_repr_and_shape(self, conv_class):
        conv = conv_class(8, 32, heads=2)
        assert str(conv) == "GATv2Conv(8, 32, heads=2)"
        out = conv(X, EDGE_INDEX)
        assert out.shape == (4, 64)
        assert torch.equal(conv(X, EDGE_INDEX), out)
        assert conv_class(8, 32, heads=2, concat=False)(X, EDGE_INDEX).shape == (4, 32)

    @quiet_sparse
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("add_self_loops", [True, False])
    def test_torch_sparse(self, conv_class, layout, add_self_loops):
        conv = conv_class(8, 16, heads=2, add_self_loops=add_self_loops)
        expected, (edges, alpha) = conv(X, EDGE_INDEX, return_attention_weights=True)
        assert edges.shape == (2, 7 if add_self_loops else 4)
        adj_t = transposed(layout, EDGE_INDEX, (4, 4))
        torch.testing.assert_close(conv(X, adj_t), expected)

        out, (adj, weights) = conv(X, adj_t, return_attention_weights=True)
        torch.testing.assert_close(out, expected)
        assert adj.shape == (4, 4, 2)
        assert adj._nnz() == edges.size(1)
        torch.testing.assert_close(weights.sum(0), alpha.sum(0))

    @quiet_sparse
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_torch_sparse_bipartite(self, conv_class, layout):
        conv = conv_class(8, 16, heads=2)
        expected = conv((X, X_DST), EDGE_INDEX)
        assert expected.shape == (2, 32)
        adj_t = transposed(layout, EDGE_INDEX, (4, 2))
        torch.testing.assert_close(conv((X, X_DST), adj_t), expected)

    def test_sparse_tensor(self, conv_class):
        torch_sparse = pytest.importorskip("torch_sparse")
        conv = conv_class(8, 16, heads=2)
        expected = conv(X, EDGE_INDEX)
        adj_t = torch_sparse.SparseTensor.from_edge_index(EDGE_INDEX, sparse_sizes=(4, 4)).t()
        torch.testing.assert_close(conv(X, adj_t), expected)
        out, adj = conv(X, adj_t, return_attention_weights=True)
        torch.testing.assert_close(out, expected)
        assert adj.sizes() == [4, 4, 2]
        assert adj.nnz() == 7

    @pytest.mark.parametrize("sort_order", [None, "row", "col"])
    def test_edge_index_class(self, conv_class, sort_order):
        conv = conv_class(8, 16, heads=2, add_self_loops=False)
        edge_index = EDGE_INDEX[:, EDGE_INDEX[0 if sort_order == "row" else 1].argsort(stable=True)]
        expected = conv(X, edge_index)
        given = EdgeIndex(edge_index, sparse_size=(4, 4), sort_order=sort_order)
        torch.testing.assert_close(conv(X, given), expected)

    def test_attention_weights(self, conv_class):
        conv = conv_class(8, 16, heads=2)
        out, (edge_index, alpha) = conv(X, EDGE_INDEX, return_attention_weights=True)
        torch.testing.assert_close(out, conv(X, EDGE_INDEX))
        # The user's self-loop goes, one for each node comes at the end.
        assert edge_index.tolist() == [[1, 2, 3, 0, 1, 2, 3], [0, 1, 1, 0, 1, 2, 3]]
        assert alpha.shape == (7, 2)
        total = torch.zeros(4, 2).index_add(0, edge_index[1], alpha)
        torch.testing.assert_close(total, torch.ones(4, 2))
        # A node with only its self-loop attends to nothing else.
        torch.testing.assert_close(alpha[5:], torch.ones(2, 2))
        assert isinstance(conv(X, EDGE_INDEX, return_attention_weights=False), torch.Tensor)

    def test_bipartite_attention_weights(self, conv_class):
        conv = conv_class((8, 8), 16, heads=2)
        out, (edge_index, alpha) = conv((X, X_DST), EDGE_INDEX, return_attention_weights=True)
        torch.testing.assert_close(out, conv((X, X_DST), EDGE_INDEX))
        assert edge_index.tolist() == [[1, 2, 3, 0, 1], [0, 1, 1, 0, 1]]
        assert alpha.shape == (5, 2)

    @pytest.mark.parametrize("fill_value", [0.5, "mean", "add", "min", "max", "mul"])
    def test_edge_features(self, conv_class, fill_value):
        edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 1, 1]])
        features = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]])
        conv = conv_class(8, 16, heads=2, edge_dim=2, fill_value=fill_value)
        seen = []
        conv.lin_edge.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        conv.register_message_forward_hook(lambda *_: None)  # so that lin_edge runs as a module
        out = conv(X, edge_index, features)
        assert out.shape == (4, 32)
        into_1 = features[[0, 2, 3]]
        expected = {
            0.5: torch.full((2,), 0.5),
            "mean": into_1.mean(0),
            "add": into_1.sum(0),
            "min": into_1.amin(0),
            "max": into_1.amax(0),
            "mul": into_1.prod(0),
        }[fill_value]
        torch.testing.assert_close(seen[0][:4], features)
        torch.testing.assert_close(seen[0][5], expected)
        assert not torch.allclose(out, conv(X, edge_index, features.flip(0)))

    def test_edge_weights_are_one_feature(self, conv_class):
        conv = conv_class(8, 16, heads=2, edge_dim=1)
        weight = torch.tensor([0.1, -0.2, 0.3, 4.0])
        expected = conv(X, EDGE_INDEX, weight.unsqueeze(1))
        torch.testing.assert_close(conv(X, EDGE_INDEX, weight), expected)

    def test_out_of_bounds(self, conv_class):
        conv = conv_class(8, 16, add_self_loops=False)
        for bad in (-1, 4):
            edge_index = EDGE_INDEX.clone()
            edge_index[0, 0] = bad
            with pytest.raises((IndexError, ValueError), match="edge_index"):
                conv(X, edge_index)

    @quiet_sparse
    def test_reverse_flow_refuses_sparse(self, conv_class):
        conv = conv_class(8, 16, flow="target_to_source", add_self_loops=False)
        with pytest.raises(ValueError, match="target_to_source"):
            conv(X, transposed(to_torch_csr_tensor, EDGE_INDEX, (4, 4)))

    def test_copies(self, conv_class):
        conv = conv_class(8, 16)
        shallow, deep = copy.copy(conv), copy.deepcopy(conv)
        assert shallow.att is conv.att
        assert deep.att is not conv.att
        expected = conv(X, EDGE_INDEX)
        torch.testing.assert_close(shallow(X, EDGE_INDEX), expected)
        torch.testing.assert_close(deep(X, EDGE_INDEX), expected)

    def test_inside_sequential(self, conv_class):
        model = pyg.Sequential(
            "x, edge_index",
            [(conv_class(8, 4, heads=2), "x, edge_index -> x"), (torch.nn.ReLU(), "x -> x")],
        )
        assert model(X, EDGE_INDEX).shape == (4, 8)


@quiet_sparse
@pytest.mark.parametrize("add_self_loops", [True, False])
def test_sparse_by_columns(add_self_loops):
    """CSC is taken as it is; PyG's layer refuses it."""
    conv = GATv2Conv(8, 16, heads=2, add_self_loops=add_self_loops)
    adj_t = transposed(to_torch_csc_tensor, EDGE_INDEX, (4, 4))
    torch.testing.assert_close(conv(X, adj_t), conv(X, EDGE_INDEX))
    with pytest.raises(ValueError, match="layout"):
        PyGGATv2Conv(8, 16)(X, adj_t)


@both_classes
class TestHooks:
    KINDS = (
        "propagate_forward_pre",
        "propagate_forward",
        "message_forward_pre",
        "message_forward",
        "aggregate_forward_pre",
        "aggregate_forward",
        "edge_update_forward_pre",
        "edge_update_forward",
    )

    def test_each_fires_once_a_call(self, conv_class):
        conv = conv_class(8, 16, heads=2)
        expected = conv(X, EDGE_INDEX)
        calls = []
        handles = []
        for kind in self.KINDS:

            def hook(module, inputs, *output, kind=kind):
                assert module is conv
                assert len(output) == (not kind.endswith("pre"))
                calls.append(kind)

            handles.append(getattr(conv, f"register_{kind}_hook")(hook))
            assert len(getattr(conv, f"_{kind}_hooks")) == 1
        torch.testing.assert_close(conv(X, EDGE_INDEX), expected)
        assert calls == [
            "edge_update_forward_pre",
            "edge_update_forward",
            "propagate_forward_pre",
            "message_forward_pre",
            "message_forward",
            "aggregate_forward_pre",
            "aggregate_forward",
            "propagate_forward",
        ]
        for kind, handle in zip(self.KINDS, handles, strict=True):
            handle.remove()
            assert len(getattr(conv, f"_{kind}_hooks")) == 0
        torch.testing.assert_close(conv(X, EDGE_INDEX), expected)
        assert len(calls) == 8

    def test_what_messages_are_made_of(self, conv_class):
        conv = conv_class(8, 16, heads=2)
        seen = {}
        conv.register_message_forward_hook(lambda _, inputs, out: seen.update(inputs[-1], out=out))
        _, (edge_index, alpha) = conv(X, EDGE_INDEX, return_attention_weights=True)
        assert seen.keys() == {"x_j", "alpha", "out"}
        torch.testing.assert_close(seen["alpha"], alpha)
        torch.testing.assert_close(seen["x_j"], conv.lin_l(X).view(4, 2, 16)[edge_index[0]])
        torch.testing.assert_close(seen["out"], seen["x_j"] * alpha.unsqueeze(-1))

    def test_hooks_can_change_values(self, conv_class):
        conv = conv_class(8, 16, bias=False)
        expected = conv(X, EDGE_INDEX)
        handle = conv.register_message_forward_hook(lambda _, inputs, out: 3 * out)
        torch.testing.assert_close(conv(X, EDGE_INDEX), 3 * expected)
        handle.remove()

        handle = conv.register_message_forward_pre_hook(
            lambda _, inputs: ({**inputs[-1], "alpha": torch.zeros_like(inputs[-1]["alpha"])},)
        )
        assert (conv(X, EDGE_INDEX) == 0).all()
        handle.remove()

        handle = conv.register_edge_update_forward_hook(lambda _, inputs, out: 2 * out)
        torch.testing.assert_close(conv(X, EDGE_INDEX), 2 * expected)
        handle.remove()

        handle = conv.register_propagate_forward_hook(lambda _, inputs, out: out + 1)
        torch.testing.assert_close(conv(X, EDGE_INDEX), expected + 1)
        handle.remove()
        torch.testing.assert_close(conv(X, EDGE_INDEX), expected)


class Net(torch.nn.Module):
    """Two attention layers; for nodes, or with a pooled read-out for graphs."""

    def __init__(self, conv_class, out_channels, *, level="node", log_probabilities=False):
        super().__init__()
        torch.manual_seed(5)
        self.conv1 = conv_class(3, 8, heads=2)
        self.conv2 = conv_class(16, out_channels, heads=2, concat=False)
        self.level, self.log_probabilities = level, log_probabilities

    def forward(self, x, edge_index, batch=None):
        x = self.conv2(self.conv1(x, edge_index).relu(), edge_index)
        if self.level == "graph":
            x = pyg.global_add_pool(x, batch)
        return x.log_softmax(dim=1) if self.log_probabilities else x


NODES = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
PATH = line_graph(8)


@pytest.mark.parametrize("index", [None, 2, torch.arange(3)], ids=["all", "one", "several"])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_attention_explainer(index, reduce):
    """The explanation is the layers' attention, reduced; the same for both classes."""
    masks = {}
    for conv_class in (PyGGATv2Conv, GATv2Conv):
        model = Net(conv_class, 7).eval()
        explainer = Explainer(
            model=model,
            algorithm=AttentionExplainer(reduce=reduce),
            explanation_type="model",
            edge_mask_type="object",
            model_config=dict(
                mode="multiclass_classification", task_level="node", return_type="raw"
            ),
        )
        explanation = explainer(NODES, PATH, index=index)
        explanation.validate_masks()
        mask = masks[conv_class] = explanation.edge_mask
        assert mask.shape == (14,)
        assert mask.min() >= 0
        assert 0 < mask.max() <= 1

        hidden, (_, first) = model.conv1(NODES, PATH, return_attention_weights=True)
        _, (_, second) = model.conv2(hidden.relu(), PATH, return_attention_weights=True)
        stacked = torch.stack(
            [a[:14].amax(1) if reduce == "max" else a[:14].mean(1) for a in (first, second)]
        )
        expected = stacked.amax(0) if reduce == "max" else stacked.mean(0)
        if index is not None:
            near = [edge for edge in range(14) if mask[edge] > 0]
            assert len(near) < 14
            mask, expected = mask[near], expected[near]
        torch.testing.assert_close(mask, expected.detach())
    torch.testing.assert_close(masks[GATv2Conv], masks[PyGGATv2Conv])


@pytest.mark.filterwarnings("ignore:.*contains isolated nodes:UserWarning")
@pytest.mark.parametrize(
    ("node_mask_type", "edge_mask_type"),
    [
        (None, "object"),
        ("object", None),
        ("object", "object"),
        ("attributes", "object"),
        ("common_attributes", None),
        ("common_attributes", "object"),
    ],
)
@pytest.mark.parametrize(
    ("level", "mode", "return_type", "explanation_type"),
    [
        ("node", "multiclass_classification", "log_probs", "model"),
        ("node", "regression", "raw", "phenomenon"),
        ("graph", "multiclass_classification", "raw", "phenomenon"),
        ("graph", "regression", "raw", "model"),
    ],
)
def test_gnn_explainer(node_mask_type, edge_mask_type, level, mode, return_type, explanation_type):
    """Masks have the right shapes and range, and both classes get the same ones."""
    index = 2 if level == "node" else None
    explanations = []
    for conv_class in (PyGGATv2Conv, GATv2Conv):
        model = Net(
            conv_class,
            1 if mode == "regression" else 4,
            level=level,
            log_probabilities=return_type == "log_probs",
        ).double()
        x = NODES.double()
        with torch.no_grad():
            target = model(x, PATH)
        if mode != "regression":
            target = target.argmax(dim=1)
        explainer = Explainer(
            model=model,
            algorithm=GNNExplainer(epochs=3),
            explanation_type=explanation_type,
            node_mask_type=node_mask_type,
            edge_mask_type=edge_mask_type,
            model_config=dict(mode=mode, task_level=level, return_type=return_type),
        )
        torch.manual_seed(6)
        given = {"target": target} if explanation_type == "phenomenon" else {}
        explanation = explainer(x, PATH, index=index, **given)
        explanations.append(explanation)
        explanation.validate_masks()
        # Afterwards the layers compute as before.
        assert not model.conv1.explain
        assert model.conv1._edge_mask is None
        with torch.no_grad():
            after = model(x, PATH)
        torch.testing.assert_close(after if mode == "regression" else after.argmax(1), target)

    theirs, ours = explanations
    shape = {"object": (8, 1), "attributes": (8, 3), "common_attributes": (1, 3)}
    for name, expected in (
        ("node_mask", shape.get(node_mask_type)),
        ("edge_mask", (14,) if edge_mask_type else None),
    ):
        assert (name in ours) == (name in theirs) == (expected is not None)
        if expected is not None:
            assert ours[name].shape == expected
            assert ours[name].min() >= 0
            assert 0 < ours[name].max() <= 1
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-8)


NODE_TYPES = ["paper", "author"]
EDGE_TYPES = [
    ("paper", "cites", "paper"),
    ("paper", "written_by", "author"),
    ("author", "writes", "paper"),
]


def hetero_graph(channels):
    rng = torch.Generator().manual_seed(3)
    sizes = {"paper": 30, "author": 20}
    x = {t: torch.randn(sizes[t], channels[t], generator=rng) for t in NODE_TYPES}
    edges = {
        (s, r, d): torch.stack(
            [torch.randint(sizes[t], (60,), generator=rng) for t in (s, d)]
        ).unique(dim=1)
        for s, r, d in EDGE_TYPES
    }
    return x, edges


class Hetero(torch.nn.Module):
    """A model of one node type, with a linear layer beside the attention."""

    def __init__(self, conv_class, in_channels, **options):
        super().__init__()
        self.conv1 = conv_class(in_channels, 8, heads=2, **options)
        self.lin1 = pyg.Linear(-1, 16)
        self.conv2 = conv_class(in_channels, 8, heads=2, concat=False, **options)

    def forward(self, x, edge_index):
        x = (self.conv1(x, edge_index) + self.lin1(x)).relu()
        return self.conv2(x, edge_index)


@quiet_scripting
@both_classes
class TestHetero:
    def test_to_hetero(self, conv_class):
        """Lazy sizes, one layer for each edge type, and the sum that to_hetero stands for."""
        x, edges = hetero_graph({"paper": 6, "author": 5})
        model = pyg.to_hetero(
            Hetero(conv_class, (-1, -1), add_self_loops=False), (NODE_TYPES, EDGE_TYPES)
        )
        out = model(x, edges)
        assert {t: tuple(v.shape) for t, v in out.items()} == {"paper": (30, 8), "author": (20, 8)}
        assert sum(isinstance(m, conv_class) for m in model.modules()) == 6

        def convolve(conv, h):
            parts = {t: [] for t in NODE_TYPES}
            for s, r, d in EDGE_TYPES:
                parts[d].append(conv[f"{s}__{r}__{d}"]((h[s], h[d]), edges[s, r, d]))
            return {t: sum(part) for t, part in parts.items()}

        hidden = convolve(model.conv1, x)
        hidden = {t: (hidden[t] + model.lin1[t](x[t])).relu() for t in NODE_TYPES}
        expected = convolve(model.conv2, hidden)
        for node_type in NODE_TYPES:
            torch.testing.assert_close(out[node_type], expected[node_type])

    @quiet_sparse
    def test_to_hetero_with_sparse_adjacency(self, conv_class):
        x, edges = hetero_graph({"paper": 6, "author": 6})
        model = pyg.to_hetero(
            Hetero(conv_class, (-1, -1), add_self_loops=False), (NODE_TYPES, EDGE_TYPES)
        )
        expected = model(x, edges)
        adjacency = {
            (s, r, d): transposed(to_torch_csr_tensor, e, (x[s].size(0), x[d].size(0)))
            for (s, r, d), e in edges.items()
        }
        out = model(x, adjacency)
        for node_type in NODE_TYPES:
            torch.testing.assert_close(out[node_type], expected[node_type])

    def test_to_hetero_trains(self, conv_class):
        x, edges = hetero_graph({"paper": 6, "author": 6})
        model = pyg.to_hetero(
            Hetero(conv_class, (-1, -1), add_self_loops=False), (NODE_TYPES, EDGE_TYPES)
        )
        model(x, edges)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = sum((out - 1).square().mean() for out in model(x, edges).values())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]
        assert all(p.grad is not None for p in model.parameters())

    def test_self_loops_between_types_are_refused(self, conv_class):
        model = Hetero(conv_class, (-1, -1), add_self_loops=True)
        with pytest.raises(ValueError, match="incorrect message passing"):
            pyg.to_hetero(model, (NODE_TYPES, EDGE_TYPES))

    def test_hetero_conv(self, conv_class):
        x, edges = hetero_graph({"paper": 6, "author": 5})
        convs = {key: conv_class((-1, -1), 4, add_self_loops=False) for key in EDGE_TYPES}
        out = pyg.HeteroConv(convs, aggr="sum")(x, edges)
        (cites, written_by, writes) = EDGE_TYPES
        torch.testing.assert_close(
            out["author"], convs[written_by]((x["paper"], x["author"]), edges[written_by])
        )
        torch.testing.assert_close(
            out["paper"],
            convs[cites]((x["paper"], x["paper"]), edges[cites])
            + convs[writes]((x["author"], x["paper"]), edges[writes]),
        )

    def test_attention_explainer(self, conv_class):
        x, edges = hetero_graph({"paper": 6, "author": 6})

        class PapersOnly(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.gnn = pyg.to_hetero(
                    Hetero(conv_class, (-1, -1), add_self_loops=False), (NODE_TYPES, EDGE_TYPES)
                )

            def forward(self, x, edge_index):
                return self.gnn(x, edge_index)["paper"]

        model = PapersOnly()
        model(x, edges)
        explainer = Explainer(
            model=model,
            algorithm=AttentionExplainer(),
            explanation_type="model",
            edge_mask_type="object",
            model_config=dict(
                mode="multiclass_classification", task_level="graph", return_type="raw"
            ),
        )
        explanation = explainer(x, edges)
        for edge_type, edge_index in edges.items():
            mask = explanation[edge_type].edge_mask
            assert mask.shape == (edge_index.size(1),)
            assert mask.min() > 0
            assert mask.max() <= 1
