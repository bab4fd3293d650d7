"""The study of molecules: what it computes, what it shows, and what it says where files lack."""

from __future__ import annotations

import builtins
import json
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cli import main
from benchmarks.datasets import data
from benchmarks.harness import quantities
from benchmarks.layers.contestants import GAT, OURS, PYG_GATV2
from benchmarks.studies.molecules import batches, esol, report
from tests.benchmarks.small import small_molecules


@pytest.fixture
def molecules(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(esol, "load_molecules", small_molecules)
    return small_molecules()


def run(tmp_path: Path, *argv: str) -> dict[str, Any]:
    assert main(["molecules", *argv, "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("molecules*.json")
    return json.loads(path.read_text())


def test_the_tables_are_the_numbers_behind_them(molecules: Any, tmp_path: Path) -> None:
    result = run(tmp_path, "--seeds", "3", "--epochs", "2", "--rounds", "2")
    errors, clock, required = result["tables"]
    trained = {entry["model"]: entry["seeds"] for entry in result["data"]["training"]}
    tests = {key: [unit["test"] for unit in units] for key, units in trained.items()}
    for row, variant in zip(errors["rows"], report.VARIANTS, strict=True):
        values = tests[variant.key]
        low, high = quantities.interval(values)
        assert row[0] == variant.label
        assert row[1] == f"{statistics.mean(values):.3f} ± {(high - low) / 2:.3f}"
    pairs = [b - a for a, b in zip(tests["gatv2-edges"], tests["gat"], strict=True)]
    assert errors["rows"][3][2].startswith(f"{statistics.mean(pairs):+.3f} (95 % interval ")
    seconds = result["data"]["seconds"]
    for place, what in ((1, "epoch"), (3, "attention")):
        ours, peer = (statistics.median(seconds[what][key]) for key in ("ours", "pyg-gatv2"))
        assert clock["rows"][1][place] == quantities.duration(peer)
        assert clock["rows"][1][place + 1] == quantities.ratio(peer / ours)
        if what == "epoch":
            assert required["rows"][0][2:] == ["≥ 3.00×", *_verdict(peer / ours, 3)]
    assert result["data"]["agreement_float64"] < report.TOLERANCE
    assert "20 molecules, 5.0 atoms and 2.00 edges an atom" in clock["title"]
    assert "RMSE" in result["headline"]


def _verdict(ratio: float, limit: float) -> list[str]:
    shown = f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"
    return [shown, "met" if ratio >= limit else "not met"]


def test_layers_can_be_timed_without_training(molecules: Any, tmp_path: Path) -> None:
    result = run(tmp_path, "--no-training", "--quick", "--rounds", "1")
    assert [table["columns"][1] for table in result["tables"]] == ["training epoch", "case"]
    assert not any(entry["seeds"] for entry in result["data"]["training"])
    assert result["headline"].startswith("A training epoch takes ")


def test_a_layer_that_disagrees_is_not_timed(
    molecules: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "disagreement", lambda *args, **kwargs: 1e-3)
    result = run(tmp_path, "--no-training", "--rounds", "1")
    assert result["tables"][0]["rows"][0][1:] == ["disagrees, not timed", "–"] * 2
    assert "ours" not in result["data"]["seconds"]["epoch"]
    assert [row[3:] for row in result["tables"][1]["rows"]] == [["–", "not measured"]] * 2
    assert "disagrees" in result["headline"]


def test_bond_features_and_gradients_are_compared() -> None:
    task = batches.MoleculeTask(small_molecules(), 0)
    (batch,) = task.batches()
    torch.manual_seed(0)
    reference = batches.make_model(PYG_GATV2, "auto", edges=True).double()
    found = batches.disagreement(OURS, reference, batch, "cpu", "auto")
    assert found < 1e-12
    with torch.no_grad():
        model = batches.make_model(OURS, "auto", edges=True).double()
        model.load_state_dict(reference.state_dict())
        x, edges, bonds, *rest = batch.inputs
        changed = model(x.double(), edges, bonds.double() + 1, *rest)
        plain = model(x.double(), edges, bonds.double(), *rest)
    assert (changed - plain).abs().max() > 1e-3


def test_splits_are_disjoint_and_the_seeds_own() -> None:
    rings = small_molecules()
    first, again, other = (batches.MoleculeTask(rings, seed) for seed in (0, 0, 1))
    assert [id(m) for m in first.train] == [id(m) for m in again.train]
    assert [id(m) for m in first.train] != [id(m) for m in other.train]
    assert len(first.train) == 16
    held_out = sum(part.target.numel() for part in first._parts.values())
    assert held_out == 4
    targets = torch.cat([batch.target for batch in first.batches()])
    assert targets.mean().abs() < 1e-5
    epochs = [first.batches()[0].target for _ in range(2)]
    assert not torch.equal(*epochs)
    assert torch.equal(*(epoch.sort().values for epoch in epochs))


def test_errors_are_those_of_the_predictions() -> None:
    task = batches.MoleculeTask(small_molecules(), 0)

    class Constant(torch.nn.Module):
        def forward(self, x: Any, edges: Any, bonds: Any, molecule: Any, count: int) -> Any:
            return torch.zeros(count)

    scores = task.scores(Constant())
    targets = task._parts["test"].target
    assert scores["test"] == pytest.approx(float((targets - task.mean).square().mean().sqrt()))
    assert scores["val"] < 0


@pytest.mark.parametrize("contestant", [OURS, PYG_GATV2, GAT], ids=lambda c: c.key)
def test_every_step_sees_a_new_graph(contestant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = batches.MoleculeTask(small_molecules(), 0)
    seen: list[Any] = []
    original = batches.MoleculeGAT.forward

    def forward(self: Any, x: Any, edges: Any, *rest: Any) -> Any:
        seen.append(edges)
        return original(self, x, edges, *rest)

    monkeypatch.setattr(batches.MoleculeGAT, "forward", forward)
    run_epoch = batches.epoch(contestant, task.batches(), "cpu", "auto")
    run_epoch(), run_epoch()
    assert len({id(edges) for edges in seen}) == len(seen) == 2
    assert torch.equal(*seen)


def test_without_rdkit_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def no_rdkit(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "rdkit":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_rdkit)
    assert main(["molecules", "--quick", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "rdkit" in error
    assert error.count("\n") == 1


def test_without_the_file_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rdkit")
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(data, "own_folder", lambda: own)
    monkeypatch.setattr(data, "_reachable", lambda url: f"no network to {url}")
    monkeypatch.delenv("GATV2_PYG_DATA", raising=False)
    assert main(["molecules", "--quick", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "data set ESOL is neither in --data" in error
    assert "delaney-processed.csv" in error
    assert error.count("\n") == 1


def test_the_real_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    monkeypatch.setattr(data, "_reachable", lambda url: "not asked")
    try:
        found = data.load_molecules(os.environ.get("GATV2_PYG_DATA"))
    except data.MissingData:
        pytest.skip("the file of ESOL is not here")
    assert len(found) == 1128
    assert found[0].x.size(1) == batches.ATOM_FEATURES
    assert found[0].edge_attr.size(1) == batches.BOND_FEATURES
