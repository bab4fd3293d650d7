"""What an installed wheel must do: run in the environment it is installed in, from any folder.

    python tests/wheel/smoke.py

Imports nothing of the checkout and nothing of the tests' requirements.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch_geometric.nn

import gatv2_pyg
from gatv2_pyg import selfcheck
from gatv2_pyg.kernels import cpu
from gatv2_pyg.kernels.cpu.library import library


def check_place() -> None:
    """The package is the installed one, and its library lies within it."""
    package = Path(gatv2_pyg.__file__).parent
    assert "site-packages" in package.parts, package
    assert cpu.unavailable() is None, cpu.unavailable()
    assert library().path.is_relative_to(package), library().path
    if sys.platform == "linux":
        assert library().openmp, "the library was built without OpenMP"
    print(f"{library().path}: {library().isa}")


def check_kernels() -> None:
    """Outputs and gradients of the kernels, each dtype against the reference in float64."""
    for dtype in selfcheck.TOLERANCES:
        found = selfcheck.compare("cpu", torch.device("cpu"), dtype)
        assert found.failure is None, f"{dtype}: {found.failure}"
        assert {"out", "alpha", "grad x_src", "grad x_dst", "grad att"} <= found.errors.keys()
        print(f"{dtype}: largest relative error of a row {max(found.errors.values()):.1e}")


def check_layer() -> None:
    """The layer takes the kernels, and gives outputs and gradients of PyG's."""
    torch.manual_seed(0)
    x = torch.randn(200, 12, dtype=torch.float64)
    edge_index = torch.randint(200, (2, 1500))
    edge_attr = torch.randn(1500, 4, dtype=torch.float64)
    options = {"heads": 4, "edge_dim": 4}
    theirs = torch_geometric.nn.GATv2Conv(12, 16, **options).double()
    ours = gatv2_pyg.GATv2Conv(12, 16, **options).double()
    ours.load_state_dict(theirs.state_dict())
    assert ours.backend_for(x, edge_index, edge_attr).name == "fused"
    results = []
    for layer in (theirs, ours):
        leaf = x.clone().requires_grad_()
        out = layer(leaf, edge_index, edge_attr)
        out.square().sum().backward()
        results.append([out.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    for ours_, theirs_ in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-10, atol=1e-10)


def check_openmp() -> None:
    """One OpenMP runtime is loaded: that which torch brings."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    loaded = {
        line.split()[-1]
        for line in maps.read_text().splitlines()
        if "omp" in Path(line.split()[-1]).name and ".so" in line
    }
    torch_library = Path(torch.__file__).parent
    assert len(loaded) == 1, loaded
    assert Path(loaded.pop()).is_relative_to(torch_library)


if __name__ == "__main__":
    for check in (check_place, check_kernels, check_layer, check_openmp):
        check()
    print("the wheel works")
    sys.exit(0)
