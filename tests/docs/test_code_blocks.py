"""Every Python block of README and docs runs; every command they name exists."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gatv2_pyg
from tests.docs.pages import PAGES, PROJECT, blocks_of, name_of

CODE = [page for page in PAGES if blocks_of(page, "python")]


@pytest.fixture
def clean_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder to write to, and the defaults of the process afterwards."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    gatv2_pyg.set_graph_cache(True)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("clean_state")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", CODE, ids=name_of)
def test_python_blocks_run(page: Path) -> None:
    """The blocks of a page run in order and share their names."""
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__docs__"}
    for block in blocks_of(page, "python"):
        tree = ast.parse(block.code, name_of(page))
        ast.increment_lineno(tree, block.line - 1)
        exec(compile(tree, name_of(page), "exec"), names)


def test_readme_shows_its_use() -> None:
    assert PROJECT / "README.md" in CODE


def commands() -> list[tuple[str, list[str]]]:
    """The commands of all bash blocks, with the page they stand on."""
    found = []
    for page in PAGES:
        for block in blocks_of(page, "bash"):
            for line in block.code.splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    found.append((name_of(page), words))
    return found


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.M))
    named = {
        word
        for _, words in commands()
        if words[0] == "make"
        for word in words[1:]
        if "=" not in word
    }
    assert {"test", "bench"} <= named
    assert named <= targets


def modules() -> list[list[str]]:
    """Each ``python -m gatv2_pyg…`` or ``python -m benchmarks …``, with its arguments."""
    found = []
    for _, words in commands():
        if "-m" in words and words[words.index("-m") + 1].startswith(("gatv2_pyg", "benchmarks")):
            found.append(words[words.index("-m") + 1 :])
    return found


@pytest.mark.parametrize("words", modules(), ids=" ".join)
def test_modules_take_their_arguments(words: list[str]) -> None:
    """``--help`` after the arguments: they are known, and nothing is run."""
    result = subprocess.run(
        [sys.executable, "-m", *words, "--help"], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in result.stdout
