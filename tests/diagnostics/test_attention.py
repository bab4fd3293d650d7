"""The attention diagnostics against brute force, SciPy and the paper's theorem."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch_geometric.nn import GAT, FAConv, GATConv, HeteroConv, Sequential, TransformerConv
from torch_geometric.nn import GATv2Conv as PyGGATv2Conv
from torch_geometric.utils import softmax, to_torch_coo_tensor, to_torch_csr_tensor

from gatv2_pyg import GATv2Conv
from gatv2_pyg.diagnostics import (
    attention_entropy,
    attention_matrix,
    collect_attention,
    mean_attention_entropy,
    rank_agreement,
    top_k_edges,
)


def random_attention(num_keys, num_queries, num_edges, heads, seed=0, dtype=torch.float64):
    """Distinct random edges with softmax weights."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.randperm(num_keys * num_queries, generator=rng)[:num_edges]
    edge_index = torch.stack([cells // num_queries, cells % num_queries])
    scores = torch.randn(num_edges, heads, generator=rng, dtype=dtype)
    return edge_index, softmax(scores, edge_index[1], num_nodes=num_queries)


def complete_bipartite(scores):
    """Edges and weights of dense scores [queries, keys]."""
    queries, keys = scores.shape
    edge_index = torch.stack(
        [torch.arange(keys).repeat(queries), torch.arange(queries).repeat_interleave(keys)]
    )
    return edge_index, scores.softmax(1).flatten()


def tau_by_scipy(edge_index, alpha):
    """{(query, query): (number of shared keys, [tau of each head])} by the definition."""
    weights = {}
    for (key, query), value in zip(edge_index.t().tolist(), alpha.tolist(), strict=True):
        weights.setdefault(query, {})[key] = value
    expected = {}
    for first, second in combinations(sorted(weights), 2):
        shared = sorted(weights[first].keys() & weights[second].keys())
        if len(shared) >= 2:
            a = torch.tensor([weights[first][key] for key in shared], dtype=torch.float64)
            b = torch.tensor([weights[second][key] for key in shared], dtype=torch.float64)
            expected[first, second] = (
                len(shared),
                [kendalltau(a[:, h], b[:, h]).statistic for h in range(alpha.size(1))],
            )
    return expected


class TestEntropy:
    def test_equals_the_definition(self):
        edge_index, alpha = random_attention(9, 7, 40, heads=3)
        entropy = attention_entropy(edge_index, alpha)
        normalized = attention_entropy(edge_index, alpha, normalize=True)
        for query in range(7):
            row = alpha[edge_index[1] == query]
            expected = -(row * row.log()).sum(0)
            torch.testing.assert_close(entropy[query], expected)
            torch.testing.assert_close(normalized[query], expected / math.log(len(row)))

    def test_uniform_and_one_hot(self):
        edge_index = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1]])
        alpha = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0, 1.0, 0.0])
        torch.testing.assert_close(
            attention_entropy(edge_index, alpha), torch.tensor([[math.log(3)], [0.0]])
        )
        torch.testing.assert_close(
            attention_entropy(edge_index, alpha, normalize=True), torch.tensor([[1.0], [0.0]])
        )

    def test_undefined_is_nan(self):
        edge_index, alpha = torch.tensor([[0, 1, 2], [0, 2, 2]]), torch.tensor([1.0, 0.5, 0.5])
        entropy = attention_entropy(edge_index, alpha, num_nodes=4)
        assert entropy.isnan().squeeze().tolist() == [False, True, False, True]
        assert entropy[0] == 0
        normalized = attention_entropy(edge_index, alpha, num_nodes=4, normalize=True)
        assert normalized.isnan().squeeze().tolist() == [True, True, False, True]

    def test_no_edges(self):
        none = torch.empty(2, 0, dtype=torch.long), torch.empty(0, 2)
        assert attention_entropy(*none).shape == (0, 2)
        assert attention_entropy(*none, num_nodes=3).isnan().all()
        assert mean_attention_entropy(*none).isnan().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_low_precision(self, dtype):
        edge_index, alpha = random_attention(60, 20, 700, heads=2)
        expected = attention_entropy(edge_index, alpha)
        entropy = attention_entropy(edge_index, alpha.to(dtype))
        assert entropy.dtype == torch.float32
        torch.testing.assert_close(entropy, expected.float(), rtol=0.01, atol=0.01)

    def test_mean_weights(self):
        edge_index, alpha = random_attention(9, 7, 40, heads=2)
        entropy = attention_entropy(edge_index, alpha)
        degree = torch.bincount(edge_index[1]).double()
        assert degree.unique().numel() > 1
        torch.testing.assert_close(mean_attention_entropy(edge_index, alpha), entropy.mean(0))
        torch.testing.assert_close(
            mean_attention_entropy(edge_index, alpha, weight="degree"),
            (degree[:, None] * entropy).sum(0) / degree.sum(),
        )
        only_second = torch.tensor([0, 1, 0, 0, 0, 0, 0])
        torch.testing.assert_close(
            mean_attention_entropy(edge_index, alpha, weight=only_second), entropy[1]
        )

    def test_mean_leaves_undefined_queries_out(self):
        edge_index, alpha = torch.tensor([[0, 1, 2], [0, 2, 2]]), torch.tensor([1.0, 0.5, 0.5])
        mean = mean_attention_entropy(edge_index, alpha, num_nodes=5, normalize=True)
        torch.testing.assert_close(mean, torch.ones(1))

    def test_dropout_is_refused(self):
        conv = GATConv(4, 4, dropout=0.5).train()
        edge_index = torch.tensor([[0, 1, 2, 3], [1, 1, 1, 1]])
        torch.manual_seed(0)
        _, (edges, alpha) = conv(torch.randn(4, 4), edge_index, return_attention_weights=True)
        with pytest.raises(ValueError, match=r"'alpha' must sum to 1 .* evaluation mode"):
            attention_entropy(edges, alpha)

    def test_weights_that_do_not_sum_to_1_are_named(self):
        edge_index, alpha = random_attention(6, 4, 18, heads=3)
        alpha[(edge_index[1] == 2).nonzero()[0], 1] += 0.5
        with pytest.raises(ValueError, match=r"sums to 1\.5 for query 2, head 1 "):
            attention_entropy(edge_index, alpha)


