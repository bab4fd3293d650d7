"""Sampled neighbourhoods, and the steps that are timed on them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_geometric.typing as installed
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

from benchmarks.cli import main
from benchmarks.cost.minibatch import job
from benchmarks.datasets import data
from benchmarks.datasets.data import MissingData
from benchmarks.datasets.sampling import NeighbourSampler
from benchmarks.harness import quantities
from tests.benchmarks.small import small_dataset

TINY = ["--scale", "0.002", "--batches", "2", "--rounds", "3", "--device", "cpu"]


def graph(nodes: int = 60, edges: int = 500) -> Tensor:
    """Without parallel edges; some nodes have no neighbours."""
    rng = torch.Generator().manual_seed(0)
    code = torch.randperm(nodes * (nodes - 10), generator=rng)[:edges]
    return torch.stack([code % nodes, code // nodes])


def pairs(edge_index: Tensor, nodes: Tensor | None = None) -> set[tuple[int, int]]:
    ends = edge_index if nodes is None else nodes[edge_index]
    return set(map(tuple, ends.t().tolist()))


def test_all_neighbours_are_those_of_the_graph() -> None:
    edge_index, seeds = graph(), torch.tensor([3, 40, 59])
    part = NeighbourSampler(edge_index, 60, (-1, -1)).sample(seeds)
    assert part.nodes[:3].tolist() == seeds.tolist()
    assert part.nodes.unique().numel() == part.nodes.numel()
    reached = k_hop_subgraph(seeds, 2, edge_index)[0]
    assert part.nodes.sort().values.tolist() == reached.tolist()
    inner = k_hop_subgraph(seeds, 1, edge_index)[0]
    want = edge_index[:, torch.isin(edge_index[1], inner)]
    assert pairs(part.edge_index, part.nodes) == pairs(want)
    assert part.edge_index.size(1) == want.size(1)


def test_no_node_has_more_edges_than_asked_for_and_none_twice() -> None:
    edge_index, seeds = graph(), torch.arange(0, 60, 3)
    part = NeighbourSampler(edge_index, 60, (4, 2), seed=1).sample(seeds)
    found = pairs(part.edge_index, part.nodes)
    assert len(found) == part.edge_index.size(1) == sum(part.edges_per_hop)
    assert found <= pairs(edge_index)
    assert sum(part.nodes_per_hop) == part.nodes.numel()
    degree = torch.bincount(edge_index[1], minlength=60)
    sampled = torch.bincount(part.edge_index[1], minlength=part.nodes.numel())
    first, second = part.nodes_per_hop[0], sum(part.nodes_per_hop[:2])
    most = degree[part.nodes]
    assert torch.equal(sampled[:first], most[:first].clamp(max=4))
    assert torch.equal(sampled[first:second], most[first:second].clamp(max=2))
    assert sampled[second:].sum() == 0


def test_samples_differ_and_are_uniform() -> None:
    """Of 12 neighbours each is taken in a third of 600 samples of 4, within five deviations."""
    edge_index = torch.stack([torch.arange(1, 13), torch.zeros(12, dtype=torch.long)])
    sampler = NeighbourSampler(edge_index, 13, (4,))
    count = torch.zeros(13)
    for _ in range(600):
        count[sampler.sample(torch.tensor([0])).nodes[1:]] += 1
    assert count.sum() == 4 * 600
    assert (count[1:] - 200).abs().max() < 5 * (600 * (1 / 3) * (2 / 3)) ** 0.5


@pytest.mark.skipif(
    not (installed.WITH_TORCH_SPARSE or installed.WITH_PYG_LIB),
    reason="needs torch_sparse or pyg-lib",
)
@pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without a 'pyg-lib'")
def test_all_neighbours_are_those_of_pygs_loader() -> None:
    from torch_geometric.loader import NeighborLoader

    edge_index, seeds = graph(), torch.tensor([3, 40, 59])
    whole = Data(x=torch.arange(60)[:, None], edge_index=edge_index)
    loader = NeighborLoader(whole, [-1, -1], input_nodes=seeds, batch_size=3)
    (theirs,) = loader
    ours = NeighbourSampler(edge_index, 60, (-1, -1)).sample(seeds)
    if installed.WITH_PYG_LIB:  # torch_sparse doesn't count them
        assert ours.nodes_per_hop == theirs.num_sampled_nodes
        assert ours.edges_per_hop == theirs.num_sampled_edges
    assert set(ours.nodes.tolist()) == set(theirs.n_id.tolist())
    assert pairs(ours.edge_index, ours.nodes) == pairs(theirs.edge_index, theirs.n_id)


def run(tmp_path: Path, *argv: str) -> dict[str, Any]:
    assert main(["minibatch", *argv, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("minibatch*.json")
    return json.loads(path.read_text())


def test_the_table_is_the_numbers_behind_it(tmp_path: Path) -> None:
    result = run(tmp_path, "--graphs", "power-law", *TINY)
    (entry,) = result["data"]
    (table,) = result["tables"]
    step, alone = (entry["seconds"][what] for what in ("step", "attention"))
    ours, peer = (statistics.median(step[key]) for key in ("ours", "gat"))
    row = table["rows"][2]
    assert row[1] == f"{1 / peer:.1f}"
    assert row[2:4] == [quantities.duration(peer), quantities.ratio(peer / ours)]
    share = statistics.median(alone["gat"]) / peer
    assert row[6] == f"{100 * share:.0f} %"
    assert entry["agreement_float64"] < 1e-12
    assert all(len(times) == 3 for times in step.values())
    assert f"{1 / ours:.1f} training steps a second" in result["headline"]


def test_a_layer_that_disagrees_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "disagreement", lambda *args, **kwargs: 1e-3)
    result = run(tmp_path, "--graphs", "power-law", *TINY)
    assert result["tables"][0]["rows"][0][1] == "disagrees, not timed"
    assert "ours" not in result["data"][0]["seconds"]["step"]
    assert "disagrees" in result["headline"]


def test_another_function_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.layers import build
    from gatv2_pyg import GATv2Conv

    class Wrong(GATv2Conv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"negative_slope": 0.3})

    found = job.load_graph("power-law", 0.002, None)
    (batch,) = job.sample(found, 1, "cpu")
    assert job.disagreement(batch, "cpu", "auto") < 1e-12
    monkeypatch.setattr(build, "GATv2Conv", Wrong)
    assert job.disagreement(batch, "cpu", "auto") > 1e-4


def test_every_step_sees_a_new_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    original = job.loss_of

    def loss_of(model: Any, batch: Any, edges: Tensor) -> Tensor:
        seen.append(edges)
        return original(model, batch, edges)

    monkeypatch.setattr(job, "loss_of", loss_of)
    batches = job.sample(job.load_graph("power-law", 0.002, None), 2, "cpu")
    steps = job.training(job.OURS, batches, "cpu", "auto")
    steps(), steps()
    assert len({id(edges) for edges in seen}) == len(seen) == 4


def test_times_are_those_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "training", lambda *_, **__: lambda: None)
    monkeypatch.setattr(job.timing, "alternate", lambda steps, **_: {key: [6.0] for key in steps})
    found = job._times("step", [job.OURS], [None] * 3, 1, device="cpu", backend="auto")
    assert found == {job.OURS.key: [2.0]}


def test_the_loss_is_that_of_the_seed_nodes() -> None:
    """They are the first rows of a sampled batch."""
    batch = job.Sampled(torch.eye(4), torch.zeros(2, 0, dtype=torch.long), torch.tensor([2, 0]))
    out = torch.arange(12.0).view(4, 3).sin()
    model: Any = lambda x, edges: out  # noqa: E731
    want = torch.nn.functional.cross_entropy(out[:2], batch.target)
    assert torch.equal(job.loss_of(model, batch, batch.edges), want)


def test_the_real_graph_that_is_missing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str, root: object) -> None:
        raise MissingData(f"data set {name} is nowhere")

    monkeypatch.setattr(job, "load", missing)
    result = run(tmp_path, *TINY)
    assert [entry["graph"] for entry in result["data"]] == ["power law 100/2k"]
    assert result["notes"] == ["Tolokers could not be had."]
    assert main(["minibatch", "--graphs", "tolokers", "--out", str(tmp_path / "other")]) == 2
    assert "data set Tolokers is nowhere" in capsys.readouterr().err


def test_a_real_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "load", lambda name, root: small_dataset(name))
    result = run(tmp_path, "--graphs", "tolokers", *TINY)
    assert result["tables"][0]["title"].startswith("Tolokers: batches of 40 nodes")
    assert "Tolokers" in data.HETEROPHILOUS
