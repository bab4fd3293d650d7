"""The benchmarks' command line: what users get wrong is one line and exit code 2."""

from __future__ import annotations

import argparse
import errno
import json
import os
from pathlib import Path

import pytest

from benchmarks import cli
from benchmarks.cli import COMMANDS, main
from benchmarks.datasets import data
from benchmarks.harness import environment, options, session
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting import readme, result_files


def one_line_error(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m benchmarks: error: ")
    assert error.count("\n") == 1
    return error


def test_unknown_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    error = one_line_error(capsys, ["coral"])
    assert "'coral'" in error
    assert "cora" in error


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["cora", "--seeds", "0"], "--seeds"),
        (["cora", "--epochs", "many"], "--epochs"),
        (["cora", "--backend", "fastest"], "--backend"),
        (["cora", "--device", "gpu"], "--device"),
        (["cora", "--nothing"], "--nothing"),
        (["cora", "--threads", "0"], "--threads"),
        (["cora", "--threads", "100000"], "at most 1024, got '100000'"),
        (["cora", "--data", ""], "--data: expected a folder"),
        (["citation", "--datasets", "Cora,Reddit"], "'Reddit'"),
        (["heterophily", "--datasets", "Cora"], "'Cora'"),
        (["noise", "--noise", "0,-1"], "--noise"),
        (["noise", "--noise", "nan"], "--noise"),
        (["dictionary-lookup", "--k", "1"], "--k"),
        (["dictionary-lookup", "--heads", "3"], "--heads"),
        (["--seeds", "3"], "--seeds"),
    ],
)
def test_bad_values(
    capsys: pytest.CaptureFixture[str], argv: list[str], named: str, tmp_path: Path
) -> None:
    assert named in one_line_error(capsys, [*argv, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "0.001", "6", "five"])
def test_numbers_are_finite_and_within_their_limits(text: str) -> None:
    parse = options.real(0.01, 5)
    assert [parse("0.01"), parse("5")] == [0.01, 5]
    for number in (parse, options.real(0.01)) if text != "6" else (parse,):
        with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a number from 0\.01 to"):
            number(text)


def test_unwritable_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = one_line_error(
        capsys, ["dictionary-lookup", "--quick", "--out", str(tmp_path / "file" / "results")]
    )
    assert "--out" in error


def test_no_name_for_a_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--out: expected a folder" in one_line_error(capsys, ["memory", "--out", ""])
    assert not list(tmp_path.iterdir())


def test_missing_data_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = ["heterophily", "--quick", "--out", str(tmp_path), "--data", str(tmp_path / "none")]
    assert "no such folder" in one_line_error(capsys, argv)


def test_report_without_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no results" in one_line_error(capsys, ["report", "--out", str(tmp_path)])


@pytest.mark.parametrize("name", ["report", "readme"])
def test_missing_results_folder(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error = one_line_error(capsys, [name, "--out", str(tmp_path / "none")])
    assert "does not exist" in error
    assert not list(tmp_path.iterdir())


def test_readme_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(readme, "write_atomic", no_space)
    monkeypatch.setattr(readme, "fill", lambda *_: ("new", ["cora"]))
    (tmp_path / "README.md").write_text("old")
    argv = ["readme", "--readme", str(tmp_path / "README.md"), "--out", str(tmp_path)]
    error = one_line_error(capsys, argv)
    assert "--readme" in error
    assert "No space left" in error


def test_full_disk(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(name: str, argv: list[str]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "cora.json"))

    monkeypatch.setattr(cli, "run_command", no_space)
    error = one_line_error(capsys, ["cora"])
    assert "No space left" in error
    assert "cora.json" in error


def test_cache_folder_that_cannot_be_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(data, "PROJECT", tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("GATV2_PYG_DATA", raising=False)
    error = one_line_error(capsys, ["heterophily", "--quick", "--out", str(tmp_path / "results")])
    assert str(tmp_path / "file") in error


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_corrupt_raw_data(
    content: bytes,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(data, "own_folder", lambda: own)
    raw = tmp_path / "shared" / "minesweeper" / "raw"
    raw.mkdir(parents=True)
    (raw / "minesweeper.npz").write_bytes(content)
    argv = ["heterophily", "--quick", "--out", str(tmp_path / "results")]
    error = one_line_error(capsys, [*argv, "--data", str(tmp_path / "shared")])
    assert "data set Minesweeper" in error
    assert str(tmp_path / "shared") in error


def test_every_subcommand_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert "--out FOLDER" in capsys.readouterr().out


def test_main_help_lists_the_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "benchmarks/results/local" in shown


def test_main_job_runs_its_parts_then_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(cli, "run_command", lambda name, argv: ran.append((name, list(argv))))
    monkeypatch.setenv("GATV2_PYG_DATA", "elsewhere")
    given = ["--out", str(tmp_path), "--threads", "2", "--fresh", "--data", str(tmp_path)]
    assert main(given) == 0
    assert [name for name, _ in ran] == ["speed", "dictionary-lookup", "cora", "report"]
    assert ran[-1][1] == ["--out", str(tmp_path)]
    assert os.environ["GATV2_PYG_DATA"] == str(tmp_path)
    for name, argv in ran:
        parser = cli._Parser()
        cli._load(name).add_arguments(parser)
        args = parser.parse_args(argv)
        assert args.out == tmp_path
        assert name == "report" or (args.threads, args.fresh, args.backend) == (2, True, "auto")
    assert session.recorded_command(*ran[1]) == (
        "python -m benchmarks dictionary-lookup --quick --threads 2"
    )


def test_the_committed_results_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(cli, "run_command", lambda name, argv: ran.append((name, list(argv))))
    assert main([]) == 0
    for _, argv in ran:
        assert argv[argv.index("--out") + 1] == str(options.LOCAL)
    for name in COMMANDS:
        parser = cli._Parser()
        cli._load(name).add_arguments(parser)
        assert parser.parse_args([]).out == (options.RESULTS if name == "readme" else options.LOCAL)
    gitignore = environment.PROJECT / ".gitignore"
    if gitignore.exists():
        ignored = gitignore.read_text().splitlines()
        assert f"/{options.LOCAL.relative_to(environment.PROJECT)}/" in ignored


def test_interrupt_says_that_finished_parts_are_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, argv: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_command", interrupted)
    assert main(["cora"]) == 130
    assert "kept" in capsys.readouterr().err


def test_recorded_command_and_environment_name_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--seeds", "2", "--out", str(tmp_path), f"--data={tmp_path}", "--fresh"]
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert session.recorded_command("cora", argv) == "python -m benchmarks cora --seeds 2"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=0")
    assert session.recorded_command("cora", argv) == (
        "GLIBC_TUNABLES=glibc.malloc.mmap_max=0 python -m benchmarks cora --seeds 2"
    )
    info = json.dumps(environment.environment())
    assert str(environment.PROJECT) not in info
    assert str(Path.home()) not in info


def test_environment_names_machine_and_versions() -> None:
    import torch

    info = environment.environment()
    line = environment.describe(info)
    assert f"torch {torch.__version__}" in line
    assert f"{info['cores']} cores" in line


def test_settings_are_shown_in_one_line() -> None:
    assert result_files.settings_line({"seeds": list(range(20)), "k": [4, 10]}) == (
        "seeds 0 ... 19; k 4, 10"
    )


def test_device_that_is_not_there() -> None:
    import torch

    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(UsageError, match="--device"):
        options.resolve_device(missing)
