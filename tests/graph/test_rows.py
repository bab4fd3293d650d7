"""Parts of a graph, and the seed by which they drop what the whole does."""

from __future__ import annotations

import itertools

import pytest
import torch

from gatv2_pyg import Graph, backends, gatv2_attention, use_backend

BACKENDS = [
    name
    for name in ("fused", "scatter", "reference")
    if backends.refusal(name, torch.device("cpu"), torch.float32) is None
]


class TestRows:
    """``Graph.rows``: the edges of some destinations, under the ids of the whole graph."""

    @staticmethod
    def graph(num_edges=4000, add_self_loops=True):
        torch.manual_seed(num_edges)
        edge_index = torch.stack([torch.randint(90, (num_edges,)), torch.randint(70, (num_edges,))])
        edge_index[1, : num_edges // 2] = 20  # a row of several pieces
        return Graph.from_edge_index(edge_index, 90, 70, add_self_loops=add_self_loops)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("heads", [1, 3, 8])
    @pytest.mark.parametrize("cuts", [[0, 35, 70], [0, 0, 20, 21, 70, 70]])
    def test_attention_of_parts_is_that_of_the_whole(self, backend, heads, cuts):
        graph = self.graph()
        names = ("x_src", "x_dst", "att", "edge_attr", "edge_weight")
        shapes = ((90, heads, 7), (70, heads, 7), (heads, 7), (graph.num_ids, 3), (heads * 7, 3))
        values = {
            name: torch.randn(shape, dtype=torch.float64).requires_grad_()
            for name, shape in zip(names, shapes, strict=True)
        }
        # Torch's product of the edge features may round by their number, but eighths are exact.
        for name in ("edge_attr", "edge_weight"):
            values[name].data.mul_(8).round_().div_(8)
        options = {"dropout": 0.4, "training": True, "seed": 5, "return_attention": True}
        weight = torch.randn(70, heads, 7, dtype=torch.float64)
        with use_backend(backend):
            out, alpha = gatv2_attention(**values, graph=graph, **options)
            expected = torch.autograd.grad(out, list(values.values()), weight)
            outs, alphas, grads = [], [], []
            for start, stop in itertools.pairwise(cuts):
                part = dict(values, x_dst=values["x_dst"][start:stop])
                mine, theirs = gatv2_attention(**part, graph=graph.rows(start, stop), **options)
                outs.append(mine)
                alphas.append(theirs)
                grads.append(torch.autograd.grad(mine, list(values.values()), weight[start:stop]))
        assert torch.equal(torch.cat(outs), out)
        assert torch.equal(sum(alphas), alpha)
        for name, found, grad in zip(names, zip(*grads, strict=True), expected, strict=True):
            torch.testing.assert_close(sum(found), grad, rtol=1e-12, atol=1e-12, msg=name)

    def test_what_it_holds(self):
        graph = Graph.from_edge_index(
            torch.tensor([[0, 1, 2, 3, 1], [1, 1, 0, 2, 2]]), 4, 3, add_self_loops=True
        )
        part = graph.rows(1, 3)
        assert (part.num_src, part.num_dst, part.num_ids) == (4, 2, graph.num_ids)
        assert part.num_edges == 5
        assert not part.complete
        assert part.by_dst.ptr.tolist() == [0, 2, 5]
        assert part.by_dst.idx.tolist() == [0, 1, 3, 1, 2]
        assert part.by_dst.edge.tolist() == [0, 6, 3, 4, 7]
        assert graph.rows(0, 3).num_edges == graph.num_edges
        assert part.rows(1, 2).by_dst.edge.tolist() == [3, 4, 7]

    def test_ids_that_are_positions(self):
        graph = Graph.from_csc(torch.tensor([0, 2, 3, 5]), torch.tensor([1, 0, 1, 0, 1]), 2)
        assert graph.rows(1, 3).by_dst.edge.tolist() == [2, 3, 4]
        assert graph.rows(0, 3).complete
        assert graph.rows(2, 2).num_edges == 0

    @pytest.mark.parametrize("bounds", [(-1, 2), (3, 2), (0, 71)])
    def test_bounds_out_of_range(self, bounds):
        with pytest.raises(ValueError, match=rf"<= 70, .*start={bounds[0]}, stop={bounds[1]}"):
            self.graph().rows(*bounds)

    def test_bounds_of_another_type(self):
        with pytest.raises(TypeError, match=r"'stop' to be an integer, got 1.0"):
            self.graph().rows(0, 1.0)


class TestSeed:
    """``gatv2_attention(seed=...)``."""

    @staticmethod
    def attend(seed, dropout=0.5):
        torch.manual_seed(1)
        x = torch.randn(30, 2, 4)
        graph = Graph.from_edge_index(torch.randint(30, (2, 300)), 30)
        att = torch.randn(2, 4)
        before = torch.random.get_rng_state()
        out = gatv2_attention(x, x, att, graph, dropout=dropout, training=True, seed=seed)
        return out, not torch.equal(before, torch.random.get_rng_state())

    def test_it_alone_decides_the_mask(self):
        first, drew = self.attend(3)
        assert not drew
        assert torch.equal(first, self.attend(3)[0])
        assert torch.equal(first, self.attend(torch.tensor(3))[0])
        assert not torch.equal(first, self.attend(4)[0])
        assert self.attend(None)[1]
        assert torch.equal(self.attend(3, dropout=0.0)[0], self.attend(4, dropout=0.0)[0])

    def test_all_of_its_range(self):
        low, high = self.attend(2**32 + 3)[0], self.attend(2**63 - 1)[0]
        assert not torch.equal(low, self.attend(3)[0])
        assert bool(high.isfinite().all())

    @pytest.mark.parametrize("seed", [-1, 2**63])
    def test_out_of_range(self, seed):
        with pytest.raises(ValueError, match=rf"'seed' to lie in .*, got {seed}"):
            self.attend(seed)

    @pytest.mark.parametrize("seed", [1.5, True, "1", torch.tensor(1.0), torch.tensor([1])])
    def test_of_another_type(self, seed):
        with pytest.raises(TypeError, match="'seed' to be an integer"):
            self.attend(seed)
