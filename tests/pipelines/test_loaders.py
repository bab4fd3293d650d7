"""PyG's loaders: the losses of PyG's layer, step by step."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
import torch_geometric.nn
import torch_geometric.typing
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import (
    ClusterData,
    ClusterLoader,
    DataLoader,
    GraphSAINTNodeSampler,
    GraphSAINTRandomWalkSampler,
    HGTLoader,
    ImbalancedSampler,
    LinkNeighborLoader,
    NeighborLoader,
    RandomNodeLoader,
    ShaDowKHopSampler,
)
from torch_geometric.nn import to_hetero
from torch_geometric.utils import trim_to_layer

import gatv2_pyg
from benchmarks.datasets.sampling import NeighbourSampler

SAMPLER = importlib.util.find_spec("torch_sparse") or importlib.util.find_spec("pyg_lib")
needs_sampler = pytest.mark.skipif(
    not SAMPLER, reason="neighbour sampling needs torch_sparse or pyg-lib"
)
needs_torch_sparse = pytest.mark.skipif(
    not importlib.util.find_spec("torch_sparse"), reason="this loader needs torch_sparse"
)

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.conv1 = layer(10, 8, heads=2, edge_dim=3)
        self.conv2 = layer(16, 4, edge_dim=3)

    def forward(self, data, trim=False):
        x, edge_index, edge_attr = data.x, data.edge_index, data.edge_attr
        for depth, conv in enumerate((self.conv1, self.conv2)):
            if trim:
                x, edge_index, edge_attr = trim_to_layer(
                    depth,
                    data.num_sampled_nodes,
                    data.num_sampled_edges,
                    x,
                    edge_index,
                    edge_attr,
                )
            x = conv(x, edge_index, edge_attr)
            x = x.relu() if depth == 0 else x
        return x


def big_graph() -> Data:
    torch.manual_seed(0)
    return Data(
        x=torch.randn(400, 10),
        edge_index=torch.randint(400, (2, 2400)),
        edge_attr=torch.randn(2400, 3),
        y=torch.randint(4, (400,)),
        train_mask=torch.rand(400) < 0.5,
    )


def in_double(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value


def losses(layer, make_loader, loss_of, model_of=Net) -> list[float]:
    """The losses of two epochs in float64, by layers of a class."""
    torch.manual_seed(1)
    model = model_of(layer).double()
    optimizer = None
    found = []
    torch.manual_seed(2)
    torch_geometric.seed_everything(2)
    for _ in range(2):
        for batch in make_loader():
            batch = batch.apply(in_double)
            if optimizer is None:
                with torch.no_grad():
                    loss_of(model, batch)  # lazy sizes
                optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
    return found


def assert_same_losses(make_loader, loss_of, model_of=Net, steps: int = 4) -> None:
    theirs = losses(torch_geometric.nn.GATv2Conv, make_loader, loss_of, model_of)
    ours = losses(gatv2_pyg.GATv2Conv, make_loader, loss_of, model_of)
    assert len(theirs) >= steps
    assert len(set(theirs)) == len(theirs)
    assert ours == pytest.approx(theirs, rel=1e-9)


def all_nodes(model, batch):
    return F.cross_entropy(model(batch), batch.y)


def seed_nodes(model, batch):
    return F.cross_entropy(model(batch)[: batch.batch_size], batch.y[: batch.batch_size])


def test_small_graphs():
    torch.manual_seed(3)
    graphs = [
        Data(
            x=torch.randn(n, 10),
            edge_index=torch.randint(max(n, 1), (2, 3 * n)),
            edge_attr=torch.randn(3 * n, 3),
            y=torch.randint(4, (n,)),
        )
        for n in (5, 0, 9, 1, 7, 4, 0, 6)
    ]
    assert_same_losses(lambda: DataLoader(graphs, batch_size=3, shuffle=True), all_nodes)


def test_workers():
    torch.manual_seed(4)
    graphs = [big_graph() for _ in range(6)]
    assert_same_losses(lambda: DataLoader(graphs, batch_size=2, num_workers=2), all_nodes)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_their_own_interpreter(method):
    torch.manual_seed(4)
    loader = DataLoader(
        [big_graph() for _ in range(4)],
        batch_size=2,
        num_workers=1,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    assert_same_losses(lambda: loader, all_nodes)


def test_random_nodes():
    data = big_graph()
    assert_same_losses(lambda: RandomNodeLoader(data, num_parts=4, shuffle=True), all_nodes)


class Clusters(ClusterData):
    """By turns, which needs no METIS: which node goes where doesn't matter here."""

    def _metis(self, edge_index, num_nodes):
        return torch.arange(num_nodes) % self.num_parts


def test_clusters():
    clusters = Clusters(big_graph(), num_parts=8, log=False)
    assert_same_losses(lambda: ClusterLoader(clusters, batch_size=2, shuffle=True), all_nodes)


def test_trimmed_neighbours():
    """Without what no later layer needs; torch_sparse counts no hops, so they are sampled here."""
    data = big_graph()
    batches = []
    for seeds in data.train_mask.nonzero().flatten().split(64):
        part = NeighbourSampler(data.edge_index, 400, (5, 3), seed=len(batches)).sample(seeds)
        batch = data.subgraph(part.nodes)
        batch.edge_index, batch.batch_size = part.edge_index, seeds.numel()
        batch.edge_attr = torch.randn(part.edge_index.size(1), 3)
        batch.num_sampled_nodes, batch.num_sampled_edges = part.nodes_per_hop, part.edges_per_hop
        batches.append(batch)

    def trimmed(model, batch):
        out = model(batch, trim=True)
        assert out.size(0) == sum(batch.num_sampled_nodes[:2]) < batch.num_nodes
        return F.cross_entropy(out[: batch.batch_size], batch.y[: batch.batch_size])

    assert_same_losses(lambda: batches, trimmed)
    whole = losses(gatv2_pyg.GATv2Conv, lambda: batches, seed_nodes)
    assert losses(gatv2_pyg.GATv2Conv, lambda: batches, trimmed) == pytest.approx(whole, rel=1e-9)


