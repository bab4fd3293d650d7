"""What is committed under benchmarks/results agrees: pages, pictures and README with their JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import cora_report
from benchmarks.cost import degrees, memory, memory_report, scaling, scaling_report, speed_report
from benchmarks.cost.beyond import report as beyond_report
from benchmarks.cost.minibatch import report as minibatch_report
from benchmarks.datasets.data import Dataset
from benchmarks.harness import environment, options
from benchmarks.harness.reporting import readme, result_files
from benchmarks.studies import attention_report, citation, dictionary_lookup, heterophily, noise
from benchmarks.studies.molecules import report as molecules_report

FILES = sorted(
    path
    for path in options.RESULTS.rglob("*.json")
    if not {"local", ".partial"} & set(path.relative_to(options.RESULTS).parts)
)
each_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: str(path.relative_to(options.RESULTS))
)
# Of a file, of the longest of each stem on average, and of one list: rounds are summarised before
# they are written.
MOST_LINES, MEAN_LINES, LONGEST_LIST = 2_700, 700, 64


def test_there_are_results() -> None:
    assert {"cora", "speed", "memory", "scaling", "attention"} <= {path.stem for path in FILES}


@each_file
def test_a_page_is_what_its_file_gives(path: Path) -> None:
    result = result_files.load(path)
    assert path.with_suffix(".md").read_text(encoding="utf-8") == result_files.to_markdown(result)
    assert path.read_text(encoding="utf-8") == result_files.to_text(result) + "\n"
    for picture in result["pictures"]:
        assert (path.parent / picture["file"]).read_bytes().startswith(b"\x89PNG")


def test_every_page_and_picture_has_its_file() -> None:
    pages = {page.with_suffix(".json") for page in options.RESULTS.rglob("*.md")}
    assert {page for page in pages if page.stem != "report"} - set(FILES) == set()


@each_file
def test_tables_are_what_the_data_gives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report of the code of today on the data of then."""
    stored = result_files.load(path)
    # The neighbourhood of a paper is drawn from the data set itself.
    monkeypatch.setattr(attention_report, "_pictures", lambda *_: [])
    made = _report(stored)
    found = result_files.to_json(made, stem=stored["stem"], extra={})
    parts = ["title", "headline", "verdict", "notes", "tables", "settings", "data"]
    for part in [*parts, *(["pictures"] if stored["stem"] != "attention" else [])]:
        assert found[part] == stored.get(part, ""), part


def _report(stored: dict[str, Any]) -> Any:
    data, settings = stored["data"], stored["settings"]
    if stored["stem"] == "speed":
        return speed_report.result(data, settings)
    if stored["stem"] == "memory":
        device = stored["environment"]["device"]
        return memory_report.result(data, settings, device, memory.CONTESTANTS)
    if stored["stem"] == "scaling":
        return scaling_report.result(data, settings, scaling.CONTESTANTS)
    if stored["stem"] == "beyond":
        return beyond_report.result(data, settings)
    if stored["stem"] == "cora":
        return cora_report.result(data, settings)
    if stored["stem"] == "attention":
        return attention_report.result(_dataset("Cora"), data, settings)
    if stored["stem"] == "heterophily":
        datasets = [_dataset(name, **size) for name, size in data["graphs"].items()]
        found = {(entry["data"], entry["model"]): entry["splits"] for entry in data["scores"]}
        return heterophily.result(datasets, found, data["step_seconds"], settings)
    if stored["stem"] == "dictionary-lookup":
        of_k = {(entry["heads"], entry["model"], entry["k"]): entry["seeds"] for entry in data}
        return dictionary_lookup.result(of_k, settings, int(settings["epochs"].split()[0]))
    if stored["stem"] == "degrees":
        return degrees.result(data, settings)
    if stored["stem"] == "minibatch":
        return minibatch_report.result(data, settings, stored["notes"])
    if stored["stem"] == "molecules":
        return molecules_report.result(data, settings)
    datasets = [_dataset(name) for name in settings["data"]]
    if stored["stem"] == "citation":
        units = {(entry["data"], entry["model"]): entry["seeds"] for entry in data}
        return citation.result(datasets, units, settings, stored["notes"])
    assert stored["stem"] == "noise"
    noisy = {(entry["data"], entry["model"], entry["share"]): entry["seeds"] for entry in data}
    return noise.result(datasets, noisy, settings)


def _dataset(name: str, nodes: int = 0, edges: int = 0) -> Dataset:
    """What reports need of a data set."""
    return Dataset(name, SimpleNamespace(num_nodes=nodes, num_edges=edges), 2)


@each_file
def test_a_file_names_its_origin_and_no_local_path(path: Path) -> None:
    result = result_files.load(path)
    assert re.match(r"(GLIBC_TUNABLES=\S+ )?python -m benchmarks ", result["command"])
    assert result["environment"]["cpu"]
    assert result["environment"]["versions"]["torch"]
    assert {"seed", "seeds", "splits"} & result["settings"].keys()
    assert not re.search(r'"/(home|root|work|tmp|Users)/', path.read_text())


def _longest(value: Any) -> int:
    """The most numbers in one list."""
    if isinstance(value, dict):
        return max(map(_longest, value.values()), default=0)
    if isinstance(value, list):
        numbers = sum(isinstance(item, (int, float)) for item in value)
        return max([numbers, *map(_longest, value)])
    return 0


def test_files_are_small() -> None:
    longest: dict[str, int] = {}
    for path in FILES:
        lines = len(path.read_text().splitlines())
        longest[path.stem] = max(lines, longest.get(path.stem, 0))
    assert max(longest.values()) <= MOST_LINES
    assert sum(longest.values()) <= MEAN_LINES * len(longest)
    for path in FILES:
        assert _longest(json.loads(path.read_text())["data"]) <= LONGEST_LIST, path.name


def test_readme_agrees_with_the_results() -> None:
    path = environment.PROJECT / "README.md"
    if not path.exists():
        pytest.skip("no README.md beside the package")
    text = path.read_text(encoding="utf-8")
    found = result_files.load_all(options.RESULTS)
    _, changed = readme.fill(text, found, path.parent, options.RESULTS)
    assert changed == []
    assert not re.search(r"\d of \d+ requirements met", text)


def test_the_headline_of_speed_gives_both_allocators() -> None:
    """Where memory is kept, the whole results measured so show what the headline says."""
    main, kept = (
        result_files.load(options.RESULTS / name)
        for name in ("speed.json", "kept-memory/speed.json")
    )
    stored, source = main["data"]["memory kept"], kept["data"]["cases"]["random-8x16"]
    ratio = float(f"{stored['step']['ratios']['pyg-gatv2'][1]:.2g}")
    assert f"({ratio:g}× where the allocator keeps memory)" in main["headline"]
    assert stored["label"] == source["label"]
    for what in ("forward", "step"):
        for key, (_, median, _) in stored[what]["ratios"].items():
            assert median == pytest.approx(source[what]["ratios"][key][1], rel=0.15)
