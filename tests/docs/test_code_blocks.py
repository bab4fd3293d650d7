"""Every Python block of README and docs runs; every command they name exists."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
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


def test_torch_scatter_is_built_where_torch_is_seen() -> None:
    """Its build imports torch, which pip's isolation hides."""
    installs = [
        words
        for _, words in commands()
        if words[0] == "pip" and any("scatter" in word for word in words)
    ]
    assert installs
    for words in installs:
        assert "--no-build-isolation" in words, words


def modules() -> list[list[str]]:
    """Each ``python -m gatv2_pyg…`` or ``python -m benchmarks …``, with its arguments, once."""
    found: list[list[str]] = []
    for _, words in commands():
        if "-m" in words and words[words.index("-m") + 1].startswith(("gatv2_pyg", "benchmarks")):
            named = words[words.index("-m") + 1 :]
            if named not in found:
                found.append(named)
    return found


@pytest.mark.parametrize("words", modules(), ids=" ".join)
def test_modules_take_their_arguments(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--help`` after the arguments: they are known, and nothing is run."""
    if words[0] == "gatv2_pyg":
        words = words[:1]  # what follows is the command line of a script of the reader's
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    monkeypatch.delitem(sys.modules, words[0], raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    shown = capsys.readouterr().out
    assert end.value.code == 0
    for option in (word for word in words if word.startswith("--")):
        assert option in shown


def test_named_scripts_may_be_missing_but_not_their_runner() -> None:
    """The command that takes a script stands in the pages, each time with one."""
    lines = [words[1:] for words in modules() if words[0] == "gatv2_pyg"]
    assert any(words[0].endswith(".py") for words in lines)
    assert any(words[0] == "-m" for words in lines)
