"""``python -m gatv2_pyg.env``: versions, and the backend each device gets and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform

import torch

from gatv2_pyg.backends import BACKENDS, refusal, select_backend
from gatv2_pyg.ops.operators import load_kernels

_PACKAGES = ("gatv2_pyg", "torch", "torch_geometric", "torch_scatter", "triton", "numpy")
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
    """For a device: what each backend says, and what ``"auto"`` takes for each dtype."""
    where = torch.device(device)
    found = {name: refusal(name, where, torch.float32) or "available" for name in BACKENDS[1:]}
    if found["fused"] == "available" and where.type == "cpu":
        found["fused"] = f"available ({load_kernels('cpu').library().isa})"
    for dtype in _DTYPES:
        found[f"auto, {str(dtype).removeprefix('torch.')}"] = str(
            select_backend("auto", where, dtype)
        )
    return found


def report() -> dict:
    """All of it, as one dictionary that JSON can hold."""
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "devices": {
            name: {"description": text, "backends": backends(name)}
            for name, text in devices().items()
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(
        prog="python -m gatv2_pyg.env",
        description="Versions, and the backend each device gets and why; put it in a bug report.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    found = report()
    if parser.parse_args(arguments).json:
        print(json.dumps(found, indent=2))
        return
    for package, version in found["versions"].items():
        print(f"{package:16} {version}")
    print(f"{'platform':16} {found['platform']}")
    for device, details in found["devices"].items():
        print(f"\n{device} ({details['description']})")
        for name, text in details["backends"].items():
            print(f"  {name:16} {text}")


if __name__ == "__main__":
    main()
