"""Links lead somewhere, pages are in the site, and what is written twice is the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gatv2_pyg
import gatv2_pyg.ops.reference
from tests.docs.pages import PAGES, PROJECT, anchors_of, blocks_of, links_of, name_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links_of(page):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        assert file.is_relative_to(PROJECT), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{name_of(page)}: {target}"


def test_linked_files_are_tracked() -> None:
    """A link to a file that git ignores works only where it was made."""
    if not (PROJECT / ".git").exists():
        pytest.skip("not a git checkout")
    files = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in links_of(page)
        if not re.match(r"[a-z]+:|#", target)
    }
    ignored = subprocess.run(
        ["git", "check-ignore", *map(str, files)], cwd=PROJECT, capture_output=True, text=True
    )
    assert ignored.stdout == ""


def test_every_page_is_in_the_site_and_in_the_readme() -> None:
    site = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    in_site = set(re.findall(r"^\s*- .*?([\w-]+\.md)$", site, re.M))
    in_readme = {Path(target.partition("#")[0]).name for target in links_of(PROJECT / "README.md")}
    pages = {page.name for page in (PROJECT / "docs").glob("*.md")}
    assert in_site == pages
    assert pages <= in_readme


def test_every_result_is_linked() -> None:
    """What a page links to is in the site."""
    results = PROJECT / "benchmarks" / "results"
    linked = {
        (PROJECT / "docs" / target.partition("#")[0]).resolve()
        for target in links_of(PROJECT / "docs" / "benchmarks.md")
    }
    assert {page for page in results.glob("*.md") if page.stem != "report"} <= linked


def test_every_public_name_is_in_the_api() -> None:
    shown = re.findall(
        r"^::: gatv2_pyg\.\S*?(\w+)$", (PROJECT / "docs" / "api.md").read_text(), re.M
    )
    assert set(gatv2_pyg.__all__) <= set(shown)


def test_the_formulas_are_those_of_the_reference() -> None:
    (formulas,) = (
        block.code
        for block in blocks_of(PROJECT / "docs" / "architecture.md", "text")
        if block.code.startswith("(1)")
    )
    doc = gatv2_pyg.ops.reference.__doc__

    def numbered(text: str) -> str:
        return " ".join(text[text.index("(1)  z_e" if "(1)  z_e" in text else "(1) z_e") :].split())

    assert numbered(formulas) == numbered(doc)


def test_figures_come_from_the_result_files() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "readme", "--check", "--out", "benchmarks/results"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
