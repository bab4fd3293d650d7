"""Settings of the benchmarks' tests."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

# Without the extra `bench` there is nothing to test.
EXTRA = ("rich", "matplotlib", "numpy", "scipy", "sklearn")
if any(importlib.util.find_spec(name) is None for name in EXTRA):
    collect_ignore_glob = ["test_*.py", "*/test_*.py"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Parallel regions of a few microseconds crawl where other processes keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What should run in a fresh process runs in this one: each step takes 1 MiB more."""
    from benchmarks.harness.measuring import fresh

    done: list[str] = []

    def measure(target: str, arguments: Mapping[str, Any], **_: Any) -> fresh.Measured:
        module, function = target.split(":")
        step = getattr(importlib.import_module(module), function)(**arguments)
        done.append(target)
        return fresh.Measured(peak_bytes=len(done) * 2**20, base_bytes=0, value=step.run())

    monkeypatch.setattr(fresh, "measure", measure)
    return measure


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data set on disk, and no network."""
    from benchmarks.datasets import data, standin
    from tests.benchmarks.small import small_dataset

    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(data, "own_folder", lambda: own)
    monkeypatch.setattr(data, "_reachable", lambda url: "no network")
    monkeypatch.setattr(standin, "citation_graph", lambda: small_dataset("Cora").data)
    monkeypatch.delenv("GATV2_PYG_DATA", raising=False)
    return own
