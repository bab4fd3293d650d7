"""The benchmark of batches, biases and dense adjacency, on tiny graphs."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from benchmarks.cli import main
from benchmarks.cost.beyond import bench, calls, report
from benchmarks.harness.errors import UsageError

SMALL = calls.Size(nodes=12, edges=40, heads=2, channels=4, batch=3)
EACH = [(part, name) for part, names in calls.CONTESTANTS.items() for name in names]


def small(part):
    return SMALL if part == "traffic" else dataclasses.replace(SMALL, batch=1)


@pytest.mark.parametrize("part", list(calls.CONTESTANTS))
def test_all_contestants_of_a_part_are_right(part):
    bench.check(part, small(part), "cpu", "auto")


def test_a_contestant_that_is_wrong_is_not_timed(monkeypatch):
    monkeypatch.setattr(calls.Batched, "out", lambda self: self.plain() * 1.001)
    with pytest.raises(UsageError, match="traffic, batched: out errs by"):
        bench.check("traffic", SMALL, "cpu", "auto")


@pytest.mark.parametrize(("part", "contestant"), EACH)
def test_a_step_has_all_gradients(part, contestant):
    call = calls.make(part, contestant, small(part), "cpu", "auto")
    grads = call.step()
    assert len(grads) == len(call.leaves)
    assert ("grad attn_bias" in call.leaves) == contestant.endswith("trained")
    for value, leaf in zip(grads, call.leaves.values(), strict=True):
        assert value.shape == leaf.shape
        assert value.isfinite().all()
    bench.step(part, contestant, dataclasses.asdict(small(part)), "cpu", "auto").run()


def test_contestants_belong_to_their_part():
    with pytest.raises(ValueError, match=r"^Expected a contestant of dense, got 'batched'"):
        calls.make("dense", "batched", SMALL, "cpu", "auto")


def test_the_page_says_what_is_met():
    spread = {"rounds": 3, "over": "batched"}
    seconds = {"batched": [0.1] * 3, "repeated": [0.2] * 3, "pyg-repeated": [0.4] * 3}
    ratios = {"repeated": [2.0] * 3, "pyg-repeated": [4.0] * 3}
    peaks = {name: {"peak_bytes": size} for name, size in (("batched", 1), ("pyg-repeated", 6))}
    size = dataclasses.asdict(SMALL)
    traffic = {"size": size, "step": {**spread, "seconds": seconds, "ratios": ratios}}
    result = report.result({"traffic": {**traffic, "peaks": peaks}}, {"seed": 0})
    assert [row[-1] for row in result.tables[0].rows] == ["not met", "met", "met"]
    assert result.verdict == "2 of 3 requirements met."
    assert "4.0×" in result.headline


def test_the_command(tmp_path, monkeypatch, same_process):
    for part in bench.QUICK:
        monkeypatch.setitem(bench.QUICK, part, small(part))
    argv = ["beyond", "--quick", "--budget", "0.01", "--device", "cpu", "--out", str(tmp_path)]
    assert main(argv) == 0
    found = json.loads((tmp_path / "beyond-quick.json").read_text())
    assert found["data"].keys() == bench.QUICK.keys()
    for part, value in found["data"].items():
        assert value["step"]["seconds"].keys() == set(calls.CONTESTANTS[part])
        assert value["peaks"].keys() == (
            set(calls.CONTESTANTS[part]) if part in bench.IN_MEMORY else set()
        )
    assert found["settings"]["threads"] == torch.get_num_threads()
