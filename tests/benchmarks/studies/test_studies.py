"""The accuracy studies at a tiny size: what they compute and write."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.cli import main
from benchmarks.datasets import standin
from benchmarks.datasets.data import Dataset
from benchmarks.studies import (
    citation,
    dictionary_lookup,
    lookup_task,
    node_classification,
    noise,
    training,
)
from tests.benchmarks.small import small_dataset


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