class TestRankAgreement:
    def test_equals_scipy(self):
        edge_index, alpha = random_attention(11, 13, 90, heads=3)
        result = rank_agreement(edge_index, alpha)
        expected = tau_by_scipy(edge_index, alpha)
        assert [tuple(pair) for pair in result.queries.t().tolist()] == sorted(expected)
        for pair, shared, tau in zip(
            result.queries.t().tolist(), result.num_shared, result.tau, strict=True
        ):
            assert shared == expected[tuple(pair)][0]
            torch.testing.assert_close(
                tau, torch.tensor(expected[tuple(pair)][1], dtype=torch.float64)
            )
        torch.testing.assert_close(result.mean(), result.tau.mean(0))
        assert (result.weight == 1).all()

    def test_ties_equal_scipy(self):
        """Scores on a grid of three values: many ties, and some all-tied rankings (NaN)."""
        edge_index, alpha = random_attention(6, 12, 60, heads=2, seed=3)
        alpha = (alpha * 7).round()
        result = rank_agreement(edge_index, alpha)
        expected = tau_by_scipy(edge_index, alpha)
        expected_tau = torch.tensor(
            [expected[tuple(pair)][1] for pair in result.queries.t().tolist()], dtype=torch.float64
        )
        assert expected_tau.isnan().any()
        assert ((expected_tau.abs() < 1) & (expected_tau != 0)).any()
        torch.testing.assert_close(result.tau, expected_tau, equal_nan=True)
        torch.testing.assert_close(result.mean(), expected_tau.nanmean(0))

    @given(st.dictionaries(st.tuples(st.integers(0, 5), st.integers(0, 4)), st.integers(0, 3)))
    def test_any_small_graph_equals_scipy(self, weights):
        """Few distinct weights, so that ties, queries without edges and NaN are common."""
        edge_index = torch.tensor(list(weights), dtype=torch.long).view(-1, 2).t()
        alpha = torch.tensor(list(weights.values()), dtype=torch.float64).view(-1, 1)
        result = rank_agreement(edge_index, alpha)
        expected = tau_by_scipy(edge_index, alpha)
        assert [tuple(pair) for pair in result.queries.t().tolist()] == sorted(expected)
        for tau, pair in zip(result.tau.tolist(), sorted(expected), strict=True):
            assert tau == pytest.approx(expected[pair][1], nan_ok=True)

    def test_chunks_agree_with_one_piece(self, monkeypatch):
        edge_index, alpha = random_attention(20, 30, 300, heads=2)
        whole = rank_agreement(edge_index, alpha)
        monkeypatch.setattr("gatv2_pyg.diagnostics.kendall._CHUNK", 37)
        pieces = rank_agreement(edge_index, alpha)
        assert torch.equal(whole.queries, pieces.queries)
        assert torch.equal(whole.num_shared, pieces.num_shared)
        assert torch.equal(whole.tau, pieces.tau)

    def test_same_and_reversed_rankings(self):
        same = rank_agreement(*complete_bipartite(torch.tensor([[1.0, 2, 3], [4.0, 5, 9]])))
        assert same.tau.item() == 1
        assert same.num_shared.item() == 3
        opposite = rank_agreement(*complete_bipartite(torch.tensor([[1.0, 2, 3], [9.0, 5, 4]])))
        assert opposite.mean().item() == -1

    def test_strongest_of_parallel_edges_counts(self):
        edge_index = torch.tensor([[0, 0, 1, 0, 1], [0, 0, 0, 1, 1]])
        alpha = torch.tensor([0.3, 0.25, 0.45, 0.4, 0.6])
        result = rank_agreement(edge_index, alpha)
        assert result.num_shared.tolist() == [2]
        assert result.tau.item() == 1

    def test_rtol_makes_ties(self):
        edge_index, alpha = complete_bipartite(torch.tensor([[1.0, 1 + 1e-6, 2], [1 + 1e-6, 1, 2]]))
        assert rank_agreement(edge_index, alpha).tau.item() == pytest.approx(1 / 3)
        assert rank_agreement(edge_index, alpha, rtol=1e-4).tau.item() == pytest.approx(1)

    @pytest.mark.parametrize(("rtol", "tau"), [(0.099, -1.0), (0.101, math.nan)])
    def test_rtol_is_of_the_larger_of_two(self, rtol, tau):
        edge_index = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
        result = rank_agreement(edge_index, torch.tensor([10.0, 9.0, 9.0, 10.0]), rtol=rtol)
        assert result.tau.item() == pytest.approx(tau, nan_ok=True)

    def test_sampling_estimates_the_mean(self):
        """Hub keys make pairs that share many keys likelier; the weights must undo it."""
        torch.manual_seed(0)
        keys, queries = 60, 120
        often = torch.arange(queries) < 40
        linked = torch.rand(keys, queries) < torch.where(often, 0.8, 0.08)
        edge_index = linked.nonzero().t()
        static, dynamic = torch.randn(keys, 1), torch.randn(keys, queries)
        scores = torch.where(often, static, dynamic)[linked]
        alpha = softmax(scores, edge_index[1])

        exact = rank_agreement(edge_index, alpha, num_pairs=10**9)
        rng = torch.Generator().manual_seed(1)
        sampled = rank_agreement(edge_index, alpha, num_pairs=6_000, generator=rng)
        assert sampled.queries.size(1) < exact.queries.size(1)
        unweighted = sampled.tau.nanmean()
        assert abs(sampled.mean() - exact.mean()) < 0.04
        assert abs(unweighted - exact.mean()) > 0.1

    def test_sampling_is_reproducible(self):
        edge_index, alpha = random_attention(40, 60, 900, heads=1)
        draws = [
            rank_agreement(
                edge_index, alpha, num_pairs=50, generator=torch.Generator().manual_seed(seed)
            )
            for seed in (5, 5, 6)
        ]
        assert torch.equal(draws[0].queries, draws[1].queries)
        assert torch.equal(draws[0].tau, draws[1].tau)
        assert not torch.equal(draws[0].queries, draws[2].queries)

    def test_nothing_shared(self):
        edge_index = torch.tensor([[0, 1, 2], [0, 1, 2]])
        result = rank_agreement(edge_index, torch.ones(3, 2))
        assert result.queries.shape == (2, 0)
        assert result.tau.shape == (0, 2)
        assert result.mean().isnan().all()
        empty = rank_agreement(edge_index[:, :0], torch.ones(0, 2))
        assert empty.tau.shape == (0, 2)

    def test_gat_is_static_and_gatv2_dynamic(self):
        """Theorem 1 of the paper holds for any weights, theorem 2 for almost all of them."""
        torch.manual_seed(2)
        x = torch.randn(30, 8, dtype=torch.float64)
        edge_index = torch.randint(30, (2, 300))
        taus = {}
        for conv in (GATConv(8, 8, heads=4), GATv2Conv(8, 8, heads=4), PyGGATv2Conv(8, 8, heads=4)):
            with collect_attention(conv.double()) as layers:
                conv(x, edge_index)
            taus[type(conv)] = rank_agreement(layers[0].edge_index, layers[0].alpha).mean()
        torch.testing.assert_close(taus[GATConv], torch.ones(4, dtype=torch.float64))
        assert (taus[GATv2Conv] < 0.97).all()
        assert (taus[PyGGATv2Conv] < 0.97).all()

    @pytest.mark.parametrize("seed", [None, 0])
    def test_samples_take_no_default(self, seed):
        """Neither a default device nor a default dtype reaches the draw and its weights."""
        torch.manual_seed(0)
        edge_index, alpha = torch.randint(40, (2, 300)), torch.rand(300, 2)

        def sampled():
            torch.manual_seed(1)
            generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
            return rank_agreement(edge_index, alpha, num_pairs=50, generator=generator)

        expected = sampled()
        with torch.device("meta"):
            on_device = sampled()
        torch.set_default_dtype(torch.bfloat16)
        try:
            in_half = sampled()
        finally:
            torch.set_default_dtype(torch.float32)
        for found in (on_device, in_half):
            for one, two in zip(vars(expected).values(), vars(found).values(), strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)


