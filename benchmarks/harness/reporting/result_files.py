"""The files of a result: JSON (all of it), Markdown and PNG.

The JSON file is complete: the report and the README are made from these files alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import quantities
from benchmarks.harness.environment import describe
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting.result import Picture, Result
from benchmarks.harness.store import write_atomic

SCHEMA = 1
WIDTH = 100


def to_json(result: Result, *, stem: str, extra: dict[str, Any]) -> dict[str, Any]:
    """The content of the JSON file; ``extra`` adds environment, command and times."""
    suffixes = [picture.suffix for picture in result.pictures]
    if len(set(suffixes)) != len(suffixes):
        raise ValueError(f"pictures of {stem} need different suffixes, got {suffixes}")
    label = f" ({result.stand_in})" if result.stand_in else ""
    return {
        "schema": SCHEMA,
        "stem": stem,
        "title": result.title,
        "headline": result.headline,
        "verdict": result.verdict,
        "stand_in": result.stand_in,
        **extra,
        "settings": result.settings,
        "notes": result.notes,
        "tables": [asdict(table) | {"title": table.title + label} for table in result.tables],
        "pictures": [
            {
                "file": f"{stem}{'-' + picture.suffix if picture.suffix else ''}.png",
                "caption": picture.caption + (f" Data: {result.stand_in}." if label else ""),
                "alt": picture.alt + label,
            }
            for picture in result.pictures
        ],
        "data": result.data,
    }


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def table_markdown(table: dict[str, Any]) -> str:
    """A table of a result file as GitHub Markdown (title and note not included)."""
    lines = ["| " + " | ".join(map(_escape, table["columns"])) + " |"]
    lines.append("|---|" + "---:|" * (len(table["columns"]) - 1))
    for row in table["rows"]:
        cells = [_escape(cell) for cell in row]
        if table.get("highlight") is not None and row[0] == table["highlight"]:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings_line(settings: dict[str, Any]) -> str:
    """Settings in one line of text."""

    def show(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            items = list(value)
            whole = len(items) > 3 and all(type(item) is int for item in items)
            if whole and items == list(range(items[0], items[-1] + 1)):
                return f"{items[0]} ... {items[-1]}"
            return ", ".join(map(str, items))
        return str(value)

    return "; ".join(f"{name} {show(value)}" for name, value in settings.items())


def when(result: dict[str, Any]) -> str:
    """When and how long a result was measured; a run that went on counts its last part."""
    kept = result.get("kept", 0)
    after = f" after {quantities.count(kept, 'part')} kept from an interrupted run" if kept else ""
    return f"{result['finished']}, {result['seconds']:.0f} s{after}"


def origin_line(result: dict[str, Any]) -> str:
    """When, how long and on what a result was measured."""
    return f"{when(result)}; {describe(result['environment'])}"


def to_markdown(result: dict[str, Any], *, heading: str = "#") -> str:
    """A result file as Markdown; picture links are relative to the results folder."""
    parts = [f"{heading} {result['title']}"]
    if result["stand_in"]:
        parts.append(f"> **Not the real data:** {result['stand_in']}.")
    parts.append(" ".join(filter(None, [result["headline"], result.get("verdict")])))
    for table in result["tables"]:
        parts.append(f"**{table['title']}**")
        parts.append(table_markdown(table))
        if table["note"]:
            parts.append(table["note"])
    for picture in result["pictures"]:
        parts.append(f"![{picture['alt']}]({picture['file']})")
        parts.append(f"*{picture['caption']}*")
    if result["notes"]:
        parts.append("\n".join(f"- {note}" for note in result["notes"]))
    parts.append(f"Settings: {settings_line(result['settings'])}.")
    parts.append(f"Measured: {origin_line(result)}.")
    parts.append(f"Reproduce: `{result['command']}`")
    return "\n\n".join(parts) + "\n"


def write(out: Path, result: dict[str, Any], pictures: Sequence[Picture]) -> list[Path]:
    """Writes the JSON, Markdown and PNG files of a result; returns their paths."""
    from benchmarks.harness.reporting import plots

    paths = []
    for picture, entry in zip(pictures, result["pictures"], strict=True):
        paths.append(out / entry["file"])
        write_atomic(paths[-1], plots.render(picture.figure, stand_in=result["stand_in"]))
    paths.append(out / f"{result['stem']}.md")
    write_atomic(paths[-1], to_markdown(result))
    paths.append(out / f"{result['stem']}.json")
    write_atomic(paths[-1], to_text(result) + "\n")
    return paths


def to_text(value: Any, depth: int = 0) -> str:
    """JSON whose lists and objects stand on one line each where they fit in 100 columns."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + depth <= WIDTH or not isinstance(value, (dict, list)) or not value:
        return line
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(key, ensure_ascii=False)}: {to_text(part, depth + 1)}"
            for key, part in value.items()
        ]
    else:
        parts = [to_text(part, depth + 1) for part in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    indent = " " * (depth + 1)
    return f"{first}\n{indent}" + f",\n{indent}".join(parts) + f"\n{' ' * depth}{last}"


def load(path: Path) -> dict[str, Any]:
    """A result file; ``UsageError`` if it is not one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name}: not a readable result file ({error})") from None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise UsageError(f"{path.name}: not a result file of schema {SCHEMA}; run it again")
    return result


def load_all(out: Path) -> dict[str, dict[str, Any]]:
    """All result files of a folder by stem; a quick form only where no full one is as new."""
    found = {path.stem: load(path) for path in sorted(out.glob("*.json"))}

    def outdone(stem: str) -> bool:
        full = found.get(stem.removesuffix(QUICK)) if stem.endswith(QUICK) else None
        return full is not None and full["finished"] >= found[stem]["finished"]

    return {stem: result for stem, result in found.items() if not outdone(stem)}


QUICK = "-quick"
