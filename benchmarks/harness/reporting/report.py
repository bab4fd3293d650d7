"""One page of all results found: report.html, which needs no network, and report.md.

Reads the JSON and PNG files of the results folder, of every benchmark its full form, and its quick
one where that is newer or alone. The HTML page embeds its pictures.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import options
from benchmarks.harness.environment import describe
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting import result_files
from benchmarks.harness.session import Session
from benchmarks.harness.store import write_atomic

_CSS = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 66rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { margin-bottom: 0.2rem; } h2 { margin-top: 3.2rem; border-top: 1px solid #ddd;
padding-top: 1.4rem; } a { color: #0072B2; }
.lead li { margin: 0.45rem 0; } .headline { font-size: 1.08rem; }
.stand-in { border-left: 4px solid #D55E00; padding: 0.4rem 0.8rem; background: #fdf3ee; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 0.6rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.4rem 0; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid #e4e4e4; text-align: right; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0.2rem; }
tr.ours { font-weight: 650; background: #eef5fa; }
.note, figcaption { color: #555; font-size: 0.92rem; max-width: 54rem; }
figure { margin: 1.4rem 0; } img { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1rem;
     font-size: 0.92rem; color: #444; } dt { font-weight: 600; } dd { margin: 0; }
code { background: #f3f3f3; padding: 0.1rem 0.3rem; border-radius: 3px; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=options.existing_folder,
        default=options.LOCAL,
        metavar="FOLDER",
        help="the results folder, where the report is written too "
        "(default: benchmarks/results/local)",
    )


def run(session: Session, args: argparse.Namespace) -> None:
    found = in_order(result_files.load_all(session.out), session.commands)
    if not found:
        raise UsageError(f"--out {args.out}: no results there yet; run a benchmark first")
    write_atomic(session.out / "report.html", to_html(found, session.out))
    write_atomic(session.out / "report.md", to_markdown(found))
    for result in found:
        session.line(f"{_name(result)}: {result['headline']}")
    session.line(f"report: {(session.out / 'report.html').resolve()} (and report.md beside it)")


def in_order(found: dict[str, dict[str, Any]], commands: Sequence[str]) -> list[dict[str, Any]]:
    """The results in the order of the subcommands, those of a GPU after those of the CPU."""

    def place(result: dict[str, Any]) -> tuple[int, bool]:
        stem = result["stem"].removesuffix(result_files.QUICK)
        name = stem.removesuffix("-cuda")
        return commands.index(name) if name in commands else len(commands), name != stem

    return sorted(found.values(), key=place)


def _name(result: dict[str, Any]) -> str:
    quick = result["stem"].endswith(result_files.QUICK)
    return result["title"] + (" (quick form)" if quick else "")


def to_markdown(found: list[dict[str, Any]]) -> str:
    """The report as Markdown; pictures are linked beside it."""
    parts = ["# gatv2_pyg: benchmark report"]
    parts.append("\n".join(f"- **{_name(result)}.** {_lead(result)}" for result in found))
    for result in found:
        named = result | {"title": _name(result), "verdict": ""}
        parts.append(result_files.to_markdown(named, heading="##").rstrip())
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Text as HTML; what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _lead(result: dict[str, Any]) -> str:
    label = f"(Not the real data: {result['stand_in']}.) " if result["stand_in"] else ""
    return label + str(result["headline"])


def to_html(found: list[dict[str, Any]], out: Path) -> str:
    """The report as one HTML page without links to other files."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    lead = "\n".join(
        f'<li><a href="#{result["stem"]}">{html.escape(_name(result))}</a>. '
        f"{_text(_lead(result))}</li>"
        for result in found
    )
    sections = "\n".join(_section(result, out) for result in found)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>gatv2_pyg: benchmark report</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<h1>gatv2_pyg: benchmark report</h1>\n<p class='note'>Made {now} from "
        f"{len(found)} result files.</p>\n<ul class='lead'>\n{lead}\n</ul>\n{sections}\n"
        "</body>\n</html>\n"
    )


def _section(result: dict[str, Any], out: Path) -> str:
    parts = [f'<h2 id="{result["stem"]}">{html.escape(_name(result))}</h2>']
    if result["stand_in"]:
        parts.append(
            f'<p class="stand-in">Not the real data: {html.escape(result["stand_in"])}.</p>'
        )
    parts.append(f'<p class="headline">{_text(result["headline"])}</p>')
    parts += [_table(table) for table in result["tables"]]
    parts += [_figure(picture, out) for picture in result["pictures"]]
    if result["notes"]:
        notes = "".join(f"<li>{_text(note)}</li>" for note in result["notes"])
        parts.append(f'<ul class="note">{notes}</ul>')
    facts = {
        "Settings": html.escape(result_files.settings_line(result["settings"])),
        "Machine, versions": html.escape(describe(result["environment"])),
        "Measured": html.escape(result_files.when(result)),
        "Reproduce": f"<code>{html.escape(result['command'])}</code>",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts.items())
    parts.append(f"<dl>{rows}</dl>")
    return f"<section>\n{chr(10).join(parts)}\n</section>"


def _table(table: dict[str, Any]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table["columns"])
    rows = []
    for row in table["rows"]:
        ours = table.get("highlight") is not None and row[0] == table["highlight"]
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows.append(f'<tr class="ours">{cells}</tr>' if ours else f"<tr>{cells}</tr>")
    note = f'<p class="note">{_text(table["note"])}</p>' if table["note"] else ""
    return (
        f'<div class="scroll"><table><caption>{html.escape(table["title"])}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _figure(picture: dict[str, str], out: Path) -> str:
    if not re.fullmatch(r"[\w.-]+\.png", picture["file"]):
        raise UsageError(f"{picture['file']!r}: not the name of a picture in the results folder")
    try:
        content = base64.b64encode((out / picture["file"]).read_bytes()).decode()
    except OSError:
        raise UsageError(
            f"{picture['file']} is missing in {out}; run its benchmark again"
        ) from None
    return (
        f'<figure><img alt="{html.escape(picture["alt"])}" src="data:image/png;base64,{content}">'
        f"<figcaption>{html.escape(picture['caption'])}</figcaption></figure>"
    )
