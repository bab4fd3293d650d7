"""The attention study end to end on a small scale, and the pieces that choose what is drawn."""

import json

import pytest
import torch
from torch_geometric.data import Data

from benchmarks.cli import main
from benchmarks.datasets import data
from benchmarks.layers.contestants import GAT, OURS
from benchmarks.studies import attention

TINY = ["--seeds", "1", "--epochs", "2", "--k", "4", "--lookup-epochs", "8", "--threads", "1"]


@pytest.fixture
def no_data(monkeypatch):
    def missing(name, root=None):
        raise data.MissingData(f"no {name} here")

    monkeypatch.setattr(data, "load", missing)


def test_whole_run(tmp_path, no_data, capsys):
    command = ["attention", "--out", str(tmp_path), *TINY]
    assert main(command) == 0
    assert "no Cora here; using a generated stand-in" in capsys.readouterr().out.replace("\n", " ")
    result = json.loads((tmp_path / "attention.json").read_text())
    assert {path.name for path in tmp_path.glob("attention*")} == {
        "attention.json",
        "attention.md",
        "attention.png",
        "attention-heads.png",
        "attention-paper.png",
    }
    assert "stand-in" in result["tables"][0]["title"]

    for study, layers in (("lookup-1", 1), ("lookup-8", 1), ("cora", 2)):
        for contestant in (GAT, OURS):
            units = result["data"][study][contestant.key]
            assert len(units) == 1
            for unit in units:
                assert len(unit["layers"]) == layers
                for layer in unit["layers"]:
                    assert all(-1 <= tau <= 1 for tau in layer["tau"])
                    assert all(0 <= e <= 1 + 1e-6 for e in layer["normalized_entropy"])
                    if contestant is GAT:
                        assert min(layer["tau"]) > 0.999
    solved = result["data"]["lookup-1"][OURS.key][0]
    assert solved["train"] == 1
    assert solved["layers"][0]["tau"][0] < 0.6
    assert torch.tensor(solved["matrix"]).argmax(dim=1).tolist() == [0, 1, 2, 3]
    assert len(result["tables"][0]["rows"]) == 8


def test_drawn_paper_is_chosen_by_the_graph():
    """Ten leaves around each of two test papers; the second one's have more classes."""
    leaves = torch.arange(2, 22)
    centre = torch.arange(20) // 10
    y = torch.zeros(23, dtype=torch.long)
    y[12:22] = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    graph = Data(
        x=torch.zeros(23, 1),
        y=y,
        edge_index=torch.stack([leaves, centre]),
        test_mask=torch.arange(23) < 2,
    )
    assert attention.drawn_paper(graph) == 1
    graph.test_mask[1] = False
    assert attention.drawn_paper(graph) == 0


def test_bad_options(capsys):
    assert main(["attention", "--k", "1"]) == 2
    assert "--k" in capsys.readouterr().err
