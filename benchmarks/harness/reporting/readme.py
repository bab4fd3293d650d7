"""Fills the marked sections of README.md and docs from the result files: no figure is typed in.

A section is what stands between <!-- benchmarks:NAME --> and <!-- /benchmarks:NAME -->. NAME is a
benchmark (all of its result) or NAME:PART, where PART is one of

  headline            the finding, in a sentence
  table, table2, ...  a table with its note
  picture, picture2   a picture with its caption
  origin              when, on what machine and with which versions it was measured, the command
  cell:T:R:C          row R, column C of table T (from 1), for figures in running text

Where both markers stand on one line and the content is one line, it is filled in place.
With --check nothing is written: an outdated section is an error.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from benchmarks.harness import options
from benchmarks.harness.environment import PROJECT
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting import result_files
from benchmarks.harness.reporting.result import REQUIREMENTS
from benchmarks.harness.session import Session
from benchmarks.harness.store import write_atomic

SECTION = re.compile(
    r"(?P<open><!-- benchmarks:(?P<name>[\w:-]+) -->)(?P<text>.*?)"
    r"(?P<close><!-- /benchmarks:(?P=name) -->)",
    re.DOTALL,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="+",
        default=[PROJECT / "README.md", PROJECT / "docs" / "benchmarks.md"],
        metavar="FILE",
        help="the files to fill (default: README.md and docs/benchmarks.md of the project)",
    )
    parser.add_argument(
        "--out",
        type=options.existing_folder,
        default=options.RESULTS,
        metavar="FOLDER",
        help="the results folder (default: benchmarks/results)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if outdated")


def run(session: Session, args: argparse.Namespace) -> None:
    found = result_files.load_all(session.out)
    outdated: list[str] = []
    for path in args.readme:
        try:
            before = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--readme {path}: {error.strerror}") from None
        after, changed = fill(before, found, path.parent, session.out)
        if args.check:
            if changed:
                outdated.append(f"{path.name}: outdated: {', '.join(changed)}")
            continue
        if changed:
            try:
                write_atomic(path, after)
            except OSError as error:
                raise UsageError(f"--readme {path}: can't write ({error.strerror})") from None
        session.line(f"{path.name}: {len(changed)} sections changed")
    if outdated:
        raise UsageError(f"{'; '.join(outdated)}; run python -m benchmarks readme")


def fill(
    text: str, found: dict[str, dict[str, Any]], folder: Path, out: Path
) -> tuple[str, list[str]]:
    """The text with its sections filled, and the names of those that changed.

    Args:
        text: Markdown.
        found: result files by stem.
        folder: of the text's file; picture links are relative to it.
        out: the results folder.

    Raises:
        UsageError: an unknown benchmark or part, or a marker without its end.
    """
    opened = set(re.findall(r"<!-- benchmarks:([\w:-]+) -->", text))
    closed = {match["name"] for match in SECTION.finditer(text)}
    if opened - closed:
        raise UsageError(f"marker benchmarks:{min(opened - closed)} has no end")
    link = os.path.relpath(out.resolve(), folder.resolve()).replace(os.sep, "/")
    changed: list[str] = []

    def replace(match: re.Match[str]) -> str:
        content = _render(match["name"], found, link)
        inline = "\n" not in match["text"] + content
        filled = content if inline else f"\n{content}\n"
        if filled != match["text"]:
            changed.append(match["name"])
        return match["open"] + filled + match["close"]

    return SECTION.sub(replace, text), changed


def _render(name: str, found: dict[str, dict[str, Any]], link: str) -> str:
    stem, _, part = name.partition(":")
    result = found.get(stem) or found.get(stem + result_files.QUICK)
    if result is None:
        raise UsageError(f"section benchmarks:{name}: no result {stem}.json; run it first")
    try:
        return _part(result, part, link)
    except (IndexError, ValueError):
        raise UsageError(f"section benchmarks:{name}: the result has no such part") from None


def _part(result: dict[str, Any], part: str, link: str) -> str:
    label = f"Not the real data: {result['stand_in']}. " if result["stand_in"] else ""
    if part == "":
        shown = [label + result["headline"]]
        tables = (table for table in result["tables"] if table["title"] != REQUIREMENTS)
        shown += map(_table, tables)
        shown += [_picture(picture, link) for picture in result["pictures"]]
        return "\n\n".join([*shown, _origin(result)])
    if part == "headline":
        return label + str(result["headline"])
    if part == "origin":
        return _origin(result)
    if part.startswith("cell:"):
        table, row, column = (_place(number) for number in part.split(":")[1:])
        return str(result["tables"][table]["rows"][row][column])
    named = re.fullmatch(r"(table|picture)(\d*)", part)
    if named is None:
        raise ValueError(part)
    place = _place(named[2] or "1")
    if named[1] == "table":
        return _table(result["tables"][place])
    return _picture(result["pictures"][place], link)


def _place(number: str) -> int:
    if int(number) < 1:
        raise ValueError(number)
    return int(number) - 1


def _table(table: dict[str, Any]) -> str:
    parts = [f"**{table['title']}**", result_files.table_markdown(table)]
    return "\n\n".join([*parts, table["note"]] if table["note"] else parts)


def _picture(picture: dict[str, str], link: str) -> str:
    return f"![{picture['alt']}]({link}/{picture['file']})\n\n*{picture['caption']}*"


def _origin(result: dict[str, Any]) -> str:
    return f"<sub>`{result['command']}`: {result_files.origin_line(result)}.</sub>"
