"""Imports point down only, and the package runs without what is optional."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gatv2_pyg"

ROOMS = [
    {"__init__", "__main__"},
    {"env", "convert", "attention", "zero_edit"},
    {"conv", "dense", "diagnostics"},
    {"at_once"},
    {"functional", "passing", "maps"},
    {"backends", "inputs"},
    {"selfcheck"},
    {"graph", "ops"},
    {"kernels"},
]
"""From the top down: a room imports from itself and from those below it."""

HEADERS = PACKAGE / "kernels/cpu/src"
HEADER_ROOMS = ["passes", "tiles", "micro", "layout", "simd"]
"""Of the CPU kernels' C++, likewise."""

BENEATH_ALL = {
    "kernels",
    *(f"kernels.{name}" for name in ("built", "contract", "locks", "plain", "validity")),
}
"""What is imported of the kernels; each set of them is loaded when it is first called."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


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
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name for name in names if is_module(name)} or {base}
    return {name.removeprefix("gatv2_pyg.") for name in found if name.startswith("gatv2_pyg.")}


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def depth_of(room: str) -> int:
    return next(depth for depth, rooms in enumerate(ROOMS) if room in rooms)


def test_every_module_has_its_room():
    found = {name_of(path).split(".")[0] for path in modules()}
    assert found == set.union(*ROOMS)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_down(path):
    room = name_of(path).split(".")[0]
    for module in imports_of(path):
        other = module.split(".")[0]
        assert other == room or depth_of(other) > depth_of(room), f"{name_of(path)}: {module}"
        if other == "kernels" and room != "kernels":
            assert module in BENEATH_ALL, f"{name_of(path)} loads {module} before it is called"


def test_the_modules_have_an_order():
    below = {name_of(path): imports_of(path) for path in modules()}
    done: set[str] = set()
    while len(done) < len(below):
        ready = {name for name, needs in below.items() if needs & set(below) <= done} - done
        assert ready, f"circular imports among {sorted(set(below) - done)}"
        done |= ready


def test_includes_point_down():
    assert {path.name for path in HEADERS.iterdir() if path.is_dir()} == set(HEADER_ROOMS)
    for path in HEADERS.glob("*/*.h"):
        depth = HEADER_ROOMS.index(path.parent.name)
        for room in re.findall(r'#include "(\w+)/', path.read_text()):
            assert HEADER_ROOMS.index(room) >= depth, f"{path.parent.name}/{path.name}: {room}"


SOURCES = ("*.py", "*.cpp", "*.h", "*.sh")


@pytest.mark.parametrize("top", ["gatv2_pyg", "tests", "examples"])
def test_no_folder_is_crowded(top):
    for folder in [PACKAGE.parent / top, *(PACKAGE.parent / top).rglob("*")]:
        sources = [path.name for pattern in SOURCES for path in folder.glob(pattern)]
        assert len(set(sources) - {"__init__.py"}) <= 11, folder


def test_kernels_see_plain_tensors_and_not_each_other():
    for path in PACKAGE.glob("kernels/*/*.py"):
        own = f"kernels.{path.parent.name}"
        for module in imports_of(path):
            allowed = module == own or module.startswith(f"{own}.") or module in BENEATH_ALL
            assert allowed, (path.name, module)


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
    for name in ("'triton", "torch_scatter", "gatv2_pyg.kernels.cpu", "gatv2_pyg.kernels.triton"):
        assert name not in out


def test_everything_works_without_what_is_optional():
    run(
        "import sys, warnings\n"
        "for name in ('triton', 'torch_scatter', 'gatv2_pyg.kernels.cpu'):\n"
        "    sys.modules[name] = None\n"
        "import torch, gatv2_pyg\n"
        "x, index = torch.randn(6, 4), torch.randint(6, (2, 20))\n"
        "conv = gatv2_pyg.GATv2Conv(4, 3, heads=2, dropout=0.3)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(2):\n"
        "        assert conv.backend_for(x, index).name == 'reference'\n"
        "        conv(x, index).sum().backward()\n"
        "(one,) = [w for w in caught if w.category is RuntimeWarning]\n"
        "assert 'without its compiled CPU kernels' in str(one.message)\n"
        "for name in ('fused', 'triton', 'scatter'):\n"
        "    try:\n"
        "        with gatv2_pyg.use_backend(name):\n"
        "            conv(x, index)\n"
        "    except RuntimeError as error:\n"
        "        assert name in str(error) and 'import' in str(error), error\n"
        "    else:\n"
        "        raise AssertionError(name)\n"
    )
