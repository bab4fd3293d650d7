"""``python -m gatv2_pyg``: unmodified scripts, with the same losses as without it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_geometric.nn

from gatv2_pyg import GATv2Conv, backends
from gatv2_pyg.zero_edit.script import main

SCRIPTS = Path(__file__).parent / "scripts"
PROJECT = Path(__file__).parents[2]

BEST = (
    "fused"
    if backends.refusal("fused", torch.device("cpu"), torch.float64) is None
    else "scatter"
    if backends.refusal("scatter", torch.device("cpu"), torch.float64) is None
    else "reference"
)


def python(*arguments: object, cwd: Path = PROJECT, **environment: str):
    """Runs Python in a process of its own, with the package on its path."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "ignore"}
        | environment,
    )


def losses(text: str) -> list[float]:
    return [float(value) for value in re.findall(r"^loss (\S+)$", text, re.M)]


def report_of(result) -> list[str]:
    """The lines that end standard error."""
    lines = result.stderr.splitlines()
    count = 0
    while count < len(lines) and lines[-1 - count].startswith("gatv2_pyg"):
        count += 1
    return lines[len(lines) - count :]


@pytest.mark.parametrize(
    ("script", "arguments", "code", "steps", "lines"),
    [
        (
            "citation",
            ["--heads=2", "--epochs", "3"],
            0,
            4,
            [
                rf"Net\.conv1 GATv2Conv\(24, 8, heads=2\): 4 calls on {BEST} \(.+\)",
                rf"Net\.conv2 GATv2Conv\(16, 5, heads=1\): 4 calls on {BEST} \(.+\)",
            ],
        ),
        (
            "heterogeneous",
            [],
            0,
            4,
            [rf"Net\.encoder\.conv1\.\S+ GATv2Conv\(.+\): 5 calls on {BEST} \(.+\)"] * 3
            + [rf"Net\.conv\.convs\.\S+ GATv2Conv\(.+\): 5 calls on {BEST} \(.+\)"] * 3,
        ),
        (
            "models",
            [],
            7,
            9,
            [rf"Model\.gat\.convs\.{i} GATv2Conv\(.+\): 9 calls on {BEST} \(.+\)" for i in range(3)]
            + [
                r"Model\.own Halved\(8, 4, heads=1\): 9 calls on reference "
                r"\(message passing: 'message' is overridden\)"
            ],
        ),
    ],
)
def test_an_unmodified_script_gives_the_same_losses(script, arguments, code, steps, lines):
    path = SCRIPTS / f"{script}.py"
    plain = python(path, *arguments)
    ours = python("-m", "gatv2_pyg", path, *arguments)
    assert plain.returncode == ours.returncode == code, plain.stderr + ours.stderr
    assert "layer torch_geometric.nn.conv.gatv2_conv" in plain.stdout
    assert "layer gatv2_pyg.conv" in ours.stdout
    assert len(losses(plain.stdout)) == steps
    assert losses(ours.stdout) == pytest.approx(losses(plain.stdout), rel=1e-10)
    found = report_of(ours)
    assert len(found) == len(lines)
    for line, pattern in zip(found, lines, strict=True):
        assert re.fullmatch(f"gatv2_pyg: {pattern}", line), line


SHOWS_ITSELF = """
import __main__, json, sys
import helper
print(json.dumps({
    "argv": sys.argv[1:], "program": sys.argv[0], "file": __file__, "name": __name__,
    "path": sys.path[0], "main": __main__.__file__, "package": __package__,
    "spec": getattr(__spec__, "name", None), "loader": type(__loader__).__name__,
}))
"""


@pytest.mark.parametrize("how", ["file", "link", "module", "folder"])
def test_a_script_sees_what_python_shows_it(tmp_path, how):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "bin").mkdir()
    script = tmp_path / "scripts" / ("__main__.py" if how == "folder" else "shows_itself.py")
    script.write_text(SHOWS_ITSELF)
    (tmp_path / "scripts" / "helper.py").write_text("")
    cwd, words = tmp_path, [script.relative_to(tmp_path)]
    if how == "link":
        (tmp_path / "bin" / "linked.py").symlink_to(script)
        words = ["bin/linked.py"]
    elif how == "module":
        cwd, words = tmp_path / "scripts", ["-m", "shows_itself"]
    elif how == "folder":
        words = ["scripts"]
    words += ["--epochs", "3", "-m", "-h", "last"]
    plain, ours = python(*words, cwd=cwd), python("-m", "gatv2_pyg", *words, cwd=cwd)
    assert plain.returncode == ours.returncode == 0, plain.stderr + ours.stderr
    seen, expected = json.loads(ours.stdout), json.loads(plain.stdout)
    if how == "folder":
        # runpy makes it absolute.
        expected["program"] = str(tmp_path / expected["program"])
    assert seen == expected
    assert report_of(ours) == [
        "gatv2_pyg: no GATv2Conv layer was called (calls in compiled code are not seen)"
    ]


