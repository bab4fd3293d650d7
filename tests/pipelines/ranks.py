"""Processes of one gloo group, which run functions of this folder by name."""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable

import torch

SECONDS = 400.0
"""For one task: the machine may be busy, and the first one imports everything."""


class RankError(AssertionError):
    """A task failed in a process; the message holds its traceback."""


class Ranks:
    """``world`` processes that wait for tasks; a task runs in all of them at once."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._processes: list = []

    def run(self, task: Callable, *arguments) -> list:
        """What ``task(rank, *arguments)`` returns in each process, in order of ranks."""
        if not self._processes:
            self._start()
        for connection in self._connections:
            connection.send_bytes(_packed((task, arguments)))
        answers = []
        try:
            for rank, connection in enumerate(self._connections):
                if not connection.poll(SECONDS):
                    raise RankError(f"rank {rank} has not answered in {SECONDS:.0f} s")
                good, answer = _unpacked(connection.recv_bytes())
                if not good:
                    raise RankError(f"in rank {rank}:\n{answer}")
                answers.append(answer)
        except (RankError, EOFError):
            # The others may wait for a collective that never comes.
            self.close()
            raise
        return answers

    def close(self) -> None:
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.kill()
            process.join()
            process.close()
            connection.close()
        self._processes = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        handle, store = tempfile.mkstemp()
        os.close(handle)
        os.remove(store)
        self._connections = []
        for rank in range(self.world):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self.world, store, there), daemon=True
            )
            process.start()
            there.close()
            self._processes.append(process)
            self._connections.append(here)


def _serve(rank: int, world: int, store: str, connection) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world
    )
    while True:
        try:
            task, arguments = _unpacked(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = True, task(rank, *arguments)
        except BaseException:
            answer = False, traceback.format_exc()
        connection.send_bytes(_packed(answer))


def _packed(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes):
    return torch.load(io.BytesIO(data), weights_only=False)
