"""What is written about a release in several places is the same, and what it promises was run."""

from __future__ import annotations

import re
import sys

import pytest

import gatv2_pyg
from tests.docs.pages import PROJECT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
CONSTRAINTS = (PROJECT / "constraints.txt").read_text(encoding="utf-8")


def test_one_version() -> None:
    version = gatv2_pyg.__version__
    citation = (PROJECT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["scikit-build"]["metadata"]["version"]["input"] == (
        "gatv2_pyg/__init__.py"
    )
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == version
    released = re.search(r"^date-released: (.+)$", citation, re.M)[1]
    assert re.findall(r"^## \[(\d.*?)\] - (.+)$", changelog, re.M)[0] == (version, released)


@pytest.mark.parametrize("package", ["torch", "torch_geometric"])
def test_lower_bounds_are_what_was_run(package: str) -> None:
    """The bound is the version that the tests are pinned to, or a prefix of it."""
    (requirement,) = (
        text for text in PYPROJECT["project"]["dependencies"] if text.startswith(f"{package}>=")
    )
    bound = requirement.partition(">=")[2]
    pinned = re.search(rf"^{package.replace('_', '[-_]')}==([\d.]+)", CONSTRAINTS, re.M)[1]
    assert f"{pinned}.".startswith(f"{bound}.")
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert f"{package} ≥ {bound}" in readme


def test_type_checkers_find_the_types() -> None:
    assert (PROJECT / "gatv2_pyg" / "py.typed").is_file()


def what_was_run(subject: str) -> str:
    """The cell "run" of a row of docs/tested.md."""
    tested = (PROJECT / "docs" / "tested.md").read_text(encoding="utf-8")
    (row,) = (line for line in tested.splitlines() if line.startswith(f"| {subject} |"))
    return row.split("|")[2]


def test_classifiers_name_the_versions_of_python_that_were_run() -> None:
    cell = what_was_run("Python")
    run = {".".join(version.split(".")[:2]) for version in re.findall(r"3\.\d+\.\d+", cell)}
    named = {
        text.rpartition(" ")[2]
        for text in PYPROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", text)
    }
    assert named == run
    assert min(named, key=lambda version: int(version[2:])) == (
        PYPROJECT["project"]["requires-python"].removeprefix(">=")
    )


def test_classifiers_name_the_systems_that_were_run() -> None:
    named = {
        text.rpartition(" ")[2]
        for text in PYPROJECT["project"]["classifiers"]
        if text.startswith("Operating System")
    }
    assert named == {
        system for system in ("Linux", "MacOS", "Windows") if system in what_was_run("system")
    }


def test_the_builder_reads_the_licence() -> None:
    """scikit-build-core before 0.11 refuses the name of a licence."""
    settings = PYPROJECT["tool"]["scikit-build"]
    (needed,) = PYPROJECT["build-system"]["requires"]
    assert PYPROJECT["project"]["license"] == "MIT"
    assert needed == f"scikit-build-core>={settings['minimum-version']}"
    assert needed in PYPROJECT["project"]["optional-dependencies"]["test"]
    assert tuple(map(int, settings["minimum-version"].split("."))) >= (0, 11)