FAILS = """
import torch
from torch_geometric.nn import GATv2Conv

conv = GATv2Conv(3, 2)
conv(torch.randn(4, 3), torch.tensor([[0], [1]]))
raise LookupError("the script's own")
"""


def test_an_error_passes_through(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    result = python("-m", "gatv2_pyg", script)
    assert result.returncode == 1
    assert f'File "{script}", line 7, in <module>' in result.stderr
    assert "LookupError: the script's own" in result.stderr
    (line,) = report_of(result)
    assert f"GATv2Conv(3, 2, heads=1): 1 call on {BEST}" in line


OWN_HOOK = """
import sys, traceback

def show(kind, value, trace):
    print("own", *traceback.format_exception(kind, value, trace), file=sys.stderr)

sys.excepthook = show
1 / 0
"""


@pytest.mark.parametrize(
    "code",
    [
        "def fail():\n    raise LookupError\n\nfail()\n",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise LookupError from error\n",
        "import absent\n",
        "def f(:\n",
        "import torch_geometric.nn\nraise KeyboardInterrupt\n",
        OWN_HOOK,
    ],
    ids=["raised", "chained", "import", "syntax", "interrupted", "own hook"],
)
def test_tracebacks_are_those_of_python(tmp_path, code):
    script = tmp_path / "fails.py"
    script.write_text(code)
    plain, ours = python(script, cwd=tmp_path), python("-m", "gatv2_pyg", script, cwd=tmp_path)
    assert ours.returncode == plain.returncode != 0
    assert ours.stderr.splitlines()[: -len(report_of(ours))] == plain.stderr.splitlines()


@pytest.mark.parametrize(("code", "status"), [("5", 5), ("'stop'", 1)])
def test_exit_codes_pass_through(tmp_path, code, status):
    (tmp_path / "ends.py").write_text(f"import sys\nsys.exit({code})\n")
    result = python("-m", "gatv2_pyg", "ends.py", cwd=tmp_path)
    assert result.returncode == status
    assert ("stop\n" in result.stderr) == (code == "'stop'")
    assert "Traceback" not in result.stderr


RUNS_ON = """
import atexit, os, threading, time, torch
from torch_geometric.nn import GATv2Conv

conv = GATv2Conv(3, 2, heads=2)
call = lambda: conv(torch.randn(4, 3), torch.tensor([[0], [1]]))
atexit.register(call)
threading.Timer(0.5, call).start()
if os.fork() == 0:
    call()
    raise SystemExit(0)
os.wait()
"""


def test_the_report_comes_last_and_once(tmp_path):
    (tmp_path / "runs_on.py").write_text(RUNS_ON)
    result = python("-m", "gatv2_pyg", "runs_on.py", cwd=tmp_path, RANK="1")
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("gatv2_pyg")]
    assert line.startswith(f"gatv2_pyg [rank 1]: GATv2Conv(3, 2, heads=2): 2 calls on {BEST} (")


