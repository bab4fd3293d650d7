"""The search for calls that do harm, and the process that carries them out."""

from __future__ import annotations

import base64
import collections
import os
import pathlib
import pickle
import select
import signal
import subprocess
import sys
import time

from hypothesis import HealthCheck, Phase, given, settings

from .draw import DOORS, calls
from .judge import carry_out

_ROOT = pathlib.Path(__file__).parents[3]
_LIMIT = 30.0
_START_LIMIT = 300.0


class Executor:
    """Carries out described calls in a process that is started anew after a crash."""

    def __init__(self):
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __package__, "--execute"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=_ROOT,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self._pid = None
        self._rest = b""

    def __call__(self, call: dict) -> str:
        """What became of the call, as :func:`carry_out` tells it, or how the process ended."""
        self._process.stdin.write(base64.b64encode(pickle.dumps(call)) + b"\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + (_LIMIT if self._pid else _START_LIMIT)
        while True:
            line = self._line(deadline)
            if line is None:
                if self._pid is not None:
                    os.kill(self._pid, signal.SIGKILL)
                self._line(time.monotonic() + _LIMIT)
                return "hung"
            if line.startswith("pid "):
                self._pid = int(line[4:])
                deadline = time.monotonic() + _LIMIT
            else:
                return line

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self, deadline: float) -> str | None:
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                return None
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                return "crashed: the executor ended"
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode(errors="replace")


def execute() -> None:
    """Forks a process that carries out calls from the standard input, again when it crashes."""
    import torch

    torch.set_num_threads(1)
    while True:
        pid = os.fork()
        if pid == 0:
            os.write(1, f"pid {os.getpid()}\n".encode())
            _serve()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            return
        name = signal.Signals(os.WTERMSIG(status)).name
        if name != "SIGKILL":
            os.write(1, f"crashed with {name}\n".encode())
        else:
            os.write(1, b"killed\n")


def _serve() -> None:
    pending = b""
    while True:
        data = os.read(0, 1 << 16)
        if not data:
            return
        pending += data
        if not pending.endswith(b"\n"):
            continue
        text = carry_out(pickle.loads(base64.b64decode(pending)))
        pending = b""
        os.write(1, (text.replace("\n", " ")[:3000] + "\n").encode())


def search(
    executor: Executor,
    examples: int,
    doors: tuple[str, ...] = DOORS,
    counts: collections.Counter | None = None,
    faults: dict[str, dict] | None = None,
) -> None:
    """Tries ``examples`` calls.

    Args:
        executor: carries the calls out.
        examples: how many calls.
        doors: which doors they use.
        counts: counts what became of them, if given.
        faults: takes one call of each fault, if given; else the first fault ends the search.

    Raises:
        AssertionError: a call did harm; the message holds the smallest such call found.
    """

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 1000,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        print_blob=False,
    )
    @given(calls(doors))
    def harmless(call):
        text = executor(call)
        if counts is not None:
            counts[f"{call['door']}: {text.split(':')[0]}"] += 1
        good = text.startswith(("right", "refused", "both refuse"))
        if faults is not None and not good:
            faults.setdefault(f"{call['door']}: {text[:90]}", call)
            return
        assert good, f"{text}\n{call}"

    harmless()
