"""The command line: finds the benchmark, runs it, and turns user errors into exit code 2."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from benchmarks.harness.errors import UsageError

PROGRAM = "python -m benchmarks"


@dataclass(frozen=True)
class Entry:
    """One subcommand: the module that implements it and its line in ``--help``."""

    module: str
    help: str


COMMANDS: dict[str, Entry] = {
    "cora": Entry("cora", "accuracy, time and memory on Cora: GATv2 (ours, PyG's, dense) and GAT"),
    "dictionary-lookup": Entry(
        "studies.dictionary_lookup", "the task only dynamic attention can solve, for k = 4 ... 20"
    ),
    "citation": Entry(
        "studies.citation", "test accuracy on Cora, CiteSeer and PubMed over many seeds"
    ),
    "heterophily": Entry(
        "studies.heterophily", "ROC AUC on Tolokers and Minesweeper, ten given splits"
    ),
    "noise": Entry("studies.noise", "accuracy as random edges are added to the graph"),
    "molecules": Entry(
        "studies.molecules.esol", "RMSE on ESOL with and without bond features, epoch of each layer"
    ),
    "attention": Entry(
        "studies.attention", "what attention does: rank agreement, entropy, heat maps"
    ),
    "speed": Entry("cost.speed", "time against PyG's layers and against the floor, CPU or CUDA"),
    "memory": Entry("cost.memory", "peak memory of a training step, each layer in a fresh process"),
    "scaling": Entry("cost.scaling", "time and memory against edges, channels, heads and hubs"),
    "degrees": Entry(
        "cost.degrees", "the kernels over their floor by degree and shape, on small graphs"
    ),
    "minibatch": Entry(
        "cost.minibatch.job", "training steps a second on sampled neighbourhoods, each layer"
    ),
    "beyond": Entry(
        "cost.beyond.bench",
        "what PyG has no layer for: batched features, biases, dense",
    ),
    "gpu": Entry("cost.gpu", "one visit to a GPU: kernel tests, speed and memory in a few minutes"),
    "report": Entry(
        "harness.reporting.report",
        "one self-contained HTML page (and Markdown) of all results found",
    ),
    "readme": Entry(
        "harness.reporting.readme", "fill the marked sections of README and docs from the results"
    ),
}

# What `python -m benchmarks` alone runs, in order, before the report. Speed comes first: memory the
# others leave with the allocator would spare PyG's layers their page faults.
MAIN_JOB: tuple[tuple[str, ...], ...] = (
    ("speed", "--quick"),
    ("dictionary-lookup", "--quick"),
    ("cora",),
)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are a single line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message} (see {self.prog} --help)")


# How --help names the rooms the subcommands are in.
_ROOMS = {
    "cora": "the main benchmark",
    "studies": "what dynamic attention buys",
    "cost": "what the layer costs",
    "harness": "from the results",
}


def _listing() -> str:
    width = max(map(len, COMMANDS))
    lines = []
    for room, title in _ROOMS.items():
        lines.append(f"{title}:")
        lines += [
            f"  {name:<{width}}  {entry.help}"
            for name, entry in COMMANDS.items()
            if entry.module.split(".")[0] == room
        ]
    return "\n".join(lines)


def _main_parser() -> argparse.ArgumentParser:
    from benchmarks.harness import options

    parser = _Parser(
        prog=PROGRAM,
        usage=f"{PROGRAM} [SUBCOMMAND] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Benchmarks of gatv2_pyg. Without a subcommand: cora, the quick forms of\n"
            "dictionary-lookup and speed, then the report; about 5 minutes on 2 cores.\n"
            "Results go to benchmarks/results/local; those that are published, to\n"
            "benchmarks/results (--out).\n\n"
            f"{_listing()}\n\n"
            f"`{PROGRAM} SUBCOMMAND --help` shows the options of one."
        ),
    )
    options.add_run(parser)
    options.add_data(parser)
    options.add_backend(parser)
    return parser


def _load(name: str) -> ModuleType:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(
            f"unknown subcommand {name!r}{hint}: expected one of {', '.join(COMMANDS)}"
        )
    return importlib.import_module(f"{__package__}.{COMMANDS[name].module}")


def run_command(name: str, argv: Sequence[str]) -> None:
    """Parses ``argv`` for the subcommand ``name``, runs it and writes its result files."""
    module = _load(name)
    parser = _Parser(
        prog=f"{PROGRAM} {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(module.__doc__ or "").strip(),
    )
    module.add_arguments(parser)
    args = parser.parse_args(list(argv))

    from benchmarks.harness.session import Session

    with Session(name, args, argv, tuple(COMMANDS)) as session:
        result = module.run(session, args)
        if result is not None:
            session.finish(result)


def _run_main_job(argv: Sequence[str]) -> None:
    args = _main_parser().parse_args(list(argv))
    if args.data is not None:
        os.environ["GATV2_PYG_DATA"] = str(args.data)
    shared = ["--out", str(args.out), "--device", args.device, "--backend", args.backend]
    shared += ["--fresh"] if args.fresh else []
    shared += ["--threads", str(args.threads)] if args.threads else []
    for name, *extra in MAIN_JOB:
        run_command(name, [*extra, *shared])
    run_command("report", ["--out", str(args.out)])


def main(argv: Sequence[str]) -> int:
    """Runs the command line ``argv`` (without the program's name); returns the exit code."""
    try:
        if argv and not argv[0].startswith("-"):
            run_command(argv[0], argv[1:])
        else:
            _run_main_job(argv)
    except UsageError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        text = f"{error.strerror or error}{where}".replace("\n", " ")
        print(f"{PROGRAM}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{PROGRAM}: interrupted; finished parts are kept, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    return 0