class TestTopK:
    @pytest.mark.parametrize("k", [1, 3, 20])
    def test_equals_sorting(self, k):
        edge_index, alpha = random_attention(9, 7, 40, heads=3)
        top = top_k_edges(edge_index, alpha, k, num_nodes=8)
        assert top.shape == (8, k, 3)
        for query in range(8):
            edges = (edge_index[1] == query).nonzero().squeeze(1)
            for head in range(3):
                expected = edges[alpha[edges, head].argsort(descending=True)][:k].tolist()
                assert top[query, :, head].tolist() == expected + [-1] * (k - len(expected))

    def test_first_of_equals(self):
        edge_index = torch.tensor([[5, 3, 4], [0, 0, 0]])
        assert top_k_edges(edge_index, torch.tensor([0.25, 0.5, 0.25]), 3).tolist() == [
            [[1], [0], [2]]
        ]


class TestMatrix:
    def test_equals_loop(self):
        edge_index, alpha = random_attention(5, 4, 13, heads=2)
        matrix = attention_matrix(edge_index, alpha, size=(6, 4))
        assert matrix.shape == (2, 4, 6)
        expected = torch.zeros(2, 4, 6, dtype=torch.float64)
        for (key, query), value in zip(edge_index.t().tolist(), alpha, strict=True):
            expected[:, query, key] = value
        assert torch.equal(matrix, expected)
        torch.testing.assert_close(matrix.sum(2), torch.ones(2, 4, dtype=torch.float64))

    def test_parallel_edges_add_up(self):
        edge_index = torch.tensor([[0, 0, 1], [0, 0, 0]])
        matrix = attention_matrix(edge_index, torch.tensor([0.25, 0.5, 0.25]))
        assert matrix.tolist() == [[[0.75, 0.25]]]


