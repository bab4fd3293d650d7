"""The examples run, in a small form, and learn something."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.__main__ import EXAMPLES, HERE, command, linked

NEEDS = {"molecules": "rdkit", "lightning_module": "pytorch_lightning"}
LEARNT = {
    "cora": r"test accuracy (0\.[6-9]\d*)$",
    "neighbour_sampling": r"test area under the ROC curve (0\.[6-9]\d*)$",
    "molecules": r"test RMSE ([01]\.\d+|2\.0\d*) log mol/L$",
    "heterogeneous": r"to_hetero: test accuracy (0\.[4-9]\d*)\n"
    r"HeteroConv: test accuracy (0\.[3-9]\d*)$",
    "lightning_module": r"test accuracy of the best epoch (0\.[2-9]\d*), in bf16-mixed\n"
    r"test accuracy of its checkpoint \1: ",
    "explain": r"AttentionExplainer: node 1986 .*\nGNNExplainer: node 1986 .*\nconvs.0: entropy",
    "distributed_sampling": r"test area under the ROC curve (0\.[6-9]\d*), 2 processes$",
    "sharded_rows": r"test accuracy (0\.[4-9]\d*), rows on 2 processes$",
    "sharded_heads": r"test accuracy (0\.[4-9]\d*), heads on 2 processes$",
}
"""What each prints; the bounds are far above chance, and below what a few epochs give."""


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    project = str(HERE.parent)
    return subprocess.run(
        words,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([project, *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    given = os.environ.get("GATV2_PYG_DATA")
    if not given:
        pytest.skip("GATV2_PYG_DATA names no folder of data sets")
    return linked(Path(given), tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, root, tmp_path):
    if not (root / EXAMPLES[name].data / "raw").is_dir():
        pytest.skip(f"{EXAMPLES[name].data} is not in GATV2_PYG_DATA")
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    result = run(*command(name, root, tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(LEARNT[name], result.stdout, re.M), result.stdout
    out = EXAMPLES[name].out
    assert out is None or (tmp_path / out).exists()


@pytest.mark.parametrize("name", NEEDS)
def test_without_what_it_needs_it_says_so(name, tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.modules[{NEEDS[name]!r}] = None\n"
        f"sys.argv = ['{name}.py']\n"
        f"runpy.run_path({str(HERE / f'{name}.py')!r}, run_name='__main__')\n"
    )
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith("skipped: ")
    assert f"pip install {NEEDS[name]}" in line


@pytest.mark.parametrize("name", ["distributed_sampling", "sharded_full_batch"])
def test_without_torchrun_it_says_so(name, tmp_path):
    result = run(sys.executable, str(HERE / f"{name}.py"), cwd=tmp_path)
    assert result.returncode == 2
    assert "torchrun --nproc_per_node 2" in result.stderr


def test_every_script_is_an_example_and_short():
    scripts = {path.stem for path in HERE.glob("[!_]*.py")}
    assert scripts == {example.script for example in EXAMPLES.values()}
    assert set(LEARNT) == set(EXAMPLES)
    for script in scripts:
        assert len((HERE / f"{script}.py").read_text().splitlines()) < 100, script
