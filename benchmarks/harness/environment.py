"""What a result was measured with: versions, machine, commit. No host names, no paths."""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness.quantities import count

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torch_geometric", "gatv2_pyg", "torch_scatter", "triton", "numpy")


def _version(package: str) -> str | None:
    if package in ("torch", "gatv2_pyg"):
        # Metadata may leave out torch's build, and a checkout need not be installed.
        try:
            return str(importlib.import_module(package).__version__)
        except (ImportError, AttributeError):
            pass
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def memory_total() -> int | None:
    """Physical memory of the machine in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def memory_available() -> int | None:
    """Memory that can be allocated without swapping, in bytes (None where unknown)."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


@functools.cache
def code_hash() -> str:
    """A short hash of the sources and compiled kernels of gatv2_pyg, and of the benchmarks."""
    digest = hashlib.sha256()
    files = [
        path
        for path in (PROJECT / "gatv2_pyg").rglob("*")
        if path.suffix in {".py", ".cpp", ".h", ".hpp", ".so", ".txt"}
    ]
    for path in sorted([*files, *(PROJECT / "benchmarks").rglob("*.py")]):
        digest.update(str(path.relative_to(PROJECT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


# What a result's figures depend on, for git: the results themselves are not code.
CODE = ("gatv2_pyg", "benchmarks", ":!benchmarks/results")


@functools.cache
def _fixed() -> dict[str, Any]:
    commit = _git("rev-parse", "--short=12", "HEAD")
    changed = bool(_git("status", "--porcelain", "--", *CODE)) if commit else None
    return {
        "versions": {"python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
        "commit": commit,
        "commit_modified": changed,
        "code": code_hash(),
        "os": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": memory_total(),
    }


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions and machine, as stored in every result file."""
    import torch

    info = dict(_fixed())
    info["threads"] = torch.get_num_threads()
    info["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    info["device"] = device
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(torch.device(device))
        info["gpu"] = properties.name
        info["gpu_memory_bytes"] = properties.total_memory
        info["versions"] = info["versions"] | {"cuda": torch.version.cuda}
    return info


def describe(info: dict[str, Any]) -> str:
    """One line for tables and captions: the machine, then the versions."""
    cores, threads = count(info["cores"], "core"), count(info["threads"], "thread")
    machine = f"{info['cpu']}, {cores} ({threads}"
    machine += f", {info['cpu_capability']})" if info.get("cpu_capability") else ")"
    if info.get("memory_bytes"):
        machine += f", {info['memory_bytes'] / 2**30:.0f} GiB"
    if info.get("gpu"):
        machine += f"; {info['gpu']}, {info['gpu_memory_bytes'] / 2**30:.0f} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    if info.get("commit"):
        versions += f", commit {info['commit']}"
        versions += " with changes" if info.get("commit_modified") else ""
    return f"{machine}; {versions}"