class Net(torch.nn.Module):
    """Two layers of different kinds, the first one used twice."""

    def __init__(self):
        super().__init__()
        self.first = GATv2Conv(6, 3, heads=2)
        self.inner = torch.nn.ModuleDict({"gat": GATConv(6, 4, heads=3, concat=False)})
        self.last = TransformerConv(4, 5, heads=2)

    def forward(self, x, edge_index):
        x = self.first(self.first(x, edge_index).relu(), edge_index)
        return self.last(self.inner["gat"](x, edge_index), edge_index)


class TestCollect:
    @pytest.fixture
    def graph(self):
        rng = torch.Generator().manual_seed(0)
        return torch.randn(12, 6, generator=rng), torch.randint(12, (2, 40), generator=rng)

    def test_names_shapes_and_order(self, graph):
        model = Net().eval()
        expected = model(*graph)
        with collect_attention(model) as layers:
            out = model(*graph)
        assert torch.equal(out, expected)
        assert [layer.name for layer in layers] == ["first", "first", "inner.gat", "last"]
        assert [layer.alpha.size(1) for layer in layers] == [2, 2, 3, 2]
        for layer in layers:
            assert layer.edge_index.shape == (2, layer.alpha.size(0))
            assert not layer.alpha.requires_grad
            attention_entropy(layer.edge_index, layer.alpha)  # a distribution, or it raises

    def test_equals_the_layer_itself(self, graph):
        model = Net().eval()
        _, (edge_index, alpha) = model.first(*graph, return_attention_weights=True)
        with collect_attention(model) as layers:
            model(*graph)
        assert torch.equal(layers[0].edge_index, edge_index)
        assert torch.equal(layers[0].alpha, alpha)

    def test_training_draws_the_same_dropout(self, graph):
        model = GAT(6, 8, num_layers=2, heads=2, dropout=0.4, v2=True).train()
        torch.manual_seed(7)
        expected = model(*graph)
        torch.manual_seed(7)
        with collect_attention(model) as layers:
            out = model(*graph)
        assert torch.equal(out, expected)
        assert len(layers) == 2

    def test_leaves_nothing_behind(self, graph):
        model = Net()
        before = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        with collect_attention(model) as layers:
            model(*graph)
        model(*graph)
        assert len(layers) == 4
        with pytest.raises(ZeroDivisionError), collect_attention(model):
            raise ZeroDivisionError
        assert [
            (len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
        ] == before

    def test_a_failed_call_does_no_harm(self, graph):
        conv = GATConv(6, 4)
        with collect_attention(conv) as layers:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                conv(graph[0][:, :5], graph[1])
            out = conv(*graph)
        assert isinstance(out, torch.Tensor)
        assert len(layers) == 1

    def test_user_hooks_see_the_plain_output(self, graph):
        conv = GATv2Conv(6, 4)
        seen = []
        conv.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(sorted(kwargs)), with_kwargs=True
        )
        conv.register_forward_hook(lambda module, args, out: seen.append(out))
        with collect_attention(conv):
            out = conv(*graph)
        assert seen[0] == []
        assert seen[1] is out

    def test_a_request_of_the_model_is_kept(self, graph):
        conv = GATConv(6, 4)
        with collect_attention(conv) as layers:
            out, (_, alpha) = conv(*graph, return_attention_weights=True)
            positional = conv(*graph, None, None, True)
            plain = conv(*graph, None, None, None)
        assert torch.equal(layers[0].alpha, alpha)
        assert len(layers) == 3
        assert isinstance(positional, tuple)
        assert torch.equal(plain, out)

    @pytest.mark.parametrize("conv_class", [GATv2Conv, PyGGATv2Conv, GATConv])
    def test_reverse_flow(self, graph, conv_class):
        """Row 1 holds the queries, for either direction of the flow."""
        x, edge_index = graph
        forward = conv_class(6, 4, heads=2)
        backward = conv_class(6, 4, heads=2, flow="target_to_source")
        backward.load_state_dict(forward.state_dict())
        with collect_attention(forward) as expected:
            forward(x, edge_index)
        with collect_attention(backward) as layers:
            backward(x, edge_index.flip(0))
        assert torch.equal(layers[0].edge_index, expected[0].edge_index)
        torch.testing.assert_close(layers[0].alpha, expected[0].alpha)

    @pytest.mark.parametrize("conv_class", [GATv2Conv, PyGGATv2Conv])
    @pytest.mark.parametrize("to_sparse", [to_torch_csr_tensor, to_torch_coo_tensor])
    @pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant):UserWarning")
    def test_sparse_adjacency(self, graph, conv_class, to_sparse):
        x, edge_index = graph
        edge_index = edge_index.unique(dim=1)
        conv = conv_class(6, 4, heads=2, add_self_loops=False)
        with collect_attention(conv) as layers:
            conv(x, edge_index)
            conv(x, to_sparse(edge_index.flip(0), size=(12, 12)))
        dense, sparse = (attention_matrix(a.edge_index, a.alpha, size=(12, 12)) for a in layers)
        torch.testing.assert_close(sparse, dense)

    def test_hetero_and_one_head_vectors(self, graph):
        x, edge_index = graph
        edges = {("a", "to", "b"): edge_index, ("b", "to", "a"): edge_index}
        model = HeteroConv(
            {key: GATv2Conv((6, 6), 4, add_self_loops=False) for key in edges}, aggr="sum"
        )
        with collect_attention(model) as layers:
            model({"a": x, "b": x}, edges)
        assert len(layers) == 2
        assert all("to" in layer.name for layer in layers)
        with collect_attention(FAConv(6)) as layers:  # its weights have shape [E]
            pass
        model = FAConv(6)
        with collect_attention(model) as layers:
            model(x, x, edge_index)
        assert layers[0].alpha.dim() == 2

    def test_keeps_the_graph_on_request(self, graph):
        conv = GATv2Conv(6, 4)
        with collect_attention(conv, detach=False) as layers:
            conv(*graph)
        layers[0].alpha.square().sum().backward()
        assert conv.att.grad.abs().sum() > 0

    def test_a_model_without_attention(self):
        model = Sequential("x", [(torch.nn.Linear(2, 2), "x -> x")])
        with pytest.raises(ValueError, match="no attention layer"), collect_attention(model):
            pass


