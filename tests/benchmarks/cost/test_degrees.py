"""The kernels by degree: every cell of the table is a ratio of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.cost import bench, degrees

TINY = ["--shapes", "8x16,1x7", "--degrees", "8,2", "--edges", "400", "--budget", "0.01"]


def run(tmp_path: Path, *argv: str) -> dict[str, Any]:
    assert main(["degrees", *argv, "--device", "cpu", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("degrees*.json")
    return json.loads(path.read_text())


def test_cells_are_the_ratios_over_one_and_three_gathers(tmp_path: Path) -> None:
    result = run(tmp_path, *TINY)
    (table,) = result["tables"]
    assert table["columns"] == ["H×C", "degree 2: forward / step", "degree 8: forward / step"]
    assert [row[0] for row in table["rows"]] == ["8×16", "1×7"]
    cells = {(row[0], degree): row[i] for row in table["rows"] for i, degree in ((1, 2), (2, 8))}
    for entry in result["data"]["cases"]:
        ratios = entry["kernels"]["ratios"]
        want = f"{ratios['forward'][1]:.1f} / {ratios['step'][1] / 3:.1f}"
        assert cells[entry["shape"], entry["degree"]] == want
        assert set(entry["kernels"]["seconds"]) == {"forward", "step", "gather"}
    assert result["settings"]["degrees"] == [2, 8]
    assert "degree 2: forward " in result["headline"]
    assert (tmp_path / "degrees.png").stat().st_size > 10_000


def test_the_quick_form(tmp_path: Path) -> None:
    result = run(tmp_path, "--quick", "--edges", "200", "--budget", "0.01")
    assert len(result["data"]["cases"]) == 4


def test_a_wrong_layer_gets_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.correctness, "failure", lambda *args, **kwargs: "out errs by 1")
    result = run(tmp_path, *TINY)
    assert {cell for row in result["tables"][0]["rows"] for cell in row[1:]} == {
        "wrong: out errs by 1"
    }
    assert result["headline"].endswith("degree 2: not timed; degree 8: not timed.")


def test_requirements_are_on_the_worst_short_degree() -> None:
    def entry(shape: str, degree: int, forward: float, step: float) -> dict[str, Any]:
        ratios = {"forward": [0, forward, 9], "step": [0, 3 * step, 99]}
        return {"shape": shape, "degree": degree, "kernels": {"ratios": ratios}}

    cases = [
        entry("8×16", d, f, s) for d, f, s in ((2, 1, 2), (4, 3.5, 1), (8, 2, 3.6), (64, 9, 9))
    ]
    cases += [entry("8×8", degree, 1, 1) for degree in (2, 4)]
    data = {"device": "cpu", "cases": cases}
    settings = {"degrees": [2, 4], "edges": degrees.EDGES}
    result = degrees.result(data, settings)
    assert [row[1:] for row in result.tables[1].rows] == [
        ["8×16", "≤ 3.50×", "3.50×", "met"],
        ["8×16", "≤ 3.50×", "3.60×", "not met"],
    ]
    assert result.verdict == "1 of 2 requirements met."
    for other in ({"edges": 100}, {}):
        data["device"] = "cpu" if other else "cuda"
        assert len(degrees.result(data, settings | other).tables) == 1


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--degrees", "0"], "--degrees"),
        (["--degrees", "2,500", "--edges", "400"], "--degrees"),
        (["--shapes", "9x9"], "'9x9'"),
    ],
)
def test_bad_values(
    argv: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["degrees", *argv, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_case_has_whole_rows() -> None:
    case = degrees.case_of("3x20", 7, 100)
    assert (case.nodes, case.edges, case.heads, case.channels) == (14, 98, 3, 20)
