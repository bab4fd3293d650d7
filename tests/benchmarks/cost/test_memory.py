"""The benchmark memory: what its tables say of made-up peaks, and a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.cost import memory, memory_report
from benchmarks.layers.contestants import GAT, OURS, PYG_GATV2, SCATTER

MIB = 2**20


def layer(mib: int | None, failure: str | None = None) -> dict[str, Any]:
    return {"peak_bytes": None if mib is None else mib * MIB, "failure": failure}


def test_every_cell_says_what_was_measured() -> None:
    layers = {
        "ours": layer(100),
        "pyg-gatv2": layer(1700),
        "gat": layer(450),
        "scatter": layer(None, "memory"),
    }
    other = {
        "ours": layer(200),
        "pyg-gatv2": layer(500),
        "gat": layer(190),
        "scatter": layer(None, "ImportError: x"),
    }
    data = {
        "random-8x16": {"label": "random", "layers": layers},
        "star": {"label": "star", "layers": other},
    }
    result = memory_report.result(data, {}, "cpu", memory.CONTESTANTS)
    required, peaks = result.tables
    assert peaks.columns == [
        "nodes/edges, H×C",
        "GATv2 (ours)",
        "GATv2 (PyG)",
        "GAT",
        "ours, scatter",
    ]
    assert peaks.rows == [
        ["random", "100 MiB", "1.66 GiB, 17×", "450 MiB, 4.5×", "out of memory"],
        ["star", "200 MiB", "500 MiB, 2.5×", "190 MiB, 0.95×", "–"],
    ]
    assert [row[1:] for row in required.rows] == [["random", "≥ 12.0×", "17.0×", "met"]]
    assert result.headline == (
        "A training step on random needs 100 MiB over its inputs; PyG's GATv2Conv needs 17× as "
        "much."
    )
    assert result.verdict == "1 of 1 requirements met."
    assert "gatv2_pyg, backend scatter has no figure on star: ImportError: x." in result.notes


def test_memory_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CONTESTANTS", (OURS, PYG_GATV2))
    arguments = ["--device", "cpu", "--out", str(tmp_path), "--cases", "random-8x16"]
    assert main(["memory", *arguments, "--scale", "0.2"]) == 0
    result = json.loads((tmp_path / "memory.json").read_text())
    layers = result["data"]["random-8x16"]["layers"]
    assert layers["ours"]["failure"] is None
    assert layers["ours"]["value"]["edges"] == 200_000
    # PyG keeps several [E, H, C] tensors, of 100 MB each.
    assert layers["pyg-gatv2"]["peak_bytes"] > 3e8
    assert result["tables"][0]["title"] == "Must reach"
    ours, pyg = (layers[key]["peak_bytes"] / MIB for key in ("ours", "pyg-gatv2"))
    (row,) = result["tables"][1]["rows"]
    assert row == [
        "random 10k/200k, 8×16",
        f"{ours:.1f} MiB",
        f"{pyg:.0f} MiB, {pyg / ours:.0f}×",
    ]


def test_each_layer_takes_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_process: Any
) -> None:
    """Peaks are made up, 1 MiB for the first step and one more for each after it."""
    monkeypatch.setattr(memory, "CONTESTANTS", (OURS, PYG_GATV2, GAT))
    arguments = ["--device", "cpu", "--out", str(tmp_path), "--cases", "random-8x16,molecules"]
    assert main(["memory", *arguments, "--scale", "0.004"]) == 0
    result = json.loads((tmp_path / "memory.json").read_text())
    assert [row[1:] for row in result["tables"][1]["rows"]] == [
        ["1.00 MiB", "2.00 MiB, 2.0×", "3.00 MiB, 3.0×"],
        ["4.00 MiB", "5.00 MiB, 1.2×", "6.00 MiB, 1.5×"],
    ]


@pytest.mark.parametrize("contestant", [OURS, PYG_GATV2, GAT, SCATTER], ids=lambda c: c.key)
def test_a_step_is_of_the_layer_asked_for(contestant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    real = memory.module_of

    def module_of(*arguments: Any) -> Any:
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr(memory, "module_of", module_of)
    case = memory.dataclasses.asdict(memory.CASES["random-8x16"].scaled(0.001))
    memory.step(case, contestant.key, "cpu", "reference", None)
    modules = {type(module).__module__.split(".")[0] for module in made}
    assert modules == {"gatv2_pyg" if contestant in (OURS, SCATTER) else "torch_geometric"}
    name = "GATConv" if contestant is GAT else "GATv2Conv"
    assert {type(module).__name__ for module in made} == {name}
    if contestant in (OURS, SCATTER):
        wanted = "scatter" if contestant is SCATTER else "reference"
        assert {module.backend for module in made} == {wanted}
