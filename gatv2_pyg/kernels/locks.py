"""Locks around what the package keeps for a process."""

from __future__ import annotations

import os
import threading


def process_lock() -> threading.RLock:  # type: ignore[valid-type]
    """A lock that a signal handler may take again, and that is free in a forked child.

    A child has none of the threads that held a lock when the process was forked.
    """
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock
