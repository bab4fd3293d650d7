"""Calls that may crash: each runs in a fork of its own, and what became of it is told as text."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

Check = Callable[[Any], str | None]


def outcome(call: Callable[[], Any], check: Check | None = None, limit: float = 20.0) -> str:
    """What became of ``call()`` in a process of its own.

    Returns:
        ``"ErrorClass: message"``, ``"returned"`` (after ``check`` found nothing), ``"wrong: ..."``
        with what ``check`` found in the result, ``"crashed with SIG..."`` or ``"hung"``.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.disable()
            os.close(reader)
            os.write(writer, told(call, check).encode()[:4000])
        finally:
            os._exit(0)
    os.close(writer)
    text, start = b"", time.monotonic()
    while True:
        left = limit - (time.monotonic() - start)
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reader)
            return "hung"
        data = os.read(reader, 4096)
        if not data:
            break
        text += data
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return f"crashed with {signal.Signals(os.WTERMSIG(status)).name}"
    return text.decode(errors="replace") or "ended without a word"


def told(call: Callable[[], Any], check: Check | None = None) -> str:
    """:func:`outcome` in this process, which a crash ends."""
    try:
        result = call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:
        return f"ended by {type(error).__name__}: {error}"
    found = None if check is None else check(result)
    return "returned" if found is None else f"wrong: {found}"


def harmful(text: str) -> bool:
    """Whether the outcome is neither an error nor a right result."""
    return text.startswith(("crashed", "hung", "ended", "wrong"))


def names(text: str, *arguments: str) -> bool:
    """Whether the outcome is an error that names one of the arguments and what was expected."""
    kinds = ("TypeError: ", "ValueError: ", "EdgeIndexError: ", "NotImplementedError: ")
    return text.startswith(tuple(kind + "Expected " for kind in kinds)) and any(
        f"'{argument}'" in text for argument in arguments
    )


def not_refused(probes, *arguments):
    """What became of the calls that are not refused with the name of an argument."""
    torch.set_num_threads(1)
    found = {name: outcome(call) for name, call in probes.items()}
    return [f"{k}: {v[:160]}" for k, v in found.items() if not names(v, *arguments)]


def refused(probes, *arguments):
    """Asserts that each call is refused with the name of an argument."""
    wrong = not_refused(probes, *arguments)
    assert not wrong, f"{len(wrong)} of {len(probes)} are not refused:\n" + "\n".join(wrong)


def harmless(probes):
    """Asserts that each call, with its check of the result if it has one, does no harm.

    Returns:
        What became of each call, by name.
    """
    torch.set_num_threads(1)
    found = {
        name: outcome(*probe) if isinstance(probe, tuple) else outcome(probe)
        for name, probe in probes.items()
    }
    wrong = [f"{k}: {v[:160]}" for k, v in found.items() if harmful(v)]
    assert not wrong, f"{len(wrong)} of {len(found)} do harm:\n" + "\n".join(wrong)
    return found
