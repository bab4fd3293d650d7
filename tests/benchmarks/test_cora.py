"""The main job without data: what it computes, writes and labels."""

from __future__ import annotations

import copy
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cora
from benchmarks.cli import main
from benchmarks.harness import quantities
from benchmarks.harness.measuring import fresh
from benchmarks.layers.attention_alone import attention_alone
from tests.benchmarks.small import small_dataset


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
