"""The benchmark speed: what its tables say of made-up times, and a small run of all of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cli import main
from benchmarks.cost import bench, speed, speed_report, targets
from benchmarks.harness import quantities
from benchmarks.harness.measuring.race import Raced
from benchmarks.layers import requirements
from benchmarks.layers.contestants import COMPARED
from gatv2_pyg import GATv2Conv

# Seconds of a call by contestant: no two alike, nor any of their ratios.
FORWARD = {
    "ours": 0.010,
    "cold": 0.013,
    "ours-compiled": 0.008,
    "pyg-gatv2": 0.31,
    "compiled": 0.17,
    "gat": 0.11,
    "scatter": 0.23,
}
STEP = {
    "ours": 0.100,
    "cold": 0.14,
    "ours-compiled": 0.09,
    "pyg-gatv2": 1.7,
    "compiled": 1.2,
    "gat": 1.02,
    "scatter": 1.9,
}


def raced(times: Mapping[str, float], over: str) -> dict[str, Any]:
    """Three rounds: the first at 0.9, the last at 1.2 of the times, all ratios alike."""
    seconds = {name: [0.9 * value, value, 1.2 * value] for name, value in times.items()}
    return Raced(seconds, dict.fromkeys(times, 1)).summary(over)


def a_case(label: str) -> dict[str, Any]:
    kernels = {"gather": 0.002, "forward": 0.003, "step": 0.020, "backward": 0.017}
    return {
        "label": label,
        "edges": 1,
        "stand_in": None,
        "errors": {
            "ours": {"out": 1e-7, "grad x": 4e-7, "grad att": 9e-7},
            "pyg-gatv2": {"out": 2e-7, "grad x": 5e-7, "grad att": 3e-7},
        },
        "failures": {},
        "forward": raced(FORWARD, "ours"),
        "step": raced(STEP, "ours"),
        "kernels": raced(kernels | {"group": 0.004, "group both": 0.007}, "gather"),
    }


@pytest.fixture
def data() -> dict[str, Any]:
    kept = {"forward": raced({"ours": 0.010, "pyg-gatv2": 0.13, "gat": 0.06}, "ours")}
    kept["step"] = raced({"ours": 0.110, "pyg-gatv2": 0.88, "gat": 0.44}, "ours")
    return {
        "device": "cpu",
        "cases": {"random-8x16": a_case("random"), "star": a_case("star")},
        "memory kept": kept | {"label": "random", "failures": {}, "measured": "apart"},
        "hubs": {
            "forward": raced({"random-8x16": 1.0, "star": 1.6}, "random-8x16"),
            "step": raced({"random-8x16": 2.0, "star": 2.6}, "random-8x16"),
        },
        "dropout": {"random-8x16": raced({"none": 1.0, "dropout": 1.1}, "none")},
        "overhead": {
            "forward": raced({"ours": 1e-4, "pyg-gatv2": 2e-4, "gat": 3e-4}, "ours"),
            "training step": raced({"ours": 4e-4, "pyg-gatv2": 5e-4, "gat": 6e-4}, "ours"),
        },
        "repeatability": {"random-8x16": {"label": "random", "ours": 19}},
    }


SETTINGS = {"scale": 1.0, "seed": 0}


def tables(data: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The rows of each table, their heads first, by title."""
    found = speed_report.result(data, SETTINGS).tables
    return {table.title: [list(table.columns), *map(list, table.rows)] for table in found}


