"""The accuracy studies at a tiny size: what they compute, write and label."""

from __future__ import annotations

import copy
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import GATConv

from benchmarks import cora
from benchmarks.cli import main
from benchmarks.datasets import data, standin
from benchmarks.datasets.data import Dataset
from benchmarks.harness import quantities
from benchmarks.harness.measuring import fresh
from benchmarks.layers import contestants, networks
from benchmarks.layers.attention_alone import attention_alone
from benchmarks.layers.dense import DenseGATv2Conv, dense_bias
from benchmarks.layers.fused_gat import FusedGATConv
from benchmarks.layers.networks import TwoLayerGAT
from benchmarks.studies import (
    citation,
    dictionary_lookup,
    lookup_task,
    node_classification,
    noise,
    training,
)
from tests.benchmarks.small import small_dataset


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data set on disk, and no network."""
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(data, "own_folder", lambda: own)
    monkeypatch.setattr(data, "_reachable", lambda url: "no network")
    monkeypatch.setattr(standin, "citation_graph", lambda: small_dataset("Cora").data)
    monkeypatch.delenv("GATV2_PYG_DATA", raising=False)
    return own


def awkward_graph() -> Tensor:
    """Duplicate edges, a self-loop, an isolated node (5), a node without incoming edges (4)."""
    return torch.tensor([[0, 1, 1, 2, 2, 3, 4, 4], [1, 0, 0, 1, 2, 0, 3, 2]])


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("add_self_loops", [True, False])
def test_dense_attention_is_the_sparse_layer(
    concat: bool, share_weights: bool, add_self_loops: bool
) -> None:
    from gatv2_pyg import GATv2Conv

    torch.manual_seed(0)
    options = {"heads": 3, "concat": concat, "share_weights": share_weights}
    sparse = GATv2Conv(5, 4, add_self_loops=add_self_loops, **options).double()
    dense = DenseGATv2Conv(5, 4, **options).double()
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(6, 5, dtype=torch.float64)
    edge_index = awkward_graph()
    bias = dense_bias(edge_index, 6, add_self_loops=add_self_loops, dtype=x.dtype)
    expected, out = sparse(x, edge_index), dense(x, bias)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weight = torch.randn_like(out)
    (expected * weight).sum().backward()
    (out * weight).sum().backward()
    for name, parameter in dense.named_parameters():
        reference = sparse.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, reference, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"concat": False, "residual": True},
        {"add_self_loops": False, "bias": False, "negative_slope": 0.4},
        {"residual": True, "flow": "target_to_source"},
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_fused_gat_is_the_gat_of_pyg(options: dict[str, Any], backend: str) -> None:
    torch.manual_seed(0)
    theirs = GATConv(7, 5, heads=3, **options).double()
    ours = FusedGATConv(7, 5, heads=3, backend=backend, **options).double()
    ours.load_state_dict(theirs.state_dict())
    edge_index = torch.randint(20, (2, 90))
    results = []
    for layer in (theirs, ours):
        x = torch.randn(20, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1))
        inputs = [x.requires_grad_(), *layer.parameters()]
        out = layer(x, edge_index)
        weight = torch.linspace(-1, 2, out.numel(), dtype=torch.double).view_as(out)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for value, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-10)


def test_fused_gat_takes_a_bipartite_graph() -> None:
    torch.manual_seed(0)
    theirs = GATConv(7, 5, heads=3, add_self_loops=False).double()
    ours = FusedGATConv(7, 5, heads=3, add_self_loops=False).double()
    ours.load_state_dict(theirs.state_dict())
    x = (torch.randn(12, 7).double(), torch.randn(20, 7).double())
    edge_index = torch.stack([torch.randint(12, (90,)), torch.randint(20, (90,))])
    found, wanted = (
        [out := layer(x, edge_index), *torch.autograd.grad(out.square().sum(), layer.parameters())]
        for layer in (ours, theirs)
    )
    for value, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", citation.VARIANTS, ids=lambda variant: variant.key)
def test_sparse_features_train_as_dense_ones(variant: node_classification.Variant) -> None:
    data = standin.citation_graph()
    dataset = Dataset("Cora", data, int(data.y.max()) + 1)
    torch.manual_seed(0)
    model = node_classification.make_model(variant, dataset, "auto").eval()
    task = node_classification.make_task(dataset, "cpu")
    assert node_classification.recipe("Cora").sparse
    found = []
    for inputs in (next(iter(task.batches())).inputs, (data.x, data.edge_index)):
        out = model(*inputs)
        weight = torch.linspace(-1, 1, out.numel()).view_as(out)
        found.append([out, *torch.autograd.grad((out * weight).mean(), model.parameters())])
    for value, want in zip(*found, strict=True):
        torch.testing.assert_close(value, want, rtol=1e-4, atol=1e-6)


def test_dropout_of_sparse_features() -> None:
    x = torch.rand(300, 40) * (torch.rand(300, 40) < 0.3)
    sparse = x.to_sparse_csr()
    out = networks.drop(sparse, 0.75, True).to_dense()
    kept = out != 0
    torch.testing.assert_close(out[kept], 4 * x[kept])
    assert 0.2 < kept.sum() / (x != 0).sum() < 0.3
    assert torch.equal(networks.drop(sparse, 0.75, False).to_dense(), x)


def test_fused_gat_drops_attention_in_training_only() -> None:
    layer = FusedGATConv(7, 5, heads=3, dropout=0.5)
    x, edge_index = torch.randn(20, 7), torch.randint(20, (2, 90))
    assert not torch.equal(layer(x, edge_index), layer(x, edge_index))
    layer.eval()
    assert torch.equal(layer(x, edge_index), layer(x, edge_index))


def test_roc_auc_counts_ordered_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    out = torch.randint(10, (60, 2), generator=generator).float()
    truth = torch.rand(60, generator=generator) < 0.4
    score = out[:, 1] - out[:, 0]
    above = (score[truth][:, None] - score[~truth][None, :]).sign()
    assert training.roc_auc(out, truth.long()) == pytest.approx(float((above + 1).mean() / 2))
    with pytest.raises(ValueError, match="both positive and negative"):
        training.roc_auc(out, torch.ones(60))


def test_accuracy_counts_the_largest_entries() -> None:
    out = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7]])
    assert training.accuracy(out, torch.tensor([1, 2, 2])) == pytest.approx(2 / 3)


class Pattern:
    """A task whose scores follow a list; trains on nothing that matters."""

    device = "cpu"

    def __init__(self, scores: list[float]) -> None:
        self.left = list(scores)

    def batches(self) -> list[training.Batch]:
        return [training.Batch((torch.ones(2, 3),), torch.tensor([0, 1]))]

    def scores(self, model: torch.nn.Module) -> training.Scores:
        assert not model.training
        assert not torch.is_grad_enabled()
        value = self.left.pop(0)
        return {"val": value, "test": value + 100}


def test_fit_keeps_the_first_best_checkpoint() -> None:
    model = torch.nn.Linear(3, 2)
    states: list[dict[str, Tensor]] = []

    def remember(epoch: int, scores: training.Scores) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    task = Pattern([0.1, 0.8, 0.8, 0.3])
    found = training.fit(model, task, epochs=4, lr=0.1, on_epoch=remember, keep_best=True)
    assert (found.best_epoch, found.best["test"]) == (2, 100.8)
    assert found.last["val"] == 0.3
    summary = found.summary()
    assert found.epoch_seconds[0] > 0
    assert summary.pop("epoch_seconds") == pytest.approx(statistics.median(found.epoch_seconds))
    assert summary == {"val": 0.8, "test": 100.8, "epoch": 2}
    assert len(found.epoch_seconds) == 4
    assert found.state is not None
    assert all(torch.equal(found.state[name], states[1][name]) for name in states[1])
    assert not torch.equal(states[1]["weight"], states[3]["weight"])


def test_fit_evaluates_every_so_often_and_stops() -> None:
    epochs: list[int] = []
    training.fit(
        torch.nn.Linear(3, 2),
        Pattern([0.1, 0.2, 0.9]),
        epochs=100,
        lr=0.1,
        evaluate_every=4,
        stop=lambda scores: scores["val"] > 0.5,
        on_epoch=lambda epoch, scores: epochs.append(epoch),
    )
    assert epochs == [4, 8, 12]


def test_stand_in_has_the_size_of_cora() -> None:
    graph = standin.citation_graph()
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (2708, 10556, 1433)
    assert graph.is_undirected()
    assert not graph.has_self_loops()
    assert int(graph.y.max()) == 6
    masks = [graph.train_mask, graph.val_mask, graph.test_mask]
    assert [int(mask.sum()) for mask in masks] == [140, 500, 1000]
    assert not (masks[0] & masks[1] | masks[1] & masks[2] | masks[0] & masks[2]).any()
    assert torch.equal(graph.y[graph.train_mask].bincount(), torch.full((7,), 20))
    same = graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]
    assert 0.75 < float(same.float().mean()) < 0.9
    assert torch.equal(graph.x, standin.citation_graph().x)


def test_main_benchmark_without_data_is_labelled_everywhere(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments: list[dict[str, Any]] = []

    def measure(target: str, given: dict[str, Any]) -> fresh.Measured:
        arguments.append(given)
        return fresh.Measured(peak_bytes=2**20 * (len(arguments) + 1), base_bytes=0)

    monkeypatch.setattr(fresh, "measure", measure)
    argv = ["cora", "--no-dense", "--seeds", "2", "--epochs", "2", "--rounds", "2"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "no network" in shown
    assert [given["contestant"] for given in arguments] == ["ours", "pyg-gatv2", "gat"]

    result = json.loads((tmp_path / "cora.json").read_text())
    assert "generated stand-in" in result["stand_in"]
    assert "generated stand-in" in (tmp_path / "cora.md").read_text()
    assert (tmp_path / "cora.png").read_bytes().startswith(b"\x89PNG")
    assert result["data"]["agreement_float64"]["ours"] < 1e-10
    assert len(result["data"]["training"]["ours"]) == 2
    assert result["data"]["peak_bytes"] == {
        "ours": 2 * 2**20,
        "pyg-gatv2": 3 * 2**20,
        "gat": 4 * 2**20,
    }
    table = result["tables"][0]
    assert table["columns"] == [
        "layer",
        "test accuracy (%)",
        "epoch, sparse features",
        "epoch, dense features",
        "attention alone",
        "peak memory of a step",
    ]
    assert [row[-1] for row in table["rows"]] == ["2.00 MiB", "3.00 MiB (1.5×)", "4.00 MiB (2.0×)"]
    for what, place in (("sparse", 2), ("dense", 3), ("attention", 4)):
        seconds = result["data"]["seconds"][what]
        assert [len(times) for times in seconds.values()] == [2, 2, 2]
        ours, peer = (statistics.median(seconds[key]) for key in ("ours", "gat"))
        assert table["rows"][2][place].endswith(f" ({quantities.ratio(peer / ours)})")
        assert table["rows"][0][place] == quantities.duration(ours)


def test_dense_attention_is_trained_once_where_it_is_asked_for(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "measure", lambda *arguments: fresh.Measured(peak_bytes=2**20))
    monkeypatch.setattr(cora, "memory_available", lambda: None)
    # The bias of parallel edges is a logarithm in float32.
    monkeypatch.setattr(cora, "TOLERANCE", 1e-8)
    argv = ["cora", "--seeds", "2", "--epochs", "1", "--rounds", "1", "--dense-epochs", "1"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "cora.json").read_text())
    assert {key: len(units) for key, units in result["data"]["training"].items()} == {
        "ours": 2,
        "pyg-gatv2": 2,
        "gat": 2,
        "dense": 1,
    }
    rows = result["tables"][0]["rows"]
    assert rows[3][1].endswith(" (1 seed)")
    assert not any("not trained" in cell for row in rows for cell in row)
    assert all(cell.endswith("×)") for cell in rows[3][2:5])


@pytest.mark.parametrize("contestant", cora.ALL, ids=lambda contestant: contestant.key)
def test_attention_alone_is_the_layer_on_what_its_maps_give(contestant: Any) -> None:
    dataset = small_dataset("Cora")
    task = cora.make_task(contestant, dataset, "cpu")
    torch.manual_seed(0)
    model = cora.make_model(contestant, dataset, "auto").eval()
    layers = [model.conv1, model.conv2]
    whole = copy.deepcopy(layers)
    grads = attention_alone(layers, 40, task.edges)()
    maps = [name for name in ("lin_l", "lin_r", "lin") if getattr(whole[0], name, None) is not None]
    parameters = [len(list(layer.parameters())) for layer in layers]
    assert len(grads) == 2 * len(maps) + sum(parameters)
    # A map that gives the same: its bias gets the sum over the nodes of its output's gradient.
    for number, layer in enumerate(whole):
        for name in maps:
            given = getattr(layers[number], name).out.detach()
            linear = torch.nn.Linear(40, given.size(1))
            linear.weight.data, linear.bias.data = given.t().clone(), torch.zeros(given.size(1))
            setattr(layer, name, linear)
        out = layer(torch.eye(40), task.edges)
        torch.testing.assert_close(out, layers[number](torch.zeros(40, 1), task.edges))


@pytest.mark.parametrize(
    "argv",
    [
        ["cora", "--no-dense", "--seeds", "1", "--epochs", "1", "--rounds", "1"],
        ["citation", "--quick", "--seeds", "1", "--epochs", "1"],
        ["noise", "--datasets", "Cora", "--seeds", "1", "--epochs", "1", "--noise", "0,0.5"],
        ["attention", "--k", "3", "--seeds", "1", "--epochs", "1", "--lookup-epochs", "1"],
        ["speed", "--cases", "cora", "--budget", "0.01", "--device", "cpu", "--no-compile"],
    ],
    ids=lambda argv: argv[0],
)
def test_generated_data_are_named_once_in_every_table_and_picture(
    argv: list[str], nowhere: Path, tmp_path: Path, same_process: Any
) -> None:
    assert main([*argv, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    assert len(result["tables"]) >= 1
    for shown in (*result["tables"], *result["pictures"]):
        text = json.dumps({key: value for key, value in shown.items() if key != "alt"})
        assert text.count("stand-in") == 1, text
        assert "generated stand-in for Cora" in shown.get("title", shown.get("caption", ""))
    assert main(["report", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    for table in re.findall(r"<table>.*?</table>", page, flags=re.DOTALL):
        assert table.count("stand-in") == 1


def test_a_layer_that_disagrees_is_not_timed(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cora, "_disagreement", lambda *arguments: 1e-3)
    monkeypatch.setattr(fresh, "measure", lambda *arguments: fresh.Measured(failure="memory"))
    argv = ["cora", "--no-dense", "--seeds", "1", "--epochs", "1", "--rounds", "1"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "cora.json").read_text())
    assert all("ours" not in seconds for seconds in result["data"]["seconds"].values())
    assert result["tables"][0]["rows"][0][2:5] == ["disagrees, not timed"] * 3
    assert any("Memory of" in note for note in result["notes"])


def test_other_data_sets_are_not_replaced(nowhere: Path, tmp_path: Path, capsys: Any) -> None:
    out = ["--out", str(tmp_path / "results")]
    assert main(["heterophily", "--quick", *out]) == 2
    assert main(["citation", "--datasets", "CiteSeer", *out]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "Minesweeper" in errors[0]
    assert "CiteSeer" in errors[1]


def test_read_only_data_is_linked_and_never_written_to(nowhere: Path, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    raw = tmp_path / "shared" / "minesweeper" / "raw"
    raw.mkdir(parents=True)
    masks = numpy.ones((10, 4), dtype=bool)
    numpy.savez(
        raw / "minesweeper.npz",
        node_features=numpy.ones((4, 7), dtype=numpy.float32),
        node_labels=numpy.array([0, 1, 0, 1]),
        edges=numpy.array([[0, 1], [1, 2]]),
        train_masks=masks,
        val_masks=masks,
        test_masks=masks,
    )
    dataset = data.load("Minesweeper", tmp_path / "shared")
    assert (dataset.data.num_nodes, dataset.num_classes) == (4, 2)
    written = {path.name for path in (tmp_path / "shared").rglob("*")}
    assert written == {"minesweeper", "raw", "minesweeper.npz"}
    assert list(nowhere.rglob("processed/data.pt"))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_random_edges_are_new_and_undirected(share: float) -> None:
    edge_index = standin.citation_graph().edge_index
    noisy = noise.add_random_edges(edge_index, 2708, share, seed=1)
    added = noisy[:, edge_index.size(1) :]
    assert added.size(1) == 2 * round(share * edge_index.size(1) / 2)
    codes = noisy[0] * 2708 + noisy[1]
    assert codes.unique().numel() == codes.numel()
    assert not (added[0] == added[1]).any()
    assert torch.equal(added.flip(0).sort(dim=1).values, added.sort(dim=1).values)
    assert torch.equal(noise.add_random_edges(edge_index, 2708, share, seed=1), noisy)
    other = noise.add_random_edges(edge_index, 2708, share, seed=2)
    assert torch.equal(other, noisy) == (share == 0)


@pytest.mark.parametrize(
    "argv",
    [
        ["citation", "--datasets", "Cora,CiteSeer", "--seeds", "2"],
        ["noise", "--datasets", "Cora", "--seeds", "2", "--noise", "0,0.5"],
        ["heterophily", "--datasets", "Minesweeper", "--seeds", "2", "--rounds", "1"],
    ],
)
def test_studies_write_their_files(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stem = argv[0]
    for module in ("citation", "heterophily"):
        monkeypatch.setattr(f"benchmarks.studies.{module}.load", small_dataset)
    monkeypatch.setattr(
        "benchmarks.studies.noise.load_or_stand_in", lambda name, *_: small_dataset(name)
    )
    assert main([*argv, "--epochs", "2", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / f"{stem}.json").read_text())
    assert result["stand_in"] is None
    assert result["environment"]["versions"]["torch"] == torch.__version__
    assert (tmp_path / f"{stem}.png").stat().st_size > 10_000
    assert result["headline"] in (tmp_path / f"{stem}.md").read_text()


@pytest.mark.parametrize(
    ("gat", "gatv2", "verdict"),
    [
        (
            [0.80, 0.81, 0.82],
            [0.80, 0.82, 0.82],
            "+0.3 points, 95 % interval -2.1 to 2.8: no difference seen",
        ),
        (
            [0.800, 0.801, 0.802],
            [0.805, 0.806, 0.807],
            "+0.5 points, 95 % interval 0.3 to 0.7: a tie within 1 point",
        ),
        (
            [0.800, 0.801, 0.802],
            [0.700, 0.701, 0.702],
            "-10.0 points, 95 % interval -10.2 to -9.8",
        ),
        ([0.80], [0.82], "+2.0 points"),
    ],
)
def test_citation_judges_by_the_interval_of_the_difference(
    gat: list[float], gatv2: list[float], verdict: str
) -> None:
    found = {
        ("Cora", key): [{"test": test} for test in tests]
        for key, tests in (("gat", gat), ("gatv2", gatv2))
    }
    headline = citation._headline([small_dataset("Cora")], found, len(gat))
    assert f"(GATv2 {verdict})" in headline


def test_noise_names_an_order_only_where_seeds_are_many_and_bands_apart() -> None:
    dataset = small_dataset("Cora")

    def headline(losses: dict[str, list[float]]) -> str:
        found = {
            ("Cora", key, share): [{"test": 0.8 - share * loss} for loss in of_seeds]
            for key, of_seeds in losses.items()
            for share in (0.0, 0.5)
        }
        return noise._headline([dataset], found, [0.0, 0.5])

    apart = {"gat": [0.2, 0.21, 0.22], "gatv2": [0.1, 0.11, 0.12]}
    many = {key: 2 * values for key, values in apart.items()}
    assert "GAT loses 10.5, GATv2 loses 5.5 points" in headline(many)
    assert "GAT and GATv2 lose 5.5 to 10.5 points (no order" in headline(apart)
    close = {"gat": [0.2, 0.22] * 3, "gatv2": [0.19, 0.21] * 3}
    assert "GAT and GATv2 lose 10.0 to 10.5 points (no order" in headline(close)


def test_noise_bands_are_ranges_where_seeds_are_few() -> None:
    assert noise._band([1.0, 2.0, 6.0]) == (1.0, 6.0)
    low, high = noise._band([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (low, high) == pytest.approx((3 - 2.5**0.5, 3 + 2.5**0.5))
    assert noise._bands_text([2, 3]) == "from the lowest to the highest seed"
    assert noise._bands_text([10, 5]) == "one standard deviation to each side"
    assert "where they are fewer than 5" in noise._bands_text([10, 2])


def test_lookup_task_is_what_the_paper_describes() -> None:
    task = lookup_task.LookupTask(4, graphs=2000, seed=0)
    together = torch.cat([task.train, task.test])
    assert together.unique(dim=0).shape == (24, 4)
    assert torch.equal(together.sort(dim=1).values, torch.arange(4).expand(24, 4))
    assert task.train.size(0) == 19
    edges = lookup_task.all_pairs(3, 2)
    expected = {(3 * g + j, 3 * g + i) for g in range(2) for j in range(3) for i in range(3)}
    assert {tuple(edge) for edge in edges.t().tolist()} == expected
    batch = next(iter(task.batches()))
    assert torch.equal(batch.target, batch.inputs[0].flatten())


def test_lookup_is_compared_with_the_paper_where_it_differs() -> None:
    sizes = [4, 10]
    scores = {
        (1, "ours", 4): [(1.0, 1.0), (1.0, 0.995)],
        (1, "ours", 10): [(1.0, 1.0), (0.7, 0.6)],
        (1, "fused-gat", 4): [(0.8, 0.5), (0.9, 0.6)],
        (1, "fused-gat", 10): [(0.2, 0.2), (0.2, 0.2)],
        (8, "fused-gat", 4): [(1.0, 0.8), (1.0, 0.9)],
        (8, "fused-gat", 10): [(0.7, 0.68), (0.9, 0.88)],
    }
    found = {
        key: [{"train": train, "test": test} for train, test in units]
        for key, units in scores.items()
    }
    headline = dictionary_lookup._headline(found, sizes, [1, 8], 2)
    assert "every seed for k = 4, not for k = 10." in headline
    note = dictionary_lookup._beside_the_paper(found, sizes, [1, 8], 100, 2000)
    assert "below 99 % with some seed for k = 10 (lowest: 60 %)" in note
    assert "GAT with one head goes from 85 % (k = 4) to 20 % (k = 10)" in note
    assert "at most 15.0 points worse on test than on train (k = 4)" in note
    assert "at least 80 % (k = 10)" in note
    assert "100 epochs on 1,600 graphs" in note


def test_only_dynamic_attention_looks_up(tmp_path: Path) -> None:
    argv = ["dictionary-lookup", "--k", "10", "--heads", "1", "--seeds", "1", "--epochs", "6"]
    assert main([*argv, "--graphs", "800", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "dictionary-lookup.json").read_text())
    scores = {entry["model"]: entry["seeds"][0] for entry in result["data"]}
    for part in ("train", "test"):
        assert scores["ours"][part] >= 0.99
        assert scores["fused-gat"][part] < 0.5


def test_contestants_share_their_first_weights() -> None:
    """Layers of equal shape start from equal weights, so seeds are comparable."""
    made = []
    for contestant in (contestants.OURS, contestants.PYG_GATV2):
        torch.manual_seed(3)
        made.append(TwoLayerGAT(contestant, 12, 4))
    first, second = (model.state_dict() for model in made)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
