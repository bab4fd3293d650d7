"""The report and the README are made from the result files, and agree with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.harness import environment
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting import plots, readme, result_files
from benchmarks.harness.reporting.palette import BLUE
from benchmarks.harness.reporting.result import Picture, Result, Table


def write_result(out: Path, stem: str, *, headline: str, stand_in: str | None = None) -> None:
    with plots.style():
        figure, (axes,) = plots.panels()
        plots.bars(axes, ["a"], [1.0], colors=[BLUE], texts=["1 s"], unit="time (s)")
    result = Result(
        title=f"Title of {stem}",
        headline=headline,
        settings={"seeds": [0, 1]},
        tables=[Table("Times", ["layer", "time"], [["ours", "1 s"], ["x|y", "<2> s"]], "A note")],
        pictures=[Picture(figure, "What it shows.", "A bar")],
        data={"times": [1.0, 2.0]},
        notes=["See `speed`."],
        stand_in=stand_in,
    )
    extra = {
        "command": f"python -m benchmarks {stem}",
        "finished": "2026-01-02 03:04 UTC",
        "seconds": 5.0,
        "environment": environment.environment(),
    }
    content = result_files.to_json(result, stem=stem, extra=extra)
    result_files.write(out, content, result.pictures)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    write_result(folder, "noise", headline="Noise hurts.")
    write_result(folder, "cora", headline="A tie at 83.0 %.", stand_in="a generated graph")
    write_result(folder, "noise-quick", headline="Quick noise.")
    write_result(folder, "dictionary-lookup-quick", headline="Only GATv2 looks up.")
    return folder


def test_report_is_self_contained_and_complete(out: Path, capsys: Any) -> None:
    assert main(["report", "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "url(" not in page
    assert "http" not in page
    assert page.count('src="data:image/png;base64,') == 3
    places = [page.index(text) for text in ("A tie at", "Only GATv2 looks", "Noise hurts")]
    assert places == sorted(places)
    assert "Quick noise" not in page
    assert "Not the real data: a generated graph" in page
    assert "&lt;2&gt; s" in page
    assert "<code>speed</code>" in page
    assert "python -m benchmarks cora" in page
    markdown = (out / "report.md").read_text()
    assert "(cora.png)" in markdown
    assert r"x\|y" in markdown
    assert "**Not the real data:** a generated graph" in markdown


def test_report_shows_a_quick_form_that_is_newer(out: Path) -> None:
    path = out / "noise-quick.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finished": "2026-01-02 03:05 UTC"}))
    assert main(["report", "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "Quick noise" in page
    assert "Noise hurts" in page


def test_report_names_what_is_missing_or_broken(out: Path, capsys: Any) -> None:
    (out / "cora.png").unlink()
    assert main(["report", "--out", str(out)]) == 2
    assert "cora.png is missing" in capsys.readouterr().err
    (out / "broken.json").write_text("{")
    assert main(["report", "--out", str(out)]) == 2
    assert "broken.json" in capsys.readouterr().err


TEXT = """# Title
<!-- benchmarks:cora:table -->
old
<!-- /benchmarks:cora:table -->
It takes <!-- benchmarks:cora:cell:1:2:2 -->?<!-- /benchmarks:cora:cell:1:2:2 --> here.
<!-- benchmarks:dictionary-lookup -->
<!-- /benchmarks:dictionary-lookup -->
"""


def test_readme_sections_are_filled_and_checked(out: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "README.md"
    file.write_text(TEXT)
    argv = ["readme", "--readme", str(file), "--out", str(out)]
    assert main([*argv, "--check"]) == 2
    assert "outdated: cora:table, cora:cell:1:2:2, dictionary-lookup" in capsys.readouterr().err
    assert file.read_text() == TEXT
    assert main(argv) == 0
    filled = file.read_text()
    assert "| ours | 1 s |" in filled
    assert "old" not in filled
    assert "It takes <!-- benchmarks:cora:cell:1:2:2 --><2> s<!-- /" in filled
    assert "(results/dictionary-lookup-quick.png)" in filled
    assert "Only GATv2 looks up." in filled
    assert main([*argv, "--check"]) == 0
    result = json.loads((out / "cora.json").read_text())
    result["tables"][0]["rows"][0][1] = "3 s"
    (out / "cora.json").write_text(json.dumps(result))
    assert main([*argv, "--check"]) == 2


@pytest.mark.parametrize(("place", "text"), [("1:1:2", "1 s"), ("1:2:1", "x|y")])
def test_a_cell_is_named_by_table_row_and_column(out: Path, place: str, text: str) -> None:
    marker = f"<!-- benchmarks:noise:cell:{place} -->"
    end = f"<!-- /benchmarks:noise:cell:{place} -->"
    filled, _ = readme.fill(f"{marker}{end}", result_files.load_all(out), out.parent, out)
    assert filled == f"{marker}{text}{end}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("speed", "no result speed.json"),
        ("cora:drawing", "no such part"),
        ("cora:table2", "no such part"),
        ("cora:cell:1:9:1", "no such part"),
        ("cora:cell:1:0:1", "no such part"),
    ],
)
def test_readme_sections_that_cannot_be_filled(out: Path, name: str, message: str) -> None:
    text = f"<!-- benchmarks:{name} -->\n<!-- /benchmarks:{name} -->"
    with pytest.raises(UsageError, match=message):
        readme.fill(text, result_files.load_all(out), out.parent, out)


def test_readme_marker_without_end(out: Path) -> None:
    with pytest.raises(UsageError, match="cora has no end"):
        readme.fill("<!-- benchmarks:cora -->", result_files.load_all(out), out.parent, out)
