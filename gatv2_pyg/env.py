"""``python -m gatv2_pyg.env``: versions, and the backend each device gets and why.

With ``--check`` every backend that can run here is held against the reference in float64.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import warnings
from typing import Any

import torch

from gatv2_pyg import selfcheck
from gatv2_pyg.backends import BACKENDS, refusal, select_backend
from gatv2_pyg.kernels import load_kernels
from gatv2_pyg.kernels.contract import Inputs
from gatv2_pyg.ops import native
from gatv2_pyg.ops.checks import DTYPES

_PACKAGES = (
    "gatv2_pyg",
    "torch",
    "torch_geometric",
    "torch_scatter",
    "pyg_lib",
    "triton",
    "numpy",
)
_CHECKED = ("out", "alpha", *(f"grad {name}" for name in Inputs._fields))


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that matter here."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def devices() -> dict[str, str]:
    """The devices here, by torch's name for them, with a description."""
    found = {"cpu": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    return found


def backends(device: str) -> dict[str, str]:
    """What each backend says to float32 features on a device: that it is available, or why not."""
    where = torch.device(device)
    found = {name: refusal(name, where, torch.float32) or "available" for name in BACKENDS[1:]}
    if found["fused"] == "available" and where.type == "cpu":
        step = "C++" if native.unavailable() is None else "Python"
        found["fused"] = (
            f"available ({load_kernels('cpu').library().isa}; a layer's step in {step})"
        )
    return found


def auto(device: str) -> list[dict]:
    """What ``"auto"`` takes on a device and why, with the dtypes for which it does."""
    groups: dict[tuple[str, str], list[str]] = {}
    with warnings.catch_warnings():
        # It repeats what the report says.
        warnings.filterwarnings("ignore", "gatv2_pyg runs without", RuntimeWarning)
        for dtype in DTYPES:
            chosen = select_backend("auto", torch.device(device), dtype)
            reason = chosen.reason.replace(str(dtype), "this dtype")
            groups.setdefault((chosen.name, reason), []).append(_short(dtype))
    return [
        {"backend": name, "dtypes": dtypes, "reason": reason}
        for (name, reason), dtypes in groups.items()
    ]


def check(device: str) -> list[dict]:
    """Holds each backend of a device, in each dtype it takes, against the reference in float64."""
    where = torch.device(device)
    found = []
    for name in BACKENDS[1:]:
        if name == "triton" and where.type == "cuda":
            continue  # "fused" there
        kernels = ("triton" if where.type == "cuda" else "cpu") if name == "fused" else name
        for dtype in DTYPES:
            if refusal(name, where, dtype, selfcheck.MAX_CHANNELS) is None:
                errors, failure = selfcheck.compare(kernels, where, dtype)
                found.append(
                    {"backend": name, "dtype": _short(dtype), "errors": errors, "failure": failure}
                )
    return found


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def report(with_check: bool = False) -> dict:
    """All of it, as one dictionary that JSON can hold."""
    found: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "devices": {
            name: {"description": text, "backends": backends(name), "auto": auto(name)}
            for name, text in devices().items()
        },
    }
    if with_check:
        for name, details in found["devices"].items():
            details["check"] = check(name)
    return found


def _print(found: dict) -> None:
    for package, version in found["versions"].items():
        print(f"{package:16} {version}")
    print(f"{'platform':16} {found['platform']}")
    for device, details in found["devices"].items():
        print(f"\n{device} ({details['description']})")
        for name, text in details["backends"].items():
            print(f"  {name:14} {text}")
        for group in details["auto"]:
            reason = group["reason"]
            for name, text in details["backends"].items():
                reason = reason.replace(f"not {name}: {text}", f"not {name}")
            print(f"  {'auto':14} {group['backend']} for {', '.join(group['dtypes'])}: {reason}")
        if "check" in details:
            _print_check(details["check"])


def _print_check(found: list[dict]) -> None:
    print("  checked against the reference in float64; the relative error of the worst row:")
    print(f"    {'':20}" + "".join(f"{name.removeprefix('grad '):>12}" for name in _CHECKED))
    print(f"    {'':20}" + "".join(f"{'grad' if ' ' in name else '':>12}" for name in _CHECKED))
    for entry in found:
        errors = (entry["errors"].get(name) for name in _CHECKED)
        cells = "".join(f"{'-' if error is None else f'{error:.1e}':>12}" for error in errors)
        verdict = "ok" if entry["failure"] is None else f"FAILED: {entry['failure']}"
        print(f"    {entry['backend']:10}{entry['dtype']:10}{cells}  {verdict}")


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; returns 1 if a check failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m gatv2_pyg.env",
        description="Versions, and the backend each device gets and why; put it in a bug report.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check",
        action="store_true",
        help="hold every backend here against the reference in float64; exit with 1 if one fails",
    )
    chosen = parser.parse_args(arguments)
    found = report(chosen.check)
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    checks = [entry for details in found["devices"].values() for entry in details.get("check", ())]
    return int(any(entry["failure"] is not None for entry in checks))


if __name__ == "__main__":
    sys.exit(main())
