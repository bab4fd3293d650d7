"""Measurements in a fresh process: peak memory of a step, and running out of memory.

The child prepares its inputs, notes the resident memory, runs the step and reports the highest
resident memory above that: what the step needs over the loaded inputs. On CUDA the figures are
those of torch's allocator.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.environment import PROJECT

_MARK = "benchmarks.fresh result: "
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc")


@dataclass(frozen=True)
class Step:
    """What a target returns: its inputs are loaded, nothing of the step has run.

    Args:
        run: the step; what it returns (JSON) becomes ``Measured.value``.
        warm: run first and not measured (a tiny step, so that thread pools and lazily loaded
            code are not counted).
        device: where the memory is counted.
    """

    run: Callable[[], Any]
    warm: Callable[[], Any] | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Measured:
    """Outcome of a step. ``failure`` is None, "memory", "timeout" or the error's text."""

    peak_bytes: int | None = None
    base_bytes: int | None = None
    value: Any = None
    failure: str | None = None

    @property
    def out_of_memory(self) -> bool:
        return self.failure == "memory"


def measure(
    target: str,
    arguments: Mapping[str, Any],
    *,
    limit_bytes: int | None = None,
    timeout: float = 600.0,
    environment: Mapping[str, str] | None = None,
) -> Measured:
    """Runs ``target`` ("module:function", returns a :class:`Step`) in a fresh process.

    Args:
        target: e.g. ``"benchmarks.cora:memory_step"``.
        arguments: keyword arguments of the function, JSON.
        limit_bytes: memory the child may allocate; beyond it the failure is "memory".
        timeout: seconds, then the failure is "timeout".
        environment: variables the child gets besides those of this process.
    """
    import torch

    request = {
        "target": target,
        "arguments": dict(arguments),
        "limit": limit_bytes,
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", f"{__package__}.fresh", json.dumps(request)]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command,
            env=os.environ | (environment or {}) | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return Measured(failure="timeout")
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Measured(**json.loads(line.removeprefix(_MARK)))
    if done.returncode in (-9, 137):
        return Measured(failure="memory")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Measured(failure=last)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def _max_rss() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _trim() -> None:
    """Gives freed memory back to the system, so that it is not part of the base."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _peak_cpu(run: Callable[[], Any]) -> Measured:
    _trim()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        base = _status("VmRSS")
        value = run()
        peak = _status("VmHWM")
    except OSError:
        base = _max_rss()
        value = run()
        peak = _max_rss()
    return Measured(max(peak - base, 0), base, value)


def _peak_cuda(run: Callable[[], Any], device: str) -> Measured:
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    base = torch.cuda.memory_allocated(device)
    value = run()
    torch.cuda.synchronize(device)
    return Measured(torch.cuda.max_memory_allocated(device) - base, base, value)


def _child(request: Mapping[str, Any]) -> Measured:
    import torch

    torch.set_num_threads(request["threads"])
    if request["limit"]:
        resource.setrlimit(resource.RLIMIT_DATA, (request["limit"], request["limit"]))
    module, function = request["target"].split(":")
    try:
        step: Step = getattr(importlib.import_module(module), function)(**request["arguments"])
        if step.device.startswith("cuda") and request["limit"]:
            total = torch.cuda.get_device_properties(step.device).total_memory
            torch.cuda.set_per_process_memory_fraction(
                min(request["limit"] / total, 1.0), torch.device(step.device)
            )
        if step.warm is not None:
            step.warm()
        if step.device.startswith("cuda"):
            return _peak_cuda(step.run, step.device)
        return _peak_cpu(step.run)
    except MemoryError:
        return Measured(failure="memory")
    except RuntimeError as error:
        if any(text in str(error).lower() for text in _OUT_OF_MEMORY):
            return Measured(failure="memory")
        raise


if __name__ == "__main__":
    print(_MARK + json.dumps(asdict(_child(json.loads(sys.argv[1])))), flush=True)
