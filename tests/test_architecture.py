"""Imports point down only, and the package runs without what is optional."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gatv2_pyg"

LAYERS = {
    "__init__": {"backends", "cache", "conv", "convert", "functional", "graph", "attention"},
    "env": {"backends", "ops"},
    "convert": {"conv"},
    "attention": set(),
    "conv": {"adjacency", "backends", "functional", "graph", "inputs", "passing", "reference"},
    "passing": set(),
    "inputs": {"adjacency"},
    "adjacency": {"cache", "graph", "grouping"},
    "functional": {"backends", "graph", "ops", "reference", "scatter"},
    "backends": set(),
    "ops": {"reference"},
    "scatter": {"reference"},
    "cache": set(),
    "graph": {"graph_ops", "grouping"},
    "graph_ops": {"grouping"},
    "grouping": set(),
    "reference": set(),
}


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, at any depth of its code."""
    found = set()
    package = ["gatv2_pyg", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return {name for name in found if name.startswith("gatv2_pyg.")}


def test_every_module_has_its_layer():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_down(name):
    for module in imports_of(PACKAGE / f"{name}.py"):
        layer = module.split(".")[1]
        if layer in LAYERS:
            assert layer in LAYERS[name], f"{name} may not import {layer}"
        else:
            assert layer != "kernels", f"{name} imports kernels outside of its lazy loading"


def test_the_layers_have_an_order():
    done: set[str] = set()
    while len(done) < len(LAYERS):
        ready = {name for name, below in LAYERS.items() if below <= done} - done
        assert ready, f"circular imports among {set(LAYERS) - done}"
        done |= ready


def test_kernels_see_plain_tensors_and_not_each_other():
    for path in PACKAGE.glob("kernels/**/*.py"):
        own = path.relative_to(PACKAGE).parts[1].removesuffix(".py")
        allowed = ("gatv2_pyg.kernels", f"gatv2_pyg.kernels.{own}")
        for module in imports_of(path):
            assert module in allowed or module.startswith(f"{allowed[1]}."), (path.name, module)


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_imports_no_kernel_library():
    """torch and PyG import Triton and torch_scatter of their own accord, where they are there."""
    out = run(
        "import sys, torch_geometric.nn\n"
        "before = set(sys.modules)\n"
        "import gatv2_pyg\n"
        "print(sorted(set(sys.modules) - before))"
    )
    assert "gatv2_pyg.conv" in out
    for name in ("triton", "torch_scatter", "gatv2_pyg.kernels"):
        assert name not in out


def test_everything_works_without_what_is_optional():
    run(
        "import sys\n"
        "for name in ('triton', 'torch_scatter', 'gatv2_pyg.kernels.cpu'):\n"
        "    sys.modules[name] = None\n"
        "import torch, gatv2_pyg\n"
        "x, index = torch.randn(6, 4), torch.randint(6, (2, 20))\n"
        "conv = gatv2_pyg.GATv2Conv(4, 3, heads=2, dropout=0.3)\n"
        "assert conv.backend_for(x, index).name == 'reference'\n"
        "conv(x, index).sum().backward()\n"
        "for name in ('fused', 'triton', 'scatter'):\n"
        "    try:\n"
        "        with gatv2_pyg.use_backend(name):\n"
        "            conv(x, index)\n"
        "    except RuntimeError as error:\n"
        "        assert name in str(error) and 'import' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(name)\n"
    )
