"""What is asked for on the command line reaches the work: backend, seeds, threads, the check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import cora
from benchmarks.cli import COMMANDS, main
from benchmarks.cost import bench, scaling
from benchmarks.cost.beyond import bench as beyond
from benchmarks.cost.beyond import calls
from benchmarks.cost.problems import floor
from benchmarks.datasets import data
from benchmarks.harness.measuring import fresh
from benchmarks.layers import build, fused_gat
from benchmarks.studies import attention, citation, dictionary_lookup, heterophily, noise
from benchmarks.studies.molecules import esol
from gatv2_pyg import GATv2Conv, gatv2_attention
from tests.benchmarks.small import small_dataset, small_molecules

# Each benchmark that trains or runs layers, as small as it goes.
TINY = {
    "cora": ["--no-dense", "--epochs", "1", "--rounds", "1"],
    "dictionary-lookup": ["--k", "3", "--heads", "1", "--epochs", "1", "--graphs", "10"],
    "citation": ["--datasets", "Cora", "--epochs", "1"],
    "heterophily": ["--datasets", "Minesweeper", "--epochs", "1", "--rounds", "1"],
    "noise": ["--datasets", "Cora,Tolokers", "--epochs", "1", "--noise", "0,0.5"],
    "molecules": ["--epochs", "1", "--rounds", "1"],
    "attention": ["--k", "3", "--lookup-epochs", "1", "--epochs", "1"],
    "degrees": ["--shapes", "8x8", "--degrees", "2", "--edges", "300", "--budget", "0.01"],
    "minibatch": ["--graphs", "power-law", "--scale", "0.001", "--batches", "1", "--rounds", "1"],
    "speed": ["--cases", "random-8x16", "--scale", "0.001", "--budget", "0.01", "--no-compile"],
    "memory": ["--cases", "random-8x16", "--scale", "0.001"],
    "scaling": ["--axes", "channels", "--memory-limit", "1"],
    "beyond": ["--parts", "bias", "--budget", "0.01"],
}
TRAINING = [
    name
    for name in TINY
    if name not in ("degrees", "minibatch", "speed", "memory", "scaling", "beyond")
]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_process: Any
) -> Callable[..., dict[str, Any]]:
    """Runs a benchmark in its tiny form, on a small graph, in this process; its result file."""
    for module in (attention, citation, heterophily, noise, cora):
        for name in ("load", "load_or_stand_in"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda name, *_: small_dataset(name))
    monkeypatch.setattr(esol, "load_molecules", small_molecules)
    monkeypatch.setattr(bench, "RUNS", 1)
    monkeypatch.setattr(bench, "TINY_CALLS", 1)
    monkeypatch.setattr(scaling, "CONTESTANTS", scaling.CONTESTANTS[:2])
    size = calls.Size(nodes=20, edges=60, heads=2, channels=4)
    monkeypatch.setattr(beyond, "SIZES", dict.fromkeys(beyond.SIZES, size))
    monkeypatch.setattr(scaling, "NODES", 20)
    monkeypatch.setattr(scaling, "EDGES", 60)
    monkeypatch.setattr(scaling, "SECONDS", 0.0)

    def tiny(name: str, *more: str) -> dict[str, Any]:
        argv = [name, *TINY[name], "--device", "cpu", "--out", str(tmp_path), *more]
        assert main(argv) == 0
        return json.loads((tmp_path / f"{name}.json").read_text())

    return tiny


def test_every_benchmark_is_here() -> None:
    assert set(COMMANDS) - set(TINY) == {"gpu", "report", "readme"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that this project's layer and function are asked for."""
    found: list[str] = []

    class Layer(GATv2Conv):
        def __init__(self, *args: Any, backend: str = "auto", **kwargs: Any) -> None:
            found.append(backend)
            super().__init__(*args, backend=backend, **kwargs)

    def attend(*args: Any, backend: str = "auto", **kwargs: Any) -> Any:
        found.append(backend)
        return gatv2_attention(*args, backend=backend, **kwargs)

    monkeypatch.setattr(build, "GATv2Conv", Layer)
    monkeypatch.setattr(calls, "GATv2Conv", Layer)
    monkeypatch.setattr(floor, "gatv2_attention", attend)
    monkeypatch.setattr(fused_gat, "gatv2_attention", attend)
    return found


@pytest.mark.parametrize("name", TINY)
def test_the_backend_asked_for_is_the_one_that_runs(
    name: str, run: Callable[..., Any], asked: list[str]
) -> None:
    seeds = ["--seeds", "1"] if name in TRAINING else []
    result = run(name, "--backend", "reference", *seeds)
    # `scatter` is a contestant of its own in speed and memory.
    scatter = {"scatter"} if name in ("speed", "memory") else set()
    assert set(asked) - scatter == {"reference"}
    assert result["settings"]["backend"] == "reference"