def test_every_table_says_what_was_measured(data: dict[str, Any]) -> None:
    found = tables(data)
    heads = ["nodes/edges, H×C", "GATv2 (ours)", "ours, new graph", "ours compiled"]
    heads += ["GATv2 (PyG)", "PyG compiled", "GAT", "ours, scatter"]
    assert found["Whole layer, forward"][:2] == [
        heads,
        [
            "random",
            "10.0 ms",
            "13.0 ms",
            "8.00 ms, 0.80× (0.8–0.8)",
            "310 ms, 31× (31–31)",
            "170 ms, 17× (17–17)",
            "110 ms, 11× (11–11)",
            "230 ms, 23× (23–23)",
        ],
    ]
    assert found["Whole layer, training step"][1] == [
        "random",
        "100 ms",
        "140 ms",
        "90.0 ms, 0.90× (0.9–0.9)",
        "1.70 s, 17× (17–17)",
        "1.20 s, 12× (12–12)",
        "1.02 s, 10× (10.2–10.2)",
        "1.90 s, 19× (19–19)",
    ]
    assert found["Where the allocator keeps memory: random"] == [
        ["whole layer", "GATv2 (ours)", "GATv2 (PyG)", "GAT"],
        ["forward", "10.0 ms", "130 ms, 13× (13–13)", "60.0 ms, 6.0× (6–6)"],
        ["training step", "110 ms", "880 ms, 8.0× (8–8)", "440 ms, 4.0× (4–4)"],
    ]
    assert found["Attention kernels alone, against the floor"][1] == [
        "random",
        "2.00 ms",
        "3.00 ms",
        "1.5× (1.5–1.5)",
        "20.0 ms",
        "3.3× (3.33–3.33)",
        "4.00 ms",
        "7.00 ms",
    ]
    assert found["Hubs: this layer on graphs of as many edges"][1:] == [
        ["random", "1.00 s", "–", "2.00 s", "–"],
        ["star", "1.60 s", "1.6× (1.6–1.6)", "2.60 s", "1.3× (1.3–1.3)"],
    ]
    assert found["Attention dropout, training step of this layer"][1:] == [
        ["random", "1.00 s", "1.10 s", "1.1× (1.1–1.1)"]
    ]
    assert found["Overhead of a call"] == [
        ["30 nodes, 90 edges, 8×16", "GATv2 (ours)", "GATv2 (PyG)", "GAT", "PyG ÷ ours"],
        ["forward", "100 µs", "200 µs", "300 µs", "2.0× (2–2)"],
        ["training step", "400 µs", "500 µs", "600 µs", "1.2× (1.25–1.25)"],
    ]
    assert found["Runs with the same bits"][1:] == [["random", f"19 of {targets.RUNS}"]]
    errors = found["Errors against float64, before anything is timed"]
    assert errors[1] == ["random", "1.0e-07", "2.0e-07", "att", "9.0e-07", "3.0e-07", "passed"]


def test_the_headline_names_both_allocators_and_no_requirement(data: dict[str, Any]) -> None:
    result = speed_report.result(data, SETTINGS)
    assert result.headline == (
        "On random a training step takes 100 ms, 17× faster than PyG's GATv2Conv (8.0× where the "
        "allocator keeps memory), 12× than PyG under torch.compile, 10× than PyG's GATConv "
        "(4.0×); forward 31× (13×)."
    )
    assert result.verdict == "6 of 12 requirements met."
    del data["memory kept"]
    assert "17× faster than PyG's GATv2Conv, 12×" in speed_report.result(data, SETTINGS).headline


def test_what_could_not_be_timed_is_said(data: dict[str, Any]) -> None:
    (first, _) = data["cases"].values()
    first["failures"] = {"scatter": "can't run: ImportError: x", "compiled": "wrong: out errs"}
    for what in ("forward", "step"):
        first[what] = raced({"ours": 1.0, "pyg-gatv2": 3.0}, "ours")
    del first["kernels"]
    data["memory kept"] = {"failure": "timeout"}
    found = tables(data)
    assert found["Whole layer, forward"][1][5:] == [
        "wrong: out errs",
        "–",
        "can't run: ImportError: x",
    ]
    assert found["Attention kernels alone, against the floor"][1][1:] == ["–"] * 7
    notes = speed_report.result(data, SETTINGS).notes
    assert "Not measured with memory kept: timeout." in notes
    assert "gatv2_pyg, backend scatter: can't run: ImportError: x (random)." in notes


