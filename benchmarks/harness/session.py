"""One run of one benchmark: its settings, terminal, kept units and result files."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from benchmarks.harness import options
from benchmarks.harness.environment import environment
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting import result_files
from benchmarks.harness.reporting.result import Result
from benchmarks.harness.store import Store

T = TypeVar("T")

# Options that say where, not what: left out of the recorded command.
_PLACES = ("--data", "--out")
# Given as they are by default: left out too.
_DEFAULTS = {"--device": "auto", "--backend": "auto"}


def recorded_command(name: str, argv: Sequence[str]) -> str:
    """The command that reproduces a result, without the user's paths.

    Settings of the C library's allocator are part of it: they decide over page faults.
    """
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in _PLACES or (rest and _DEFAULTS.get(word) == rest[0]):
            rest.pop(0)
        elif word != "--fresh" and not word.startswith(tuple(f"{place}=" for place in _PLACES)):
            words.append(word)
    tunables = os.environ.get("GLIBC_TUNABLES")
    setting = [f"GLIBC_TUNABLES={tunables}"] if tunables else []
    return " ".join([*setting, "python -m benchmarks", name, *words])


class Bar:
    """One progress bar: :meth:`advance` after each unit, :meth:`say` what is under way.

    Where the output is no terminal, a plain line now and then takes the bar's place.
    """

    LINE_EVERY_SECONDS = 20.0

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._title = title
        self._total = total
        self._done = 0
        self._last_line = time.monotonic()
        self._task = progress.add_task(title, total=total, note="")

    def advance(self, count: int = 1) -> None:
        self._done += count
        self._progress.advance(self._task, count)

    def say(self, note: str) -> None:
        self._progress.update(self._task, note=note)
        plain = not self._progress.console.is_terminal
        if plain and time.monotonic() - self._last_line > self.LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            line = f"{self._title} {self._done}/{self._total}: {note}"
            self._progress.console.print(line, markup=False, highlight=False)


class Session:
    """What a benchmark's ``run(session, args)`` works with.

    Attributes:
        commands: all subcommands, in the order of the report.
        name, stem: the subcommand; the name of its files (``-quick`` added in the quick form).
        out: results folder, there and writable.
        device: ``"cpu"`` or ``"cuda[:N]"``, there.
        quick: the quick form was asked for.
        console: rich terminal.
    """

    def __init__(
        self,
        name: str,
        args: argparse.Namespace,
        argv: Sequence[str] = (),
        commands: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.args = args
        self.argv = list(argv)
        self.commands = tuple(commands)
        self.quick = bool(getattr(args, "quick", False))
        self.stem = name + (result_files.QUICK if self.quick else "")
        self.console = Console(width=None if sys.stdout.isatty() else 110)
        self.out = _writable(Path(args.out))
        self.device = options.resolve_device(getattr(args, "device", "cpu"))
        self._threads_before: int | None = None
        if getattr(args, "threads", None):
            self.use_threads(args.threads)
        self._store: Store | None = None
        self._started = time.time()

    def __enter__(self) -> Session:
        import torch

        # Two threads in MKL's first exp of doubles, of which the judge is made, leave half of it
        # exact to 3e-9 only, now and then; so few numbers are one thread's.
        torch.zeros(1000, dtype=torch.float64).exp()
        return self

    def __exit__(self, *exception: object) -> None:
        self.console.file.flush()
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)

    def use_threads(self, number: int) -> None:
        """CPU threads until the end of the session."""
        import torch

        if self._threads_before is None:
            self._threads_before = torch.get_num_threads()
        torch.set_num_threads(number)

    def separate_devices(self) -> None:
        """Gives what is measured on CUDA files of its own (``speed-cuda``)."""
        if self.device.startswith("cuda"):
            self.stem = f"{self.name}-cuda" + (result_files.QUICK if self.quick else "")

    def choose(self, given: T | None, *, full: T, quick: T) -> T:
        """An option's value: as given, else the default of the full or the quick form."""
        if given is not None:
            return given
        return quick if self.quick else full

    def store(self) -> Store:
        """The units an interrupted run of this benchmark has kept (opened on first use).

        Units made on another machine, with other versions or with other code are dropped.
        """
        if self._store is None:
            info = environment(self.device)
            same = ("versions", "cpu", "cores", "threads", "device", "gpu", "code")
            stamp = {key: info.get(key) for key in same}
            path = self.out / ".partial" / f"{self.stem}.jsonl"
            self._store = Store(path, stamp, fresh=getattr(self.args, "fresh", False))
            if self._store.found:
                self.console.print(
                    f"[bold]{self.stem}[/]: going on after {self._store.found} finished parts of "
                    "an interrupted run (--fresh starts anew)"
                )
            elif self._store.dropped and not self.args.fresh:
                self.console.print(
                    f"[bold]{self.stem}[/]: starting anew, the {self._store.dropped} parts of an "
                    "interrupted run were made with other code, versions or machine"
                )
        return self._store

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Bar]:
        """A progress bar over ``total`` units."""
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as progress:
            yield Bar(progress, title, total)

    def line(self, text: str) -> None:
        """One plain line on the terminal."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, table: dict[str, Any]) -> None:
        """A table on the terminal."""
        shown = RichTable(title=table["title"], caption=table["note"] or None, title_style="bold")
        for index, column in enumerate(table["columns"]):
            shown.add_column(column, justify="right" if index else "left", overflow="fold")
        for row in table["rows"]:
            ours = table.get("highlight") is not None and row[0] == table["highlight"]
            shown.add_row(*row, style="bold" if ours else None)
        self.console.print(shown)

    def finish(self, result: Result) -> dict[str, Any]:
        """Writes and shows the result; the kept units are no longer needed then."""
        now = datetime.datetime.now(datetime.timezone.utc)
        content = result_files.to_json(
            result,
            stem=self.stem,
            extra={
                "command": recorded_command(self.name, self.argv),
                "finished": now.strftime("%Y-%m-%d %H:%M UTC"),
                "seconds": round(time.time() - self._started, 1),
                "kept": self._store.found if self._store is not None else 0,
                "environment": environment(self.device),
            },
        )
        paths = result_files.write(self.out, content, result.pictures)
        for table in content["tables"]:
            self.show(table)
        self.line(" ".join(filter(None, [content["headline"], content["verdict"]])))
        self.line(f"written: {', '.join(path.name for path in paths)} in {self.out}")
        if self._store is not None:
            self._store.close()
        return content


def _writable(out: Path) -> Path:
    """``out``, made if need be and checked by writing a file."""
    probe = out / f".write-{os.getpid()}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {out}: can't write there ({error.strerror})") from None
    return out
