"""The rooms of the benchmarks: imports point down only, no circle, nothing hides."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gatv2_pyg

FOLDER = Path(__file__).parents[2] / "benchmarks"

# What the modules of each room may import from, beside their own room; "top" is the folder itself.
ROOMS: dict[str, set[str]] = {
    "top": {"studies", "cost", "layers", "datasets", "harness"},
    "studies": {"layers", "datasets", "harness"},
    "cost": {"layers", "datasets", "harness"},
    "layers": {"harness"},
    "datasets": {"harness"},
    "harness": set(),
}
TOP = {"__init__", "__main__", "cli", "cora", "cora_report"}
MOST_FILES = 11

MODULES = {
    ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts): path
    for path in FOLDER.rglob("*.py")
}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or parts[-1] in ROOMS else "top"


def imported(path: Path) -> Iterator[str]:
    """The names that a file imports, at any depth of its code."""
    own = ["benchmarks", *path.relative_to(FOLDER).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = own[: len(own) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(module: str) -> set[str]:
    """The modules of the benchmarks that a module imports."""
    found = set()
    for name in imported(MODULES[module]):
        if name.split(".")[0] == "benchmarks":
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return {name.removesuffix(".__init__") for name in found} & MODULES.keys()


def test_every_module_has_its_room() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == ROOMS.keys() - {"top"}
    assert {path.stem for path in FOLDER.glob("*.py")} == TOP


def test_the_rooms_have_an_order() -> None:
    order = list(TopologicalSorter(ROOMS).static_order())
    assert order[0] == "harness"
    assert order[-1] == "top"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    room = room_of(module)
    for other in imports_of(module):
        assert room_of(other) in ROOMS[room] | {room}, f"{module} may not import {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({module: imports_of(module) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_the_package_is_used_by_its_public_names(module: str) -> None:
    public = {f"gatv2_pyg.{name}" for name in [*gatv2_pyg.__all__, "__version__", "attention"]}
    for name in imported(MODULES[module]):
        if name.split(".")[0] == "gatv2_pyg":
            assert name in public | {"gatv2_pyg"} or name.startswith("gatv2_pyg.attention."), name


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: path.stem)
def test_no_module_hides_another(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names
    assert not path.with_suffix("").exists()


def test_no_folder_is_crowded() -> None:
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


def test_subcommands_are_modules_of_the_rooms() -> None:
    from benchmarks.cli import COMMANDS

    assert {f"benchmarks.{entry.module}" for entry in COMMANDS.values()} <= MODULES.keys()


def test_declared_dependencies_are_used_and_those_used_declared() -> None:
    """The extra ``bench`` of pyproject.toml against what the benchmarks import."""
    toml = pytest.importorskip("tomllib")
    project = toml.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["bench"]
    declared = {name.replace("scikit-learn", "sklearn") for name in extra}
    used = {name.split(".")[0] for path in MODULES.values() for name in imported(path)}
    standard = sys.stdlib_module_names | {"benchmarks", "gatv2_pyg", "torch", "torch_geometric"}
    assert used - standard == declared
