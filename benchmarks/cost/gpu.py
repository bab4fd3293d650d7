"""Everything that needs a GPU, in one go: kernel tests, speed, memory, and their results in one.

Stages run one after the other in processes of their own, each with a share of the minutes; one
that fails or runs out of its time leaves the others untouched. speed-cuda and memory-cuda are
written to the results folder as if run alone; gpu.json holds them all.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cost.problems.cases import SEED
from benchmarks.harness import options, quantities
from benchmarks.harness.environment import PROJECT
from benchmarks.harness.errors import UsageError
from benchmarks.harness.reporting.result import Result, Table
from benchmarks.harness.session import Session

_TAIL = 4_000
STAGES = ("tests", "speed", "memory")
TESTS = ("tests/kernels/test_kernels.py", "tests/kernels/triton/test_passes.py")
# The smallest time in which a stage can get anywhere.
_LEAST = 15.0


@dataclass(frozen=True)
class Stage:
    """A command; ``share`` of the minutes that are left when it starts are its own.

    ``stem`` names the result file it writes, if any.
    """

    name: str
    command: Sequence[str]
    share: float
    stem: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes",
        type=options.real(0.1),
        default=9.0,
        metavar="N",
        help="time for all stages together (default: 9)",
    )
    options.add_names(parser, "--stages", STAGES, "stage", "all")
    options.add_scale(parser)
    options.add_run(parser)
    options.add_data(parser)


def stages(session: Session, args: argparse.Namespace) -> list[Stage]:
    """The stages asked for, the most wanted result first after the tests."""
    run = [sys.executable, "-m", "benchmarks"]
    common = ["--device", session.device, "--out", str(args.out), "--scale", str(args.scale)]
    common += ["--data", str(args.data)] if args.data else []
    pytest = ["-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *TESTS]
    suffix = "-cuda" if session.device.startswith("cuda") else ""
    every = {
        "tests": Stage("tests", [sys.executable, *pytest], 0.35),
        "speed": Stage("speed", [*run, "speed", *common, "--budget", "4"], 0.75, "speed" + suffix),
        "memory": Stage("memory", [*run, "memory", *common], 1.0, "memory" + suffix),
    }
    return [every[name] for name in args.stages or STAGES]


def run_stage(stage: Stage, seconds: float, out: Path) -> dict[str, Any]:
    """Runs a stage; what came of it, its last lines and its result file included."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    start = time.time()
    log = out / f".{stage.name}.log"
    try:
        with (
            log.open("w") as file,
            subprocess.Popen(
                stage.command,
                cwd=PROJECT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            try:
                code = process.wait(timeout=seconds)
                status = "passed" if code == 0 else f"failed (exit code {code})"
            except BaseException as error:
                # With the processes it has started, which would hold the device.
                os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                status = f"stopped after its {seconds:.0f} s"
    except OSError as error:
        status = f"can't run: {error}"
    text = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    report: dict[str, Any] = {"status": status, "seconds": time.time() - start}
    report["output"] = text.replace(str(PROJECT), ".")[-_TAIL:]
    if stage.stem is not None:
        written = out / f"{stage.stem}.json"
        if status == "passed" and written.exists():
            report["result"] = json.loads(written.read_text(encoding="utf-8"))
        partial = out / ".partial" / f"{stage.stem}.jsonl"
        if partial.exists():
            # What a stage that was stopped had finished, a unit a line.
            report["units"] = [json.loads(line) for line in partial.read_text().splitlines()]
    return report


def run(session: Session, args: argparse.Namespace) -> Result:
    chosen = stages(session, args)
    if not session.device.startswith("cuda") and args.device != "cpu":
        raise UsageError("gpu: torch finds no CUDA device (--device cpu tries the stages out)")
    end = time.time() + 60 * args.minutes
    reports: dict[str, Any] = {}
    for stage in chosen:
        seconds = (end - time.time()) * stage.share
        if seconds < min(_LEAST, 60 * args.minutes):
            reports[stage.name] = {"status": "no time left", "seconds": 0.0, "output": ""}
            continue
        session.line(f"{stage.name}: up to {seconds:.0f} s")
        reports[stage.name] = run_stage(stage, seconds, session.out)
        session.line(f"{stage.name}: {reports[stage.name]['status']}")
        for line in reports[stage.name]["output"].splitlines()[-6:]:
            session.line(f"  {line}")
    rows, tables = [], []
    for name, report in reports.items():
        summary = report.get("result", {}).get("headline", "")
        last = report["output"].strip().splitlines()[-1:] or [""]
        rows.append(
            [name, report["status"], quantities.duration(report["seconds"]), summary or last[0]]
        )
        for table in report.get("result", {}).get("tables", []):
            tables.append(Table(**table | {"title": f"{name}: {table['title']}"}))
    passed = sum(report["status"] == "passed" for report in reports.values())
    return Result(
        "One visit to a GPU",
        f"{passed} of {len(reports)} stages passed.",
        {
            "minutes": args.minutes,
            "stages": [stage.name for stage in chosen],
            "scale": args.scale,
            "seed": SEED,
        },
        [Table("Stages", ["stage", "outcome", "time", "result"], rows), *tables],
        data=reports,
    )