EDGES, ALPHA = torch.tensor([[0, 1], [0, 0]]), torch.tensor([0.5, 0.5])


@pytest.mark.parametrize("measure", [attention_entropy, rank_agreement, attention_matrix])
@pytest.mark.parametrize(
    ("edge_index", "alpha", "error", "message"),
    [
        ([[0], [0]], ALPHA, TypeError, "'edge_index' must be a tensor, not list"),
        (EDGES, 0.5, TypeError, "'alpha' must be a tensor, not float"),
        (EDGES.float(), ALPHA, TypeError, r"'edge_index' must have dtype int64 .* not torch.float"),
        (EDGES[0], ALPHA, ValueError, r"'edge_index' must have shape \[2, E\], not \[2\]"),
        (EDGES, ALPHA.long(), TypeError, "'alpha' must have a floating-point dtype"),
        (EDGES, ALPHA[:1], ValueError, r"E = 2 edges as in 'edge_index', not \[1\]"),
        (EDGES, ALPHA.view(2, 1, 1), ValueError, r"'alpha' must have shape"),
        (EDGES, ALPHA.to("meta"), ValueError, "one device, not on cpu and meta"),
        (EDGES, ALPHA / 0, ValueError, "'alpha' must be finite"),
        (EDGES - 1, ALPHA, ValueError, "'edge_index' must not be negative, but holds -1"),
    ],
)
def test_bad_input(measure, edge_index, alpha, error, message):
    with pytest.raises(error, match=message):
        measure(edge_index, alpha)