def test_verdicts_are_computed_from_the_data(data: dict[str, Any]) -> None:
    data["cases"]["cora"] = a_case("bags")
    found = {
        (target.what, target.where, target.goal): (target.measured, target.met)
        for target in targets.targets(data)
    }
    assert found == {
        ("forward, PyG GATv2Conv over this layer", "random", False): (31, True),
        ("training step, PyG GATv2Conv", "random", False): (17, False),
        ("training step, PyG under torch.compile", "random", False): (12, True),
        ("training step, PyG GATConv", "random", False): (10.2, True),
        ("forward kernel over the floor", "random", False): (1.5, True),
        ("forward kernel over the floor", "random", True): (1.5, True),
        ("step kernels over the floor", "random", True): (10 / 3, False),
        ("forward, over the random graph", "star", False): (1.6, False),
        ("training step, over the random graph", "star", False): (1.3, True),
        ("training step, with dropout over without", "random", False): (1.1, True),
        ("training step, PyG GATv2Conv", "bags", False): (17, True),
        ("training step, PyG GATConv", "bags", False): (10.2, True),
        ("forward, this layer over PyG GATv2Conv", "30 nodes", False): (0.5, False),
        ("training step, this layer over PyG GATv2Conv", "30 nodes", False): (0.8, False),
        ("forward, new graph, this layer over PyG GATv2Conv", "30 nodes", False): (None, None),
        (f"runs of {targets.RUNS} with the same bits", "random", False): (19, False),
    }
    rows = requirements.table(targets.targets(data)).rows
    assert rows[0] == [
        "forward, PyG GATv2Conv over this layer",
        "random",
        "≥ 30.0×",
        "31.0×",
        "met",
    ]
    assert [row[-1] for row in rows].count("goal met") == 1
    assert rows[-2][3:] == ["–", "not measured"]


def test_cuda_requirements() -> None:
    value = {
        "label": "large",
        "failures": {},
        "step": raced({"ours": 1.0, "pyg-gatv2": 12.0, "compiled": 3.0}, "ours"),
        "kernels": raced({"gather": 1, "forward": 2, "step": 14, "backward": 12}, "gather"),
    }
    data = {"device": "cuda", "cases": {"large-8x16": value}, "repeatability": {}}
    assert [(target.measured, target.met) for target in targets.targets(data)] == [
        (12.0, True),
        (3.0, False),
        (2.0, True),
        (4.0, False),
    ]


SMALL = ["--device", "cpu", "--scale", "0.002", "--budget", "0.02", "--no-compile"]


def run(out: Path, *more: str) -> dict[str, Any]:
    assert main(["speed", *SMALL, "--out", str(out), *more]) == 0
    return json.loads((out / "speed.json").read_text())


@pytest.fixture
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RUNS", 2)
    monkeypatch.setattr(bench, "TINY_CALLS", 2)


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the part that takes a fresh process."""
    monkeypatch.setattr(speed, "allocator_gives_back", lambda device: False)


def test_speed_from_the_command_line(tmp_path: Path, few_runs: None) -> None:
    """Every cell of the layers' tables is the median of the file, in the column of its layer."""
    result = run(tmp_path, "--cases", "random-8x16,star,blocks")
    found = result["data"]["cases"]
    assert list(found) == ["random-8x16", "star", "blocks"]
    by_title = {table["title"]: table for table in result["tables"]}
    for what, title in (("forward", "forward"), ("step", "training step")):
        table = by_title[f"Whole layer, {title}"]
        for value, row in zip(found.values(), table["rows"], strict=True):
            assert value["failures"].keys() <= {"scatter"}
            for head, cell in zip(table["columns"][1:], row[1:], strict=True):
                (key,) = (key for key, c in COMPARED.items() if c.short == head)
                if key in value["failures"]:
                    continue
                low, median, high = value[what]["seconds"][key]
                assert 0 < low <= median <= high
                assert cell.split(",")[0] == quantities.duration(median)
                if key not in ("ours", "cold"):
                    ratio = value[what]["ratios"][key]
                    assert cell.split(", ")[1].split(" ")[0] == quantities.ratio(ratio[1])
    assert result["data"]["repeatability"]["random-8x16"]["ours"] == 2
    kept = result["data"].get("memory kept")
    assert (kept is not None) == speed.allocator_gives_back("cpu")
    if kept is not None:
        assert kept["failures"] == {}
        assert min(kept["step"]["ratios"]["pyg-gatv2"]) > 0
        assert "where the allocator keeps memory" in result["headline"]
    titles = list(by_title)
    assert titles[0] == "Must reach"
    assert {"Overhead of a call", "Hubs: this layer on graphs of as many edges"} <= set(titles)
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert "faster than PyG" in result["headline"]