def test_equal_layers_share_a_line(tmp_path):
    (tmp_path / "folds.py").write_text(
        "import torch\n"
        "from torch_geometric.nn import GATv2Conv\n"
        "for fold in range(3):\n"
        "    conv = GATv2Conv(3, 2)\n"
        "    if fold == 2:\n"
        "        conv.register_message_forward_hook(lambda *_: None)\n"
        "    for _ in range(2):\n"
        "        conv(torch.randn(4, 3), torch.tensor([[0], [1]]))\n"
    )
    (line,) = report_of(python("-m", "gatv2_pyg", "folds.py", cwd=tmp_path))
    assert re.fullmatch(
        rf"gatv2_pyg: GATv2Conv\(3, 2, heads=1\): 3 layers, 6 calls: 4 on {BEST} \(.+\), "
        r"2 on reference \(message passing: a message hook is registered\)",
        line,
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "expected a script"),
        (["-m"], "expected one argument"),
        (["--backend", "x.py"], "unrecognized arguments"),
    ],
)
def test_wrong_command_lines(words, text, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert text in capsys.readouterr().err


def test_a_script_that_is_not_there(capsys):
    assert main(["absent.py"]) == 2
    assert "can't open file 'absent.py'" in capsys.readouterr().err


def test_a_module_that_is_not_there(tmp_path):
    result = python("-m", "gatv2_pyg", "-m", "absent", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "python -m gatv2_pyg: No module named absent\n"


@pytest.mark.parametrize("line", ["import absent", "raise ImportError('No module named absent')"])
def test_an_import_that_fails_in_a_module_is_its_own(tmp_path, line):
    (tmp_path / "imports.py").write_text(f"{line}\n")
    result = python("-m", "gatv2_pyg", "-m", "imports", cwd=tmp_path)
    assert result.returncode == 1
    assert f'File "{tmp_path}/imports.py", line 1, in <module>' in result.stderr
    assert len(report_of(result)) == 1


def test_help_names_the_other_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "gatv2_pyg.env" in capsys.readouterr().out


SAVES = """
import torch
from torch_geometric.nn import GATv2Conv

torch.manual_seed(0)
conv = GATv2Conv(3, 2, heads=2)
arguments = torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])
torch.save(conv.state_dict(), "weights.pt")
torch.save(conv, "whole.pt")
torch.save((arguments, conv(*arguments).detach()), "result.pt")
"""


def test_what_a_script_saves_loads_without_it(tmp_path):
    (tmp_path / "saves.py").write_text(SAVES)
    result = python("-m", "gatv2_pyg", "saves.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    arguments, expected = torch.load(tmp_path / "result.pt")
    theirs = torch_geometric.nn.GATv2Conv(3, 2, heads=2)
    theirs.load_state_dict(torch.load(tmp_path / "weights.pt"))
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    assert type(whole) is GATv2Conv
    for layer in (theirs, whole):
        torch.testing.assert_close(layer(*arguments).detach(), expected)


ON_TWO_RANKS = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.nn import GATv2Conv

dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(GATv2Conv(3, 2))
model(torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])).sum().backward()
dist.destroy_process_group()
"""


def test_under_torchrun(tmp_path):
    (tmp_path / "two.py").write_text(ON_TWO_RANKS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = python(*torchrun, "-m", "gatv2_pyg", "two.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("gatv2_pyg")]
    assert [line.partition(":")[0] for line in sorted(lines)] == [
        f"gatv2_pyg [rank {rank}]" for rank in (0, 1)
    ]
    assert all(f"GATv2Conv(3, 2, heads=1): 1 call on {BEST}" in line for line in lines)


RECORDS_WRITES = """
import sys
import torch
from torch_geometric.nn import GATv2Conv


class Writes:
    def write(self, text):
        print(repr(text))

    def flush(self):
        pass


GATv2Conv(3, 2)(torch.randn(2, 3), torch.tensor([[0], [1]]))
sys.stderr = Writes()
"""


def test_a_line_and_its_end_are_one_write(tmp_path):
    (tmp_path / "writes.py").write_text(RECORDS_WRITES)
    result = python("-m", "gatv2_pyg", "writes.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    writes = [ast.literal_eval(line) for line in result.stdout.splitlines()]
    assert [text.partition(",")[0] for text in writes] == ["gatv2_pyg: GATv2Conv(3"]
    assert writes[0].endswith("\n")


SPAWNS = """
import torch
import torch.multiprocessing
from torch_geometric.nn import GATv2Conv


class Own(GATv2Conv):
    pass


def work(rank, layers, arguments, expected):
    for layer, out in zip(layers, expected):
        torch.testing.assert_close(layer(*arguments), out)
    print("made", GATv2Conv.__module__, "given", type(layers[0]).__module__)


if __name__ == "__main__":
    layers = [GATv2Conv(3, 2), Own(3, 2)]
    arguments = torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])
    expected = [layer(*arguments).detach() for layer in layers]
    torch.multiprocessing.spawn(work, (layers, arguments, expected), nprocs=1)
"""


def test_spawned_processes_make_layers_of_pyg_and_take_those_they_are_given(tmp_path):
    (tmp_path / "spawns.py").write_text(SPAWNS)
    result = python("-m", "gatv2_pyg", "spawns.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "made torch_geometric.nn.conv.gatv2_conv given gatv2_pyg.conv\n"
    assert len(report_of(result)) == 2
