"""The project's Markdown pages, their code blocks and their links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    [
        PROJECT / "README.md",
        PROJECT / "CONTRIBUTING.md",
        PROJECT / "CHANGELOG.md",
        *(PROJECT / "docs").glob("*.md"),
    ]
)

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S
)
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?\s*\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def blocks_of(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in some languages."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(match["language"], match["code"], text[: match.start()].count("\n") + 2)
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if block.language in languages]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks and code in backticks."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))


def links_of(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return _LINK.findall(text)


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in headings
    }