@pytest.mark.parametrize("name", ["bfloat16", "autocast"])
@pytest.mark.usefixtures("few_runs", "in_one_process")
def test_half_precision_is_checked_and_timed(tmp_path: Path, name: str) -> None:
    """In the precision of the case: errors of all are those of bfloat16, and PyG's no smaller."""
    result = run(tmp_path, "--cases", name, "--scale", "0.004")
    (value,) = result["data"]["cases"].values()
    assert "ours" not in value["failures"]
    assert value["label"].endswith(f"8×16, {name}")
    assert 1e-4 < max(value["errors"]["pyg-gatv2"].values()) < 0.1
    for what in ("forward", "step"):
        assert {"ours", "pyg-gatv2", "gat"} <= value[what]["seconds"].keys()
    assert "kernels" not in value
    (table,) = [t for t in result["tables"] if t["title"].startswith("Attention kernels alone")]
    assert table["rows"] == [[value["label"], *["–"] * 7]]


def test_both_layers_are_compiled_where_one_is() -> None:
    case = speed.CASES["tolokers"]
    keys = [c.key for c in speed.contestants_for(case, "cpu", compile=True)]
    assert {"compiled", "ours-compiled"} <= set(keys)
    keys = [c.key for c in speed.contestants_for(case, "cpu", compile=False)]
    assert not {"compiled", "ours-compiled"} & set(keys)


@pytest.mark.usefixtures("few_runs", "in_one_process")
def test_steps_take_longer_than_the_forward_within_them(tmp_path: Path) -> None:
    """The rows of "step" are those of steps, and times are seconds."""
    value = run(tmp_path, "--cases", "random-1x128", "--scale", "0.02")["data"]["cases"]
    (case,) = value.values()
    for key in ("ours", "pyg-gatv2", "gat"):
        assert 1e-5 < case["forward"]["seconds"][key][1] < case["step"]["seconds"][key][1] < 10
    kernels = case["kernels"]["seconds"]
    assert kernels["gather"][1] < kernels["step"][1]
    assert kernels["forward"][1] < kernels["step"][1]
    assert kernels["group"][1] < kernels["group both"][1]


@pytest.mark.usefixtures("in_one_process")
def test_a_wrong_layer_gets_no_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench.module_of

    def wrong(contestant: Any, problem: Any, backend: str = "auto") -> torch.nn.Module:
        module = right(contestant, problem, backend)
        if isinstance(module, GATv2Conv):
            module.negative_slope = 0.3
        return module

    monkeypatch.setattr(bench, "module_of", wrong)
    monkeypatch.setattr(bench, "TINY_CALLS", 2)
    result = run(tmp_path, "--cases", "random-3x20")
    (value,) = result["data"]["cases"].values()
    assert value["failures"]["ours"].startswith("wrong: out errs by")
    assert "kernels" not in value
    for what in ("forward", "step"):
        assert not {"ours", "cold"} & set(value[what]["seconds"])
        assert "pyg-gatv2" in value[what]["seconds"]
        assert value[what]["ratios"] == {}
    (forward,) = [t for t in result["tables"] if t["title"] == "Whole layer, forward"]
    assert forward["rows"][0][1].startswith("wrong")
    assert result["headline"].startswith("No speed")


def test_memory_is_kept_in_a_process_of_its_own(same_process: Any, monkeypatch: Any) -> None:
    given: list[dict[str, Any]] = []
    inner = bench.fresh.measure

    def measure(target: str, arguments: Any, **settings: Any) -> Any:
        given.append(settings)
        return inner(target, arguments)

    monkeypatch.setattr(bench.fresh, "measure", measure)
    case = dataclasses.asdict(bench.Case("tiny", "random", nodes=30, edges=90))
    found = bench.memory_kept(case, None, backend="auto", budget=0.01, min_rounds=2)
    assert given == [{"environment": {"GLIBC_TUNABLES": bench.KEEP_MEMORY}}]
    assert found["step"]["seconds"].keys() == {"ours", "pyg-gatv2", "gat"}
    monkeypatch.setattr(
        bench.fresh, "measure", lambda *_, **__: bench.fresh.Measured(failure="timeout")
    )
    assert bench.memory_kept(case, None) == {"failure": "timeout"}


def test_an_unknown_case_is_one_line(capsys: Any) -> None:
    assert main(["speed", "--cases", "moon"]) == 2
    assert "unknown case 'moon'" in capsys.readouterr().err