def test_bad_options():
    with pytest.raises(ValueError, match="'num_nodes' is 1, but 'edge_index' holds index 2"):
        attention_entropy(torch.tensor([[0], [2]]), torch.ones(1), num_nodes=1)
    with pytest.raises(ValueError, match=r"'size\[0\]' is 1"):
        attention_matrix(EDGES, ALPHA, size=(1, 1))
    with pytest.raises(ValueError, match=r"^'size\[1\]' is 0"):
        attention_matrix(EDGES, ALPHA, size=(2, 0))
    with pytest.raises(ValueError, match="'alpha' must not be negative"):
        attention_entropy(EDGES, torch.tensor([1.5, -0.5]))
    with pytest.raises(ValueError, match="'weight' must be 'node', 'degree' or a tensor"):
        mean_attention_entropy(EDGES, ALPHA, weight="edge")
    with pytest.raises(ValueError, match="'weight' must hold 1 non-negative numbers"):
        mean_attention_entropy(EDGES, ALPHA, weight=torch.ones(2))
    with pytest.raises(ValueError, match="'num_pairs' must be at least 1"):
        rank_agreement(EDGES, ALPHA, num_pairs=0)
    with pytest.raises(ValueError, match="'rtol' must not be negative"):
        rank_agreement(EDGES, ALPHA, rtol=-1)
    with pytest.raises(ValueError, match="'k' must be at least 1"):
        top_k_edges(EDGES, ALPHA, 0)
