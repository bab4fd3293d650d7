"""Imports torch and PyG once, then forks a process for every run it is asked for.

Requests come as lines of JSON on the standard input, answers go as lines to the standard output.
"""

from __future__ import annotations

import collections
import json
import math
import os
import select
import signal
import sys
import time

PATIENCE = 5
"""How many times its limit a run may take that has not computed for so long."""


def _preload() -> None:
    import torch._dynamo
    import torch._inductor.compile_fx
    import torch.export
    import torch.testing._internal  # noqa: F401

    from . import cases, child  # noqa: F401


def _fork(request: dict) -> int | None:
    """The process that runs it; None where the machine has no room for one more now."""
    try:
        pid = os.fork()
    except BlockingIOError:
        return None
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        log = os.open(request["path"] + ".log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, descriptor in enumerate((nothing, log, log)):
            os.dup2(descriptor, target)
        from .child import execute

        execute(request["case"], request["variant"], request["path"])
        status = 0
    finally:
        os._exit(status)


def _cpu_seconds(pid: int) -> float:
    """What a process has computed, and the children it has waited for; nan where nothing tells."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _overdue(pid: int, limit: float, seconds: float) -> bool:
    """Whether a run has computed for its limit, or waits: a busy machine makes it take longer."""
    if seconds <= limit:
        return False
    used = _cpu_seconds(pid)
    return math.isnan(used) or used > limit or seconds > PATIENCE * limit


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            continue


def main() -> None:
    """Serves until the standard input ends."""
    _preload()
    running: dict[int, tuple[dict, float]] = {}
    waiting: collections.deque[dict] = collections.deque()
    answer, pending, open_input = os.dup(1), b"", True
    os.write(answer, b'{"ready": true}\n')
    while open_input or running:
        for request in [entry for entry in _reap(running)]:
            os.write(answer, (json.dumps(request) + "\n").encode())
        if not open_input:
            for pid in running:
                _kill(pid)
            time.sleep(0.01)
            continue
        while waiting and (pid := _fork(waiting[0])) is not None:
            running[pid] = (waiting.popleft(), time.monotonic())
        if not select.select([0], [], [], 0.01)[0]:
            continue
        data = os.read(0, 1 << 16)
        open_input = bool(data)
        *lines, pending = (pending + data).split(b"\n")
        waiting.extend(map(json.loads, lines))


def _reap(running: dict[int, tuple[dict, float]]):
    for pid, (request, start) in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - start
        if not ended and _overdue(pid, request["limit"], seconds):
            _kill(pid)
            _, status = os.waitpid(pid, 0)
            yield running.pop(pid)[0] | {"exit": None, "seconds": seconds}
        elif ended:
            _kill(pid)
            code = os.waitstatus_to_exitcode(status)
            yield running.pop(pid)[0] | {"exit": code, "seconds": seconds}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
