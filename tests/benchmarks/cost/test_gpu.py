"""The benchmark gpu: stages in processes of their own."""

from __future__ import annotations

import json
import sys

from benchmarks.cli import main
from benchmarks.cost import gpu
from benchmarks.harness.environment import PROJECT


def test_a_gpu_stage_that_fails_or_hangs_loses_nothing_else(tmp_path, monkeypatch):
    python = [sys.executable, "-c"]
    write = f"import pathlib; pathlib.Path({str(tmp_path)!r}, 'speed.json').write_text("
    write += """'{"headline": "fast", "tables": []}'); print('done')"""
    made = [
        gpu.Stage("tests", [*python, "print('one failed'); raise SystemExit(1)"], 0.9),
        gpu.Stage("hangs", [*python, "import time; time.sleep(60)"], 0.1),
        gpu.Stage("missing", ["no-such-program"], 0.5),
        gpu.Stage("speed", [*python, write], 1.0, "speed"),
    ]
    monkeypatch.setattr(gpu, "stages", lambda session, args: made)
    monkeypatch.setattr(gpu, "_LEAST", 0.5)
    assert main(["gpu", "--device", "cpu", "--out", str(tmp_path), "--minutes", "0.5"]) == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    outcomes = {name: report["status"] for name, report in result["data"].items()}
    assert outcomes["tests"] == "failed (exit code 1)"
    assert outcomes["hangs"].startswith("stopped after")
    assert outcomes["missing"].startswith("can't run")
    assert outcomes["speed"] == "passed"
    assert result["data"]["speed"]["result"]["headline"] == "fast"
    assert "one failed" in result["data"]["tests"]["output"]
    assert result["headline"] == "1 of 4 stages passed."


def test_the_stage_of_tests_runs_tests_that_are_there():
    for test in gpu.TESTS:
        assert (PROJECT / test).is_file(), test
