"""Interrupted benchmark runs go on where they stopped; memory is measured in a fresh process."""

from __future__ import annotations

import json
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.harness import environment, quantities, session
from benchmarks.harness.measuring import fresh
from benchmarks.harness.store import Store, write_atomic
from benchmarks.studies import dictionary_lookup

STAMP = {"machine": "a"}


def test_units_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    first = Store(path, STAMP)
    assert first.unit({"seed": 0}, lambda: {"test": 0.5}) == {"test": 0.5}
    second = Store(path, STAMP)
    assert second.found == 1
    assert second.unit({"seed": 0}, lambda: pytest.fail("computed again")) == {"test": 0.5}
    assert {"seed": 1} not in second


def test_a_line_cut_short_is_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "units.jsonl"
    store = Store(path, STAMP)
    store.put({"seed": 0}, 1)
    store.put({"seed": 1}, 2)
    path.write_text(path.read_text()[:-5])
    again = Store(path, STAMP)
    assert again.get({"seed": 0}) == 1
    assert {"seed": 1} not in again
    again.put({"seed": 1}, 3)
    assert Store(path, STAMP).get({"seed": 1}) == 3


@pytest.mark.parametrize(("stamp", "fresh_start"), [({"machine": "b"}, False), (STAMP, True)])
def test_units_of_another_machine_or_a_fresh_start_are_dropped(
    tmp_path: Path, stamp: dict[str, str], fresh_start: bool
) -> None:
    path = tmp_path / "units.jsonl"
    Store(path, STAMP).put({"seed": 0}, 1)
    store = Store(path, stamp, fresh=fresh_start)
    assert (store.found, store.dropped) == (0, 1)
    assert Store(path, stamp).found == 0


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_an_interrupted_run_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["dictionary-lookup", "--k", "3", "--heads", "1", "--seeds", "2", "--epochs", "1"]
    argv += ["--graphs", "10", "--out", str(tmp_path)]
    trained: list[int] = []
    real = dictionary_lookup.train

    def train(contestant: object, k: int, heads: int, seed: int, **settings: object) -> object:
        if len(trained) == 4:
            trained.append(-1)
            raise KeyboardInterrupt
        trained.append(seed)
        return real(contestant, k, heads, seed, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(dictionary_lookup, "train", train)
    assert main(argv) == 130
    assert not (tmp_path / "dictionary-lookup.json").exists()
    assert main(argv) == 0
    assert trained == [0, 0, 0, 1, -1, 1, 1]
    assert "going on after 4 finished parts" in capsys.readouterr().out
    assert not (tmp_path / ".partial").exists()
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {f"dictionary-lookup.{kind}" for kind in ("json", "md", "png")}
    result = json.loads((tmp_path / "dictionary-lookup.json").read_text())
    assert all(len(entry["seeds"]) == 2 for entry in result["data"])
    kept = "s after 4 parts kept from an interrupted run;"
    assert kept in (tmp_path / "dictionary-lookup.md").read_text()


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "measured_module.py").write_text(
        "import torch\n"
        "from benchmarks.harness.measuring.fresh import Step\n"
        "def step(mib, fail=False):\n"
        "    loaded = torch.ones(32 * 2**18)\n"
        "    def run():\n"
        "        if fail: raise ValueError('no such luck')\n"
        "        torch.ones(mib * 2**18)\n"
        "        return loaded.numel()\n"
        "    return Step(run)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "measured_module:step"


def test_peak_memory_counts_the_step_and_not_its_inputs(target: str) -> None:
    measured = fresh.measure(target, {"mib": 100})
    assert measured.failure is None
    assert measured.value == 32 * 2**18
    assert measured.peak_bytes is not None
    assert 98 <= measured.peak_bytes / 2**20 <= 110


def test_running_out_of_memory_and_failing_are_outcomes(target: str) -> None:
    limited = fresh.measure(target, {"mib": 4096}, limit_bytes=2 * 2**30)
    assert limited.out_of_memory
    failed = fresh.measure(target, {"mib": 1, "fail": True})
    assert failed.failure == "ValueError: no such luck"


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ("gatv2_pyg/a.py", True),
        ("gatv2_pyg/kernels/k.so", True),
        ("benchmarks/b.py", True),
        ("benchmarks/results/c.json", False),
        ("tests/d.py", False),
    ],
)
def test_units_made_with_other_code_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, other: bool
) -> None:
    for name in ("gatv2_pyg/a.py", "gatv2_pyg/kernels/k.so", "benchmarks/b.py", changed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    code = environment.code_hash.__wrapped__()
    (tmp_path / changed).write_text("2")
    assert (environment.code_hash.__wrapped__() != code) == other


def test_a_code_change_drops_the_units_of_every_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(code: str) -> Store:
        info = environment.environment() | {"code": code}
        monkeypatch.setattr(session, "environment", lambda device: info)
        return session.Session("heterophily", Namespace(out=tmp_path, fresh=False)).store()

    store("a").put({"what": "times"}, 1)
    assert store("a").found == 1
    assert store("b").found == 0


def test_numbers_as_reported() -> None:
    assert quantities.std([0.81, 0.83]) == pytest.approx(0.0141421, abs=1e-7)
    assert quantities.median([3.0, 1.0, 2.0, 10.0]) == 2.5
    assert quantities.quantile([0.0, 10.0], 0.9) == pytest.approx(9.0)
    low, high = quantities.difference([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 8.0]) or (0, 0)
    # By hand: difference 2.5, standard error 1.25831, 4.9004 degrees of freedom, t 2.5864.
    assert (low, high) == pytest.approx((2.5 - 3.2544, 2.5 + 3.2544), abs=1e-3)
    assert quantities.difference([1.0], [2.0, 3.0]) is None
    assert quantities.difference([1.0, 1.0], [2.0, 2.0]) is None
    assert quantities.percent([0.81, 0.83]) == "82.0 ± 1.4"
    assert quantities.duration(0.0834) == "83.4 ms"
    assert quantities.duration(8.25) == "8.25 s"
    assert quantities.size(8.7 * 2**30) == "8.70 GiB"
    assert quantities.ratio(23.4) == "23×"
    assert quantities.count(1, "seed") == "1 seed"


@pytest.mark.parametrize(
    ("changed", "told"),
    [("gatv2_pyg/a.py", True), ("benchmarks/b.py", True), ("benchmarks/results/c.json", False)],
)
def test_origin_tells_of_code_changed_since_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, told: bool
) -> None:
    for name in ("gatv2_pyg/a.py", "benchmarks/b.py", "benchmarks/results/c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    (tmp_path / changed).write_text("2")
    monkeypatch.setattr(environment, "PROJECT", tmp_path)
    monkeypatch.setattr(environment, "code_hash", lambda: "")
    info = environment._fixed.__wrapped__()
    assert info["commit_modified"] == told
    assert (" with changes" in environment.describe(info | {"threads": 1})) == told