@pytest.mark.parametrize("name", TRAINING)
def test_every_seed_is_used(
    name: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded: list[int] = []
    real = torch.manual_seed

    def manual_seed(seed: int) -> Any:
        seeded.append(seed)
        return real(seed)

    monkeypatch.setattr(torch, "manual_seed", manual_seed)
    run(name, "--seeds", "3")
    fewest = {"cora": 3, "dictionary-lookup": 3, "citation": 4, "heterophily": 2, "noise": 8}
    fewest["molecules"] = 4
    for seed in range(3):
        assert seeded.count(seed) >= fewest.get(name, 6), seed


@pytest.mark.parametrize("train", [0, 1])
def test_a_training_depends_on_its_seed_alone(train: int) -> None:
    def once(seed: int) -> Any:
        if train:
            task = {"epochs": 1, "graphs": 20, "device": "cpu", "backend": "auto"}
            return dictionary_lookup.train(dictionary_lookup.OURS, 4, 1, seed, **task)
        dataset = small_dataset("Cora")
        found = cora._train(cora.OURS, dataset, "cpu", "auto", seed, 3)
        return {name: found[name] for name in ("val", "test", "epoch")}

    def scores(seed: int) -> dict[str, Any]:
        return {k: v for k, v in once(seed).items() if k != "epoch_seconds"}

    assert scores(1) == scores(1)
    assert len({str(scores(seed)) for seed in range(6)}) > 1


def test_split_i_goes_to_seed_i(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = heterophily.train

    def train(variant: Any, dataset: Any, *, seed: int, split: int, **settings: Any) -> Any:
        seen.append((seed, split))
        return real(variant, dataset, seed=seed, split=split, **settings)

    monkeypatch.setattr(heterophily, "train", train)
    run("heterophily", "--seeds", "3")
    assert set(seen) == {(seed, seed) for seed in range(3)}


@pytest.mark.parametrize("name", ["cora", "dictionary-lookup", "speed"])
def test_the_threads_asked_for_are_those_that_run(
    name: str, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    real = GATv2Conv.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.add(torch.get_num_threads())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(GATv2Conv, "forward", forward)
    seeds = ["--seeds", "1"] if name in TRAINING else []
    result = run(name, "--threads", "3", *seeds)
    # Repeated runs of `speed` vary the threads on purpose.
    assert seen - ({1, 2} if name == "speed" else set()) == {3}
    assert result["environment"]["threads"] == 3
    assert torch.get_num_threads() == 1


def test_a_fresh_process_has_the_threads_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threads_of.py").write_text(
        "import os, torch\n"
        "from benchmarks.harness.measuring.fresh import Step\n"
        "def step(): return Step(lambda: [torch.get_num_threads(), os.environ.get('GIVEN')])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    torch.set_num_threads(3)
    found = fresh.measure("threads_of:step", {}, environment={"GIVEN": "yes"})
    assert found.value == [3, "yes"]


class Wrong(GATv2Conv):
    """Another function than PyG's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"negative_slope": 0.3})


def test_a_wrong_layer_is_not_timed_on_cora(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "GATv2Conv", Wrong)
    result = run("cora", "--seeds", "1")
    assert result["data"]["agreement_float64"]["ours"] > 1e-3
    assert all("ours" not in seconds for seconds in result["data"]["seconds"].values())
    assert result["tables"][0]["rows"][0][2:5] == ["disagrees, not timed"] * 3
    assert result["tables"][0]["rows"][1][2].endswith("s")
    assert "An epoch takes" not in result["headline"]


def test_a_wrong_layer_is_not_timed_by_speed(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "GATv2Conv", Wrong)
    found = run("speed")["data"]
    (case,) = found["cases"].values()
    for value in (case, found.get("memory kept") or case):
        assert value["failures"]["ours"].startswith("wrong: out errs by")
        assert "ours" not in value["step"]["seconds"]
    assert "kernels" not in case
    assert found["dropout"] == found["repeatability"] == {}
    assert found["overhead"]["failures"]["ours"].startswith("wrong")


def test_data_is_looked_for_where_the_option_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(name: str, root: Any = None) -> Any:
        asked.append((name, root))
        raise data.MissingData("none")

    for module in (data, citation, heterophily, noise):
        monkeypatch.setattr(module, "load", load)
    folder = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    for name, argv in (
        ("Minesweeper", ["heterophily", *TINY["heterophily"]]),
        ("CiteSeer", ["citation", "--datasets", "CiteSeer"]),
        ("Tolokers", ["noise", "--datasets", "Tolokers"]),
    ):
        asked.clear()
        assert main([*argv, *folder]) == 2
        assert asked == [(name, tmp_path)]