@needs_sampler
@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_sampled_neighbours(trim, workers):
    if trim and not torch_geometric.typing.WITH_PYG_LIB:
        pytest.skip("trim_to_layer needs pyg-lib's counts of each hop")
    data = big_graph()

    def make():
        return NeighborLoader(
            data,
            num_neighbors=[5, 3],
            batch_size=64,
            input_nodes=data.train_mask,
            shuffle=True,
            num_workers=workers,
        )

    def loss_of(model, batch):
        out = model(batch, trim)[: batch.batch_size]
        return F.cross_entropy(out, batch.y[: batch.batch_size])

    if workers:
        # Each worker draws by a seed of its own: what came is kept for the other layer.
        batches = list(make())
        assert_same_losses(lambda: batches, loss_of)
    else:
        assert_same_losses(make, loss_of)


@needs_sampler
@pytest.mark.parametrize("kind", ["bidirectional", "induced"])
def test_sampled_subgraphs(kind):
    data = big_graph()
    assert_same_losses(
        lambda: NeighborLoader(
            data, num_neighbors=[4, 4], batch_size=100, subgraph_type=kind, shuffle=True
        ),
        seed_nodes,
    )


def root_nodes(model, batch):
    return F.cross_entropy(model(batch)[batch.root_n_id], batch.y)


@needs_torch_sparse
def test_shadow_subgraphs():
    data = big_graph()
    sampler = ShaDowKHopSampler(data, depth=2, num_neighbors=4, batch_size=100, shuffle=True)
    # It draws by a generator that no seed of torch sets: both layers get the same batches.
    batches = list(sampler)
    assert_same_losses(lambda: batches, root_nodes)


@needs_torch_sparse
@pytest.mark.parametrize(
    ("sampler", "options"),
    [(GraphSAINTNodeSampler, {}), (GraphSAINTRandomWalkSampler, {"walk_length": 2})],
)
def test_graph_saint(sampler, options):
    data = big_graph()
    assert_same_losses(
        lambda: sampler(data, batch_size=60, num_steps=4, log=False, **options), all_nodes
    )


@needs_sampler
def test_balanced_seeds():
    data = big_graph()
    assert_same_losses(
        lambda: NeighborLoader(
            data, num_neighbors=[4, 4], batch_size=100, sampler=ImbalancedSampler(data.y)
        ),
        seed_nodes,
    )


@needs_sampler
def test_sampled_links():
    data = big_graph()

    def loss_of(model, batch):
        out = model(batch)
        source, target = batch.edge_label_index
        score = (out[source] * out[target]).sum(-1)
        return F.binary_cross_entropy_with_logits(score, batch.edge_label.to(score.dtype))

    assert_same_losses(
        lambda: LinkNeighborLoader(
            data, num_neighbors=[4, 4], batch_size=800, neg_sampling_ratio=1.0, shuffle=True
        ),
        loss_of,
    )


def hetero_graph(authors: int = 60, papers: int = 90) -> HeteroData:
    data = HeteroData()
    data["author"].x = torch.randn(authors, 5)
    data["paper"].x = torch.randn(papers, 7)
    data["paper"].y = torch.randint(3, (papers,))
    writes = torch.stack([torch.randint(authors, (300,)), torch.randint(papers, (300,))])
    data["author", "writes", "paper"].edge_index = writes
    data["paper", "written_by", "author"].edge_index = writes.flip(0)
    data["paper", "cites", "paper"].edge_index = torch.randint(papers, (2, 400))
    return data


class HeteroNet(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()

        class Homogeneous(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = layer((-1, -1), 6, heads=2, add_self_loops=False)
                self.conv2 = layer((-1, -1), 3, add_self_loops=False)

            def forward(self, x, edge_index):
                return self.conv2(self.conv1(x, edge_index).relu(), edge_index)

        self.model = to_hetero(Homogeneous(), hetero_graph().metadata())

    def forward(self, data):
        return self.model(data.x_dict, data.edge_index_dict)["paper"]


def hetero_loss(model, batch):
    size = getattr(batch["paper"], "batch_size", None)
    return F.cross_entropy(model(batch)[:size], batch["paper"].y[:size])


def test_batches_of_heterogeneous_graphs():
    torch.manual_seed(5)
    graphs = [hetero_graph(20 + k, 30 - k) for k in range(6)]
    assert_same_losses(
        lambda: DataLoader(graphs, batch_size=2, shuffle=True), hetero_loss, HeteroNet
    )


@needs_sampler
def test_heterogeneous_neighbours():
    torch.manual_seed(6)
    data = hetero_graph()
    assert_same_losses(
        lambda: NeighborLoader(
            data, num_neighbors=[5, 5], batch_size=40, input_nodes="paper", shuffle=True
        ),
        hetero_loss,
        HeteroNet,
    )


@needs_torch_sparse
def test_hgt_sampling():
    torch.manual_seed(7)
    data = hetero_graph()
    assert_same_losses(
        lambda: HGTLoader(data, num_samples=[20, 20], batch_size=40, input_nodes="paper"),
        hetero_loss,
        HeteroNet,
    )
